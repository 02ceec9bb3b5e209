//! The plugin's parameters: what was given, and whether it is what the manifest demands. Without running the plugin.

use std::collections::BTreeMap;
use std::time::Instant;

use cap_std::fs::Dir;
use guest_ssh::Selection;
use plugin_manifest::{Capability, Items, Manifest, ParameterProblem, ParameterValue};

use crate::config::Config;
use crate::failure::Failure;
use crate::host_folder;
use crate::plugin::is_bundled_name;

/// What a pattern of files may be.
const HOW_TO_WRITE_PATTERNS: &str = "patterns read as in a `.gitignore`: `*` stands for part of a name, `**` for directories, `[a-z]` for one letter; \
     a bracket that is meant as such is written `\\[`";

/// Parameters as they were given: flags over a Task's file over environment.
pub(crate) fn given_parameters(manifest: &Manifest, config: &Config) -> BTreeMap<String, String> {
    let mut given = BTreeMap::new();
    for (variable, value) in &config.environment_params {
        match named(manifest, variable) {
            Some(name) => given.insert(name.clone(), value.clone()),
            None if config.step_action => None,
            // Reported like any other unknown parameter.
            None => given.insert(variable.clone(), value.clone()),
        };
    }
    let offered = config.offered_params.iter();
    for (name, value) in offered {
        // A Task gives every parameter it has, empty where nobody said anything.
        let is_known = manifest.parameters.contains_key(name);
        if is_known && !(value.is_empty() && given.contains_key(name)) {
            given.insert(name.clone(), value.clone());
        }
    }
    given.extend(config.params.clone());
    given
}

/// The parameter that a variable is for.
pub(crate) fn named<'a>(manifest: &'a Manifest, variable: &str) -> Option<&'a String> {
    let mut names = manifest.parameters.keys();
    names.find(|name| plugin_manifest::environment_name(name) == *variable)
}

/// What is wrong with a value that is to be a list of patterns. Of what use they are to the plugin is not known here, so
/// that the parameter's name alone says which they are.
fn wrong_pattern(name: &str, items: Option<Items>, value: &ParameterValue) -> Option<String> {
    let (Some(Items::Globs), Some(patterns)) = (items, value.as_list()) else {
        return None;
    };
    let reason = match Selection::parse(patterns, &[""; 0]) {
        Ok(_) => patterns
            .iter()
            .find_map(|pattern| path_of_a_machine(pattern))?,
        Err(guest_ssh::Error::Invalid { reason, .. }) => reason,
        Err(error) => error.to_string(),
    };
    Some(format!(
        "parameter `{name}` has a pattern that is wrong: {reason}"
    ))
}

/// What is said of a pattern that is the path of a file in a home directory. It could be one of the tree, which a plugin may
/// well mean; who types it means the machine's file.
fn path_of_a_machine(pattern: &str) -> Option<String> {
    let body = pattern.strip_prefix('!').unwrap_or(pattern);
    let is_in_a_home = body.strip_prefix("/Users/").is_some_and(|rest| {
        rest.split_once('/')
            .is_some_and(|(user, path)| !user.is_empty() && !path.is_empty())
    });
    if !is_in_a_home && !body.starts_with("~/") {
        return None;
    }
    Some(format!(
        "`{pattern}`: patterns begin at the top of the tree, not at that of the file system; `./{}` is the one in the tree",
        body.trim_start_matches('/')
    ))
}

/// What is wrong with the defaults of a manifest that only this host can tell: patterns of files.
pub(crate) fn wrong_defaults(manifest: &Manifest) -> Vec<Failure> {
    let parameters = manifest.parameters.iter();
    let found = parameters.filter_map(|(name, parameter)| {
        wrong_pattern(name, parameter.items, parameter.default.as_ref()?)
    });
    found
        .map(|problem| {
            Failure::plugin_rejected(
                "plugin.manifest",
                format!("the default does not fit: {problem}"),
            )
        })
        .collect()
}

