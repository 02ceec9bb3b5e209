//! Who reads the Secret and the ConfigMap that the older `orka-init` wrote into the namespace.
//!
//! A step gets at them by a volume, by `envFrom` or `valueFrom`, or names them in its script, arguments or variables.

use std::collections::BTreeMap;

use serde_json::Value;

use super::rules::list;
use super::scope::Scope;
use super::{Finding, Weight};

/// What a name is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kept {
    Secret,
    ConfigMap,
}

impl Kept {
    fn word(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }

    /// Whether a text is about such objects at all.
    fn is_meant_in(self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        match self {
            Self::Secret => text.contains("secret"),
            Self::ConfigMap => text.contains("configmap") || has_word(&text, "cm"),
        }
    }
}

/// The names that somebody may read, each with whether `orka-init` was told to write it.
#[derive(Clone, Debug)]
pub(super) struct Names(BTreeMap<(Kept, String), bool>);

impl Names {
    /// Those that the older Tasks had by default.
    pub(super) fn older() -> Self {
        Self(BTreeMap::from(
            OLDER.map(|(kept, name)| ((kept, name.to_owned()), false)),
        ))
    }

    /// Adds one of an `orka-init`.
    pub(super) fn add(&mut self, kept: Kept, name: &str, is_written: bool) {
        *self.0.entry((kept, name.to_owned())).or_default() |= is_written;
    }

    /// Adds what an `orka-init` of another document has, apart from names that only mean something there.
    pub(super) fn add_all(&mut self, others: &Self) {
        for ((kept, name), is_written) in &others.0 {
            if !name.contains("$(") {
                self.add(*kept, name, *is_written);
            }
        }
    }

    /// Whether any `orka-init` was told to write any.
    pub(super) fn is_any_written(&self) -> bool {
        self.0.values().any(|is_written| *is_written)
    }

    fn exactly(&self, kept: Kept, name: &str) -> Option<(Kept, String)> {
        let key = (kept, name.to_owned());
        self.0.contains_key(&key).then_some(key)
    }

    /// Names that stand in a text, each with whether it surely means the object.
    fn within(&self, text: &str) -> Vec<((Kept, String), bool)> {
        let found = self.0.keys().filter(|(_, name)| has_word(text, name));
        found
            .map(|(kept, name)| {
                let is_default = OLDER.contains(&(*kept, name.as_str()));
                let is_all = text == name.as_str();
                let is_sure = is_default || is_all || kept.is_meant_in(text);
                ((*kept, name.clone()), is_sure)
            })
            .collect()
    }

    /// What a reference to a Secret or a ConfigMap names, as `secretKeyRef` and the like do.
    fn of_source(&self, source: &Value, scope: &Scope) -> Vec<(Kept, String)> {
        let named = |kept, name: &Value| self.exactly(kept, &scope.text(name.as_str()?));
        let of_one = |source: &Value| {
            [
                named(Kept::Secret, &source["secret"]["secretName"]),
                named(Kept::Secret, &source["secret"]["name"]),
                named(Kept::Secret, &source["secretRef"]["name"]),
                named(Kept::Secret, &source["secretKeyRef"]["name"]),
                named(Kept::ConfigMap, &source["configMap"]["name"]),
                named(Kept::ConfigMap, &source["configMapRef"]["name"]),
                named(Kept::ConfigMap, &source["configMapKeyRef"]["name"]),
            ]
        };
        let projected = list(&source["projected"]["sources"]).flat_map(of_one);
        of_one(source)
            .into_iter()
            .chain(projected)
            .flatten()
            .collect()
    }
}

const OLDER: [(Kept, &str); 2] = [
    (Kept::Secret, "orka-token"),
    (Kept::ConfigMap, "orka-vm-name"),
];

/// One thing that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// The step, or whatever else of a pod or run it is.
    who: String,
    what: (Kept, String),
    /// Such as `by its volume`.
    how: String,
    is_sure: bool,
}

