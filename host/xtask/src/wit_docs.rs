//! The contract as a page for people, made from its WIT.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use wit_parser::{
    Docs, Function, FunctionKind, Handle, Interface, Resolve, Type, TypeDef, TypeDefKind, TypeId,
    WorldItem, WorldKey,
};

use crate::workspace::Workspace;

const PAGE: &str = "wit/README.md";

/// Writes the page, or with `check` only says whether it is as it should be.
pub(crate) fn run(workspace: &Workspace, check: bool) -> Result<ExitCode> {
    let page = render(&workspace.root.join("wit"))?;
    let path = workspace.root.join(PAGE);
    let present = fs::read_to_string(&path).unwrap_or_default();
    if present == page {
        println!("`{PAGE}` is as the contract says");
        return Ok(ExitCode::SUCCESS);
    }
    if check {
        eprintln!(
            "error: `{PAGE}` is not as the contract says\nhint: `cargo xtask wit-docs` writes it"
        );
        return Ok(ExitCode::FAILURE);
    }
    fs::write(&path, page).with_context(|| format!("cannot write `{}`", path.display()))?;
    println!("wrote `{PAGE}`");
    Ok(ExitCode::SUCCESS)
}

/// The worlds of the contract; a component of each is called the same.
const WORLDS: [&str; 2] = ["plugin", "guard"];

fn render(directory: &Path) -> Result<String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_dir(directory)
        .with_context(|| format!("`{}` is not valid WIT", directory.display()))?;
    let package_of = &resolve.packages[package];
    let mut page = format!("# The contract `{}`\n\n", package_of.name);
    page.push_str("Made from the `.wit` files beside this page by `cargo xtask wit-docs`.");
    let mut interfaces = Vec::new();
    for component in WORLDS {
        let world = package_of
            .worlds
            .get(component)
            .map(|id| &resolve.worlds[*id])
            .ok_or_else(|| anyhow!("the package has no world `{component}`"))?;
        let _ = writeln!(
            page,
            "\n\nA {component} is a component of the world `{component}`:\n"
        );
        page.push_str("| Interface | | |\n| --- | --- | --- |\n");
        for (is_export, items) in [(false, &world.imports), (true, &world.exports)] {
            for (key, item) in items {
                if let (WorldKey::Interface(id), WorldItem::Interface { .. }) = (key, item) {
                    let interface = &resolve.interfaces[*id];
                    let side = if is_export { component } else { "host" };
                    let name = interface.name.as_deref().unwrap_or_default();
                    let _ = writeln!(
                        page,
                        "| [`{name}`](#{name}) | the {side} has it | {} |",
                        first_line(&interface.docs)
                    );
                    interfaces.push(interface);
                }
            }
        }
        docs(&mut page, &world.docs, "");
        let trimmed = page.trim_end().len();
        page.truncate(trimmed);
    }
    page.push('\n');
    docs(&mut page, &package_of.docs, "");
    for interface in &interfaces {
        describe(&mut page, &resolve, interface);
    }
    Ok(page)
}

fn describe(page: &mut String, resolve: &Resolve, interface: &Interface) {
    let name = interface.name.as_deref().unwrap_or_default();
    let _ = writeln!(page, "\n## {name}");
    docs(page, &interface.docs, "");
    let free: Vec<&Function> = interface
        .functions
        .values()
        .filter(|function| matches!(function.kind, FunctionKind::Freestanding))
        .collect();
    for function in free {
        describe_function(page, resolve, function, "###");
    }
    for (name, id) in &interface.types {
        let definition = &resolve.types[*id];
        // A type that another interface has is described there.
        if matches!(definition.kind, TypeDefKind::Type(Type::Id(_))) {
            continue;
        }
        describe_type(page, resolve, name, definition);
        if !matches!(definition.kind, TypeDefKind::Resource) {
            continue;
        }
        for function in interface.functions.values() {
            if resource_of(function) == Some(*id) {
                describe_function(page, resolve, function, "####");
            }
        }
    }
}

fn resource_of(function: &Function) -> Option<TypeId> {
    match function.kind {
        FunctionKind::Method(id) | FunctionKind::Static(id) | FunctionKind::Constructor(id) => {
            Some(id)
        }
        _ => None,
    }
}

fn describe_type(page: &mut String, resolve: &Resolve, name: &str, definition: &TypeDef) {
    let kind = definition.kind.as_str();
    let _ = writeln!(page, "\n### {kind} `{name}`");
    docs(page, &definition.docs, "");
    let rows: Vec<(String, String, &Docs)> = match &definition.kind {
        TypeDefKind::Record(record) => record
            .fields
            .iter()
            .map(|field| (field.name.clone(), spelled(resolve, &field.ty), &field.docs))
            .collect(),
        TypeDefKind::Variant(variant) => variant
            .cases
            .iter()
            .map(|case| {
                let payload = case
                    .ty
                    .as_ref()
                    .map_or(String::new(), |ty| spelled(resolve, ty));
                (case.name.clone(), payload, &case.docs)
            })
            .collect(),
        TypeDefKind::Enum(cases) => cases
            .cases
            .iter()
            .map(|case| (case.name.clone(), String::new(), &case.docs))
            .collect(),
        TypeDefKind::Flags(flags) => flags
            .flags
            .iter()
            .map(|flag| (flag.name.clone(), String::new(), &flag.docs))
            .collect(),
        _ => Vec::new(),
    };
    if rows.is_empty() {
        return;
    }
    page.push_str("\n| | | |\n| --- | --- | --- |\n");
    for (name, ty, docs) in rows {
        let ty = if ty.is_empty() { ty } else { format!("`{ty}`") };
        let _ = writeln!(page, "| `{name}` | {ty} | {} |", in_one_line(docs));
    }
}

