//! What several shipped policies can be told, they are told by the same parameter.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

use plugin_manifest::Manifest;

fn manifest(plugin: &str) -> Manifest {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(plugin)
        .join("plugin.toml");
    Manifest::parse_toml(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_parameter_that_build_has_too_is_declared_alike() {
    let build = manifest("build");
    for plugin in ["retry-elsewhere", "matrix"] {
        for (name, mut parameter) in manifest(plugin).parameters {
            let Some(of_build) = build.parameters.get(&name) else {
                continue;
            };
            if (plugin, name.as_str()) == ("matrix", "artifacts") {
                // Nothing is copied back without it, and it comes elsewhere.
                parameter.description.clone_from(&of_build.description);
            }
            assert_eq!(*of_build, parameter, "`{name}` of `{plugin}`");
        }
    }
}

#[test]
fn retry_elsewhere_can_be_told_all_that_build_can() {
    let other = manifest("retry-elsewhere");
    for name in manifest("build").parameters.keys() {
        assert!(other.parameters.contains_key(name), "`{name}`");
    }
}