impl Read {
    /// What is to be said of it.
    pub(super) fn finding(&self, names: &Names) -> Finding {
        let (kept, name) = &self.what;
        let read = format!("{} {} {} `{name}`", self.who, self.how, kept.word());
        let role = if OLDER.contains(&(*kept, name)) {
            "`kubectl apply -k tekton/overlays/hand-over`".to_owned()
        } else {
            format!("`tekton/overlays/hand-over` with `{name}` under its `resourceNames`")
        };
        let is_written = names
            .0
            .get(&self.what)
            .is_some_and(|is_written| *is_written);
        let (weight, code, message, hint) = match (is_written, self.is_sure) {
            (true, _) => (
                Weight::Check,
                "hand-over.role",
                format!(
                    "{read}: `orka-init` and `orka-teardown` keep it, which their service account has to be allowed to"
                ),
                format!("{role} has the Role"),
            ),
            (false, true) => (
                Weight::Change,
                "hand-over.read",
                format!("{read}, which is not written by itself any more"),
                format!(
                    "give `orka-init` and `orka-teardown` the parameter `hand-over: kubernetes`, and their service account the \
                     Role of {role}; or, once these Tasks are installed, sign in with the Secret `orka-creds`, and take the VM \
                     config's name from the result `vm-config` of `orka-init`, which the older one does not have"
                ),
            ),
            (false, false) => (
                Weight::Check,
                "hand-over.named",
                format!("{read}, if that is what it means; it is not written by itself any more"),
                format!(
                    "if it reads it: `hand-over: kubernetes` for `orka-init` and `orka-teardown`, and the Role of {role}"
                ),
            ),
        };
        Finding {
            weight,
            code,
            message,
            hint: Some(hint),
        }
    }
}

/// What is read in one place, each thing once for each reader: the first way that is found is enough.
#[derive(Debug, Default)]
pub(super) struct Reads(Vec<Read>);

impl Reads {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Read> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of what runs on a Mac: a name there is seldom that of an object in Kubernetes.
    pub(super) fn in_doubt(&mut self) {
        for read in &mut self.0 {
            read.is_sure = false;
        }
    }

    fn add(&mut self, who: &str, what: (Kept, String), how: String, is_sure: bool) {
        let known = self
            .0
            .iter()
            .any(|read| read.who == who && read.what == what);
        if !known {
            let who = who.to_owned();
            self.0.push(Read {
                who,
                what,
                how,
                is_sure,
            });
        }
    }

    fn add_text(&mut self, who: &str, text: &str, how: &str, names: &Names) {
        for (what, is_sure) in names.within(text) {
            self.add(who, what, how.to_owned(), is_sure);
        }
    }

    /// Parameters that hand the name to something which does not stand in the files.
    pub(super) fn add_given(&mut self, who: &str, given: &Value, scope: &Scope, names: &Names) {
        for param in list(given) {
            let name = param["name"].as_str().unwrap_or("?");
            for text in texts(&param["value"]) {
                let how = format!("is given, by the parameter `{name}`, the name of the");
                self.add_text(who, &scope.text(text), &how, names);
            }
        }
    }

    /// Workspaces of a run that are such an object; `takers` says who has a workspace.
    pub(super) fn add_bindings(
        &mut self,
        run: &Value,
        names: &Names,
        takers: impl Fn(&str) -> Vec<String>,
    ) {
        for binding in list(&run["workspaces"]) {
            for what in names.of_source(binding, &Scope::default()) {
                let name = binding["name"].as_str().unwrap_or("?");
                let takers = takers(name);
                let of = match takers.is_empty() {
                    true => String::new(),
                    false => format!(" of {}", takers.join(", ")),
                };
                let how = "is the".to_owned();
                self.add(&format!("the workspace `{name}`{of}"), what, how, true);
            }
        }
    }

