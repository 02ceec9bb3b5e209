//! What a plugin may do: what its manifest asks for, and what the operator grants. Both must name it.

mod ceilings;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use plugin_manifest::{Capability, Manifest};
use serde::Deserialize;

use crate::failure::Failure;

pub use ceilings::Ceilings;
use ceilings::CeilingsEntry;
pub(crate) use ceilings::how_to_raise;

/// The operator's grants file, in TOML.
///
/// The first entry whose `plugin` and `digest` fit decides; later ones are not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GrantsFile {
    #[serde(default, rename = "grant")]
    grants: Vec<Grant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Grant {
    /// The name in the plugin's manifest, or `*`.
    plugin: String,
    /// `sha256:…` of the plugin's file; absent fits any.
    digest: Option<String>,
    /// Capabilities; `*` and `ssh.*` stand for several.
    #[serde(default)]
    capabilities: Vec<String>,
    /// Names of secrets; `*` stands for all that the manifest asks for.
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    ceilings: CeilingsEntry,
}

/// The file of a directory that is given as grants.
const FILE_NAME: &str = "grants.toml";

/// What this run's plugin may do.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    capabilities: BTreeSet<Capability>,
    secrets: BTreeSet<String>,
    /// Upper limits.
    pub ceilings: Ceilings,
}

impl GrantsFile {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is not TOML, or has unknown members or capabilities.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let inside = path.join(FILE_NAME);
        let path = if path.is_dir() { &inside } else { path };
        let shown = format!("the grants file `{}`", path.display());
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::config(format!("cannot read {shown}")).with_source(error))?;
        Self::parse(&text, &shown)
    }

    /// Reads grants out of a text; `shown` names it in messages.
    ///
    /// # Errors
    ///
    /// A text that is not TOML, or has unknown members or capabilities.
    pub fn parse(text: &str, shown: &str) -> Result<Self, Failure> {
        let file: Self = toml::from_str(text)
            .map_err(|error| Failure::config(format!("{shown} is wrong")).with_source(error))?;
        for grant in &file.grants {
            for name in &grant.capabilities {
                expand(name).map_err(|problem| Failure::config(format!("{shown}: {problem}")))?;
            }
            grant
                .ceilings
                .read()
                .map_err(|problem| Failure::config(format!("{shown}: {problem}")))?;
        }
        Ok(file)
    }

    fn find(&self, manifest: &Manifest, digest: &str) -> Option<&Grant> {
        self.grants.iter().find(|grant| {
            (grant.plugin == "*" || grant.plugin == manifest.name)
                && grant
                    .digest
                    .as_deref()
                    .is_none_or(|wanted| wanted == digest)
        })
    }
}

impl Grants {
    /// What `manifest` asks for and the operator grants.
    ///
    /// A plugin that came with this program (`bundled`) and is not mentioned in the file has its stock grant: all that it
    /// asks for, and nothing of what it can do without. Any other plugin that is not mentioned has nothing.
    ///
    /// # Errors
    ///
    /// A request outside the grant, naming the lines that would allow it.
    pub fn intersect(
        file: Option<&GrantsFile>,
        manifest: &Manifest,
        digest: &str,
        bundled: bool,
    ) -> Result<Self, Failure> {
        let granted = match file.and_then(|file| file.find(manifest, digest)) {
            Some(grant) => Self::of(grant, manifest)?,
            None if bundled => Self {
                capabilities: manifest.capabilities.clone(),
                secrets: manifest.secrets.clone(),
                ceilings: Ceilings::default(),
            },
            None => Self::default(),
        };
        let missing: Vec<String> = manifest
            .capabilities
            .difference(&granted.capabilities)
            .map(ToString::to_string)
            .chain(manifest.secrets.difference(&granted.secrets).cloned())
            .map(|name| format!("\"{name}\""))
            .collect();
        if missing.is_empty() {
            return Ok(granted);
        }
        Err(Failure::denied(
            "run.not-granted",
            format!(
                "plugin `{}` asks for what it was not granted: {}",
                manifest.name,
                missing.join(", ")
            ),
        )
        .with_hint(how_to_grant(file, manifest, digest)))
    }

