//! Core modules into components.

use wit_component::ComponentEncoder;

use crate::{Error, Manifest, WasmKind, kind};

/// Turns a core module into a component, with `manifest` in it where one is given.
///
/// The module has to carry its component type, which `wit-bindgen` puts in a custom section. It may import nothing
/// that this type does not name: no adapter is linked, so a module that needs WASI is refused. The result is
/// validated. The same module and manifest always give the same bytes.
///
/// # Errors
///
/// [`Error::Componentize`] says in its source what does not fit, or what [`Manifest::embed`] says.
pub fn componentize(core_module: &[u8], manifest: Option<&Manifest>) -> Result<Vec<u8>, Error> {
    match kind(core_module) {
        WasmKind::CoreModule => {}
        found => return Err(Error::Componentize(format!("it is {found}").into())),
    }
    let component = encode(core_module).map_err(|error| Error::Componentize(error.into()))?;
    match manifest {
        Some(manifest) => manifest.embed(&component),
        None => Ok(component),
    }
}

fn encode(
    core_module: &[u8],
) -> Result<Vec<u8>, impl Into<Box<dyn std::error::Error + Send + Sync>>> {
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true);
    encoder
        .module(core_module)
        .and_then(|encoder| encoder.encode())
}

#[cfg(test)]
#[path = "componentize_tests.rs"]
mod tests;