    /// Everything that the steps of a Task, or the containers of a pod, read.
    pub(super) fn add_pod(
        &mut self,
        spec: &Value,
        scope: &Scope,
        names: &Names,
        actions: &Actions<'_>,
    ) {
        let volumes: Vec<Volume> = list(&spec["volumes"])
            .flat_map(|volume| {
                let name = scope.text(volume["name"].as_str().unwrap_or_default());
                let named = names.of_source(volume, scope).into_iter();
                named.map(move |what| Volume {
                    name: name.clone(),
                    what,
                })
            })
            .collect();
        self.add_container("each step", &spec["stepTemplate"], scope, names, &volumes);
        for (member, word) in CONTAINERS {
            for (number, container) in list(&spec[member]).enumerate() {
                let who = match container["name"].as_str() {
                    Some(name) => format!("{word} `{name}`"),
                    None => format!("{word} {}", number + 1),
                };
                self.add_container(&who, container, scope, names, &volumes);
                let given = &container["params"];
                match container["ref"]["name"]
                    .as_str()
                    .and_then(|name| actions.get(name))
                {
                    Some(action) => {
                        let inside = scope.of_own(&action["params"], given);
                        self.add_container(&who, action, &inside, names, &volumes);
                    }
                    None => self.add_given(&who, given, scope, names),
                }
            }
        }
        for Volume { name, what } in volumes {
            let is_mounted = self.0.iter().any(|read| read.what == what);
            if !is_mounted {
                self.add(
                    &format!("the volume `{name}`"),
                    what,
                    "is the".to_owned(),
                    true,
                );
            }
        }
    }

    /// Everything that a StepAction reads, whose volumes are those of whoever refers to it.
    pub(super) fn add_action(&mut self, spec: &Value, scope: &Scope, names: &Names) {
        self.add_container("it", spec, scope, names, &[]);
    }

    fn add_container(
        &mut self,
        who: &str,
        container: &Value,
        scope: &Scope,
        names: &Names,
        volumes: &[Volume],
    ) {
        for mount in list(&container["volumeMounts"]) {
            let mounted = scope.text(mount["name"].as_str().unwrap_or_default());
            for volume in volumes.iter().filter(|volume| volume.name == mounted) {
                let how = format!("reads, by the volume `{mounted}`, the");
                self.add(who, volume.what.clone(), how, true);
            }
        }
        for what in list(&container["envFrom"]).flat_map(|source| names.of_source(source, scope)) {
            self.add(who, what, "reads, by `envFrom`, the".to_owned(), true);
        }
        for variable in list(&container["env"]) {
            let name = variable["name"].as_str().unwrap_or("?");
            for what in names.of_source(&variable["valueFrom"], scope) {
                let how = format!("reads, by the variable `{name}`, the");
                self.add(who, what, how, true);
            }
            let value = scope.text(variable["value"].as_str().unwrap_or_default());
            let how = format!("has, in the variable `{name}`, the name of the");
            self.add_text(who, &value, &how, names);
        }
        let script = scope.text(&without_comments(
            container["script"].as_str().unwrap_or_default(),
        ));
        self.add_text(who, &script, "has, in its script, the name of the", names);
        let words = ["command", "args"].map(|member| texts(&container[member]));
        let words = scope.text(&words.concat().join(" "));
        self.add_text(who, &words, "has, in its arguments, the name of the", names);
    }
}

/// StepActions by name: what stands under `spec`.
pub(super) type Actions<'a> = BTreeMap<&'a str, &'a Value>;

/// A volume that is such an object.
struct Volume {
    name: String,
    what: (Kept, String),
}

/// Lists of containers, and what one of each is called.
const CONTAINERS: [(&str, &str); 4] = [
    ("steps", "step"),
    ("sidecars", "sidecar"),
    ("initContainers", "container"),
    ("containers", "container"),
];

/// A script without the lines that do nothing in most languages.
fn without_comments(script: &str) -> String {
    let lines = script
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(members) => members.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// Whether a name stands in a text by itself: not as part of a longer one, nor of a path that leads elsewhere.
fn has_word(text: &str, name: &str) -> bool {
    let is_inside = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let mut places = text.match_indices(name);
    places.any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        if before.ends_with(is_inside) || after.starts_with(is_inside) {
            return false;
        }
        let Some(path) = before.strip_suffix('/') else {
            return true;
        };
        let start = path
            .rfind(|letter: char| !is_inside(letter))
            .map_or(0, |at| at + 1);
        let kind = path[start..].to_ascii_lowercase();
        ["secret", "secrets", "configmap", "configmaps", "cm"].contains(&kind.as_str())
    })
}