/// Reads the files `.orkaignore` of what a bundled policy would send, before a VM is paid for: the workspace without what its
/// parameter `exclude` names. Gives what is to be said of lines that are no patterns. What another plugin sends is not known
/// here.
///
/// # Errors
///
/// The first file that would end the upload.
pub(crate) fn check_ignore_files(
    manifest: &Manifest,
    values: &BTreeMap<String, ParameterValue>,
    workspace: &Dir,
    until: Instant,
) -> Result<Vec<String>, Failure> {
    let sends = manifest.capabilities.contains(&Capability::SshTransfer);
    if !sends || !is_bundled_name(&manifest.name) {
        return Ok(Vec::new());
    }
    let exclude = values.get("exclude").and_then(ParameterValue::as_list);
    let own = format!("/{}", host_folder::NAME);
    let exclude: Vec<&str> = exclude
        .unwrap_or_default()
        .iter()
        .map(String::as_str)
        .chain([own.as_str()])
        .collect();
    // Patterns that are wrong are told as such.
    let Ok(selection) = Selection::parse(&[""; 0], &exclude) else {
        return Ok(Vec::new());
    };
    guest_ssh::check_ignore_files(workspace, &selection, until).map_err(|error| {
        let (entry, reason) = match &error {
            guest_ssh::Error::Transfer { entry, reason, .. } => (entry.clone(), reason.clone()),
            other => (".orkaignore".to_owned(), other.to_string()),
        };
        Failure::config(format!("`{entry}` of the workspace cannot be used: {reason}"))
            .with_source(error)
            .with_hint("it reads as a `.gitignore`: UTF-8, at most 1 MiB; mend it, or leave its directory out by `-p exclude=…`")
    })
}

/// Checks parameters against the manifest, with the script that was given as a file; `shown` names the plugin in hints.
///
/// # Errors
///
/// Every problem found.
pub fn check_parameters(
    manifest: &Manifest,
    given: &BTreeMap<String, String>,
    script: Option<&[u8]>,
    shown: &str,
) -> Result<BTreeMap<String, ParameterValue>, Vec<Failure>> {
    let hint = format!("`orka-step plugin inspect {shown}` lists the parameters");
    let wrong = |message: String| {
        let mut failure = Failure::config(message);
        failure.code = "params.invalid".into();
        failure.with_hint(hint.clone())
    };
    let told = |problems: Vec<ParameterProblem>| -> Vec<Failure> {
        let messages = problems.iter().map(ToString::to_string);
        messages.map(wrong).collect()
    };
    let values = manifest.resolve(given).map_err(told)?;
    let mut failures = told(manifest.check_one_of(&values, script.is_some()));
    for (name, value) in &values {
        let items = manifest.parameters.get(name).and_then(|it| it.items);
        let wrong = |message| wrong(message).with_hint(HOW_TO_WRITE_PATTERNS);
        failures.extend(wrong_pattern(name, items, value).map(wrong));
    }
    if failures.is_empty() {
        Ok(values)
    } else {
        Err(failures)
    }
}

/// What is wrong with the value of one parameter, whatever the others are; none where the plugin has no such parameter.
pub(crate) fn wrong_value(manifest: &Manifest, name: &str, value: &str) -> Option<String> {
    let parameter = manifest.parameters.get(name)?;
    match plugin_manifest::resolve_one(name, parameter, value) {
        Ok(value) => wrong_pattern(name, parameter.items, &value?),
        Err(problem) => Some(problem.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(default: &str) -> Manifest {
        Manifest::parse_toml(&format!(
            "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
             [parameters.exclude]\ntype = \"list\"\nitems = \"globs\"\ndefault = [{default}]\ndescription = \"x\"\n"
        ))
        .unwrap()
    }

    #[test]
    fn a_wrong_pattern_is_told_by_the_parameter_that_has_it() {
        let given = BTreeMap::from([("exclude".to_owned(), "../a".to_owned())]);
        let failures = check_parameters(&manifest(""), &given, None, "mine").unwrap_err();
        let [failure] = &failures[..] else {
            panic!("{failures:?}")
        };
        assert_eq!(
            failure.message,
            "parameter `exclude` has a pattern that is wrong: `../a`: `..` would leave the tree"
        );
        assert!(failure.causes().is_empty());
    }

    #[test]
    fn a_path_of_a_home_directory_is_no_pattern_and_one_of_the_tree_is() {
        let given = |text: &str| {
            let given = BTreeMap::from([("exclude".to_owned(), text.to_owned())]);
            check_parameters(&manifest(""), &given, None, "mine")
        };
        for (wrong, meant) in [
            ("/Users/admin/dist", "`./Users/admin/dist`"),
            ("!~/dist", "`./~/dist`"),
        ] {
            let failures = given(wrong).unwrap_err();
            let told = &failures[0].message;
            assert!(told.contains(wrong) && told.contains(meant), "{told}");
        }
        for right in [
            "/Users/",
            "/Users/admin",
            "./Users/admin/dist",
            "Users/admin/dist",
            "~x",
            "./~/dist",
        ] {
            assert!(given(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn a_default_that_is_no_pattern_is_found_without_a_run() {
        assert!(wrong_defaults(&manifest("\"*.log\"")).is_empty());
        let failures = wrong_defaults(&manifest("\"../a\""));
        assert!(
            failures.len() == 1 && failures[0].message.contains("default does not fit"),
            "{failures:?}"
        );
    }
}
