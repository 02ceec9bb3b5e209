//! Builds in this process: the production host and client against the simulated cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser as _;
use orka_client::RetryPolicy;
use orka_step::backend::orka::OrkaCluster;
use orka_step::backend::ssh::SshGuests;
use orka_step::cli::{Cli, Command};
use orka_step::config::{Config, Environment};
use orka_step::console::Console;
use orka_step::grants::Grants;
use orka_step::guard::Guards;
use orka_step::ledger::Ledger;
use orka_step::limits::Limits;
use orka_step::mask::Masker;
use orka_step::parameters::check_parameters;
use orka_step::report;
use orka_step::results::Results;
use orka_step::run::{self, Finished};
use orka_step::state::{RunContext, RunParts, Stop};
use rand::SeedableRng as _;
use tokio::sync::OwnedSemaphorePermit;

use crate::axes::Fault;
use crate::built;
use crate::expected::Expected;
use crate::matrix::Ended;
use crate::stage::Stage;

/// How long the client waits for an answer: short for many builds, long enough for a busy machine.
const CALL_LIMIT: Duration = Duration::from_millis(1500);

/// What a guest that spins may compute. Until then it needs next to nothing, but the time of a busy machine counts.
const CPU_LIMIT: Duration = Duration::from_millis(800);

/// The run's own deadline where a build is to run into it; and where it must not.
const DEADLINE: Duration = Duration::from_secs(6);
const FAR_DEADLINE: Duration = Duration::from_secs(50);

/// Plays a build. None if its time was up before it reached its place; `patience` makes more of it. The permit is given
/// back once there is nothing to compute any more.
pub(crate) async fn play(
    stage: &Stage,
    patience: u32,
    permit: OwnedSemaphorePermit,
) -> Option<Ended> {
    let fault = stage.cell.fault;
    let (console, captured) = Console::captured(Masker::default());
    let mut config = config(stage, console.masker());
    let call_limit = match fault {
        // A call that is held up until then must not give up before.
        Fault::Deadline => FAR_DEADLINE * patience,
        _ => CALL_LIMIT * patience,
    };
    config.orka.timeouts.call = call_limit;
    config.orka.timeouts.probe = call_limit;
    config.orka.timeouts.deploy = call_limit;
    config.orka.retry = RetryPolicy {
        attempts_max: 5,
        wait_first: Duration::from_millis(50),
        wait_max: Duration::from_millis(1200),
    };
    config.timeout = match (fault, Expected::of(&stage.cell)) {
        // Only a build that cannot go on is to run into it: a busy machine takes its time for what is left of the others.
        (Fault::SshFrozen, Expected::Code(0)) => FAR_DEADLINE,
        (Fault::Deadline | Fault::SshFrozen, _) => DEADLINE * patience,
        _ => FAR_DEADLINE,
    };
    if fault == Fault::Spin {
        config.limits = Limits {
            cpu: CPU_LIMIT * patience,
            ..Limits::default()
        };
    }
    let (plugin, compiled) = built::compiled();
    let run = RunContext::new(parts(config, console.clone()));
    let execution = run::execute(compiled, Arc::clone(&run));
    let is_struck = AtomicBool::new(false);
    let driver = async {
        if !fault.is_of_guest() {
            stage.reached().await;
            is_struck.store(stage.strike(), Ordering::Relaxed);
        }
        let waits = [Fault::ApiTimeout, Fault::SshFrozen, Fault::Deadline];
        // What goes on computing keeps its permit until the end.
        let _kept = Some(permit).filter(|_| !waits.contains(&fault));
        std::future::pending::<()>().await;
    };
    let conclusion = tokio::select! {
        conclusion = execution => conclusion,
        () = driver => unreachable!("it waits for the end"),
    };
    let was_met = is_struck.into_inner() || (fault.is_of_guest() && stage.is_at_call());
    if !was_met {
        return None;
    }
    let finished = Finished {
        conclusion,
        run: Some(run),
        plugin_digest: Some(plugin.digest.clone()),
    };
    let code = report::conclude(&finished, &console, None, None);
    Some(Ended {
        code: Some(i32::from(code)),
        outcome: finished.conclusion.outcome.to_string(),
        reaped: None,
        log: captured.lines(),
    })
}

fn config(stage: &Stage, masker: &Masker) -> Config {
    let workspace = stage.path("workspace").display().to_string();
    let url = stage.sim.url();
    let line = [
        "orka-step",
        "run",
        "--orka-api",
        &url,
        "--workspace",
        &workspace,
    ];
    let Command::Run(arguments) = Cli::try_parse_from(line).unwrap().command else {
        panic!("not `run`: {line:?}")
    };
    let environment: Environment = stage
        .environment()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let mut config = Config::resolve(&arguments, &environment, masker.clone())
        .unwrap_or_else(|failures| panic!("{failures:?}"));
    let params = stage.params().into_iter();
    config.params = params
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    config
}

/// What the host makes of a configuration, with all that the guest asks for granted.
fn parts(config: Config, console: Console) -> RunParts {
    let (plugin, _) = built::compiled();
    let grants = Grants::intersect(None, &plugin.manifest, &plugin.digest, true).unwrap();
    let script = config.script.as_deref();
    let params = check_parameters(&plugin.manifest, &config.params, script, "steps").unwrap();
    RunParts {
        cluster: Arc::new(OrkaCluster::new(config.orka)),
        guests: Arc::new(SshGuests::new(config.ssh)),
        console,
        ledger: Ledger::in_memory(),
        grants,
        guards: Guards::default(),
        params,
        script: config.script,
        manifest: plugin.manifest.clone(),
        workspace: config.workspace,
        results: Results::new(None).unwrap(),
        secrets: config.secrets,
        owner: Vec::new(),
        identity: config.identity,
        limits: config.limits,
        timeout: config.timeout,
        stop: Stop::default(),
        random: Box::new(rand::rngs::StdRng::from_os_rng()),
    }
}
