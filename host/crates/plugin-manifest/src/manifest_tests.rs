use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{ContractRange, Manifest};
use crate::fixture::FULL;
use crate::{Capability, Error, ParameterType, ParameterValue, Pattern};

const MINIMAL: &str = r#"
[plugin]
name = "spin"
version = "1.2.3"
contract = "0.1"
description = "Turns"
"#;

/// The minimal manifest with more of it, or with a line of it replaced.
fn with(more: &str) -> Result<Manifest, Error> {
    Manifest::parse_toml(&format!("{MINIMAL}{more}"))
}

fn replaced(line: &str, by: &str) -> Result<Manifest, Error> {
    assert!(MINIMAL.contains(line));
    Manifest::parse_toml(&MINIMAL.replace(line, by))
}

fn refusal(result: Result<Manifest, Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn reads_every_member() {
    let manifest = Manifest::parse_toml(FULL).unwrap();
    assert_eq!(
        (manifest.name.as_str(), manifest.description.as_str()),
        ("build", "Builds on a VM")
    );
    assert_eq!(manifest.version.to_string(), "0.1.0");
    assert_eq!(manifest.contract, ContractRange::of(0, 1));
    assert_eq!(manifest.minimum_host.as_ref().unwrap().to_string(), "0.1.0");
    let capabilities = [Capability::ClusterDeploy, Capability::SshExec];
    assert_eq!(manifest.capabilities, BTreeSet::from(capabilities));
    assert_eq!(
        manifest.optional_capabilities,
        BTreeSet::from([Capability::ClusterKeep])
    );
    assert_eq!(manifest.secrets, BTreeSet::from(["SIGNING_KEY".to_owned()]));
    assert_eq!(
        manifest.results["artifact-count"].description,
        "how many files came back"
    );
    let cpu = &manifest.parameters["cpu-count"];
    assert_eq!(
        cpu.kind,
        ParameterType::Integer {
            minimum: Some(1),
            maximum: Some(24)
        }
    );
    assert_eq!(
        (cpu.required, &cpu.default),
        (false, &Some(ParameterValue::Integer(3)))
    );
    assert!(manifest.parameters["base-image"].required);
    assert_eq!(
        manifest.parameters["artifacts"].default,
        Some(ParameterValue::List(vec!["build/*.ipa".to_owned()]))
    );
    let ParameterType::Text {
        pattern: Some(pattern),
    } = &manifest.parameters["memory"].kind
    else {
        panic!()
    };
    assert_eq!(pattern.as_str(), r"^\d+[MG]$");
}

#[test]
fn asks_for_nothing_unless_it_says_so() {
    let manifest = Manifest::parse_toml(MINIMAL).unwrap();
    assert!(manifest.capabilities.is_empty() && manifest.secrets.is_empty());
    assert!(manifest.parameters.is_empty() && manifest.results.is_empty());
    assert_eq!(manifest.minimum_host, None);
}

#[test]
fn the_embedded_form_is_canonical_json() {
    let json =
        String::from_utf8(Manifest::parse_toml(MINIMAL).unwrap().to_json().unwrap()).unwrap();
    let expected = r#"{"schema":1,"plugin":{"name":"spin","version":"1.2.3","contract":"0.1","description":"Turns"}}"#;
    assert_eq!(json, expected);
}

#[test]
fn an_unknown_member_is_refused_with_its_line_and_the_nearest_name() {
    let message = refusal(with(
        "[parameters.cpu]\ntype = \"integer\"\nminimun = 1\ndescription = \"\"\n",
    ));
    assert!(
        message.starts_with("line 9: unknown field `minimun`"),
        "{message}"
    );
    assert!(message.ends_with("did you mean `minimum`?"), "{message}");
    let message = refusal(with("[parameter.cpu]\n"));
    assert!(message.ends_with("did you mean `parameters`?"), "{message}");
    let message = refusal(with(
        "[parameters.cpu]\ntype = \"interger\"\ndescription = \"\"\n",
    ));
    assert!(
        message.starts_with("line 8: unknown variant `interger`"),
        "{message}"
    );
    assert!(message.ends_with("did you mean `integer`?"), "{message}");
}

#[test]
fn a_missing_or_misplaced_member_is_named() {
    assert!(refusal(replaced("version = \"1.2.3\"\n", "")).contains("missing field `version`"));
    assert!(refusal(Manifest::parse_toml("")).contains("missing field `plugin`"));
    assert!(
        refusal(with(
            "[parameters.a]\ntype = \"list\"\ndefault = [1]\ndescription = \"\"\n"
        ))
        .contains("expected a string, a boolean, an integer or a list of strings")
    );
    assert!(matches!(
        Manifest::parse_toml("[plugin"),
        Err(Error::Toml { line: 1, .. })
    ));
}

#[test]
fn names_are_checked() {
    for name in [
        "",
        "Build",
        "1build",
        "-build",
        "build_it",
        "bü",
        "a b",
        &"a".repeat(64),
    ] {
        let message = refusal(replaced("name = \"spin\"", &format!("name = \"{name}\"")));
        assert!(
            message.starts_with(&format!("`{name}` is no plugin name")),
            "{message}"
        );
    }
    for name in ["b", "b2", "build-it", &"a".repeat(63)] {
        replaced("name = \"spin\"", &format!("name = \"{name}\"")).unwrap();
    }
    assert!(
        refusal(with("[results.Bad]\ndescription = \"\"\n")).starts_with("`Bad` is no result name")
    );
}

/// A Task of the plugin would have such a result twice.
#[test]
fn a_result_cannot_be_called_as_one_of_the_hosts() {
    for name in ["outcome", "vm-name", "leftovers"] {
        let message = refusal(with(&format!("[results.{name}]\ndescription = \"x\"\n")));
        assert!(
            message.contains(&format!("result `{name}` is the host's own")),
            "{message}"
        );
    }
    with("[results.outcomes]\ndescription = \"x\"\n").unwrap();
}

#[test]
fn a_secret_cannot_be_named_like_a_path() {
    for name in ["", ".", "..", "a/b", "a b"] {
        let message = refusal(with(&format!("secrets = [\"{name}\"]\n")));
        assert!(
            message.starts_with(&format!("`{name}` is no secret name")),
            "{message}"
        );
    }
    with("secrets = [\"SIGNING_KEY\", \"key.p12\"]\n").unwrap();
}

#[test]
fn versions_are_checked() {
    assert!(
        refusal(replaced("1.2.3", "1.2"))
            .contains("`version`: `1.2` is no version such as `1.2.3`")
    );
    for contract in ["1", "0.1.0", "0.01", "0.1-rc", "", "x.y", "0.1+a"] {
        let message = refusal(replaced(
            "contract = \"0.1\"",
            &format!("contract = \"{contract}\""),
        ));
        assert!(
            message.contains("is no contract version, expected two numbers such as `0.1`"),
            "{message}"
        );
    }
}

#[test]
fn a_default_has_to_fit_its_type() {
    let cases = [
        (
            "type = \"integer\"\ndefault = \"3\"",
            "has to be an integer, not `3`",
        ),
        (
            "type = \"integer\"\ndefault = 0\nminimum = 1",
            "has to be at least 1, not 0",
        ),
        (
            "type = \"choice\"\nchoices = [\"a\"]\ndefault = \"b\"",
            "has to be one of `a`, not `b`",
        ),
        (
            "type = \"string\"\npattern = \"^a$\"\ndefault = \"b\"",
            "cannot be `b`: TEXT (it has to match `^a$`)",
        ),
        (
            "type = \"list\"\npattern = \"^a$\"\ndefault = [\"a\", \"b\"]",
            "cannot have the line `b`: TEXT (it has to match `^a$`)",
        ),
        (
            "type = \"boolean\"\ndefault = 1",
            "has to be `true` or `false`, not `1`",
        ),
    ];
    for (table, expected) in cases {
        let message = refusal(with(&format!(
            "[parameters.p]\ndescription = \"TEXT\"\n{table}\n"
        )));
        assert!(
            message.starts_with("the default does not fit: parameter `p` ")
                && message.contains(expected),
            "{message}"
        );
    }
}

#[test]
fn a_description_that_is_empty_leaves_no_gap() {
    let message = refusal(with(
        "[parameters.p]\ndescription = \"\"\ntype = \"string\"\npattern = \"^a$\"\ndefault = \"b\"\n",
    ));
    assert!(
        message.ends_with("parameter `p` cannot be `b` (it has to match `^a$`)"),
        "{message}"
    );
}

#[test]
fn impossible_parameters_are_refused() {
    let cases = [
        (
            "type = \"choice\"",
            "needs `choices` with at least one text",
        ),
        (
            "type = \"choice\"\nchoices = [\"a\", \"a\"]",
            "has a choice twice",
        ),
        (
            "type = \"integer\"\nminimum = 2\nmaximum = 1",
            "has a minimum above its maximum",
        ),
        (
            "type = \"string\"\npattern = \"(\"",
            "the pattern of parameter `p` cannot be used",
        ),
        (
            "type = \"string\"\nminimum = 1",
            "has `minimum`, which only type `integer` can have",
        ),
        (
            "type = \"list\"\nchoices = [\"a\"]",
            "has `choices`, which only type `choice` can have",
        ),
        (
            "type = \"boolean\"\npattern = \"^a$\"",
            "has `pattern`, which only type `string` or `list` can have",
        ),
        (
            "type = \"list\"\nitems = \"globs\"\npattern = \"^a$\"",
            "has `items` and `pattern`; only one of them can say",
        ),
        (
            "type = \"string\"\nrequired = true\ndefault = \"a\"",
            "only one of them can be",
        ),
    ];
    for (table, expected) in cases {
        let message = refusal(with(&format!(
            "[parameters.p]\ndescription = \"\"\n{table}\n"
        )));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn reports_every_problem_at_once() {
    let text = MINIMAL
        .replace("1.2.3", "one")
        .replace("0.1", "zero")
        .replace("spin", "Spin");
    let error = Manifest::parse_toml(&format!("{text}capabilities = [\"ssh.exce\", \"net\"]\n"))
        .unwrap_err();
    let Error::Invalid { problems } = error else {
        panic!("{error}")
    };
    assert_eq!(problems.len(), 5, "{problems:?}");
    assert!(
        problems[3].ends_with("did you mean `ssh.exec`?"),
        "{problems:?}"
    );
}

proptest! {
    #[test]
    fn no_text_brings_the_parser_down(text: String) {
        let _ = Manifest::parse_toml(&text);
        let _ = Manifest::parse_toml(&format!("{MINIMAL}\n{text}"));
    }
}

#[test]
fn a_pattern_is_anchored_if_it_is_held_at_both_ends() {
    let anchored = |source: &str| Pattern::parse(source).unwrap().is_anchored();
    for source in ["^a$", "^(a|b)$", r"\Aa\z", "^$"] {
        assert!(anchored(source), "{source}");
    }
    for source in ["a", "^a", "a$", r"^a\$"] {
        assert!(!anchored(source), "{source}");
    }
}

#[test]
fn the_example_of_the_page_is_a_manifest_and_names_every_capability() {
    const PAGE: &str = include_str!("../../../../plugins/TESTING.md");
    let section = PAGE.split("## plugin.toml").nth(1).unwrap();
    let example = section.split("```toml\n").nth(1).unwrap();
    Manifest::parse_toml(example.split("```").next().unwrap()).unwrap();
    for capability in Capability::ALL {
        let name = format!("`{capability}`");
        assert!(section.contains(&name), "the page lacks {name}");
    }
}

#[test]
fn a_parameter_is_described_with_all_that_its_type_demands() {
    for (members, words) in [
        ("type = \"string\"", "string, optional"),
        (
            "type = \"string\"\npattern = '^[a-z]+$'\nrequired = true",
            "string matching `^[a-z]+$`, required",
        ),
        (
            "type = \"integer\"\nminimum = 1\nmaximum = 24\ndefault = 3",
            "integer from 1 to 24, default 3",
        ),
        (
            "type = \"integer\"\nminimum = -1",
            "integer of at least -1, optional",
        ),
        (
            "type = \"integer\"\nmaximum = 9",
            "integer of at most 9, optional",
        ),
        (
            "type = \"choice\"\nchoices = [\"a\", \"b\"]\ndefault = \"a\"",
            "one of a, b, default \"a\"",
        ),
        (
            "type = \"list\"\ndefault = [\"x\", \"y\"]",
            "list, default [x, y]",
        ),
        (
            "type = \"list\"\nitems = \"globs\"",
            "list of globs, optional",
        ),
        (
            "type = \"boolean\"\ndefault = true",
            "boolean, default true",
        ),
    ] {
        let text = format!("{MINIMAL}\n[parameters.it]\ndescription = \"x\"\n{members}\n");
        let manifest = Manifest::parse_toml(&text).unwrap();
        assert_eq!(manifest.parameters["it"].to_string(), words);
    }
}

#[test]
fn what_parameters_need_of_each_other_and_of_the_host_is_read_and_written_again() {
    let manifest = with(
        "optional-capabilities = [\"cluster.keep\"]\noptional-secrets = [\"*\", \"KEY\"]\none-of = [[\"script\", \"file\"]]\n\
         [parameters.script]\ntype = \"string\"\ndescription = \"x\"\n\
         [parameters.file]\ntype = \"string\"\ndescription = \"x\"\n\
         [parameters.keep]\ntype = \"boolean\"\ndefault = false\ncapability = \"cluster.keep\"\ndescription = \"x\"\n\
         [parameters.keep-for]\ntype = \"string\"\nceiling = \"keep-max\"\ndescription = \"x\"\n\
         [parameters.env]\ntype = \"list\"\nitems = \"environment\"\ndescription = \"x\"\n",
    )
    .unwrap();
    assert_eq!(manifest.one_of, [["script", "file"]]);
    assert!(manifest.optional_secrets.contains(crate::ANY_SECRET));
    assert_eq!(
        manifest.parameters["keep"].capability,
        Some(Capability::ClusterKeep)
    );
    assert_eq!(
        manifest.parameters["keep-for"].ceiling,
        Some(crate::Ceiling::KeepMax)
    );
    assert_eq!(
        manifest.parameters["env"].items,
        Some(crate::Items::Environment)
    );
    let component = manifest.embed(&crate::fixture::component()).unwrap();
    assert_eq!(
        Manifest::from_component(&component).unwrap(),
        Some(manifest)
    );
    for (more, problem) in [
        ("one-of = [[\"nothing\"]]\n", "`one-of` names `nothing`"),
        ("optional-secrets = [\"a b\"]\n", "no secret name"),
        (
            "[parameters.x]\ntype = \"string\"\nitems = \"globs\"\ndescription = \"x\"\n",
            "only type `list`",
        ),
        (
            "[parameters.x]\ntype = \"boolean\"\nceiling = \"keep-max\"\ndescription = \"x\"\n",
            "only type `string`",
        ),
        (
            "[parameters.x]\ntype = \"list\"\ncapability = \"cluster.kep\"\ndescription = \"x\"\n",
            "cluster.keep",
        ),
    ] {
        let refusal = refusal(with(more));
        assert!(refusal.contains(problem), "{refusal}");
    }
}

#[test]
fn no_text_can_forge_or_hide_lines_where_it_is_shown() {
    for hidden in ["\\n", "\\u001b", "\\u009b", "\\u202e", "\\u2066", "\\u200f"] {
        let text = format!("\"a){hidden}  fits\"");
        let parameter = |members: &str| with(&format!("[parameters.p]\n{members}\n"));
        let described = "description = \"x\"";
        let refused = [
            ("the description has", replaced("\"Turns\"", &text)),
            (
                "the description of result `r` has",
                with(&format!("[results.r]\ndescription = {text}\n")),
            ),
            (
                "the description of parameter `p` has",
                parameter(&format!("type = \"list\"\ndescription = {text}")),
            ),
            (
                "a choice of parameter `p` has",
                parameter(&format!(
                    "type = \"choice\"\nchoices = [\"b\", {text}]\n{described}"
                )),
            ),
            (
                "the pattern of parameter `p` has",
                parameter(&format!(
                    "type = \"string\"\npattern = {}\n{described}",
                    text.replace(')', "")
                )),
            ),
        ];
        for (what, result) in refused {
            let message = refusal(result);
            assert!(message.starts_with(what), "{message}");
        }
        // A default can be a script.
        for (kind, default) in [("string", text.clone()), ("list", format!("[{text}]"))] {
            let read = parameter(&format!(
                "type = \"{kind}\"\ndefault = {default}\n{described}"
            ));
            if hidden == "\\n" {
                let shown = read.unwrap().parameters["p"].to_string();
                assert!(shown.contains("a)\\n  fits"), "{shown:?}");
            } else {
                let message = refusal(read);
                assert!(
                    message.starts_with("the default of parameter `p` has"),
                    "{message}"
                );
            }
        }
        for unknown in [
            with(&format!("[results.{text}]\ndescription = \"x\"\n")),
            with(&format!("{text} = 1\n")),
            replaced("\"1.2.3\"", &text),
        ] {
            let message = refusal(unknown);
            assert!(!message.contains(crate::text::is_deceptive), "{message:?}");
        }
    }
}

#[test]
fn a_parameter_is_described_on_one_line_whatever_is_in_it() {
    let forged = || "a)\n  fits      yes\u{1b}[2J\u{202e}".to_owned();
    let kinds = [
        ParameterType::Choice {
            choices: vec![forged()],
        },
        ParameterType::Text {
            pattern: Some(Pattern::parse(&forged().replace([')', '['], "")).unwrap()),
        },
    ];
    for kind in kinds {
        for default in [
            ParameterValue::Text(forged()),
            ParameterValue::List(vec![forged()]),
        ] {
            let parameter = crate::Parameter {
                description: String::new(),
                kind: kind.clone(),
                default: Some(default),
                required: false,
                items: None,
                capability: None,
                ceiling: None,
            };
            let shown = parameter.to_string();
            assert!(!shown.contains(crate::text::is_deceptive), "{shown:?}");
        }
    }
}

#[test]
fn what_no_run_could_be_given_is_refused() {
    let text = |members: &str| {
        format!("[parameters.a]\ntype = \"string\"\ndescription = \"x\"\n{members}\n")
    };
    let list = |items: &str, default: &str| {
        format!(
            "[parameters.a]\ntype = \"list\"\nitems = \"{items}\"\ndefault = [\"{default}\"]\ndescription = \"x\"\n"
        )
    };
    let needy = text("capability = \"cluster.keep\"");
    for (more, problem) in [
        ("one-of = [[]]\n".to_owned(), "a group without parameters"),
        (
            format!("one-of = [[\"a\", \"a\"]]\n{}", text("")),
            "names `a` twice",
        ),
        (
            format!("one-of = [[\"a\"]]\n{}", text("default = \"b\"")),
            "has a default and so is always given",
        ),
        (
            list("environment", "1A=b"),
            "the default does not fit: parameter `a` needs lines of the form NAME=VALUE",
        ),
        (
            list("secret-environment", "A=*"),
            "the default does not fit: parameter `a` needs lines of the form NAME=SECRET",
        ),
        (needy.clone(), "needs `cluster.keep`, which is neither in"),
    ] {
        let refusal = refusal(with(&more));
        assert!(refusal.contains(problem), "{refusal}");
    }
    for more in [
        format!("one-of = [[\"a\"]]\n{}", text("default = \"\"")),
        list("secret-environment", "A=b"),
        format!("capabilities = [\"cluster.keep\"]\n{needy}"),
        format!("optional-capabilities = [\"cluster.keep\"]\n{needy}"),
    ] {
        with(&more).unwrap();
    }
}
