//! What has been built before the tests run: the program, the plugins and the odd guests.

use std::path::{Path, PathBuf};

/// The program under test, from the profile that the tests themselves were built with.
pub fn program() -> PathBuf {
    let own = own_executable();
    let beside = own.ancestors().map(|above| above.join("orka-step"));
    built(
        "the program `orka-step`",
        beside.into_iter().find(|path| path.is_file()),
    )
}

/// Cargo's target directory: the one above this test that holds the plugins.
pub fn target_directory() -> PathBuf {
    let own = own_executable();
    let found = own
        .ancestors()
        .find(|above| above.join("plugins/build.wasm").is_file());
    built("the plugin `build`", found.map(Path::to_owned))
}

/// The component of an odd guest, by the name of its directory under `tests/guests`.
pub fn guest(name: &str) -> PathBuf {
    let path = target_directory()
        .join("guests")
        .join(format!("{name}.wasm"));
    built(
        &format!("the guest `{name}`"),
        path.is_file().then_some(path),
    )
}

/// The component of a plugin that comes with the program.
pub fn bundled(name: &str) -> PathBuf {
    let path = target_directory()
        .join("plugins")
        .join(format!("{name}.wasm"));
    built(
        &format!("the plugin `{name}`"),
        path.is_file().then_some(path),
    )
}

fn own_executable() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn built(what: &str, found: Option<PathBuf>) -> PathBuf {
    found.unwrap_or_else(|| panic!("{what} has not been built: run `cargo xtask test`"))
}
