//! `params`: values that were checked before the guest started.

use plugin_manifest::ParameterValue;

use crate::bindings::orka::plugin::params::{Host, Value};
use crate::state::HostState;

impl Host for HostState {
    async fn get(&mut self, name: String) -> wasmtime::Result<Option<Value>> {
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
