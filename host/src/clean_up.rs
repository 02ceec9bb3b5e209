//! What is done for a run whose process crashed: see [`crate::supervisor`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use plugin_manifest::{ContractRange, Manifest};
use rand::SeedableRng as _;
use tokio::time::timeout;

use crate::backend::orka::OrkaCluster;
use crate::backend::ssh::SshGuests;
use crate::config::Config;
use crate::console::Console;
use crate::grants::Grants;
use crate::guard::Guards;
use crate::host_folder;
use crate::ledger::{Head, Ledger};
use crate::plugin::CONTRACT_VERSION;
use crate::results::Results;
use crate::run::{Ending, Finished, settled};
use crate::state::{RunContext, RunParts, Stop};
use crate::supervisor::Crash;

/// How long the ledger in the workspace is waited for once everything else is done.
const NOTE_PATIENCE: Duration = Duration::from_millis(500);

/// Deletes what a run has made whose process crashed, and concludes it.
///
/// Goes by the black box alone. A volume may be what hangs, so the ledger in the `workspace` is told at the end, for a moment.
pub async fn clean_up(
    mut config: Config,
    workspace: Option<PathBuf>,
    console: Console,
    stop: Stop,
    crash: Crash,
) -> Finished {
    let failure = crash.failure();
    let recovered = crash.recovered;
    let Some(head) = recovered.head().cloned() else {
        // It had not come to where anything is made.
        return Finished::not_started(vec![failure]);
    };
    console.warn(&format!("{}; cleaning up after it", failure.message));
    config.identity.resume(&head);
    let ledger = Ledger::in_memory();
    ledger.claim(&recovered);
    let results = match Results::new(config.results.as_ref()).or_else(|_| Results::new(None)) {
        Ok(results) => results,
        Err(more) => return Finished::not_started(vec![failure, more]),
    };
    results.take_back();
    let (name, version, digest) = recovered.plugin.unwrap_or_default();
    let parts = RunParts {
        cluster: Arc::new(OrkaCluster::new(config.orka).known_as(recovered.orka2)),
        guests: Arc::new(SshGuests::new(config.ssh)),
        console,
        ledger,
        grants: Grants::default(),
        guards: Guards::default(),
        params: BTreeMap::new(),
        script: None,
        manifest: nothing_but(name, &version),
        workspace: None,
        results,
        secrets: config.secrets,
        identity: config.identity,
        owner: config.owner,
        limits: config.limits,
        timeout: config.timeout,
        stop,
        random: Box::new(rand::rngs::StdRng::from_os_rng()),
    };
    let began = recovered.began.unwrap_or_else(jiff::Timestamp::now);
    let run = RunContext::began_at(parts, began);
    if let Some(claimed) = &recovered.claimed {
        run.console.warn(&format!(
            "{claimed} may still exist; Kubernetes deletes it with its PipelineRun, and the next `orka-init` takes it over once that is over"
        ));
    }
    let failure = if recovered.was_purging {
        failure.with_detail(
            "what is missing",
            "everything of the pipeline run was being purged; `orka-step reap --run UID` finishes that",
        )
    } else {
        failure
    };
    let conclusion = settled(&run, Ending::Failed(failure), recovered.tokens).await;
    let removed = conclusion.settlement.removed.clone();
    let noted =
        tokio::task::spawn_blocking(move || note_removed(workspace.as_deref(), &head, &removed));
    // It spares a successor a look, and is not worth more.
    let _ = timeout(NOTE_PATIENCE, noted).await;
    Finished {
        conclusion,
        run: Some(run),
        plugin_digest: Some(digest).filter(|digest| !digest.is_empty()),
    }
}

fn note_removed(workspace: Option<&Path>, head: &Head, removed: &[String]) {
    let note = |workspace: &Path| {
        let workspace = Dir::open_ambient_dir(workspace, ambient_authority())?;
        let folder = host_folder::of_run(&workspace, &head.run)?;
        Ledger::note_removed(&folder, head, removed)
    };
    if let Some(Err(error)) = workspace.map(note) {
        tracing::debug!(%error, "the ledger in the workspace is behind");
    }
}

/// A manifest for the report of a run that has none at hand.
fn nothing_but(name: String, version: &str) -> Manifest {
    let (major, minor) = CONTRACT_VERSION;
    Manifest {
        name,
        version: version.parse().unwrap_or(semver::Version::new(0, 0, 0)),
        contract: ContractRange::of(major, minor),
        description: String::new(),
        minimum_host: None,
        capabilities: BTreeSet::new(),
        optional_capabilities: BTreeSet::new(),
        secrets: BTreeSet::new(),
        optional_secrets: BTreeSet::new(),
        one_of: Vec::new(),
        parameters: BTreeMap::new(),
        results: BTreeMap::new(),
    }
}
