//! `orka-step plugin check`: whether a plugin or a guard fits this host, without running it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use plugin_manifest::{Manifest, Parameter, on_one_line};
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::console::Console;
use crate::engine::{self, Compiled};
use crate::failure::Failure;
use crate::fit::{self, Difference};
use crate::grants::{Grants, GrantsFile};
use crate::guard::GuardSource;
use crate::inspect::may_use;
use crate::outcome;
use crate::parameters::wrong_defaults;
use crate::plugin::Plugin;
use crate::plugin::remote::is_remote;
use crate::report;

/// What was found.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    kind: &'static str,
    name: String,
    version: Option<String>,
    /// What it says of itself.
    description: Option<String>,
    digest: String,
    bytes: usize,
    imports: Vec<String>,
    capabilities: Vec<String>,
    optional_capabilities: Vec<String>,
    secrets: Vec<String>,
    optional_secrets: BTreeSet<String>,
    /// Each with what its type demands.
    parameters: BTreeMap<String, String>,
    /// Whether a grants file was looked at.
    grants_checked: bool,
    /// Whether that grants all that it asks for; none without a file, and for a guard, which is granted nothing.
    granted: Option<bool>,
    /// What was found there, for people.
    #[serde(skip)]
    grants: Option<String>,
    /// The digest that was asked for, if it is another.
    other_digest: Option<String>,
    differences: Vec<Difference>,
    /// Whether this host can run it, whatever it is granted and whichever was asked for.
    fits: bool,
    warnings: Vec<String>,
    problems: Vec<String>,
}

/// Checks and prints, with `verbose` every import; gives the exit code.
pub async fn check(args: &CheckArgs, console: &Console, verbose: bool) -> u8 {
    let (found, failures) = match examine(args) {
        Ok(examined) => examined,
        Err(failure) => {
            report::print_failure(console, &failure);
            return outcome::of_class(failure.class).1;
        }
    };
    if args.json {
        let text = serde_json::to_string_pretty(&found).unwrap_or_default();
        console.data(&text).await;
    } else {
        console.data(&found.describe(verbose)).await;
        found.warnings.iter().for_each(|it| console.warn(it));
        failures
            .iter()
            .for_each(|failure| report::print_failure(console, failure));
    }
    failures
        .first()
        .map_or(0, |failure| outcome::of_class(failure.class).1)
}

fn examine(args: &CheckArgs) -> Result<(Found, Vec<Failure>), Failure> {
    let reference = args.place.reference(&args.plugin)?;
    let grants = args.grants.as_deref().map(GrantsFile::load).transpose()?;
    let plugin = match Plugin::load(&reference) {
        Ok(plugin) => plugin,
        // Guards are files.
        Err(failure) if failure.code == "plugin.other-world" && !is_remote(&args.plugin) => {
            return guard(args).map_err(|as_guard| match as_guard.message {
                // It is no guard either: what it lacks to be a plugin says more.
                message if message.contains("does not export") => failure,
                _ => as_guard,
            });
        }
        Err(failure) => return Err(failure),
    };
    let mut unfit = Vec::new();
    let compiled = engine::engine().and_then(|engine| Compiled::new(&engine, &plugin));
    unfit.extend(compiled.err());
    unfit.extend(wrong_defaults(&plugin.manifest));
    let differences = differences(&plugin.bytes, &mut unfit);
    let fits = unfit.is_empty();
    let (granted, ungranted) = granted(grants.as_ref(), &plugin);
    let is_granted = grants.is_some().then_some(ungranted.is_none());
    let other_digest = other_digest(args, &plugin.digest);
    let another = other_digest
        .as_deref()
        .map(|it| another(it, &plugin.digest));
    let failures: Vec<Failure> = another.into_iter().chain(unfit).chain(ungranted).collect();
    let manifest = &plugin.manifest;
    let parameters = manifest.parameters.iter();
    let found = Found {
        kind: "plugin",
        name: manifest.name.clone(),
        version: Some(manifest.version.to_string()),
        description: Some(manifest.description.clone()),
        digest: plugin.digest.clone(),
        bytes: plugin.bytes.len(),
        imports: imports(&plugin.bytes),
        capabilities: manifest
            .capabilities
            .iter()
            .map(ToString::to_string)
            .collect(),
        optional_capabilities: manifest
            .optional_capabilities
            .iter()
            .map(ToString::to_string)
            .collect(),
        secrets: manifest.secrets.iter().cloned().collect(),
        optional_secrets: manifest.optional_secrets.clone(),
        parameters: parameters
            .map(|(name, parameter)| (name.clone(), parameter.to_string()))
            .collect(),
        grants_checked: grants.is_some(),
        granted: is_granted,
        grants: Some(granted),
        other_digest,
        differences,
        fits,
        warnings: (unanchored(manifest).into_iter())
            .chain(Grants::not_about(grants.as_ref(), &plugin))
            .collect(),
        problems: failures
            .iter()
            .map(|failure| failure.message.clone())
            .collect(),
    };
    Ok((found, failures))
}

