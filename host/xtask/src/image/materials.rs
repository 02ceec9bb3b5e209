//! The bill of materials: every package that is linked into the program or into a plugin, in CycloneDX's form.
//!
//! Cargo says what is linked (`cargo tree` for the image's target and features), Cargo.lock has the digests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::program::{COMPILER, FOREIGN_SETTINGS, Program, STEP};
use super::{Architecture, read};
use crate::process;
use crate::wasm_toolchain;
use crate::workspace::Workspace;

/// A package, by name and version.
type Id = (String, String);

/// What one package says of itself and uses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Package {
    licence: String,
    uses: BTreeSet<Id>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The bill for one image, made at `moment` (seconds since 1970).
pub(super) fn of(
    workspace: &Workspace,
    architecture: Architecture,
    components: &[PathBuf],
    moment: u64,
) -> Result<String> {
    let mut packages = BTreeMap::new();
    let target = architecture.target();
    let mut linked = |program: &Program| {
        tree(
            workspace,
            program.package,
            target,
            program.features,
            &mut packages,
        )
    };
    let program = linked(&STEP)?;
    linked(&COMPILER)?;
    let mut plugins = Vec::new();
    for plugin in workspace.plugins() {
        if let Some(file) = components.iter().find(|path| **path == plugin.output) {
            let target = wasm_toolchain::TARGET;
            let id = tree(workspace, &plugin.package.name, target, &[], &mut packages)?;
            plugins.push((id, file.clone()));
        }
    }
    let lock = std::fs::read_to_string(workspace.root.join("Cargo.lock"))
        .context("cannot read Cargo.lock")?;
    let lock: Lock = toml::from_str(&lock).context("Cargo.lock is not as expected")?;
    let digests: BTreeMap<Id, String> = lock
        .package
        .into_iter()
        .filter_map(|it| Some(((it.name, it.version), it.checksum?)))
        .collect();
    let bill = bill(
        &program,
        &packages,
        &digests,
        &files(&plugins)?,
        architecture,
        moment,
    );
    Ok(format!("{bill}\n"))
}

/// Adds what a package is linked from and gives its own id.
fn tree(
    workspace: &Workspace,
    package: &str,
    target: &str,
    features: &[&str],
    packages: &mut BTreeMap<Id, Package>,
) -> Result<Id> {
    let mut command = process::cargo();
    command
        .args(["tree", "--package", package, "--target", target])
        .args(["--edges", "normal,no-proc-macro", "--prefix", "depth"])
        .args(["--format", "{p}\t{l}"])
        .args(features)
        .current_dir(&workspace.root);
    for variable in FOREIGN_SETTINGS {
        command.env_remove(variable);
    }
    let text = process::output(&mut command)?;
    parse(&text, packages)
        .with_context(|| format!("cargo's tree of `{package}` is not as expected"))
}

/// Reads lines such as `2serde v1.0.229\tMIT OR Apache-2.0 (*)`: depth, name, version, then perhaps more, and the licence.
fn parse(text: &str, packages: &mut BTreeMap<Id, Package>) -> Option<Id> {
    let mut above: Vec<Id> = Vec::new();
    for line in text.lines() {
        let (head, licence) = line.split_once('\t')?;
        let digits = head.find(|letter: char| !letter.is_ascii_digit())?;
        let depth: usize = head[..digits].parse().ok()?;
        let mut words = head[digits..].split(' ');
        let id = (
            words.next()?.to_owned(),
            words.next()?.strip_prefix('v')?.to_owned(),
        );
        above.truncate(depth);
        if let Some(user) = above.last() {
            packages
                .entry(user.clone())
                .or_default()
                .uses
                .insert(id.clone());
        }
        let package = packages.entry(id.clone()).or_default();
        // The older way of writing a choice.
        package.licence = licence.trim_end_matches(" (*)").replace('/', " OR ");
        above.push(id);
    }
    above.into_iter().next()
}

/// A component of the image that is a file: the package it was made from, its name and its SHA-256.
struct Shipped {
    id: Id,
    name: String,
    digest: String,
}

fn files(plugins: &[(Id, PathBuf)]) -> Result<Vec<Shipped>> {
    let shipped = |(id, path): &(Id, PathBuf)| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Shipped {
            id: id.clone(),
            name: name.into_owned(),
            digest: digest(path)?,
        })
    };
    plugins.iter().map(shipped).collect()
}

fn digest(path: &Path) -> Result<String> {
    Ok(hex::encode(Sha256::digest(read(path)?)))
}

