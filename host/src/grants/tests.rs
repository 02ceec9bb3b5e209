//! What is granted, what is missing, and what a file says wrongly.

use std::path::Path;
use std::time::Duration;

use super::ceilings::KEEP_MAX_DEFAULT;
use super::*;
use crate::plugin::Plugin;

fn manifest() -> Manifest {
    Manifest::parse_toml(
        "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
         capabilities = [\"cluster.deploy\", \"ssh.exec\"]\nsecrets = [\"KEY\"]\n",
    )
    .unwrap()
}

/// A digest of 64 times this digit.
fn digest(digit: &str) -> String {
    format!("sha256:{}", digit.repeat(64))
}

fn file(text: &str) -> GrantsFile {
    GrantsFile::parse(text, "grants.toml", false).unwrap()
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
    let failure = Grants::intersect(None, &manifest(), &digest("a"), false).unwrap_err();
    let grants = file(example_of(&failure));
    assert!(Grants::intersect(Some(&grants), &manifest(), &digest("a"), false).is_ok());
    assert!(Grants::intersect(Some(&grants), &manifest(), &digest("b"), false).is_err());
}

/// What is to be copied of a failure's hint.
fn example_of(failure: &Failure) -> &str {
    failure.hint.as_deref().unwrap().split_once('\n').unwrap().1
}

#[test]
fn the_hint_for_a_file_in_yaml_is_yaml_and_fits_under_its_entries() {
    let other = "grants:\n- plugin: other\n";
    let narrow = "grants:\n    - plugin: mine\n      capabilities: [ssh.exec]\n      ceilings:\n        cpu-cores: 8\n        images: [a]\n";
    for (before, stays) in [("grants: []\n", ""), (other, other), (narrow, "grants:\n")] {
        let read = |text: &str| GrantsFile::parse(text, "grants.yaml", true).unwrap();
        let denied = Grants::intersect(Some(&read(before)), &manifest(), &digest("a"), false);
        let failure = denied.unwrap_err();
        let mended = format!("{stays}{}", example_of(&failure));
        let granted = Grants::intersect(Some(&read(&mended)), &manifest(), &digest("a"), false);
        let granted = granted.unwrap();
        assert_eq!(
            granted.ceilings.cpu_cores.is_some(),
            before == narrow,
            "{mended}"
        );
    }
    let outdated = format!(
        "grants:\n  - plugin: mine\n    digest: {}\n    capabilities: ['*']\n",
        digest("b")
    );
    let outdated = GrantsFile::parse(&outdated, "grants.yaml", true).unwrap();
    let failure = Grants::intersect(Some(&outdated), &manifest(), &digest("a"), false).unwrap_err();
    assert_eq!(example_of(&failure), format!("digest: \"{}\"", digest("a")));
}

/// The file as it is once the hint is followed.
fn followed(text: &str, failure: &Failure) -> String {
    let (sentence, example) = failure.hint.as_deref().unwrap().split_once('\n').unwrap();
    if sentence.contains("put this into") {
        format!("{text}\n{example}")
    } else if sentence.contains("in the place of the empty") {
        example.to_owned()
    } else {
        assert!(sentence.contains("add this to the list"), "{sentence}");
        let (before, after) = text.rsplit_once(']').unwrap();
        format!("{before}, {}]{after}", example.trim_end())
    }
}

#[test]
fn the_hint_fits_into_a_file_in_whatever_way_it_is_written() {
    let files = [
        (false, ""),
        (false, "# none yet\n"),
        (
            false,
            "[[grant]]\nplugin = \"other\"\n[grant.ceilings]\ncpu-cores = 8\n",
        ),
        (false, "[[grants]]\nplugin = \"other\"\n"),
        (false, "grant = [{ plugin = \"other\" }]\n"),
        (
            false,
            "grants = [\n  { plugin = \"other\" },\n  { plugin = \"another\" }\n]\n",
        ),
        (false, "grants = []\n"),
        (true, ""),
        (true, "# none yet\n"),
        (true, "grants: []\n"),
        (true, "grant: []\n"),
        (true, "grants:\n"),
        (true, "grants: [{plugin: other}]\n"),
        (true, "{\"grants\": [{\"plugin\": \"other\"}]}\n"),
        (true, "grants:\n-\n  plugin: other\n"),
        (true, "grants:\n  - plugin: other"),
        (true, "grant:\n    - plugin: other\n      # last\n"),
        (
            true,
            "grants:\n- capabilities:\n    - ssh.exec\n  plugin: other\n",
        ),
    ];
    for (is_yaml, text) in files {
        let read = |text: &str| {
            GrantsFile::parse(text, "grants", is_yaml).unwrap_or_else(|it| panic!("{it}\n{text}"))
        };
        let before = read(text);
        let grant =
            |file: &GrantsFile| Grants::intersect(Some(file), &manifest(), &digest("a"), false);
        let after = read(&followed(text, &grant(&before).unwrap_err()));
        assert_eq!(after.grants.len(), before.grants.len() + 1, "{text}");
        grant(&after).unwrap();
    }
}

#[test]
fn an_entry_in_brackets_is_replaced_by_one_and_a_dash_alone_begins_its_entry() {
    for (is_yaml, text, old) in [
        (
            false,
            "grants = [{ plugin = \"mine\", ceilings = { cpu-cores = 8 } }]\n",
            "{ plugin = \"mine\", ceilings = { cpu-cores = 8 } }",
        ),
        (
            true,
            "grants: [{plugin: mine, ceilings: {cpu-cores: 8}}]\n",
            "{plugin: mine, ceilings: {cpu-cores: 8}}",
        ),
        (
            true,
            "grants:\n-\n  plugin: mine\n  ceilings: {cpu-cores: 8}\n",
            "-\n  plugin: mine\n  ceilings: {cpu-cores: 8}\n",
        ),
    ] {
        let read = |text: &str| GrantsFile::parse(text, "grants", is_yaml).unwrap();
        let failure =
            Grants::intersect(Some(&read(text)), &manifest(), &digest("a"), false).unwrap_err();
        let hint = failure.hint.as_deref().unwrap();
        let line = 1 + text[..text.find(old).unwrap()].matches('\n').count();
        assert!(
            hint.starts_with(&format!("the entry at grants:{line} grants less")),
            "{hint}"
        );
        let mended = read(&text.replace(old, example_of(&failure)));
        let granted = Grants::intersect(Some(&mended), &manifest(), &digest("a"), false).unwrap();
        assert_eq!(granted.ceilings.cpu_cores, Some(8));
    }
}

#[test]
fn the_ceilings_of_a_file_are_called_as_it_calls_its_entries() {
    for key in ["grant", "grants"] {
        let text = format!(
            "[[{key}]]\nplugin = \"mine\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n[{key}.ceilings]\ncpu-cores = 1\n"
        );
        let grants =
            Grants::intersect(Some(&file(&text)), &manifest(), &digest("a"), false).unwrap();
        let hint = grants.ceilings.how_to_raise("cpu-cores");
        assert!(
            hint.contains(&format!("under `[{key}.ceilings]`")),
            "{hint}"
        );
    }
}

#[test]
fn an_entry_that_replaces_another_keeps_the_secrets_that_were_granted() {
    let manifest = Manifest::parse_toml(
        "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
         capabilities = [\"ssh.exec\"]\nsecrets = [\"KEY\"]\noptional-secrets = [\"*\"]\n",
    )
    .unwrap();
    let narrow = file("[[grant]]\nplugin = \"mine\"\nsecrets = [\"TOKEN\"]\n");
    let failure = Grants::intersect(Some(&narrow), &manifest, &digest("a"), false).unwrap_err();
    let granted = Grants::intersect(
        Some(&file(example_of(&failure))),
        &manifest,
        &digest("a"),
        false,
    );
    let secrets = ["KEY", "TOKEN"].map(str::to_owned);
    assert_eq!(*granted.unwrap().secrets(), BTreeSet::from(secrets));
}

#[test]
fn what_an_optional_capability_lacks_is_told_with_the_line_that_grants_it() {
    let manifest = Manifest::parse_toml(
        "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
         capabilities = [\"ssh.exec\"]\noptional-capabilities = [\"cluster.keep\"]\n",
    )
    .unwrap();
    let denied = |file: Option<&GrantsFile>| {
        let granted = Grants::intersect(file, &manifest, &digest("a"), true).unwrap();
        granted.require(Capability::ClusterKeep).unwrap_err()
    };
    let keeps = |file: &GrantsFile| {
        let granted = Grants::intersect(Some(file), &manifest, &digest("a"), true).unwrap();
        assert!(granted.keep_max().is_some());
    };
    // A stock grant: the whole entry, and of any file of that name, since it changes with the program.
    let stock = denied(None);
    assert!(!example_of(&stock).contains("digest"), "{stock:?}");
    keeps(&file(example_of(&stock)));
    // An entry of its own: the one line.
    let own = "[[grant]]\nplugin = \"mine\"\ncapabilities = [\"ssh.*\"]\n";
    let told = denied(Some(&file(own)));
    let hint = told.hint.clone().unwrap();
    assert!(
        hint.starts_with("change `capabilities` at grants.toml:3 to:\n"),
        "{hint}"
    );
    keeps(&file(
        &own.replace("capabilities = [\"ssh.*\"]", example_of(&told)),
    ));
    // One for all: an entry that goes before it.
    let all =
        "grants:\n  - plugin: '*'\n    capabilities: [ssh.exec]\n    ceilings: {cpu-cores: 4}\n";
    let read = |text: &str| GrantsFile::parse(text, "g.yaml", true).unwrap();
    let told = denied(Some(&read(all)));
    let mended = all.replace("grants:\n", &format!("grants:\n{}", example_of(&told)));
    keeps(&read(&mended));
    assert!(
        mended.contains("\"cpu-cores\"") || mended.contains("cpu-cores: 4\n"),
        "{mended}"
    );
    // What the manifest never asks for is no matter of the file alone.
    let granted = Grants::intersect(None, &manifest, "d", true).unwrap();
    let foreign = granted.require(Capability::WorkspaceRead).unwrap_err();
    assert!(foreign.hint.unwrap().contains("in the plugin's manifest"));
}

#[test]
fn a_plugin_that_takes_any_secret_is_granted_those_that_are_named() {
    let manifest = Manifest::parse_toml(
        "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
         optional-capabilities = [\"cluster.keep\"]\nsecrets = [\"OWN\"]\noptional-secrets = [\"*\", \"MAYBE\"]\n\
         [parameters.secret-env]\ntype = \"list\"\nitems = \"secret-environment\"\ndescription = \"x\"\n\
         [parameters.keep]\ntype = \"boolean\"\ndefault = false\ncapability = \"cluster.keep\"\ndescription = \"x\"\n",
    )
    .unwrap();
    let granted = |secrets: &str| {
        let text = format!("[[grant]]\nplugin = \"mine\"\nsecrets = {secrets}\n");
        Grants::intersect(Some(&file(&text)), &manifest, &digest("a"), true).unwrap()
    };
    let names = |grants: &Grants| grants.secrets().iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(&granted("[\"*\"]")), ["MAYBE", "OWN"]);
    assert_eq!(
        names(&granted("[\"*\", \"SIGNING\"]")),
        ["MAYBE", "OWN", "SIGNING"]
    );
    let stock = Grants::intersect(None, &manifest, &digest("a"), true).unwrap();
    assert_eq!(names(&stock), ["OWN"]);

    let denied = |grants: &Grants, given: [(&str, &str); 2], at_hand: &[&str]| {
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let values = manifest.resolve(&given.into()).unwrap();
        // What it needs is there.
        let at_hand = at_hand
            .iter()
            .chain(&["OWN"])
            .map(|name| ((*name).to_owned(), "a value".into()));
        grants.admit_parameters(&manifest, &values, &at_hand.collect())
    };
    let harmless = [("secret-env", ""), ("keep", "false")];
    assert!(denied(&stock, harmless, &[]).is_ok());
    let given = [("secret-env", "KEY=SIGNING"), ("keep", "true")];
    // Both at once, and once what would allow both.
    let failures = denied(&granted("[\"OWN\"]"), given, &["SIGNING"]).unwrap_err();
    let [keep, secret] = &failures[..] else {
        panic!("{failures:?}");
    };
    assert!(keep.message.contains("`keep=true` needs `cluster.keep`"));
    assert!(secret.message.contains("the secret `SIGNING`"));
    assert_eq!(keep.hint, None);
    assert_eq!(
        secret.hint.as_deref(),
        Some(
            "add this below grants.toml:1:\ncapabilities = [\"cluster.keep\"]\n\
             and change `secrets` at grants.toml:3 to:\nsecrets = [\"OWN\", \"SIGNING\"]"
        )
    );
    let mended = granted("[\"OWN\", \"SIGNING\"]");
    let given = [("secret-env", "KEY=SIGNING"), ("keep", "false")];
    assert!(denied(&mended, given, &["SIGNING"]).is_ok());
    let failures = denied(&mended, given, &[]).unwrap_err();
    assert_eq!(failures[0].code, "secrets.not-found");
}

/// What is said of all plugins was not said of scripts, which may have whatever they name.
#[test]
fn an_entry_for_all_plugins_gives_scripts_no_secrets() {
    let manifest = Manifest::parse_toml(
        "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
         secrets = [\"OWN\"]\noptional-secrets = [\"*\", \"MAYBE\"]\n",
    )
    .unwrap();
    let text = "[[grant]]\nplugin = \"*\"\nsecrets = [\"OWN\", \"MAYBE\", \"SIGNING\"]\n";
    let granted = Grants::intersect(Some(&file(text)), &manifest, &digest("a"), true).unwrap();
    let names: Vec<_> = granted.secrets().iter().cloned().collect();
    assert_eq!(names, ["MAYBE", "OWN"]);
}

/// The report says what a run used, and the narrowest grants file is made from that.
#[test]
fn whether_something_is_allowed_is_no_use_of_it() {
    let text = "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\n";
    let manifest = Manifest::parse_toml(
        "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
         optional-capabilities = [\"cluster.purge-run\"]\n",
    )
    .unwrap();
    let granted = Grants::intersect(Some(&file(text)), &manifest, &digest("a"), false).unwrap();
    assert!(granted.allows(Capability::ClusterPurgeRun));
    assert!(!granted.allows(Capability::ClusterDeploy));
    assert!(granted.used().capabilities.is_empty());
    granted.require(Capability::ClusterPurgeRun).unwrap();
    assert_eq!(granted.used().capabilities.len(), 1);
}

/// Anybody can call a plugin `build`.
#[test]
fn a_namesake_of_a_bundled_plugin_needs_its_digest_in_the_entry() {
    let manifest = Manifest::parse_toml(
        "[plugin]\nname = \"build\"\nversion = \"9.9.9\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
         secrets = [\"OWN\"]\n",
    )
    .unwrap();
    let granted = |entry: &str, bundled| {
        let text = format!("[[grant]]\nplugin = {entry}\nsecrets = [\"OWN\"]\n");
        Grants::intersect(Some(&file(&text)), &manifest, &digest("a"), bundled)
    };
    assert!(granted("\"build\"", true).is_ok());
    let denied = granted("\"build\"", false).unwrap_err();
    assert!(
        denied.message.contains("it is not the one of that name"),
        "{denied:?}"
    );
    let named = format!("\"build\"\ndigest = \"{}\"", digest("a"));
    assert_eq!(
        example_of(&denied).trim_end(),
        format!("[[grant]]\nplugin = {named}\nsecrets = [\"OWN\"]")
    );
    assert!(granted(&named, false).is_ok());
    assert!(granted("\"*\"", false).is_ok());
}

#[test]
fn a_secret_that_a_script_cannot_have_is_refused() {
    for (value, why) in [
        ("123", Some("too short")),
        ("a\0b c", Some("NUL")),
        ("", None),
        ("1234", None),
    ] {
        let refused = unfit_for_scripts("PIN", &value.into());
        assert_eq!(refused.is_some(), why.is_some(), "{value:?}");
        assert!(refused.is_none_or(|refused| refused.message.contains(why.unwrap())));
    }
}

#[test]
fn a_digest_that_is_none_is_told_with_its_line() {
    for (text, is_yaml) in [
        (
            "[[grant]]\nplugin = \"x\"\ndigest = \"sha256:abcd\"\n",
            false,
        ),
        ("grants:\n  - plugin: x\n    digest: sha256:abcd\n", true),
    ] {
        let failure = GrantsFile::parse(text, "g", is_yaml).unwrap_err();
        assert!(
            failure.message.contains("g:3: `sha256:abcd` is no digest"),
            "{failure}"
        );
    }
    let upper = format!(
        "[[grant]]\nplugin = \"mine\"\ndigest = \"sha256:{}\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n",
        "A".repeat(64)
    );
    assert!(Grants::intersect(Some(&file(&upper)), &manifest(), &digest("a"), false).is_ok());
}

#[test]
fn a_partial_or_outdated_grant_is_told_as_such_with_the_whole_entry() {
    let hint = |text: &str| {
        Grants::intersect(Some(&file(text)), &manifest(), &digest("a"), false)
            .unwrap_err()
            .hint
            .unwrap()
    };
    let partial = hint("[[grant]]\nplugin = \"mine\"\ncapabilities = [\"ssh.exec\"]\n");
    assert!(
        partial.contains("grants less") && partial.contains("replace"),
        "{partial}"
    );
    let old = digest("0");
    let outdated = hint(&format!(
        "[[grant]]\nplugin = \"mine\"\ndigest = \"{old}\"\ncapabilities = [\"*\"]\n"
    ));
    assert!(outdated.contains(&old), "{outdated}");
    // What the operator limits in that entry stays.
    assert!(
        outdated.ends_with(&format!(
            "change `digest` at grants.toml:3 to:\ndigest = \"{}\"",
            digest("a")
        )) && !outdated.contains("[[grant]]"),
        "{outdated}"
    );
    let limited = hint(
        "[[grant]]\nplugin = \"mine\"\ncapabilities = [\"ssh.exec\"]\n[grant.ceilings]\ncpu-cores = 8\nimages = [\"a\\\"b\", \"c\"]\nlifetime = \"1h\"\n",
    );
    for line in [
        "\n[grant.ceilings]\n",
        "\ncpu-cores = 8\n",
        "\nimages = [\"a\\\"b\", \"c\"]\n",
        "\nlifetime = \"1h\"",
    ] {
        assert!(limited.contains(line), "{limited}");
    }
    let everyone = hint("[[grant]]\nplugin = \"*\"\ncapabilities = [\"ssh.exec\"]\n");
    assert!(everyone.contains("put this before it"), "{everyone}");
    for hint in [partial, limited, everyone] {
        let grants = file(&hint[hint.find("[[grant]]").unwrap()..]);
        assert!(Grants::intersect(Some(&grants), &manifest(), &digest("a"), false).is_ok());
    }
}

#[test]
fn a_bundled_plugin_has_its_stock_grant_unless_the_file_names_it() {
    assert!(Grants::intersect(None, &manifest(), "d", true).is_ok());
    let narrower = file("[[grant]]\nplugin = \"mine\"\ncapabilities = [\"ssh.*\"]\n");
    assert!(Grants::intersect(Some(&narrower), &manifest(), "d", true).is_err());
}

/// What was meant to bind a bundled plugin must not leave it all as soon as the program is another.
#[test]
fn a_bundled_plugin_that_is_pinned_to_another_file_is_denied() {
    let entry = |pinned: &str| {
        let pinned = digest(pinned);
        format!(
            "[[grant]]\nplugin = \"mine\"\ndigest = \"{pinned}\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n"
        )
    };
    let other = entry("b");
    let failure =
        Grants::intersect(Some(&file(&other)), &manifest(), &digest("a"), true).unwrap_err();
    assert_eq!(failure.class, Class::Denied);
    for said in [digest("a"), format!("{} at grants.toml:3", digest("b"))] {
        assert!(failure.message.contains(&said), "{failure}");
    }
    let hint = failure.hint.as_deref().unwrap();
    assert!(
        hint.starts_with("leave `digest` out") && hint.contains("change it at grants.toml:3 to:"),
        "{hint}"
    );
    // Both ways of the hint work.
    let without = other.replace(&format!("digest = \"{}\"\n", digest("b")), "");
    let changed = other.replace(
        &format!("digest = \"{}\"", digest("b")),
        example_of(&failure),
    );
    // A later entry that fits decides.
    let later = format!("{other}{}", entry("a"));
    let for_all =
        format!("{other}[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n");
    for (text, by) in [(without, 1), (changed, 1), (later, 6), (for_all, 6)] {
        let granted = Grants::intersect(Some(&file(&text)), &manifest(), &digest("a"), true);
        let by = format!("grants.toml:{by}");
        assert_eq!(granted.unwrap().granted().by, Some(by), "{text}");
    }
    // Of another name: no entry is about this one.
    let foreign = other.replace("\"mine\"", "\"other\"");
    assert!(Grants::intersect(Some(&file(&foreign)), &manifest(), &digest("a"), true).is_ok());
}

#[test]
fn an_entry_for_a_bundled_plugin_is_proposed_without_a_digest_unless_it_had_one() {
    let proposed = |text: &str| {
        let failure = Grants::intersect(Some(&file(text)), &manifest(), &digest("a"), true);
        failure.unwrap_err().hint.unwrap()
    };
    let narrow = "[[grant]]\nplugin = \"mine\"\ncapabilities = [\"ssh.exec\"]\n";
    assert!(!proposed(narrow).contains("digest"));
    assert!(!proposed(&narrow.replace("mine", "*")).contains("digest"));
    let pinned = format!("{narrow}digest = \"{}\"\n", digest("a"));
    assert!(proposed(&pinned).contains(&digest("a")));
}

#[test]
fn a_file_that_says_nothing_of_a_bundled_plugin_is_warned_of() {
    let plugin = |bundled| Plugin {
        bytes: Vec::new(),
        digest: digest("a"),
        manifest: Manifest {
            name: "build".to_owned(),
            ..manifest()
        },
        path: "build.wasm".into(),
        bundled,
    };
    let told = |text: &str| Grants::not_about(Some(&file(text)), &plugin(true));
    let has_all =
        "plugin `build`, which came with this program, has all that it needs, with no ceiling";
    assert_eq!(
        told("# none\n").unwrap(),
        format!("the grants file `grants.toml` has no entry: {has_all}")
    );
    let other = "[[grant]]\nplugin = \"matrix\"\n";
    let about = format!("no entry of the grants file `grants.toml` is about it: {has_all}");
    assert_eq!(told(other).unwrap(), about);
    let mistyped = format!("{other}[[grant]]\nplugin = \"biuld\"\n");
    assert_eq!(
        told(&mistyped).unwrap(),
        format!("{about}; is `biuld` at grants.toml:4 meant?")
    );
    for about_it in [
        "[[grant]]\nplugin = \"build\"\n",
        "[[grant]]\nplugin = \"*\"\n",
    ] {
        assert_eq!(told(about_it), None);
    }
    assert_eq!(Grants::not_about(None, &plugin(true)), None);
    // Another has nothing, and is told that.
    assert_eq!(Grants::not_about(Some(&file(other)), &plugin(false)), None);
}

#[test]
fn only_what_is_asked_and_granted_is_allowed() {
    let generous = file("[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n");
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
            .admit(image, &mut cores, &mut memory, true)
            .map(|()| (cores, memory))
    };
    assert_eq!(
        admit("sonoma.orkasi", Some(8), None).unwrap(),
        (Some(8), Some(1024))
    );
    assert_eq!(
        admit("sonoma.orkasi", None, Some(512)).unwrap(),
        (Some(3), Some(512)),
        "no more than without a ceiling"
    );
    assert!(admit("sonoma.img", Some(8), None).is_err());
    assert!(admit("evil.example.com/sonoma.orkasi", Some(8), None).is_err());
    assert!(admit("sonoma.orkasi", Some(12), None).is_err());
    assert!(admit("sonoma.orkasi", None, Some(2048)).is_err());
}

/// The contract says that cores left open are 3: a ceiling never gives more, and Orka 2 has no fewer.
#[test]
fn cores_that_are_left_open_are_never_more_than_without_a_ceiling() {
    let admitted = |ceiling: u32, is_orka2| {
        let text = format!(
            "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n[grant.ceilings]\ncpu-cores = {ceiling}\n"
        );
        let grants = Grants::intersect(Some(&file(&text)), &manifest(), "d", false).unwrap();
        let mut cores = None;
        let admitted = grants.ceilings.admit("x", &mut cores, &mut None, is_orka2);
        admitted.map(|()| cores.unwrap())
    };
    for (ceiling, cores) in [(24, 3), (7, 3), (3, 3)] {
        assert_eq!(admitted(ceiling, true).unwrap(), cores);
        assert_eq!(admitted(ceiling, false).unwrap(), cores);
    }
    assert_eq!(admitted(2, false).unwrap(), 2);
    let failure = admitted(2, true).unwrap_err();
    assert_eq!(
        failure.message,
        "3 CPU cores, the fewest that Orka 2 has, are above the 2 granted"
    );
    assert!(failure.hint.unwrap().contains("at grants.toml:6"));
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
    assert_eq!(granted(Some(entry), false), Some(KEEP_MAX_DEFAULT));
    let ceiling = format!("{entry}[grant.ceilings]\nkeep-max = \"30m\"\n");
    assert_eq!(
        granted(Some(&ceiling), false),
        Some(Duration::from_secs(1800))
    );
}

#[test]
fn keeping_longer_than_granted_is_denied_and_a_ceiling_is_a_duration() {
    let ceilings = Ceilings::default();
    assert!(ceilings.admit_keeping(KEEP_MAX_DEFAULT).is_ok());
    let failure = ceilings
        .admit_keeping(KEEP_MAX_DEFAULT + Duration::from_secs(1))
        .unwrap_err();
    assert_eq!(failure.code, "run.above-ceiling");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("grants.toml");
    std::fs::write(
        &path,
        "[[grant]]\nplugin = \"x\"\n[grant.ceilings]\nkeep-max = \"long\"\n",
    )
    .unwrap();
    assert!(
        GrantsFile::load(&path)
            .unwrap_err()
            .message
            .contains("keep-max")
    );
}

#[test]
fn a_wildcard_stands_only_for_a_whole_part() {
    assert!(expand("ssh.*").unwrap().len() >= 2);
    assert!(expand("ss*").is_err());
    assert!(expand("nothing.*").is_err());
    let told = expand("clustr.*").unwrap_err();
    assert!(told.ends_with("did you mean `cluster.*`?"), "{told}");
    let told = expand("nothing.*").unwrap_err();
    assert!(
        told.contains("`cluster.*`") && told.contains("`ssh.*`"),
        "{told}"
    );
    assert!(expand("ssh.exce").is_err());
}

const TOML: &str = "\
# The line that begins an entry counts.
[[grant]]
plugin = \"mine\"
capabilities = [\"*\"]
secrets = [\"KEY\"]

[grant.ceilings]
images = [
  \"sonoma.orkasi\",
]
cpu-cores = 8
namespaces = [\"team-*\"]
programs = [\"/usr/bin/*\", \"make\"]
lifetime = \"30m\"
";

const YAML: &str = "\
grants:
  - plugin: mine
    capabilities: ['*']
    secrets: [KEY]
    ceilings:
      images: [sonoma.orkasi]
      cpu-cores: 8
      namespaces: ['team-*']
      programs: [/usr/bin/*, make]
      lifetime: 30m
";

#[test]
fn what_lies_above_a_ceiling_is_told_with_the_line_that_sets_it_in_both_languages() {
    for (text, shown, is_yaml, [entry, images, cores, namespaces, programs, lifetime]) in [
        (TOML, "grants.toml", false, [2, 8, 11, 12, 13, 14]),
        (YAML, "grants.yaml", true, [2, 6, 7, 8, 9, 10]),
    ] {
        let file = GrantsFile::parse(text, shown, is_yaml).unwrap();
        let grants = Grants::intersect(Some(&file), &manifest(), "d", false).unwrap();
        let ceilings = &grants.ceilings;
        let hint = |failed: Result<(), Failure>| {
            let failure = failed.unwrap_err();
            assert_eq!(failure.code, "run.above-ceiling");
            failure.hint.unwrap()
        };
        let at = |line: usize| format!("at {shown}:{line}");
        let image = hint(ceilings.admit("ventura.orkasi", &mut None, &mut None, false));
        assert!(
            image.contains(&at(images)) && image.contains("`images`"),
            "{image}"
        );
        let cores_hint = hint(ceilings.admit("sonoma.orkasi", &mut Some(9), &mut None, false));
        assert!(cores_hint.contains(&at(cores)), "{cores_hint}");
        let namespace = hint(grants.admit_namespace("orka-default"));
        assert!(namespace.contains(&at(namespaces)), "{namespace}");
        let program = hint(grants.admit_program("/usr/local/bin/evil"));
        assert!(program.contains(&at(programs)), "{program}");
        assert!(program.contains("can add to `programs`"), "{program}");
        let hour = Duration::from_secs(3600);
        let long = hint(ceilings.admit_lifetime(hour, hour * 2).map(drop));
        assert!(long.contains(&at(lifetime)), "{long}");
        assert!(long.contains("can raise `lifetime`"), "{long}");
        // One that has no line of its own is to be added to the entry.
        let kept = hint(ceilings.admit_keeping(hour * 100));
        assert!(kept.contains(&format!("the entry {}", at(entry))), "{kept}");
        for allowed in ["make", "/usr/bin/xcodebuild"] {
            grants.admit_program(allowed).unwrap();
        }
        grants.admit_namespace("team-ios").unwrap();
        assert_eq!(
            ceilings.admit_lifetime(hour, hour).unwrap(),
            Duration::from_secs(1800),
            "a default is lowered"
        );
    }
}

#[test]
fn a_deadline_that_the_grant_set_is_told_with_its_line() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let hint = |timeout: u64| {
        let mut grants = Grants::intersect(Some(&file(TOML)), &manifest(), "d", false).unwrap();
        grants
            .admit_lifetime(minutes(timeout), minutes(55))
            .unwrap();
        let failure = grants.deadline_passed();
        assert_eq!(failure.code, "run.deadline");
        failure.hint.unwrap()
    };
    let raise = "raise `lifetime` under `[grant.ceilings]` at grants.toml:14";
    assert!(hint(55).ends_with(raise), "a default goes with the ceiling");
    let both = format!("{raise}, and `--timeout` can be raised after that");
    assert!(hint(30).ends_with(&both));
    assert!(hint(29).contains("raise `--timeout`"));
    let no_file = Grants::default().deadline_passed();
    assert!(no_file.hint.unwrap().contains("raise `--timeout`"));
}

#[test]
fn what_is_missing_is_told_with_the_line_of_the_entry_that_grants_less() {
    let text =
        "\n\n[[grant]]\nplugin = \"mine\"\ncapabilities = [\"ssh.exec\"]\nsecrets = [\"*\"]\n";
    let failure = Grants::intersect(Some(&file(text)), &manifest(), "d", false).unwrap_err();
    assert!(failure.message.ends_with("\"cluster.deploy\""), "{failure}");
    assert!(
        failure
            .hint
            .unwrap()
            .contains("the entry at grants.toml:3 grants less")
    );
}

/// With an entry for all that grants too little, with one of its own, and with none.
#[test]
fn what_plugin_and_parameters_lack_is_told_at_once_and_one_change_allows_it() {
    let manifest = Manifest::parse_toml(
        "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
         capabilities = [\"ssh.exec\"]\noptional-capabilities = [\"cluster.keep\"]\noptional-secrets = [\"*\"]\n\
         [parameters.keep]\ntype = \"boolean\"\ndefault = false\ncapability = \"cluster.keep\"\ndescription = \"x\"\n\
         [parameters.secret-env]\ntype = \"list\"\nitems = \"secret-environment\"\ndescription = \"x\"\n",
    )
    .unwrap();
    let given = BTreeMap::from(
        [("keep", "true"), ("secret-env", "ONE\nTWO")].map(|(a, b)| (a.to_owned(), b.to_owned())),
    );
    let values = manifest.resolve(&given).unwrap();
    let at_hand: BTreeMap<String, SecretString> = ["ONE", "TWO"]
        .map(|name| (name.to_owned(), "a secret".into()))
        .into();
    let more = More::for_parameters(&manifest, &values, &at_hand);
    let admitted = |text: &str| -> Result<(), Vec<Failure>> {
        Grants::intersect_for(Some(&file(text)), &manifest, &digest("a"), false, &more)
            .map_err(|failure| vec![failure])?
            .admit_parameters(&manifest, &values, &at_hand)
    };
    let hint = |text: &str| {
        let failures = admitted(text).unwrap_err();
        let hints: Vec<String> = failures.into_iter().filter_map(|it| it.hint).collect();
        assert_eq!(hints.len(), 1, "{hints:?}");
        hints.concat()
    };
    for before in [
        "",
        "[[grant]]\nplugin = \"*\"\n",
        "[[grant]]\nplugin = \"*\"\ncapabilities = [\"ssh.*\"]\n",
    ] {
        let hint = hint(before);
        let entry = &hint[hint.find("[[grant]]").unwrap()..];
        admitted(&format!("{entry}\n{before}")).unwrap();
    }
    let own = hint("[[grant]]\nplugin = \"mine\"\ncapabilities = [\"ssh.exec\"]\n");
    assert_eq!(
        own,
        "change `capabilities` at grants.toml:3 to:\ncapabilities = [\"ssh.exec\", \"cluster.keep\"]\n\
         and add this below grants.toml:1:\nsecrets = [\"ONE\", \"TWO\"]"
    );
}

/// Two readings of one file, the second for lines alone: what it does not understand must not loosen what the first says.
#[test]
fn a_pin_holds_where_nobody_knows_its_line() {
    let digest = digest("0");
    let pinned = format!("[[grant]]\nplugin = \"mine\"\ndigest = \"{digest}\"\n");
    let mut file = file(&pinned);
    file.lines = file::Lines::default();
    let failure = Grants::intersect(Some(&file), &manifest(), "d", true).unwrap_err();
    assert_eq!(failure.code, "run.not-granted");
}

#[test]
fn a_digest_goes_with_a_name() {
    let digest = digest("0");
    for (text, name) in [
        (
            format!("[[grant]]\nplugin = \"*\"\ndigest = \"{digest}\"\n"),
            "grants.toml",
        ),
        (
            format!("grants:\n  - plugin: '*'\n    digest: {digest}\n"),
            "grants.yaml",
        ),
    ] {
        let failure = GrantsFile::parse(&text, name, name.ends_with("yaml")).unwrap_err();
        assert!(failure.message.contains(&format!("{name}:3")), "{failure}");
        assert!(failure.message.contains("in place of `*`"), "{failure}");
    }
}

#[test]
fn of_a_directory_the_one_grants_file_counts() {
    let directory = tempfile::tempdir().unwrap();
    let load = || GrantsFile::load(directory.path());
    let none = load().unwrap_err();
    assert!(
        none.message
            .starts_with("there is no grants file in the directory"),
        "{none}"
    );
    assert!(
        none.hint
            .unwrap()
            .contains("`grants.toml` or `grants.yaml`")
    );
    let grant = "grants:\n  - plugin: '*'\n";
    std::fs::write(directory.path().join("grants.yml"), grant).unwrap();
    assert_eq!(load().unwrap().grants.len(), 1);
    std::fs::write(directory.path().join("grants.toml"), "").unwrap();
    let several = load().unwrap_err();
    assert!(
        several.message.ends_with("`grants.toml`, `grants.yml`"),
        "{several}"
    );
}

#[test]
fn the_workspace_ceiling_takes_capabilities_away() {
    let manifest = Manifest::parse_toml(
        "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
         capabilities = [\"workspace.read\"]\noptional-capabilities = [\"workspace.write\"]\n",
    )
    .unwrap();
    let granted = |access: &str| {
        let text = format!(
            "[[grant]]\nplugin = \"mine\"\ncapabilities = [\"workspace.*\"]\n[grant.ceilings]\nworkspace = \"{access}\"\n"
        );
        Grants::intersect(Some(&file(&text)), &manifest, "d", false)
    };
    assert!(
        granted("write")
            .unwrap()
            .require(Capability::WorkspaceWrite)
            .is_ok()
    );
    let read = granted("read").unwrap();
    assert!(read.require(Capability::WorkspaceRead).is_ok());
    // What is at fault is the ceiling, not the capabilities.
    for failure in [
        read.require(Capability::WorkspaceWrite).unwrap_err(),
        granted("none").unwrap_err(),
    ] {
        let hint = failure.hint.unwrap();
        assert!(
            hint.contains("raise `workspace`") && hint.contains("grants.toml:5"),
            "{hint}"
        );
        assert!(!hint.contains("capabilities"), "{hint}");
    }
}

#[test]
fn mistakes_are_told_with_their_lines_in_both_languages() {
    let wrong = |text: &str, is_yaml| {
        let failure = GrantsFile::parse(text, "g", is_yaml).unwrap_err();
        let causes = failure.causes().join(": ");
        format!("{failure} {causes}")
    };
    let capability = "[[grant]]\nplugin = \"x\"\ncapabilities = [\"cluster.deplyo\"]\n";
    let told = wrong(capability, false);
    assert!(
        told.contains("g:3") && told.contains("did you mean `cluster.deploy`?"),
        "{told}"
    );
    let told = wrong(
        "grant:\n- plugin: x\n  ceilings:\n    keep-max: long\n",
        true,
    );
    assert!(
        told.contains("g:4") && told.contains("no duration"),
        "{told}"
    );
    for (text, is_yaml, line) in [
        (
            "grant:\n- plugin: x\n  ceilings:\n    cpu-core: 3\n",
            true,
            4,
        ),
        (
            "[[grant]]\nplugin = \"x\"\n[grant.ceilings]\ncpu-core = 3\n",
            false,
            4,
        ),
    ] {
        let told = wrong(text, is_yaml);
        let start = format!(
            "the grants file `g` is wrong, g:{line}: unknown field `cpu-core`, expected one of "
        );
        assert!(
            told.starts_with(&start) && told.trim_end().ends_with("did you mean `cpu-cores`?"),
            "{told}"
        );
    }
    for (text, is_yaml) in [("grant:\n- [\n", true), ("[[grant]\n", false)] {
        let told = wrong(text, is_yaml);
        assert!(
            told.starts_with("the grants file `g` is wrong, g:"),
            "{told}"
        );
        assert!(!told.contains("<input>"), "{told}");
    }
    let told = wrong(
        "[[grant]]\nplugin = \"x\"\n[grant.ceilings]\nimages = [\"[\"]\n",
        false,
    );
    assert!(
        told.contains("g:4") && told.contains("bad pattern"),
        "{told}"
    );
}

#[test]
fn what_was_used_becomes_the_narrowest_file_and_that_allows_it_again() {
    let grants = Grants::everything(&manifest(), []);
    grants.require(Capability::SshExec).unwrap();
    let mut spec = crate::bindings::orka::plugin::cluster::VmSpec {
        image: "ghcr.io/a/b[1]*:x".to_owned(),
        cpu_cores: Some(6),
        vcpus: None,
        memory_mib: None,
        vnc_console: None,
        gpu_passthrough: None,
        system_serial: None,
        tag: None,
        tag_required: false,
        scheduler: None,
        options: Vec::new(),
    };
    grants.admit_vm(&mut spec, false).unwrap();
    grants.admit_program("../build-script").unwrap();
    grants.note_deployment((2, 3));
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let times = (minutes(55), minutes(6));
    let record = grants.record(&manifest(), times, str::to_owned);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.json");
    let report = serde_json::json!({
        "plugin": {"name": "mine", "digest": digest("d")}, "outcome": "succeeded", "exitCode": 0, "grants": record, "more": 1,
    });
    std::fs::write(&path, report.to_string()).unwrap();
    let (toml, yaml) = (Form::of(Path::new("g.toml")), Form::of(Path::new("g.yaml")));
    let made = narrowest(&path, toml).unwrap();
    // What this manifest asks for brings nothing back, and the run took long enough.
    assert_eq!((made.plugin.as_str(), made.doubts.len()), ("mine", 0));
    let text = made.text;
    assert!(
        text.starts_with(
            "# Asked for and not used by this run; it does not start without: cluster.deploy, KEY\n"
        ),
        "{text}"
    );
    for line in [
        "lifetime = \"15m\"",
        "artifacts-max-count = 0",
        "artifacts-max-size = \"0\"",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let in_yaml = narrowest(&path, yaml).unwrap().text;
    for file in [
        file(&text),
        GrantsFile::parse(&in_yaml, "g.yaml", true).unwrap(),
    ] {
        let narrow = Grants::intersect(Some(&file), &manifest(), &digest("d"), false).unwrap();
        narrow.admit_vm(&mut spec.clone(), false).unwrap();
        narrow.admit_program("../build-script").unwrap();
        assert!(narrow.admit_program("sh").is_err());
        assert_eq!(
            (narrow.ceilings.vms_at_once, narrow.ceilings.vms_total),
            (2, 3)
        );
        let mut other = spec.clone();
        other.image = "ghcr.io/a/b1c:x".to_owned();
        assert!(
            narrow.admit_vm(&mut other, false).is_err(),
            "a name is no pattern"
        );
        assert!(Grants::intersect(Some(&file), &manifest(), &digest("0"), false).is_err());
    }
    let mut failed = report;
    (failed["outcome"], failed["exitCode"]) = ("build-failed".into(), 65.into());
    std::fs::write(&path, failed.to_string()).unwrap();
    let doubts = || narrowest(&path, toml).unwrap().doubts.join("\n");
    assert!(
        doubts().contains("ended as `build-failed`, exit code 65")
            && doubts().contains("too narrow"),
        "{}",
        doubts()
    );
    // One that could have brought files back and did not, and took no time.
    let mut short = failed;
    short["outcome"] = "succeeded".into();
    short["grants"]["used"]["seconds"] = 59.into();
    short["grants"]["asked"]["capabilities"] =
        serde_json::json!(["ssh.transfer", "workspace.write"]);
    std::fs::write(&path, short.to_string()).unwrap();
    let said = doubts();
    assert!(
        said.contains("brought no files back") && said.contains("took 59 s, so `lifetime` is 5m:"),
        "{said}"
    );
    short["grants"]["used"]["artifactCount"] = 1.into();
    short["grants"]["used"]["timeoutAskedSeconds"] = 3000.into();
    std::fs::write(&path, short.to_string()).unwrap();
    assert_eq!(doubts(), "");
}

#[test]
fn sizes_are_written_as_in_kubernetes() {
    for (text, bytes) in [
        ("0", 0),
        ("7", 7),
        ("512B", 512),
        ("10Ki", 10 << 10),
        ("5MiB", 5 << 20),
        ("2Gi", 2 << 30),
        ("1TiB", 1 << 40),
    ] {
        assert_eq!(super::file::bytes(text), Some(bytes), "{text}");
    }
    for text in [
        "",
        "B",
        "Gi",
        "+1",
        "-1Mi",
        "1.5Gi",
        "1G",
        "1 Gi",
        "99999999999Ti",
        "é",
    ] {
        assert_eq!(super::file::bytes(text), None, "{text}");
    }
}

#[test]
fn every_secret_that_a_plugin_needs_has_to_be_there_and_is_told_once() {
    let manifest = Manifest::parse_toml(
        "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
         secrets = [\"ONE\", \"TWO\", \"THREE\"]\noptional-secrets = [\"MAYBE\"]\n\
         [parameters.secret-env]\ntype = \"list\"\nitems = \"secret-environment\"\ndescription = \"x\"\n",
    )
    .unwrap();
    let grants = Grants::everything(&manifest, []);
    let given = BTreeMap::from([("secret-env".to_owned(), "ONE".to_owned())]);
    let values = manifest.resolve(&given).unwrap();
    let at_hand = BTreeMap::from([("TWO".to_owned(), "a value".into())]);
    let failures = grants.admit_parameters(&manifest, &values, &at_hand);
    let messages: Vec<String> = failures
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    let told = ["ONE", "THREE"]
        .map(|name| format!("this run has no secret `{name}`, which plugin `mine` needs"));
    assert_eq!(messages, told);
}
