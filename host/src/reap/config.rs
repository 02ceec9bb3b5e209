//! What `reap` will do, resolved once: flags over environment over files over defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use jiff::Timestamp;
use orka_client::ClientConfig;
use serde::Serialize;

use super::name::is_hash;
use super::source::PodSource;
use crate::cli::ReapArgs;
use crate::config::{Environment, Problems, resolve_orka};
use crate::failure::Failure;
use crate::identity::{Identity, hash_of};
use crate::ledger::record;
use crate::lines::printable;
use crate::mask::Masker;

/// Which runs are over.
#[derive(Clone, Debug)]
pub enum Finished {
    /// These: whoever calls knows it.
    Runs(Vec<NamedRun>),
    /// Those that nothing alive belongs to.
    WithoutLivePods(PodSource),
}

/// A run that was named.
#[derive(Clone, Debug, Serialize)]
pub struct NamedRun {
    /// Its UID, if it was named by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its hash.
    pub hash: String,
}

/// Everything that `reap` needs to know beside the cluster.
#[derive(Clone, Debug)]
pub struct ReapConfig {
    /// What names of ours begin with.
    pub prefix: String,
    /// Which runs are over.
    pub finished: Finished,
    /// What is younger stays, where pods are asked.
    pub grace: Duration,
    /// Whether a list that tells of no pod at all is believed.
    pub allow_no_pods: bool,
    /// Whether things of named runs go although they are kept.
    pub include_kept: bool,
    /// Until when ledgers say that things are kept, by name.
    pub kept: BTreeMap<String, Timestamp>,
    /// Where it is remembered when things were first seen.
    pub state: Option<PathBuf>,
    /// Whether nothing is deleted.
    pub dry_run: bool,
    /// No wait goes beyond this.
    pub timeout: Duration,
    /// How long to look for what appears late.
    pub linger: Duration,
    /// Names worked on at the same time.
    pub parallel: usize,
}

impl ReapConfig {
    /// Resolves the command line and the environment.
    ///
    /// # Errors
    ///
    /// Every problem found, at least one.
    pub fn resolve(
        args: &ReapArgs,
        environment: &Environment,
        masker: &Masker,
    ) -> Result<(ClientConfig, Self), Vec<Failure>> {
        let mut problems = Problems::default();
        let orka = resolve_orka(&args.orka, environment, masker, &mut problems);
        let prefix = problems.take(Identity::new(&args.vm_prefix, None, None).map(drop));
        let finished = problems.take(finished(args, environment));
        let kept = problems.take(kept(&args.ledgers, finished.as_ref()));
        let (Some(orka), Some(()), Some(finished), Some(kept)) = (orka, prefix, finished, kept)
        else {
            return Err(problems.into_failures());
        };
        let of_runs = matches!(finished, Finished::Runs(_));
        let config = Self {
            prefix: args.vm_prefix.clone(),
            finished,
            grace: args.grace,
            allow_no_pods: args.allow_no_pods,
            include_kept: args.include_kept,
            kept,
            state: args.state.clone(),
            dry_run: args.dry_run,
            timeout: args.timeout,
            linger: if of_runs { args.linger } else { Duration::ZERO },
            parallel: usize::from(args.parallel),
        };
        Ok((orka, config))
    }
}

fn finished(args: &ReapArgs, environment: &Environment) -> Result<Finished, Failure> {
    match &args.live_pods {
        Some(source) => {
            PodSource::resolve(source, args, environment).map(Finished::WithoutLivePods)
        }
        None => {
            let by_uid = args.runs.iter().map(|uid| run(uid));
            let by_hash = args.run_hashes.iter().map(|hash| run_of_hash(hash));
            by_uid
                .chain(by_hash)
                .collect::<Result<_, _>>()
                .map(Finished::Runs)
        }
    }
}

/// Until when things are kept on purpose, by name: the latest that any of the ledgers says. Where runs are named, those of
/// other runs say nothing about them.
fn kept(
    workspaces: &[PathBuf],
    finished: Option<&Finished>,
) -> Result<BTreeMap<String, Timestamp>, Failure> {
    let of_runs = match finished {
        Some(Finished::Runs(runs)) => Some(runs.iter().map(|run| run.hash.clone()).collect()),
        Some(Finished::WithoutLivePods(_)) | None => None,
    };
    let mut kept = BTreeMap::new();
    for path in workspaces {
        let found = Dir::open_ambient_dir(path, ambient_authority())
            .and_then(|workspace| record::kept(&workspace, of_runs.as_ref()))
            .map_err(|error| {
                Failure::config(format!(
                    "cannot read the ledgers of the workspace `{}` given with `--ledger`; nothing was deleted",
                    path.display()
                ))
                .with_source(error)
            })?;
        for (name, until) in found {
            let latest = kept.entry(name).or_insert(until);
            *latest = until.max(*latest);
        }
    }
    Ok(kept)
}

/// A run's UID with its hash. What stands for nothing must not pass for a run that left nothing.
fn run(uid: &str) -> Result<NamedRun, Failure> {
    let uid = uid.trim();
    let wrong = |what: &str| {
        Failure::config(format!("`--run` {what}")).with_hint(
            "give what the run was given as `--run-uid`: `$(context.pipelineRun.uid)` of the Pipeline, or the label \
             `tekton.dev/pipelineRunUID` of the pod, which a lone TaskRun does not have",
        )
    };
    if uid.is_empty() {
        return Err(wrong("is empty"));
    }
    if uid.contains("$(") || uid.contains(char::is_whitespace) {
        return Err(wrong(&format!(
            "is `{}`, which is no UID: nobody has replaced it",
            printable(uid.as_bytes())
        )));
    }
    Ok(NamedRun {
        uid: Some(uid.to_owned()),
        hash: hash_of(uid),
    })
}

/// A run by the hash in its names. A flag of its own, since a UID may look like a hash: what is given as one must not delete
/// what belongs to the other.
fn run_of_hash(hash: &str) -> Result<NamedRun, Failure> {
    let hash = hash.trim();
    if !is_hash(hash) {
        let shown = printable(hash.as_bytes());
        return Err(Failure::config(format!(
            "`--run-hash` is `{shown}`, which is no hash of a run"
        ))
        .with_hint(
            "give the first 8 of the hexadecimal digits that follow the prefix in its VMs' names; for a UID there is `--run`",
        ));
    }
    Ok(NamedRun {
        uid: None,
        hash: hash.to_owned(),
    })
}
