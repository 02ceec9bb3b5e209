//! Files that are no plugins for this host: refused before anything is sent.

use end_to_end::{Cluster, bundled};
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

/// Runs these bytes as a plugin that is granted everything, and expects exit code 212 with each of `texts`.
async fn assert_rejected(bytes: &[u8], texts: &[&str]) {
    let cluster = Cluster::start().await;
    let step = cluster.run();
    let file = step.scratch_file("plugin.wasm", bytes);
    let all = "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n";
    let ended = step.flag("--plugin", file).granted(all).ended().await;
    ended.assert(212, "plugin-failed");
    ended.assert_says(texts);
    ended.assert_says(&["plugin.wasm", "hint: "]);
    cluster.assert_untouched();
}

/// A component whose one world is `wit`'s `plugin`, with bodies that do nothing.
pub(crate) fn component(wit: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("plugin.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some("plugin")).unwrap();
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true);
    encoder.module(&module).unwrap().encode().unwrap()
}

/// The bundled plugin with another version in the names of its imports and exports, of the same length.
fn of_contract(version: &str) -> Vec<u8> {
    let mut bytes = std::fs::read(bundled("build")).unwrap();
    let (old, new) = (b"@0.1.0", format!("@{version}"));
    assert_eq!(old.len(), new.len());
    let places: Vec<usize> = (0..bytes.len() - old.len())
        .filter(|&at| bytes[at..].starts_with(old))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_what_is_not_webassembly() {
    assert_rejected(b"", &["it is not WebAssembly"]).await;
    assert_rejected(
        b"this is no plugin, only a text file\n",
        &["it is not WebAssembly"],
    )
    .await;
    assert_rejected(
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0",
        &["it is a native program"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_core_module_and_says_how_to_make_a_component() {
    assert_rejected(
        b"\0asm\x01\0\0\0",
        &[
            "it is a core module; this host runs components",
            "run `orka-step plugin build` in the plugin's project",
        ],
    )
    .await;
    let module = wasm_encoder::Module::new().finish();
    assert_rejected(&module, &["it is a core module"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_file_that_is_cut_short_anywhere() {
    let whole = std::fs::read(bundled("build")).unwrap();
    for length in [4, 9, whole.len() / 2, whole.len() - 1] {
        assert_rejected(&whole[..length], &["cannot "]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_file_with_damaged_code() {
    let mut bytes = std::fs::read(bundled("build")).unwrap();
    // Deep inside the largest section, the code.
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0xff);
    let cluster = Cluster::start().await;
    let step = cluster.build("#!/bin/sh\ntrue\n");
    let file = step.scratch_file("plugin.wasm", &bytes);
    let all = "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\n";
    let ended = step.flag("--plugin", file).granted(all).ended().await;
    ended.assert(212, "plugin-failed");
    ended.assert_says(&["cannot compile plugin", "hint: "]);
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_component_of_another_world() {
    let other = component(
        "package acme:tool@1.0.0; interface work { go: func(); } world plugin { export work; }",
    );
    assert_rejected(
        &other,
        &[
            "does not export `orka:plugin/policy@0.1.0`",
            "acme:tool/work@1.0.0",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_component_that_imports_something_foreign() {
    let foreign = component(
        "package acme:tool@1.0.0; interface net { fetch: func(url: string) -> list<u8>; } world plugin { import net; }",
    );
    assert_rejected(
        &foreign,
        &["imports `acme:tool/net@1.0.0`, which is not part of the contract"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_component_without_a_manifest() {
    let bare = component(
        "package orka:plugin@0.1.0; interface policy { run: func(); } world plugin { export policy; }",
    );
    assert_rejected(&bare, &["it carries no manifest", "plugin.toml"]).await;
}

/// A component of the contract with a manifest of which nothing is checked here.
fn with_manifest(manifest: &str) -> Vec<u8> {
    let mut bytes = component(
        "package orka:plugin@0.1.0; interface policy { run: func(); } world plugin { export policy; }",
    );
    wasm_encoder::Section::append_to(
        &wasm_encoder::CustomSection {
            name: "orka:plugin-manifest".into(),
            data: manifest.as_bytes().into(),
        },
        &mut bytes,
    );
    bytes
}

/// What a newer host would read is not what is wrong with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_for_a_newer_host_is_told_that_whatever_else_its_manifest_has() {
    let manifest = |schema: u32, contract: &str, more: &str| {
        format!(
            r#"{{"schema":{schema},"plugin":{{"name":"hello","version":"1.0.0","contract":"{contract}","description":"x"{more}}}}}"#
        )
    };
    let newer = r#","minimum-host":"99.0.0""#;
    let needs = ["plugin `", "needs orka-step 99.0.0 or later", "this is 0."];
    for more in [
        "",
        r#","colour":"red""#,
        r#","capabilities":["cluster.fly"]"#,
    ] {
        for (schema, contract) in [(1, "0.1"), (2, "0.1"), (1, "0.7")] {
            let manifest = manifest(schema, contract, &format!("{more}{newer}"));
            assert_rejected(&with_manifest(&manifest), &needs).await;
        }
        let manifest = manifest(1, ">=0.2, <0.4", more);
        let told = ["was written for contract >=0.2, <0.4; this host provides 0.1"];
        assert_rejected(&with_manifest(&manifest), &told).await;
    }
    let manifest = manifest(2, "0.1", r#","colour":"red""#);
    let told = [
        "its manifest is wrong",
        "the manifest has schema 2",
        "use a newer host image",
    ];
    assert_rejected(&with_manifest(&manifest), &told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_contract_it_does_not_provide_naming_both_versions() {
    for version in ["0.2.0", "1.1.0"] {
        assert_rejected(
            &of_contract(version),
            &[&format!("@{version}`"), "this host provides 0.1"],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accepts_a_later_patch_of_the_contract_it_provides() {
    let cluster = Cluster::start().await;
    let step = cluster.build("#!/bin/sh\ntrue\n");
    let file = step.scratch_file("plugin.wasm", &of_contract("0.1.9"));
    let all = "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\n";
    let ended = step.flag("--plugin", file).granted(all).ended().await;
    ended.assert(0, "succeeded");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_plugin_that_is_nowhere() {
    let cluster = Cluster::start().await;
    for (plugin, said) in [
        (
            "no-such-plugin",
            "there is no plugin named `no-such-plugin`",
        ),
        ("no-such-plugin", "come with it are allowed-vms, build, "),
        ("buld", "did you mean `build`?"),
        ("./nowhere.wasm", "cannot read the plugin `./nowhere.wasm`"),
    ] {
        let ended = cluster.run().flag("--plugin", plugin).ended().await;
        ended.assert(212, "plugin-failed");
        ended.assert_says(&[said, "hint: "]);
    }
    cluster.assert_untouched();
}
