//! Values that these Tasks refuse, where the older ones took any text.

use std::sync::LazyLock;

use clap::Args as _;
use plugin_manifest::Manifest;

use super::Finding;
use super::rules::{OldTask, change};
use crate::cli::RunArgs;
use crate::parameters::wrong_value;

/// Parameters that are flags of the program of the same name.
const SETTINGS: [&str; 5] = [
    "timeout",
    "deploy-timeout",
    "ssh-timeout",
    "ssh-key",
    "hand-over",
];

/// What a bundled plugin takes, as the Task's parameters were made of it.
macro_rules! bundled {
    ($name:literal) => {
        LazyLock::new(|| {
            Manifest::parse_toml(include_str!(concat!(
                "../../../plugins/",
                $name,
                "/plugin.toml"
            )))
            .expect("a test reads each of them")
        })
    };
}

static BUILD: LazyLock<Manifest> = bundled!("build");
static INIT: LazyLock<Manifest> = bundled!("init");
static DEPLOY: LazyLock<Manifest> = bundled!("deploy");
static TEARDOWN: LazyLock<Manifest> = bundled!("teardown");

fn manifest(task: OldTask) -> &'static Manifest {
    match task {
        OldTask::Full => &BUILD,
        OldTask::Init => &INIT,
        OldTask::Deploy => &DEPLOY,
        OldTask::Teardown => &TEARDOWN,
    }
}

/// What is to be said of a value as it is written; with another plugin its parameters are another's to judge.
///
/// What holds a reference is known to Tekton alone.
pub(super) fn of_value(
    task: OldTask,
    name: &str,
    value: &str,
    has_own_plugin: bool,
) -> Option<Finding> {
    if value.contains("$(") {
        return None;
    }
    let problem = if SETTINGS.contains(&name) {
        wrong_setting(name, value.trim())
    } else if has_own_plugin {
        None
    } else {
        wrong_value(manifest(task), name, value)
    };
    let hint =
        "write it as the message says; the README of the Task lists what each parameter takes";
    problem.map(|problem| {
        change(
            "param.value",
            format!("`{}` refuses it: {problem}", task.name()),
            hint,
        )
    })
}

/// What the program says of the value of a flag. The Task leaves out an empty one.
fn wrong_setting(name: &str, value: &str) -> Option<String> {
    if value.is_empty() {
        return None;
    }
    let command = RunArgs::augment_args(clap::Command::new("run").no_binary_name(true));
    // The environment is that of whoever looks, not that of the step.
    let command = command.mut_args(|flag| flag.env(None::<&'static str>));
    let error = command
        .try_get_matches_from([format!("--{name}={value}")])
        .err()?;
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let said: Vec<&str> = lines.map(str::trim).collect();
    let said = said.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    Some(format!("parameter `{name}`: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: [OldTask; 4] = [
        OldTask::Full,
        OldTask::Init,
        OldTask::Deploy,
        OldTask::Teardown,
    ];

    #[test]
    fn the_manifests_are_read_and_take_their_own_defaults() {
        for task in TASKS {
            for (name, parameter) in &manifest(task).parameters {
                let default = parameter.default.as_ref().map(ToString::to_string);
                let is_list = parameter
                    .default
                    .as_ref()
                    .is_some_and(|it| it.as_list().is_some());
                if let Some(default) = default.filter(|_| !is_list) {
                    let found = of_value(task, name, &default, false);
                    assert!(found.is_none(), "{name}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn a_value_that_the_task_refuses_is_told_with_what_it_takes() {
        for (task, name, value, said) in [
            (OldTask::Full, "copy-build", "True", "`true` or `false`"),
            (OldTask::Full, "verbose", "yes", "`true` or `false`"),
            (OldTask::Init, "tag-required", "TRUE", "`true` or `false`"),
            (OldTask::Full, "cpu-count", "0", "at least 1"),
            (OldTask::Init, "cpu-count", "six", "an integer"),
            (OldTask::Full, "base-image", "", "is required"),
            (OldTask::Init, "scheduler", "most", "`most-allocated`"),
            (OldTask::Deploy, "delete-vm", "no", "`true` or `false`"),
            (OldTask::Full, "ssh-key", "True", "true, false"),
            (OldTask::Deploy, "ssh-timeout", "soon", "such as `90s`"),
            (OldTask::Full, "exclude", "../a", "would leave the tree"),
        ] {
            let found = of_value(task, name, value, false);
            let message = found.as_ref().map_or("", |it| &it.message);
            assert!(
                message.contains(said) && message.contains(name),
                "{name}={value}: {found:?}"
            );
        }
        for (name, value) in [
            ("copy-build", "false"),
            ("copy-build", "$(params.copy)"),
            ("cpu-count", "6"),
            ("cpu-count", "$(tasks.ask.results.cpus)"),
            ("script", "echo $(HOME)\n"),
            ("timeout", ""),
            ("timeout", "50m"),
            ("ssh-key", " true "),
            ("mine", "True"),
        ] {
            let found = of_value(OldTask::Full, name, value, false);
            assert!(found.is_none(), "{name}={value}: {found:?}");
        }
        let of_another = of_value(OldTask::Full, "verbose", "yes", true);
        assert!(of_another.is_none(), "{of_another:?}");
    }
}