fn bill(
    program: &Id,
    packages: &BTreeMap<Id, Package>,
    digests: &BTreeMap<Id, String>,
    shipped: &[Shipped],
    architecture: Architecture,
    moment: u64,
) -> Value {
    let purl = |id: &Id| format!("pkg:cargo/{}@{}", id.0, id.1);
    let described = |id: &Id, package: &Package, kind: &str| {
        let mut value = json!({
            "type": kind, "bom-ref": purl(id), "name": id.0, "version": id.1, "purl": purl(id),
        });
        if !package.licence.is_empty() {
            value["licenses"] = json!([{ "expression": package.licence }]);
        }
        if let Some(digest) = digests.get(id) {
            value["hashes"] = json!([{ "alg": "SHA-256", "content": digest }]);
        }
        value
    };
    let mut components: Vec<Value> = packages
        .iter()
        .filter(|(id, _)| *id != program)
        .map(|(id, package)| described(id, package, "library"))
        .collect();
    components.extend(shipped.iter().map(|file| {
        json!({
            "type": "file", "bom-ref": format!("file:{}", file.name), "name": file.name, "version": file.id.1,
            "hashes": [{ "alg": "SHA-256", "content": file.digest }],
        })
    }));
    let mut dependencies: Vec<Value> = packages
        .iter()
        .map(|(id, package)| {
            let mut uses: Vec<String> = package.uses.iter().map(purl).collect();
            if id == program {
                uses.extend(shipped.iter().map(|file| format!("file:{}", file.name)));
            }
            json!({ "ref": purl(id), "dependsOn": uses })
        })
        .collect();
    dependencies.extend(shipped.iter().map(
        |file| json!({ "ref": format!("file:{}", file.name), "dependsOn": [purl(&file.id)] }),
    ));
    let own = packages.get(program).map_or(Value::Null, |package| {
        described(program, package, "application")
    });
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": timestamp(moment),
            "component": own,
            "properties": [{ "name": "target", "value": architecture.target() }],
        },
        "components": components,
        "dependencies": dependencies,
    })
}

/// Seconds since 1970 as RFC 3339 has them.
pub(super) fn timestamp(moment: u64) -> String {
    let (days, seconds) = (moment / 86_400, moment % 86_400);
    // Days since 1 March of year 0, in years that begin in March: leap days come last. (Howard Hinnant's `civil_from_days`.)
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Architecture, Shipped, bill, parse, timestamp};

    const TREE: &str = "0orka-step v0.1.0 (/source/host)\tApache-2.0\n\
                        1bytes v1.11.0\tMIT\n\
                        1rustls v0.23.1\tApache-2.0/ISC/MIT\n\
                        2ring v0.17.14\tApache-2.0 AND ISC\n\
                        3bytes v1.11.0\tMIT (*)\n";

    #[test]
    fn a_tree_becomes_packages_with_what_they_use() {
        let mut packages = BTreeMap::new();
        let program = parse(TREE, &mut packages).unwrap();
        let id = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        assert_eq!(program, id("orka-step", "0.1.0"));
        assert_eq!(packages.len(), 4);
        let ring = &packages[&id("ring", "0.17.14")];
        assert_eq!(ring.licence, "Apache-2.0 AND ISC");
        assert!(ring.uses.contains(&id("bytes", "1.11.0")));
        assert_eq!(
            packages[&id("rustls", "0.23.1")].licence,
            "Apache-2.0 OR ISC OR MIT"
        );
        assert_eq!(packages[&program].uses.len(), 2);
    }

    #[test]
    fn what_is_no_tree_is_not_taken_for_one() {
        for text in [
            "",
            "0orka-step v0.1.0",
            "orka-step v0.1.0\tMIT",
            "0orka-step\tMIT",
        ] {
            assert_eq!(parse(text, &mut BTreeMap::new()), None, "{text}");
        }
    }

    #[test]
    fn the_bill_names_everything_once_and_refers_to_nothing_else() {
        let mut packages = BTreeMap::new();
        let program = parse(TREE, &mut packages).unwrap();
        let digests =
            BTreeMap::from([(("ring".to_owned(), "0.17.14".to_owned()), "ab".to_owned())]);
        let shipped = [Shipped {
            id: ("bytes".to_owned(), "1.11.0".to_owned()),
            name: "build.wasm".to_owned(),
            digest: "cd".to_owned(),
        }];
        let bill = bill(
            &program,
            &packages,
            &digests,
            &shipped,
            Architecture::Arm64,
            0,
        );
        let names: Vec<_> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["bom-ref"].as_str().unwrap())
            .chain(bill["metadata"]["component"]["bom-ref"].as_str())
            .collect();
        assert_eq!(names.len(), 5, "{names:?}");
        for dependency in bill["dependencies"].as_array().unwrap() {
            let uses = dependency["dependsOn"].as_array().unwrap().iter();
            for reference in uses.chain([&dependency["ref"]]) {
                assert!(names.contains(&reference.as_str().unwrap()), "{reference}");
            }
        }
        assert_eq!(bill["components"][1]["hashes"][0]["content"], "ab");
    }

    #[test]
    fn moments_are_written_as_dates() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(timestamp(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