/// Compares what the plugin asks for with a grants file, and says what came of it; without one, that nothing was compared.
fn granted(file: Option<&GrantsFile>, plugin: &Plugin) -> (String, Option<Failure>) {
    let (manifest, digest) = (&plugin.manifest, &plugin.digest);
    if file.is_none() {
        let without = if plugin.bundled {
            "it came with this program and has all that it needs where no grants file says otherwise"
        } else if manifest.capabilities.is_empty() && manifest.secrets.is_empty() {
            "it asks for nothing and starts without"
        } else {
            "without a grants file it is denied"
        };
        let told = format!("not looked at: {without}; `--grants FILE` checks yours");
        return (told, None);
    }
    match Grants::intersect(file, manifest, digest, plugin.bundled) {
        Ok(grants) => {
            let by = grants.granted().by;
            let by = by.as_deref().unwrap_or("it came with this program");
            (format!("yes: all that it asks for ({by})"), None)
        }
        Err(failure) => ("no: not enough to start".to_owned(), Some(failure)),
    }
}

fn guard(args: &CheckArgs) -> Result<(Found, Vec<Failure>), Failure> {
    let file = GuardSource::parse(&args.plugin, args.place.plugin_dir.clone())?.load()?;
    let mut unfit = Vec::new();
    let engine = engine::engine()?;
    unfit.extend(file.code(&engine).err());
    let differences = differences(&file.bytes, &mut unfit);
    let fits = unfit.is_empty();
    let other_digest = other_digest(args, &file.digest);
    let another = other_digest.as_deref().map(|it| another(it, &file.digest));
    let failures: Vec<Failure> = another.into_iter().chain(unfit).collect();
    let found = Found {
        kind: "guard",
        name: file.name.clone(),
        version: file.version.clone(),
        description: file.description.clone(),
        digest: file.digest.clone(),
        bytes: file.bytes.len(),
        imports: imports(&file.bytes),
        other_digest,
        differences,
        fits,
        problems: failures
            .iter()
            .map(|failure| failure.message.clone())
            .collect(),
        ..Found::default()
    };
    Ok((found, failures))
}

/// Warnings of patterns of parameters that fit in the middle of a value too.
pub(crate) fn unanchored(manifest: &Manifest) -> Vec<String> {
    let pattern = |parameter: &Parameter| {
        let pattern = parameter.kind.pattern()?;
        (!pattern.is_anchored()).then(|| pattern.as_str().to_owned())
    };
    let found = manifest.parameters.iter();
    found
        .filter_map(|(name, parameter)| Some((name, pattern(parameter)?)))
        .map(|(name, pattern)| {
            format!("the pattern `{pattern}` of parameter `{name}` is looked for anywhere in the value; put `^…$` around it if it is meant for the whole")
        })
        .collect()
}

/// The digest that was asked for, if it is not this one.
fn other_digest(args: &CheckArgs, digest: &str) -> Option<String> {
    let wanted = args.digest.as_ref();
    wanted
        .filter(|wanted| !wanted.eq_ignore_ascii_case(digest))
        .cloned()
}

fn another(wanted: &str, digest: &str) -> Failure {
    Failure::plugin_rejected(
        "plugin.digest",
        format!("the digest is {digest}, and {wanted} was asked for"),
    )
}

/// What differs from the contract. That it cannot be told is a failure, unless it did not fit before.
fn differences(component: &[u8], failures: &mut Vec<Failure>) -> Vec<Difference> {
    fit::differences(component).unwrap_or_else(|trouble| {
        if failures.is_empty() {
            failures.push(Failure::plugin_rejected(
                "plugin.compiler",
                format!("cannot compare it with the contract: {trouble}"),
            ));
        }
        Vec::new()
    })
}

/// Reading them once more cannot fail: they were compared with the contract before.
fn imports(component: &[u8]) -> Vec<String> {
    plugin_manifest::imports(component).unwrap_or_default()
}

impl Found {
    /// The imports, those of WASI as one: toolchains of other languages import it whether they use it or not.
    fn imports(&self, verbose: bool) -> Vec<String> {
        let (wasi, mut shown): (Vec<String>, Vec<String>) =
            (self.imports.iter().cloned()).partition(|name| !verbose && name.starts_with("wasi:"));
        match wasi.len() {
            0 => {}
            1 => shown.push("WASI (1 import): inert".to_owned()),
            count => shown.push(format!("WASI ({count} imports): inert")),
        }
        shown
    }

