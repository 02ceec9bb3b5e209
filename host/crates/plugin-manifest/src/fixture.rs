//! Small modules and components for the tests, made with the libraries that make real ones.

use wasm_encoder::{
    CodeSection, CustomSection, EntityType, ExportKind, ExportSection, Function, FunctionSection,
    ImportSection, Module, TypeSection,
};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const WIT: &str = "
    package orka:plugin@0.1.0;
    interface cluster { record fact { name: string }  ping: func(); }
    world plugin { use cluster.{fact}; import cluster; import pause: func(); export run: func(); }
";

/// A core module that imports `orka:plugin/cluster` and a function, exports `run`, and carries its component type.
pub(crate) fn core_module() -> Vec<u8> {
    module_with_sections("orka:plugin/cluster@0.1.0", &[])
}

/// The same with a custom section of its own, or with another interface imported.
pub(crate) fn module_with_sections(interface: &str, custom: &[(&str, &[u8])]) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let mut imports = ImportSection::new();
    imports.import(interface, "ping", EntityType::Function(0));
    imports.import("$root", "pause", EntityType::Function(0));
    let mut functions = FunctionSection::new();
    functions.function(0);
    let mut exports = ExportSection::new();
    exports.export("run", ExportKind::Func, 2);
    let mut code = CodeSection::new();
    let mut body = Function::new([]);
    body.instructions().call(0).call(1).end();
    code.function(&body);
    let mut module = Module::new();
    module
        .section(&types)
        .section(&imports)
        .section(&functions)
        .section(&exports)
        .section(&code);
    for (name, data) in custom {
        module.section(&CustomSection {
            name: (*name).into(),
            data: (*data).into(),
        });
    }
    let mut module = module.finish();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("plugin.wit", WIT).unwrap();
    let world = resolve.select_world(&[package], Some("plugin")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    module
}

/// That module as a component without a manifest.
pub(crate) fn component() -> Vec<u8> {
    crate::componentize(&core_module(), None).unwrap()
}

/// A manifest that uses every member.
pub(crate) const FULL: &str = r#"
[plugin]
name = "build"
version = "0.1.0"
contract = "0.1"
description = "Builds on a VM"
minimum-host = "0.1.0"
capabilities = ["ssh.exec", "cluster.deploy"]
optional-capabilities = ["cluster.keep"]
secrets = ["SIGNING_KEY"]

[parameters.base-image]
type = "string"
required = true
description = "the image of the VM"

[parameters.memory]
type = "string"
pattern = '^\d+[MG]$'
description = "memory of the VM"

[parameters.cpu-count]
type = "integer"
default = 3
minimum = 1
maximum = 24
description = "CPUs of the VM"

[parameters.copy-build]
type = "boolean"
default = true
description = "whether to copy the workspace back"

[parameters.scheduler]
type = "choice"
choices = ["default", "most-allocated"]
default = "default"
description = "how a node is chosen"

[parameters.artifacts]
type = "list"
default = ["build/*.ipa"]
description = "what to copy back"

[results.artifact-count]
description = "how many files came back"
"#;
