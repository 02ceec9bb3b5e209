//! The comparison, and the contract that a component is compared with.

use wit_parser::decoding::{DecodedWasm, decode};
use wit_parser::{Function, Handle, Resolve, SourceMap, Type, TypeDef, TypeDefKind, TypeId};
use wit_parser::{InterfaceId, WorldItem};

use crate::{Difference, INTERFACE};

/// The contract, file by file.
const CONTRACT: [(&str, &str); 15] = [
    ("clock.wit", include_str!("../../../../wit/clock.wit")),
    ("cluster.wit", include_str!("../../../../wit/cluster.wit")),
    ("console.wit", include_str!("../../../../wit/console.wit")),
    ("guard.wit", include_str!("../../../../wit/guard.wit")),
    ("handoff.wit", include_str!("../../../../wit/handoff.wit")),
    ("params.wit", include_str!("../../../../wit/params.wit")),
    ("plugin.wit", include_str!("../../../../wit/plugin.wit")),
    ("policy.wit", include_str!("../../../../wit/policy.wit")),
    ("random.wit", include_str!("../../../../wit/random.wit")),
    ("results.wit", include_str!("../../../../wit/results.wit")),
    ("secrets.wit", include_str!("../../../../wit/secrets.wit")),
    ("ssh.wit", include_str!("../../../../wit/ssh.wit")),
    ("types.wit", include_str!("../../../../wit/types.wit")),
    ("wait.wit", include_str!("../../../../wit/wait.wit")),
    (
        "workspace.wit",
        include_str!("../../../../wit/workspace.wit"),
    ),
];

/// What a component wants of the contract that this host does not have, or has otherwise.
///
/// Nothing for a component that fits, and for one that cannot be read: that is told elsewhere.
pub fn differences(component: &[u8]) -> Vec<Difference> {
    let Ok(DecodedWasm::Component(wanted, world)) = decode(component) else {
        return Vec::new();
    };
    let Some(own) = contract() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for item in wanted.worlds[world].imports.values() {
        let WorldItem::Interface { id, .. } = item else {
            continue;
        };
        let Some(name) = unversioned(&wanted, *id) else {
            continue;
        };
        // WASI is linked whole, and inert.
        if !name.starts_with("orka:plugin/") {
            continue;
        }
        match own
            .interfaces
            .iter()
            .find(|(id, _)| unversioned(&own, *id).as_deref() == Some(&name))
        {
            Some((own_id, _)) => Pair {
                name: &name,
                wanted: &wanted,
                own: &own,
                found: &mut found,
            }
            .compare(*id, own_id),
            None => found.push(Difference {
                item: name,
                wants: INTERFACE.to_owned(),
                has: String::new(),
            }),
        }
    }
    found
}

fn contract() -> Option<Resolve> {
    let mut sources = SourceMap::default();
    for (name, text) in CONTRACT {
        sources.push_str(name, text);
    }
    let mut resolve = Resolve::default();
    let group = sources.parse().ok()?;
    resolve.push_group(group).ok()?;
    Some(resolve)
}

/// `orka:plugin/ssh` of `orka:plugin/ssh@0.1.0`: versions are compared before.
fn unversioned(resolve: &Resolve, id: InterfaceId) -> Option<String> {
    let name = resolve.id_of(id)?;
    Some(name.split('@').next().unwrap_or_default().to_owned())
}

/// An interface as it is wanted and as it is.
struct Pair<'a> {
    name: &'a str,
    wanted: &'a Resolve,
    own: &'a Resolve,
    found: &'a mut Vec<Difference>,
}

