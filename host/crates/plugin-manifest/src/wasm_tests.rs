use proptest::prelude::*;
use wasm_encoder::{CustomSection, Section as _};

use super::{MANIFEST_BYTES_MAX, MANIFEST_SECTION, WasmKind, exports, imports, kind};
use crate::fixture::{FULL, component, core_module, module_with_sections};
use crate::{Error, Manifest};

fn with_section(mut component: Vec<u8>, name: &str, data: &[u8]) -> Vec<u8> {
    CustomSection {
        name: name.into(),
        data: data.into(),
    }
    .append_to(&mut component);
    component
}

#[test]
fn tells_kinds_apart_by_their_first_bytes() {
    assert_eq!(kind(&core_module()), WasmKind::CoreModule);
    assert_eq!(kind(&component()), WasmKind::Component);
    assert_eq!(
        kind(b"\0asm\x0a\0\x01\0"),
        WasmKind::OtherVersion {
            version: 10,
            layer: 1
        }
    );
    assert_eq!(kind(b"\x7fELF\x02\x01\x01\0"), WasmKind::Elf);
    assert_eq!(kind(b"#!/bin/sh"), WasmKind::NotWasm);
    assert_eq!(kind(b"\0asm"), WasmKind::NotWasm);
    assert_eq!(kind(b""), WasmKind::NotWasm);
}

#[test]
fn names_imports_and_exports_of_the_top_level_without_repeated_types() {
    assert_eq!(
        imports(&component()).unwrap(),
        ["orka:plugin/cluster@0.1.0", "pause"]
    );
    assert_eq!(exports(&component()).unwrap(), ["run"]);
}

#[test]
fn refuses_a_core_module_by_name() {
    for error in [
        imports(&core_module()).unwrap_err(),
        Manifest::from_component(&core_module()).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "it is a core module, not a component");
    }
}

#[test]
fn a_component_without_the_section_has_no_manifest() {
    assert_eq!(Manifest::from_component(&component()).unwrap(), None);
}

#[test]
fn an_embedded_manifest_is_read_back_as_it_was() {
    let manifest = Manifest::parse_toml(FULL).unwrap();
    let embedded = manifest.embed(&component()).unwrap();
    assert_eq!(Manifest::from_component(&embedded).unwrap(), Some(manifest));
    assert_eq!(imports(&embedded).unwrap(), imports(&component()).unwrap());
}

#[test]
fn embedding_keeps_every_other_byte_and_replaces_an_earlier_manifest() {
    let manifest = Manifest::parse_toml(FULL).unwrap();
    let bare = with_section(component(), "producers-of-another-kind", b"kept");
    let once = manifest.embed(&bare).unwrap();
    assert!(once.starts_with(&bare));

    let older = Manifest {
        version: "0.0.1".parse().unwrap(),
        ..manifest.clone()
    };
    // The earlier manifest sits in the middle, so that the bytes on both sides are seen to survive.
    let earlier = with_section(
        older.embed(&component()).unwrap(),
        "producers-of-another-kind",
        b"kept",
    );
    assert_eq!(manifest.embed(&earlier).unwrap(), once);
    assert_eq!(manifest.embed(&once).unwrap(), once);
}

#[test]
fn a_manifest_inside_a_nested_module_is_not_the_plugins_own() {
    let json = Manifest::parse_toml(FULL).unwrap().to_json().unwrap();
    let module = module_with_sections("orka:plugin/cluster@0.1.0", &[(MANIFEST_SECTION, &json)]);
    let component = crate::componentize(&module, None).unwrap();
    let holds_it = component.windows(json.len()).any(|window| window == json);
    assert!(
        holds_it,
        "the nested module lost the section, so the test shows nothing"
    );
    assert_eq!(Manifest::from_component(&component).unwrap(), None);
}

#[test]
fn two_manifests_are_refused() {
    let manifest = Manifest::parse_toml(FULL).unwrap();
    let twice = with_section(
        manifest.embed(&component()).unwrap(),
        MANIFEST_SECTION,
        &manifest.to_json().unwrap(),
    );
    assert!(matches!(
        Manifest::from_component(&twice),
        Err(Error::Duplicate)
    ));
}

#[test]
fn an_oversized_manifest_is_refused_unread() {
    let huge = with_section(
        component(),
        MANIFEST_SECTION,
        &vec![b' '; MANIFEST_BYTES_MAX + 1],
    );
    let error = Manifest::from_component(&huge).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the manifest is 262145 bytes long; the limit is 262144"
    );
}

#[test]
fn a_newer_schema_is_told_apart_from_a_broken_manifest() {
    let newer = with_section(
        component(),
        MANIFEST_SECTION,
        br#"{"schema":2,"plugin":{},"hats":[]}"#,
    );
    assert!(matches!(
        Manifest::from_component(&newer),
        Err(Error::NewerSchema { found: 2 })
    ));
    for broken in [
        &b"{}"[..],
        b"[]",
        b"",
        b"\xff",
        br#"{"schema":"1"}"#,
        br#"{"schema":1,"plugin":{}}"#,
    ] {
        let component = with_section(component(), MANIFEST_SECTION, broken);
        assert!(
            matches!(
                Manifest::from_component(&component),
                Err(Error::Json { .. })
            ),
            "{broken:?}"
        );
    }
}

#[test]
fn a_component_cut_off_anywhere_is_refused_or_has_no_manifest() {
    let whole = Manifest::parse_toml(FULL)
        .unwrap()
        .embed(&component())
        .unwrap();
    for length in 0..whole.len() {
        let read = Manifest::from_component(&whole[..length]);
        assert!(
            matches!(read, Ok(None) | Err(_)),
            "{length} of {} bytes gave a manifest",
            whole.len()
        );
    }
}

fn damaged(component: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = component;
    for (at, byte) in changes {
        let at = at % bytes.len();
        bytes[at] = *byte;
    }
    bytes
}

proptest! {
    #[test]
    fn no_bytes_bring_the_reader_down(tail in prop::collection::vec(any::<u8>(), 0..512), as_component: bool) {
        let mut bytes = if as_component { b"\0asm\x0d\0\x01\0".to_vec() } else { Vec::new() };
        bytes.extend(tail);
        let _ = (kind(&bytes), imports(&bytes), exports(&bytes), Manifest::from_component(&bytes));
    }

    #[test]
    fn no_damage_to_a_component_brings_the_reader_or_the_writer_down(
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..8)
    ) {
        let manifest = Manifest::parse_toml(FULL).unwrap();
        let bytes = damaged(manifest.embed(&component()).unwrap(), &changes);
        let _ = (imports(&bytes), exports(&bytes), Manifest::from_component(&bytes));
        if let Ok(embedded) = manifest.embed(&bytes) {
            prop_assert_eq!(Manifest::from_component(&embedded).unwrap(), Some(manifest));
        }
    }
}