    fn describe(&self, verbose: bool) -> String {
        let list = |items: &[String]| match items {
            [] => "nothing".to_owned(),
            // Names of imports are as the file has them.
            items => on_one_line(&items.join(", ")),
        };
        let mut text = String::new();
        let version = self.version.as_deref().unwrap_or("without a version");
        // Writing into a `String` cannot fail.
        let _ = writeln!(
            text,
            "{} `{}` {version}",
            self.kind,
            on_one_line(&self.name)
        );
        if let Some(description) = &self.description {
            let _ = writeln!(text, "  says      {}", on_one_line(description));
        }
        let _ = writeln!(text, "  digest    {}", self.digest);
        let _ = writeln!(text, "  size      {} bytes", self.bytes);
        let _ = writeln!(text, "  imports   {}", list(&self.imports(verbose)));
        if self.kind == "plugin" {
            let _ = writeln!(text, "  asks for  {}", list(&self.capabilities));
            let _ = writeln!(text, "  optional  {}", list(&self.optional_capabilities));
            let _ = writeln!(text, "  secrets   {}", list(&self.secrets));
            if let Some(secrets) = may_use(&self.optional_secrets) {
                let _ = writeln!(text, "  may use   {secrets}");
            }
        }
        for (position, (name, takes)) in self.parameters.iter().enumerate() {
            let label = if position == 0 { "takes" } else { "" };
            let _ = writeln!(text, "  {label:<9} {name} ({})", on_one_line(takes));
        }
        for difference in &self.differences {
            let difference = on_one_line(&difference.to_string());
            let _ = writeln!(text, "  differs   {difference}");
        }
        let fits = if self.fits { "yes" } else { "no" };
        let _ = writeln!(text, "  fits      {fits}");
        if let Some(wanted) = &self.other_digest {
            let _ = writeln!(text, "  digest    other than {}", on_one_line(wanted));
        }
        if let Some(grants) = &self.grants {
            let _ = writeln!(text, "  granted   {grants}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing_found() -> Found {
        Found {
            kind: "plugin",
            name: "mine".to_owned(),
            ..Found::default()
        }
    }

    #[test]
    fn no_value_forges_a_line() {
        let forged = "a)\n  fits      yes\u{1b}[2J\u{202e}".to_owned();
        let honest = Found {
            imports: vec!["a".to_owned()],
            parameters: BTreeMap::from([("it".to_owned(), "a".to_owned())]),
            differences: vec![Difference {
                item: "a".to_owned(),
                wants: String::new(),
                has: String::new(),
            }],
            ..nothing_found()
        };
        let hostile = Found {
            name: forged.clone(),
            imports: vec![forged.clone()],
            parameters: BTreeMap::from([("it".to_owned(), forged.clone())]),
            differences: vec![Difference {
                item: forged.clone(),
                wants: forged.clone(),
                has: forged,
            }],
            ..nothing_found()
        };
        let text = hostile.describe(true);
        assert_eq!(text.lines().count(), honest.describe(true).lines().count());
        let is_hidden = |it: char| it == '\u{202e}' || (it.is_control() && it != '\n');
        assert!(!text.contains(is_hidden), "{text:?}");
    }

    #[test]
    fn imports_of_wasi_are_one_and_listed_where_more_is_asked_for() {
        let imports = [
            "orka:plugin/ssh@0.1.0",
            "wasi:sockets/tcp@0.2.0",
            "wasi:io/poll@0.2.0",
        ];
        let found = Found {
            imports: imports.map(str::to_owned).to_vec(),
            ..nothing_found()
        };
        let short = found.describe(false);
        let line = "  imports   orka:plugin/ssh@0.1.0, WASI (2 imports): inert\n";
        assert!(short.contains(line), "{short}");
        assert!(found.describe(true).contains(&imports.join(", ")));
    }

    #[test]
    fn a_pattern_that_fits_in_the_middle_of_a_value_is_warned_of() {
        let warned = |pattern: &str| {
            let text = format!(
                "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
                 [parameters.size]\ntype = \"string\"\npattern = '{pattern}'\ndescription = \"x\"\n"
            );
            unanchored(&Manifest::parse_toml(&text).unwrap())
        };
        assert!(warned("^[0-9]+$").is_empty());
        let warnings = warned("[0-9]+");
        assert!(
            warnings.len() == 1 && warnings[0].contains("`[0-9]+` of parameter `size`"),
            "{warnings:?}"
        );
    }
}