impl Pair<'_> {
    fn compare(mut self, wanted: InterfaceId, own: InterfaceId) {
        let (wanted, own) = (&self.wanted.interfaces[wanted], &self.own.interfaces[own]);
        for (name, id) in &wanted.types {
            match own.types.get(name) {
                Some(own) => self.compare_types(name, *id, *own),
                None => self.note(name, kind(self.wanted, *id), String::new()),
            }
        }
        for (name, function) in &wanted.functions {
            let wants = signature(self.wanted, function);
            let has = own
                .functions
                .get(name)
                .map_or_else(String::new, |own| signature(self.own, own));
            if wants != has {
                self.note(name, wants, has);
            }
        }
    }

    /// Compares two types of one name by their members.
    fn compare_types(&mut self, name: &str, wanted: TypeId, own: TypeId) {
        let (wants, has) = (
            members(self.wanted, &self.wanted.types[wanted]),
            members(self.own, &self.own.types[own]),
        );
        if wants == has {
            return;
        }
        let (wanted_kind, own_kind) = (kind(self.wanted, wanted), kind(self.own, own));
        if wanted_kind != own_kind {
            return self.note(name, wanted_kind, own_kind);
        }
        let before = self.found.len();
        for member in &wants {
            if !has.contains(member) {
                let same_name = |other: &&String| head(other) == head(member);
                let other = has.iter().find(same_name).cloned().unwrap_or_default();
                self.note(name, member.clone(), other);
            }
        }
        for member in &has {
            if !wants.iter().any(|other| head(other) == head(member)) {
                self.note(name, String::new(), member.clone());
            }
        }
        if self.found.len() == before {
            self.note(name, wants.join(", "), has.join(", "));
        }
    }

    fn note(&mut self, item: &str, wants: String, has: String) {
        self.found.push(Difference {
            item: format!("{}.{item}", self.name),
            wants,
            has,
        });
    }
}

/// The name of a member.
fn head(member: &str) -> &str {
    member.split([':', '(']).next().unwrap_or_default()
}

fn kind(resolve: &Resolve, id: TypeId) -> String {
    resolve.types[id].kind.as_str().to_owned()
}

/// What a type is made of, one text a member.
fn members(resolve: &Resolve, definition: &TypeDef) -> Vec<String> {
    let shown = |of: &Type| text(resolve, of);
    match &definition.kind {
        TypeDefKind::Record(record) => (record.fields.iter())
            .map(|field| format!("{}: {}", field.name, shown(&field.ty)))
            .collect(),
        TypeDefKind::Variant(variant) => (variant.cases.iter())
            .map(|case| match &case.ty {
                Some(payload) => format!("{}({})", case.name, shown(payload)),
                None => case.name.clone(),
            })
            .collect(),
        TypeDefKind::Enum(cases) => cases.cases.iter().map(|case| case.name.clone()).collect(),
        TypeDefKind::Flags(flags) => flags.flags.iter().map(|flag| flag.name.clone()).collect(),
        // The same type under the name of another interface.
        TypeDefKind::Type(Type::Id(id)) => members(resolve, &resolve.types[*id]),
        TypeDefKind::Resource => Vec::new(),
        other => vec![of_kind(resolve, other)],
    }
}

/// `func(timeout-ms: option<u64>) -> result<option<exit>, error>`.
fn signature(resolve: &Resolve, function: &Function) -> String {
    let params: Vec<String> = (function.params.iter())
        .map(|param| format!("{}: {}", param.name, text(resolve, &param.ty)))
        .collect();
    let result = function
        .result
        .as_ref()
        .map_or_else(String::new, |of| format!(" -> {}", text(resolve, of)));
    format!("func({}){result}", params.join(", "))
}

fn text(resolve: &Resolve, of: &Type) -> String {
    match of {
        Type::Id(id) => {
            let definition = &resolve.types[*id];
            match &definition.name {
                Some(name) => name.clone(),
                None => of_kind(resolve, &definition.kind),
            }
        }
        Type::Bool => "bool".to_owned(),
        Type::String => "string".to_owned(),
        Type::Char => "char".to_owned(),
        Type::U8 => "u8".to_owned(),
        Type::U16 => "u16".to_owned(),
        Type::U32 => "u32".to_owned(),
        Type::U64 => "u64".to_owned(),
        Type::S8 => "s8".to_owned(),
        Type::S16 => "s16".to_owned(),
        Type::S32 => "s32".to_owned(),
        Type::S64 => "s64".to_owned(),
        Type::F32 => "f32".to_owned(),
        Type::F64 => "f64".to_owned(),
        Type::ErrorContext => "error-context".to_owned(),
    }
}

