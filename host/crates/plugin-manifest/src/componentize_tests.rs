use crate::fixture::{FULL, component, core_module, module_with_sections};
use crate::{Error, Manifest, WasmKind, componentize, kind};

fn cause(error: &Error) -> String {
    std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default()
}

#[test]
fn a_core_module_becomes_a_component_with_its_manifest() {
    let manifest = Manifest::parse_toml(FULL).unwrap();
    let component = componentize(&core_module(), Some(&manifest)).unwrap();
    assert_eq!(kind(&component), WasmKind::Component);
    assert_eq!(
        Manifest::from_component(&component).unwrap(),
        Some(manifest.clone())
    );
    assert_eq!(
        componentize(&core_module(), Some(&manifest)).unwrap(),
        component,
        "the bytes differ between builds"
    );
}

#[test]
fn what_is_no_core_module_is_refused_by_name() {
    let error = componentize(&component(), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the core module cannot be made a component"
    );
    assert_eq!(cause(&error), "it is a component");
    assert_eq!(
        cause(&componentize(b"[plugin]", None).unwrap_err()),
        "it is not WebAssembly"
    );
}

#[test]
fn an_import_outside_the_contract_is_refused_and_named() {
    let module = module_with_sections("wasi_snapshot_preview1", &[]);
    let error = componentize(&module, None).unwrap_err();
    let chain = chain(&error);
    assert!(chain.contains("wasi_snapshot_preview1"), "{chain}");
}

fn chain(error: &Error) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        text.push_str(&error.to_string());
        text.push('\n');
        next = error.source();
    }
    text
}