fn describe_function(page: &mut String, resolve: &Resolve, function: &Function, heading: &str) {
    let resource = resource_of(function).and_then(|id| resolve.types[id].name.clone());
    let name = match (&function.kind, &resource) {
        (FunctionKind::Constructor(_), Some(resource)) => format!("new {resource}"),
        (_, Some(resource)) => format!("{resource}.{}", function.item_name()),
        _ => function.item_name().to_owned(),
    };
    let is_method = matches!(function.kind, FunctionKind::Method(_));
    let parameters: Vec<String> = function
        .params
        .iter()
        .skip(usize::from(is_method))
        .map(|param| format!("{}: {}", param.name, spelled(resolve, &param.ty)))
        .collect();
    let is_constructor = matches!(function.kind, FunctionKind::Constructor(_));
    let result = match &function.result {
        Some(ty) if !is_constructor => format!(" → {}", spelled(resolve, ty)),
        _ => String::new(),
    };
    let _ = writeln!(
        page,
        "\n{heading} `{name}`\n\n`({}){result}`",
        parameters.join(", ")
    );
    docs(page, &function.docs, "");
}

/// A type as WIT has it.
fn spelled(resolve: &Resolve, ty: &Type) -> String {
    let Type::Id(id) = ty else {
        return match ty {
            Type::Bool => "bool",
            Type::U8 => "u8",
            Type::U16 => "u16",
            Type::U32 => "u32",
            Type::U64 => "u64",
            Type::S8 => "s8",
            Type::S16 => "s16",
            Type::S32 => "s32",
            Type::S64 => "s64",
            Type::F32 => "f32",
            Type::F64 => "f64",
            Type::Char => "char",
            Type::String => "string",
            _ => "…",
        }
        .to_owned();
    };
    let definition = &resolve.types[*id];
    if let Some(name) = &definition.name {
        return name.clone();
    }
    let of = |ty: &Type| spelled(resolve, ty);
    match &definition.kind {
        TypeDefKind::List(ty) => format!("list<{}>", of(ty)),
        TypeDefKind::Option(ty) => format!("option<{}>", of(ty)),
        TypeDefKind::Tuple(tuple) => {
            let types: Vec<String> = tuple.types.iter().map(of).collect();
            format!("tuple<{}>", types.join(", "))
        }
        TypeDefKind::Result(result) => {
            let ok = result.ok.as_ref().map_or("_".to_owned(), of);
            match &result.err {
                None => format!("result<{ok}>"),
                Some(err) => format!("result<{ok}, {}>", of(err)),
            }
        }
        TypeDefKind::Handle(Handle::Borrow(id)) => {
            format!("borrow<{}>", spelled(resolve, &Type::Id(*id)))
        }
        TypeDefKind::Handle(Handle::Own(id)) => spelled(resolve, &Type::Id(*id)),
        _ => "…".to_owned(),
    }
}

fn docs(page: &mut String, docs: &Docs, indent: &str) {
    if let Some(text) = &docs.contents {
        let _ = writeln!(page, "\n{indent}{}", text.trim());
    }
}

fn first_line(docs: &Docs) -> String {
    let text = docs.contents.as_deref().unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    first.replace('\n', " ").trim().replace('|', "\\|")
}

fn in_one_line(docs: &Docs) -> String {
    let text = docs.contents.as_deref().unwrap_or_default();
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use wit_parser::TypeOwner;

    use super::*;
    use crate::workspace::own_directory;

    fn contract() -> std::path::PathBuf {
        own_directory().join("../../wit")
    }

    #[test]
    fn the_page_is_as_the_contract_says() {
        let page = render(&contract()).unwrap();
        let present = fs::read_to_string(contract().join("README.md")).unwrap_or_default();
        assert!(
            present == page,
            "`{PAGE}` is out of date: run `cargo xtask wit-docs`"
        );
    }

    #[test]
    fn every_item_of_the_contract_has_words() {
        let mut resolve = Resolve::default();
        resolve.push_dir(contract()).unwrap();
        let mut bare = Vec::new();
        for (_, interface) in resolve.interfaces.iter() {
            let of = interface.name.clone().unwrap_or_default();
            let functions = interface.functions.values();
            bare.extend(
                functions
                    .filter(|function| function.docs.contents.is_none())
                    .map(|function| format!("{of}.{}", function.name)),
            );
        }
        for (_, definition) in resolve.types.iter() {
            let is_repeated = matches!(definition.kind, TypeDefKind::Type(_));
            if let (Some(name), TypeOwner::Interface(_), None, false) = (
                &definition.name,
                definition.owner,
                &definition.docs.contents,
                is_repeated,
            ) {
                bare.push(name.clone());
            }
        }
        assert!(bare.is_empty(), "without a word: {bare:?}");
    }
}
