//! The scenarios that all three versions of this policy pass.

#![allow(missing_docs)]

use std::path::Path;

use plugin_testkit::{PluginUnderTest, target_directory};

#[test]
fn passes_the_scenarios_and_leaves_nothing_wherever_it_is_ended() {
    let plugin = target_directory().join("examples/rust.wasm");
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/scenarios/policy.yaml");
    let runs = PluginUnderTest::load(&plugin).passes(&scenarios);
    assert!(runs > 100, "only {runs} runs");
}
