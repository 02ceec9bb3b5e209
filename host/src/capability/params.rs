//! `params`: values that were checked before the guest started.

use std::sync::PoisonError;

use plugin_manifest::ParameterValue;

use crate::bindings::orka::plugin::params::{Host, Value};
use crate::capability::console::masked;
use crate::plugin::is_bundled_name;
use crate::state::HostState;

/// A name longer than this is cut where it is told.
const NAME_BYTES_MAX: usize = 64;

/// So many names that a manifest does not have are told; a plugin may make up any number.
const UNDECLARED_TOLD_MAX: usize = 8;

impl HostState {
    /// Tells of a parameter that nobody can give, each once: to the plugin it looks like one that was not given. What the
    /// bundled policies share asks for parameters that not all of them have.
    async fn tell_undeclared(&mut self, name: &str) {
        let manifest = &self.run.manifest;
        if is_bundled_name(&manifest.name) {
            return;
        }
        let console = &self.run.console;
        let shown = masked(console.masker(), name, NAME_BYTES_MAX);
        {
            let told = self.run.undeclared.lock();
            let mut told = told.unwrap_or_else(PoisonError::into_inner);
            if told.len() >= UNDECLARED_TOLD_MAX || !told.insert(shown.clone()) {
                return;
            }
        }
        let declared = manifest.parameters.keys().map(String::as_str);
        let meant = plugin_manifest::nearest(&shown, declared)
            .map(|nearest| format!("; did you mean `{nearest}`?"))
            .unwrap_or_default();
        console.room().await;
        console.warn(&format!(
            "the plugin asks for parameter `{shown}`, which its `plugin.toml` does not declare{meant}"
        ));
    }
}

impl Host for HostState {
    async fn get(&mut self, name: String) -> wasmtime::Result<Option<Value>> {
        if !self.run.manifest.parameters.contains_key(&name) {
            self.tell_undeclared(&name).await;
        }
        Ok(self.run.params.get(&name).map(|value| match value {
            ParameterValue::Text(text) => Value::Text(text.clone()),
            ParameterValue::Boolean(flag) => Value::Boolean(*flag),
            ParameterValue::Integer(number) => Value::Integer(*number),
            ParameterValue::List(items) => Value::List(items.clone()),
        }))
    }

    async fn script(&mut self) -> wasmtime::Result<Option<Vec<u8>>> {
        Ok(self.run.script.clone())
    }
}
