use std::collections::BTreeMap;

use proptest::prelude::*;

use super::environment_name;
use crate::fixture::FULL;
use crate::{Manifest, ParameterProblem, ParameterValue};

fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// The value that `text` gives to parameter `name`.
fn value(name: &str, text: &str) -> Option<ParameterValue> {
    let given = given(&[("base-image", "sonoma"), (name, text)]);
    Manifest::parse_toml(FULL)
        .unwrap()
        .resolve(&given)
        .unwrap()
        .remove(name)
}

/// Everything wrong with some values, as sentences.
fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
    let problems = Manifest::parse_toml(FULL)
        .unwrap()
        .resolve(&given(pairs))
        .unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

fn list(items: &[&str]) -> Option<ParameterValue> {
    Some(ParameterValue::List(
        items.iter().map(|item| (*item).to_owned()).collect(),
    ))
}

#[test]
fn fills_in_defaults_and_leaves_out_what_has_no_value() {
    let resolved = Manifest::parse_toml(FULL)
        .unwrap()
        .resolve(&given(&[("base-image", "sonoma")]))
        .unwrap();
    let names: Vec<&str> = resolved.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "artifacts",
            "base-image",
            "copy-build",
            "cpu-count",
            "scheduler"
        ]
    );
    assert_eq!(resolved["cpu-count"].as_integer(), Some(3));
    assert_eq!(resolved["copy-build"].as_boolean(), Some(true));
    assert_eq!(resolved["base-image"].as_text(), Some("sonoma"));
    assert_eq!(
        resolved["artifacts"].as_list(),
        Some(&["build/*.ipa".to_owned()][..])
    );
}

#[test]
fn gives_each_value_its_type() {
    assert_eq!(value("cpu-count", "12"), Some(ParameterValue::Integer(12)));
    assert_eq!(
        value("copy-build", "false"),
        Some(ParameterValue::Boolean(false))
    );
    assert_eq!(
        value("scheduler", "most-allocated"),
        Some(ParameterValue::Text("most-allocated".to_owned()))
    );
    assert_eq!(
        value("memory", "16G"),
        Some(ParameterValue::Text("16G".to_owned()))
    );
}

#[test]
fn a_text_arrives_unaltered() {
    let script = " set -e\n\techo '$(x)' \"`y`\" \\ \r\n é\n\n";
    assert_eq!(
        value("base-image", script),
        Some(ParameterValue::Text(script.to_owned()))
    );
}

