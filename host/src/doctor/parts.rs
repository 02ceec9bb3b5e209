//! The command line in parts, each resolved by the run's own resolution with harmless values in place of the others.
//!
//! [`Config::resolve`] gives everything or nothing, and a doctor wants what is right beside what is wrong.

use std::path::Path;

use crate::cli::{CodeCacheArgs, RunArgs};
use crate::config::{Config, Environment};
use crate::failure::Failure;
use crate::host_folder;
use crate::mask::Masker;

/// Stands for an endpoint; never contacted.
const ENDPOINT: &str = "http://127.0.0.1";

/// Stands for a name or secret. Too short to be masked in what is shown.
const WORD: &str = "-";

/// What can be right or wrong by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Where Orka is and which it is.
    Api,
    /// The Orka credentials.
    Credentials,
    /// The SSH credentials.
    Ssh,
    /// The workspace.
    Workspace,
    /// Results and report.
    Results,
    /// The plugin with its parameters and secrets.
    Plugin,
    /// The operator's grants.
    Grants,
    /// The operator's guards.
    Guards,
    /// Script, names and limits.
    Settings,
}

impl Part {
    /// All of them.
    const ALL: [Self; 9] = [
        Self::Api,
        Self::Credentials,
        Self::Ssh,
        Self::Workspace,
        Self::Results,
        Self::Plugin,
        Self::Grants,
        Self::Guards,
        Self::Settings,
    ];
}

/// Resolves one part; the rest of what comes back means nothing.
///
/// # Errors
///
/// Every problem of this part.
pub(super) fn resolve(
    part: Part,
    args: &RunArgs,
    environment: &Environment,
    masker: &Masker,
) -> Result<Config, Vec<Failure>> {
    let (mut args, mut environment) = (args.clone(), environment.clone());
    for other in Part::ALL {
        if other != part {
            defuse(other, &mut args, &mut environment);
        }
    }
    let marks = Marks::of(&args);
    let resolved = Config::resolve(&args, &environment, masker.clone());
    marks.restore();
    resolved
}

/// Replaces a part by something that cannot be wrong.
fn defuse(part: Part, args: &mut RunArgs, environment: &mut Environment) {
    match part {
        Part::Api => {
            args.orka.orka_api = Some(ENDPOINT.to_owned());
            args.orka.node_addresses.clear();
        }
        Part::Credentials => {
            args.orka.orka_credentials.clear();
            for variable in ["ORKA_EMAIL", "ORKA_PASSWORD", "ORKA_LICENSE_KEY"] {
                environment.remove(variable);
            }
            environment.insert("ORKA_TOKEN".to_owned(), WORD.to_owned());
        }
        Part::Ssh => {
            args.ssh.ssh_credentials = None;
            args.ssh.ssh_key = false;
            args.ssh.ssh_host_keys.clear();
            args.ssh.ssh_jump = None;
            args.ssh.ssh_jump_credentials = None;
            environment.insert("SSH_USERNAME".to_owned(), WORD.to_owned());
            environment.insert("SSH_PASSWORD".to_owned(), WORD.to_owned());
        }
        Part::Workspace => args.workspace = None,
        Part::Results => {
            args.results = None;
            args.report = None;
            args.record = None;
        }
        Part::Plugin => {
            WORD.clone_into(&mut args.plugin);
            args.fetched = None;
            args.plugin_dir = None;
            args.params.clear();
            args.secrets = None;
            args.code_cache = CodeCacheArgs::default();
        }
        Part::Grants => args.grants = None,
        Part::Guards => {
            args.guards.clear();
            args.guard_list = None;
        }
        Part::Settings => {
            args.script = None;
            args.limits.clear();
            (args.run_uid, args.task_uid, args.pod_uid) = (None, None, None);
            crate::identity::DEFAULT_PREFIX.clone_into(&mut args.vm_prefix);
        }
    }
}

/// The host's folder in the workspace, which resolving makes in order to see whether it can.
struct Marks<'a>(Option<&'a Path>);

impl<'a> Marks<'a> {
    fn of(args: &'a RunArgs) -> Self {
        Self(
            args.workspace
                .as_deref()
                .filter(|workspace| !workspace.join(host_folder::NAME).exists()),
        )
    }

    /// Takes the folder away again if it was not there before.
    fn restore(&self) {
        if let Some(workspace) = self.0 {
            // Refuses a folder that holds something: a run that has begun meanwhile.
            let _ = std::fs::remove_dir(workspace.join(host_folder::NAME));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    /// A command line in which every part is wrong once, each with a word of its own.
    fn all_wrong() -> RunArgs {
        let line = [
            "orka-step",
            "run",
            "/no-script",
            "--orka-api=no-scheme",
            "--orka-credentials=/no-credentials",
            "--ssh-credentials=/no-ssh",
            "--workspace=/no-workspace",
            "--results=/no-results",
            "--secrets=/no-secrets",
            "--grants=/no-grants",
            "--guards=/no-guards",
        ];
        match Cli::try_parse_from(line).unwrap().command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_problem_belongs_to_its_part_alone() {
        for (part, word) in [
            (Part::Api, "no-scheme"),
            (Part::Credentials, "/no-credentials"),
            (Part::Ssh, "/no-ssh"),
            (Part::Workspace, "/no-workspace"),
            (Part::Results, "/no-results"),
            (Part::Plugin, "/no-secrets"),
            (Part::Grants, "/no-grants"),
            (Part::Guards, "/no-guards"),
            (Part::Settings, "/no-script"),
        ] {
            let failures =
                resolve(part, &all_wrong(), &Environment::new(), &Masker::default()).unwrap_err();
            assert_eq!(failures.len(), 1, "{failures:#?}");
            assert!(failures[0].message.contains(word), "{failures:#?}");
        }
    }

    /// What is wrong with one flag must not be told for each check that is made.
    #[test]
    fn a_flag_that_is_wrong_is_told_by_one_part() {
        let right = [
            ("ORKA_TOKEN", "a-token-of-no-use"),
            ("SSH_USERNAME", "admin"),
            ("SSH_PASSWORD", "admin"),
        ];
        let environment: Environment = right
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        for (flag, part) in [
            ("--ssh-host-key=foo", Part::Ssh),
            ("--record=/nowhere/session.yaml", Part::Results),
            ("--run-uid=$(context.pipelineRun.uid)", Part::Settings),
        ] {
            let line = ["orka-step", "run", "--orka-api=http://127.0.0.1", flag];
            let Command::Run(args) = Cli::try_parse_from(line).unwrap().command else {
                panic!("not `run`");
            };
            let fails =
                |part: &Part| resolve(*part, &args, &environment, &Masker::default()).is_err();
            let failing: Vec<Part> = Part::ALL.into_iter().filter(fails).collect();
            assert_eq!(failing, [part], "{flag}");
        }
    }

    #[test]
    fn variables_of_a_part_count_for_that_part_alone() {
        let variables = [("ORKA_EMAIL", "ci@example.com"), ("SSH_USERNAME", "admin")];
        let environment = variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let args = RunArgs {
            script: None,
            ..all_wrong()
        };
        let resolved = |part| resolve(part, &args, &environment, &Masker::default()).map(|_| ());
        assert!(resolved(Part::Settings).is_ok());
        let mut args = args.clone();
        args.orka.orka_credentials.clear();
        let failures =
            resolve(Part::Credentials, &args, &environment, &Masker::default()).unwrap_err();
        assert!(failures[0].message.contains("no password"), "{failures:#?}");
    }
}