/// A type that has no name of its own.
fn of_kind(resolve: &Resolve, kind: &TypeDefKind) -> String {
    let shown = |of: &Type| text(resolve, of);
    let named = |id: &TypeId| shown(&Type::Id(*id));
    match kind {
        TypeDefKind::Handle(Handle::Own(id)) => named(id),
        TypeDefKind::Handle(Handle::Borrow(id)) => format!("borrow<{}>", named(id)),
        TypeDefKind::Tuple(tuple) => {
            let parts: Vec<String> = tuple.types.iter().map(shown).collect();
            format!("tuple<{}>", parts.join(", "))
        }
        TypeDefKind::Option(of) => format!("option<{}>", shown(of)),
        TypeDefKind::List(of) => format!("list<{}>", shown(of)),
        TypeDefKind::Result(result) => {
            let part = |of: &Option<Type>| of.as_ref().map_or_else(|| "_".to_owned(), shown);
            match (&result.ok, &result.err) {
                (None, None) => "result".to_owned(),
                (ok, None) => format!("result<{}>", part(ok)),
                (ok, err) => format!("result<{}, {}>", part(ok), part(err)),
            }
        }
        TypeDefKind::Type(of) => shown(of),
        other => other.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_is_all_that_the_folder_holds_and_reads_well() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../wit");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".wit"))
            .collect();
        names.sort();
        assert_eq!(names, CONTRACT.map(|(name, _)| name.to_owned()));
        let contract = contract().unwrap();
        assert!(contract.interfaces.len() >= 14);
    }

    /// Compares two texts of one interface.
    fn compared(wanted: &str, own: &str) -> Vec<String> {
        let resolve = |body: &str| {
            let mut resolve = Resolve::default();
            let text = format!("package orka:plugin@0.1.0; interface ssh {{ {body} }}");
            resolve.push_source("ssh.wit", &text).unwrap();
            resolve
        };
        let (wanted, own) = (resolve(wanted), resolve(own));
        let only = |resolve: &Resolve| resolve.interfaces.iter().next().unwrap().0;
        let mut found = Vec::new();
        Pair {
            name: "orka:plugin/ssh",
            wanted: &wanted,
            own: &own,
            found: &mut found,
        }
        .compare(only(&wanted), only(&own));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_difference_names_the_item_and_both_sides() {
        let own = "record spec { image: string, cores: option<u32> } \
                   resource vm { run: func(program: string) -> result<_, string>; }";
        assert!(compared(own, own).is_empty());
        let told = compared(
            "record spec { image: string, cores: u32, colour: string } \
             resource vm { run: func(program: string, nice: bool) -> result<_, string>; stop: func(); }",
            own,
        );
        let expected = [
            "orka:plugin/ssh.spec: it wants `cores: u32`, this host has `cores: option<u32>`",
            "orka:plugin/ssh.spec: it wants `colour: string`, this host has nothing of the kind",
            "orka:plugin/ssh.[method]vm.run: it wants `func(self: borrow<vm>, program: string, nice: bool) -> result<_, string>`, this host has `func(self: borrow<vm>, program: string) -> result<_, string>`",
            "orka:plugin/ssh.[method]vm.stop: it wants `func(self: borrow<vm>)`, this host has nothing of the kind",
        ];
        assert_eq!(told, expected);
        let narrower = compared("enum level { low }", "enum level { low, high }");
        assert_eq!(
            narrower,
            ["orka:plugin/ssh.level: it wants nothing of the kind, this host has `high`"]
        );
        let other = compared("enum level { low }", "record level { low: u8 }");
        assert_eq!(
            other,
            ["orka:plugin/ssh.level: it wants `enum`, this host has `record`"]
        );
    }
}
