//! What must have been built before: the program and the guest `steps`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use orka_step::engine::{self, Compiled};
use orka_step::plugin::{Plugin, PluginRef};

/// The program under test, from the profile that this one was built with.
pub(crate) fn program() -> PathBuf {
    found(
        "orka-step",
        "the program `orka-step` is not built: run `cargo xtask leak-matrix`",
    )
}

/// The component of the guest `steps`.
pub(crate) fn guest() -> PathBuf {
    found(
        "guests/steps.wasm",
        "the guest `steps` is not built: run `cargo xtask plugins`",
    )
}

/// The guest, compiled once for all builds of this process.
pub(crate) fn compiled() -> &'static (Plugin, Compiled) {
    static COMPILED: OnceLock<(Plugin, Compiled)> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let plugin = Plugin::load(&PluginRef::Path(guest())).unwrap();
        let compiled = Compiled::new(&engine::engine().unwrap(), &plugin).unwrap();
        (plugin, compiled)
    })
}

fn found(name: &str, otherwise: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let mut places = own.ancestors().map(|above| above.join(name));
    places
        .find(|path| Path::is_file(path))
        .unwrap_or_else(|| panic!("{otherwise}"))
}