    fn of(grant: &Grant, manifest: &Manifest) -> Result<Self, Failure> {
        let mut capabilities = BTreeSet::new();
        for name in &grant.capabilities {
            capabilities.extend(expand(name).map_err(Failure::config)?);
        }
        let all_secrets = grant.secrets.iter().any(|name| name == "*");
        let secrets = if all_secrets {
            manifest.secrets.clone()
        } else {
            grant.secrets.iter().cloned().collect()
        };
        let asked: BTreeSet<Capability> = manifest
            .capabilities
            .union(&manifest.optional_capabilities)
            .copied()
            .collect();
        Ok(Self {
            capabilities: capabilities.intersection(&asked).copied().collect(),
            secrets: secrets.intersection(&manifest.secrets).cloned().collect(),
            ceilings: grant.ceilings.read().map_err(Failure::config)?,
        })
    }

    /// Everything, for tests of plugins.
    pub fn everything(manifest: &Manifest) -> Self {
        Self {
            capabilities: manifest
                .capabilities
                .union(&manifest.optional_capabilities)
                .copied()
                .collect(),
            secrets: manifest.secrets.clone(),
            ceilings: Ceilings::default(),
        }
    }

    /// How long a VM may be kept after the run; none if the run may keep none.
    pub fn keep_max(&self) -> Option<Duration> {
        let granted = self.capabilities.contains(&Capability::ClusterKeep);
        granted.then_some(self.ceilings.keep_max)
    }

    /// Whether the run may bring files back from its VMs at all.
    pub fn may_fetch(&self) -> bool {
        let needed = [Capability::SshTransfer, Capability::WorkspaceWrite];
        needed
            .iter()
            .all(|needed| self.capabilities.contains(needed))
    }

    /// Lets the caller go on only with this capability.
    ///
    /// # Errors
    ///
    /// `denied`, naming the capability.
    pub fn require(&self, capability: Capability) -> Result<(), Failure> {
        if self.capabilities.contains(&capability) {
            return Ok(());
        }
        Err(Failure::denied(
            "run.not-granted",
            format!("this run was not granted `{capability}`"),
        )
        .with_hint(format!(
            "ask for `{capability}` in the plugin's manifest and grant it in the grants file"
        )))
    }

    /// Lets the caller go on with one of two capabilities.
    ///
    /// # Errors
    ///
    /// `denied`, naming the first one.
    pub fn require_either(&self, first: Capability, second: Capability) -> Result<(), Failure> {
        if self.capabilities.contains(&second) {
            Ok(())
        } else {
            self.require(first)
        }
    }

    /// Lets the caller go on only if the run may use this secret.
    ///
    /// # Errors
    ///
    /// `denied`, naming the secret.
    pub fn require_secret(&self, name: &str) -> Result<(), Failure> {
        if self.secrets.contains(name) {
            return Ok(());
        }
        Err(Failure::denied(
            "run.not-granted",
            format!("this run was not granted the secret `{name}`"),
        )
        .with_hint("name it under `secrets` in the plugin's manifest and in the grants file"))
    }

    /// The names of the secrets that the run may use.
    pub fn secrets(&self) -> &BTreeSet<String> {
        &self.secrets
    }
}