#[test]
fn a_list_is_a_json_array_or_one_item_a_line() {
    assert_eq!(
        value("artifacts", r#"["a b", "c,d", ""]"#),
        list(&["a b", "c,d", ""])
    );
    assert_eq!(
        value("artifacts", "a b\nc,d\r\n\n  \n e\n"),
        list(&["a b", "c,d", " e"])
    );
    assert_eq!(value("artifacts", "[ab]*.log"), list(&["[ab]*.log"]));
    assert_eq!(value("artifacts", "[]"), list(&[]));
    assert_eq!(value("artifacts", ""), list(&[]));
    let refused = problems(&[("base-image", "sonoma"), ("artifacts", r#"["a", 1]"#)]);
    assert_eq!(
        refused,
        [r#"parameter `artifacts` has to be a list of strings, not `[\"a\", 1]`"#]
    );
}

#[test]
fn an_empty_text_means_not_given_where_it_cannot_be_a_value() {
    assert_eq!(value("cpu-count", ""), Some(ParameterValue::Integer(3)));
    assert_eq!(value("copy-build", ""), Some(ParameterValue::Boolean(true)));
    assert_eq!(
        value("scheduler", ""),
        Some(ParameterValue::Text("default".to_owned()))
    );
    assert_eq!(value("memory", ""), None);
    assert_eq!(
        problems(&[("base-image", "")]),
        ["parameter `base-image` is required: the image of the VM"]
    );
}

#[test]
fn reports_every_problem_at_once_in_the_order_of_the_names() {
    let refused = problems(&[
        ("base-imgae", "sonoma"),
        ("copy-build", "yes"),
        ("cpu-count", "25"),
        ("memory", "16 GB"),
        ("scheduler", "most-alocated"),
        ("weather", "fair"),
    ]);
    assert_eq!(
        refused,
        [
            "parameter `base-image` is required: the image of the VM",
            "the plugin has no parameter `base-imgae`; did you mean `base-image`?",
            "parameter `copy-build` has to be `true` or `false`, not `yes`",
            "parameter `cpu-count` has to be from 1 to 24, not 25",
            "parameter `memory` cannot be `16 GB`: memory of the VM (it has to match `^\\d+[MG]$`)",
            "parameter `scheduler` has to be one of `default`, `most-allocated`, not `most-alocated`; \
             did you mean `most-allocated`?",
            "the plugin has no parameter `weather`",
        ]
    );
}

#[test]
fn booleans_and_integers_have_one_spelling() {
    for text in ["True", "1", "yes", " true"] {
        assert_eq!(
            problems(&[("base-image", "x"), ("copy-build", text)]).len(),
            1,
            "{text}"
        );
    }
    for text in ["3.0", "three", " 3", "99999999999999999999"] {
        let refused = problems(&[("base-image", "x"), ("cpu-count", text)]);
        assert_eq!(
            refused,
            [format!(
                "parameter `cpu-count` has to be an integer, not `{text}`"
            )]
        );
    }
}

#[test]
fn a_long_value_is_shown_shortened_and_on_one_line() {
    let script = "line\n".repeat(1000);
    let refused = problems(&[("base-image", "x"), ("memory", &script)]);
    assert_eq!(refused.len(), 1);
    assert!(
        !refused[0].contains('\n') && refused[0].contains('…') && refused[0].len() < 200,
        "{refused:?}"
    );
}

#[test]
fn every_problem_knows_its_parameter() {
    let problems = Manifest::parse_toml(FULL)
        .unwrap()
        .resolve(&given(&[("cpu-count", "0")]))
        .unwrap_err();
    let names: Vec<&str> = problems.iter().map(ParameterProblem::name).collect();
    assert_eq!(names, ["base-image", "cpu-count"]);
}

#[test]
fn environment_names_are_upper_case_with_underscores() {
    assert_eq!(environment_name("base-image"), "ORKA_PARAM_BASE_IMAGE");
    assert_eq!(environment_name("tag"), "ORKA_PARAM_TAG");
}

proptest! {
    #[test]
    fn no_values_bring_the_resolver_down_and_every_refusal_is_one_line(
        values in prop::collection::btree_map("[a-z-]{0,12}|base-image|cpu-count|artifacts|memory", any::<String>(), 0..6)
    ) {
        if let Err(problems) = Manifest::parse_toml(FULL).unwrap().resolve(&values) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(!problem.to_string().contains('\n'), "{}", problem);
            }
        }
    }

    #[test]
    fn a_list_written_out_is_read_back(items: Vec<String>) {
        let written = ParameterValue::List(items.clone()).to_string();
        prop_assert_eq!(value("artifacts", &written), Some(ParameterValue::List(items)));
    }
}

const DEMANDING: &str = "[plugin]\nname = \"x\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n\
     one-of = [[\"script\", \"script-file\"]]\n\
     [parameters.script]\ntype = \"string\"\ndefault = \"\"\ndescription = \"x\"\n\
     [parameters.script-file]\ntype = \"string\"\ndescription = \"x\"\n\
     [parameters.env]\ntype = \"list\"\nitems = \"environment\"\ndescription = \"x\"\n\
     [parameters.secret-env]\ntype = \"list\"\nitems = \"secret-environment\"\ndescription = \"x\"\n";

#[test]
fn exactly_one_of_a_group_is_given_and_a_script_file_counts_as_the_script() {
    let manifest = Manifest::parse_toml(DEMANDING).unwrap();
    let told = |pairs: &[(&str, &str)], has_script_file| {
        let values = manifest.resolve(&given(pairs)).unwrap();
        let problems = manifest.check_one_of(&values, has_script_file);
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let ways = "one of `script`, `script-file` and the positional SCRIPT";
    let missing = [format!("parameter `script` is missing: give {ways}")];
    let several = [format!(
        "parameter `script` is given in more than one way: give {ways}"
    )];
    let (text, file) = (("script", "make"), ("script-file", "a.sh"));
    assert_eq!(told(&[], false), missing);
    assert_eq!(told(&[("script", ""), ("script-file", "")], false), missing);
    assert_eq!(told(&[text, file], false), several);
    assert_eq!(told(&[file], true), several);
    for right in [told(&[text], false), told(&[file], false), told(&[], true)] {
        assert_eq!(right, [""; 0]);
    }
}

#[test]
fn lists_of_variables_have_the_form_of_such_and_what_is_wrong_is_not_shown() {
    let manifest = Manifest::parse_toml(DEMANDING).unwrap();
    let problem = |name: &str, text: &str| {
        let problems = manifest.resolve(&given(&[(name, text)])).err()?;
        Some(problems[0].to_string())
    };
    for (name, right) in [
        ("env", "A=b=c d\n_X1="),
        ("secret-env", "KEY\nTOKEN=ci.token-1"),
    ] {
        assert_eq!(problem(name, right), None);
    }
    for (name, wrong) in [
        ("env", "A=1\nhunter22"),
        ("env", "A=1\n=hunter22"),
        ("env", "A=1\n1A=hunter22"),
        ("env", "A=1\nA-B=hunter22"),
        ("secret-env", "A\nnot-a-name"),
    ] {
        let told = problem(name, wrong).unwrap();
        assert!(
            told.contains(name) && told.contains("; line 2 is none") && !told.contains("hunter22"),
            "{told}"
        );
    }
}

#[test]
fn a_secret_of_the_environment_has_the_name_of_one() {
    let items = crate::Items::SecretEnvironment;
    for good in ["KEY=key.p12", "KEY=a-b_c", "KEY"] {
        assert!(items.variable(good).is_some(), "{good}");
    }
    let long = format!("KEY={}", "a".repeat(254));
    for bad in [
        "KEY=*", "KEY=", "KEY=.", "KEY=..", "KEY=a/b", "KEY=a b", "KEY=a=b", &long,
    ] {
        assert_eq!(items.variable(bad), None, "{bad}");
    }
    // A value can be anything.
    assert_eq!(crate::Items::Environment.variable("A=*"), Some(("A", "*")));
}
