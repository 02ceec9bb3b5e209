//! `secrets`: handles that can be used and never read.

use secrecy::SecretString;
use wasmtime::component::Resource;

use crate::bindings::orka::plugin::secrets::{Host, HostSecret};
use crate::grants::no_secret;
use crate::state::{CallError, HostState};

/// A secret of the run.
#[derive(Clone)]
pub struct Secret {
    name: String,
    value: SecretString,
}

impl Secret {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// For the backends alone.
    pub(crate) fn value(&self) -> &SecretString {
        &self.value
    }
}

impl Host for HostState {
    async fn open(&mut self, name: String) -> Result<Resource<Secret>, CallError> {
        let run = self.run.clone();
        let value = run.call_now("secrets.open", || {
            run.grants.require_secret(&name)?;
            let value = run.secrets.get(&name).cloned();
            value.ok_or_else(|| no_secret(&name))
        })?;
        self.keep(Secret { name, value })
    }
}

impl HostSecret for HostState {
    async fn name(&mut self, secret: Resource<Secret>) -> wasmtime::Result<String> {
        Ok(self.table.get(&secret)?.name.clone())
    }

    async fn drop(&mut self, secret: Resource<Secret>) -> wasmtime::Result<()> {
        self.table.delete(secret)?;
        Ok(())
    }
}