/// The entry that would allow all that a plugin asks for, and what it has to take the place of.
fn how_to_grant(file: Option<&GrantsFile>, manifest: &Manifest, digest: &str) -> String {
    let quoted = |names: Vec<String>| {
        names
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let fitting = file.and_then(|file| file.find(manifest, digest));
    let other_digest = file.and_then(|file| {
        file.grants
            .iter()
            .find(|grant| grant.plugin == manifest.name)
    });
    let place = match (fitting, other_digest.and_then(|grant| grant.digest.as_deref())) {
        (Some(_), _) => "the grants file has an entry for it that grants less; if you trust it, replace that entry by".to_owned(),
        (None, Some(other)) => format!(
            "the grants file has an entry for `{}` with the digest {other}; if you trust this file too, replace it by",
            manifest.name
        ),
        (None, None) => "if you trust it, put this into the file given with `--grants`".to_owned(),
    };
    let mut entry = format!(
        "[[grant]]\n  plugin = \"{}\"\n  digest = \"{digest}\"",
        manifest.name
    );
    if !manifest.capabilities.is_empty() {
        let names = manifest
            .capabilities
            .iter()
            .map(ToString::to_string)
            .collect();
        entry.push_str(&format!("\n  capabilities = [{}]", quoted(names)));
    }
    if !manifest.secrets.is_empty() {
        entry.push_str(&format!(
            "\n  secrets = [{}]",
            quoted(manifest.secrets.iter().cloned().collect())
        ));
    }
    format!("{place}:\n  {entry}")
}

/// The capabilities that a name in the grants file stands for.
fn expand(name: &str) -> Result<BTreeSet<Capability>, String> {
    let Some(prefix) = name.strip_suffix('*') else {
        return name
            .parse()
            .map(|capability| BTreeSet::from([capability]))
            .map_err(|error: plugin_manifest::UnknownCapability| error.to_string());
    };
    if !prefix.is_empty() && !prefix.ends_with('.') {
        return Err(format!(
            "`{name}`: `*` stands only for a whole last part, as in `ssh.*`"
        ));
    }
    let matching: BTreeSet<Capability> = Capability::ALL
        .iter()
        .copied()
        .filter(|capability| capability.to_string().starts_with(prefix))
        .collect();
    if matching.is_empty() {
        Err(format!("`{name}` stands for no capability"))
    } else {
        Ok(matching)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest::parse_toml(
            "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
             capabilities = [\"cluster.deploy\", \"ssh.exec\"]\nsecrets = [\"KEY\"]\n",
        )
        .unwrap()
    }

    fn file(text: &str) -> GrantsFile {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_foreign_plugin_has_nothing_and_is_told_the_lines_that_would_allow_it() {
        let failure = Grants::intersect(None, &manifest(), "sha256:abc", false).unwrap_err();
        assert_eq!(failure.code, "run.not-granted");
        let hint = failure.hint.unwrap();
        assert!(
            hint.contains("capabilities = [\"cluster.deploy\", \"ssh.exec\"]"),
            "{hint}"
        );
        assert!(hint.contains("secrets = [\"KEY\"]"), "{hint}");
        assert!(hint.contains("digest = \"sha256:abc\""), "{hint}");
    }

    #[test]
    fn the_hint_is_a_working_grants_file() {
        let failure = Grants::intersect(None, &manifest(), "sha256:abc", false).unwrap_err();
        let hint = failure.hint.unwrap();
        let grants = file(&hint[hint.find("[[grant]]").unwrap()..]);
        assert!(Grants::intersect(Some(&grants), &manifest(), "sha256:abc", false).is_ok());
        assert!(Grants::intersect(Some(&grants), &manifest(), "sha256:other", false).is_err());
    }

    #[test]
    fn a_partial_or_outdated_grant_is_told_as_such_with_the_whole_entry() {
        let hint = |text: &str| {
            Grants::intersect(Some(&file(text)), &manifest(), "sha256:new", false)
                .unwrap_err()
                .hint
                .unwrap()
        };
        let partial = hint("[[grant]]\nplugin = \"mine\"\ncapabilities = [\"ssh.exec\"]\n");
        assert!(
            partial.contains("grants less") && partial.contains("replace"),
            "{partial}"
        );
        let outdated =
            hint("[[grant]]\nplugin = \"mine\"\ndigest = \"sha256:old\"\ncapabilities = [\"*\"]\n");
        assert!(outdated.contains("sha256:old"), "{outdated}");
        for hint in [partial, outdated] {
            let grants = file(&hint[hint.find("[[grant]]").unwrap()..]);
            assert!(Grants::intersect(Some(&grants), &manifest(), "sha256:new", false).is_ok());
        }
    }

    #[test]
    fn a_bundled_plugin_has_its_stock_grant_unless_the_file_names_it() {
        assert!(Grants::intersect(None, &manifest(), "d", true).is_ok());
        let narrower = file("[[grant]]\nplugin = \"mine\"\ncapabilities = [\"ssh.*\"]\n");
        assert!(Grants::intersect(Some(&narrower), &manifest(), "d", true).is_err());
    }

    #[test]
    fn only_what_is_asked_and_granted_is_allowed() {
        let generous =
            file("[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n");
        let grants = Grants::intersect(Some(&generous), &manifest(), "d", false).unwrap();
        assert!(grants.require(Capability::SshExec).is_ok());
        assert!(
            grants.require(Capability::WorkspaceWrite).is_err(),
            "granted but never asked for"
        );
        assert!(grants.require_secret("KEY").is_ok());
        assert!(grants.require_secret("OTHER").is_err());
    }

    #[test]
    fn ceilings_hold_also_for_what_is_left_open() {
        let text = "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n\
                    [grant.ceilings]\nimages = [\"*.orkasi\"]\ncpu-cores = 8\nmemory-mib = 1024\n";
        let ceilings = Grants::intersect(Some(&file(text)), &manifest(), "d", false)
            .unwrap()
            .ceilings;
        let admit = |image: &str, mut cores: Option<u32>, mut memory: Option<u32>| {
            ceilings
                .admit(image, &mut cores, &mut memory)
                .map(|()| (cores, memory))
        };
        assert_eq!(
            admit("sonoma.orkasi", Some(8), None).unwrap(),
            (Some(8), Some(1024))
        );
        assert_eq!(
            admit("sonoma.orkasi", None, Some(512)).unwrap(),
            (Some(8), Some(512))
        );
        assert!(admit("sonoma.img", Some(8), None).is_err());
        assert!(admit("evil.example.com/sonoma.orkasi", Some(8), None).is_err());
        assert!(admit("sonoma.orkasi", Some(12), None).is_err());
        assert!(admit("sonoma.orkasi", None, Some(2048)).is_err());
    }

    #[test]
    fn what_a_plugin_can_do_without_is_granted_only_by_the_file_and_never_missed() {
        let manifest = Manifest::parse_toml(
            "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
             capabilities = [\"cluster.deploy\"]\noptional-capabilities = [\"cluster.keep\"]\n",
        )
        .unwrap();
        let granted = |text: Option<&str>, bundled| {
            let file = text.map(file);
            Grants::intersect(file.as_ref(), &manifest, "d", bundled)
                .unwrap()
                .keep_max()
        };
        let entry = "[[grant]]\nplugin = \"mine\"\ncapabilities = [\"cluster.*\"]\n";
        assert_eq!(granted(None, true), None, "a stock grant keeps nothing");
        assert_eq!(
            granted(
                Some("[[grant]]\nplugin = \"mine\"\ncapabilities = [\"cluster.deploy\"]\n"),
                false
            ),
            None
        );
        assert_eq!(
            granted(Some(entry), false),
            Some(Ceilings::default().keep_max)
        );
        let ceiling = format!("{entry}[grant.ceilings]\nkeep-max = \"30m\"\n");
        assert_eq!(
            granted(Some(&ceiling), false),
            Some(Duration::from_secs(1800))
        );
    }

    #[test]
    fn a_wildcard_stands_only_for_a_whole_part() {
        assert!(expand("ssh.*").unwrap().len() >= 2);
        assert!(expand("ss*").is_err());
        assert!(expand("nothing.*").is_err());
        assert!(expand("ssh.exce").is_err());
    }
}
