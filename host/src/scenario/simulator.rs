//! Scenarios on the simulated cluster: real requests, real SSH, real programs, real time.

use std::sync::Arc;

use orka_sim::{Generation, GuestKind, Sim, SimConfig};

use super::model::Scenario;
use super::play::{Backends, Report, Subject};
use crate::backend::orka::OrkaCluster;
use crate::backend::ssh::SshGuests;
use crate::config::{self, Environment};
use crate::demo;
use crate::failure::Failure;
use crate::interference::Interference;
use crate::mask::Masker;

/// Runs the plugin once against a cluster of its own.
///
/// # Errors
///
/// A cluster that cannot be started here.
pub(super) fn play(subject: &Subject, scenario: &Scenario) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal("no runtime for the test").with_source(error))?;
    let report = runtime.block_on(stage(subject, scenario));
    runtime.shutdown_background();
    report
}

async fn stage(subject: &Subject, scenario: &Scenario) -> Result<Report, Failure> {
    let config = SimConfig {
        generation: if scenario.orka3 {
            Generation::Three
        } else {
            Generation::Two
        },
        api_version: "2.1.0".to_owned(),
        guests: GuestKind::Embedded,
        boot_delay: scenario.boot_time,
        deploy_delay: scenario.deploy_time,
        ..SimConfig::default()
    };
    let sim = Sim::start(config.clone()).await.map_err(|error| {
        Failure::internal("the simulated cluster cannot be started").with_source(error)
    })?;
    let report = match backends(&sim, &config, scenario.orka3) {
        Ok(backends) => {
            let interference = Arc::new(Interference::default());
            subject.run_on(scenario, backends, interference).await
        }
        Err(failure) => Err(failure),
    };
    let state = sim.state();
    let vms = state.vms.iter().map(|vm| vm.name.clone());
    let configs = state.configs.iter().map(|config| config.name.clone());
    let mut left: Vec<String> = vms.chain(configs).collect();
    left.sort();
    left.dedup();
    let calls = state
        .requests
        .iter()
        .map(|request| format!("{} {}", request.method, request.path))
        .collect();
    sim.shutdown().await;
    let report = report?.report;
    Ok(Report {
        calls,
        left_on_the_cluster: left,
        ..report
    })
}

fn backends(sim: &Sim, config: &SimConfig, orka3: bool) -> Result<Backends, Failure> {
    let user = config.users.first();
    let token = config.sa_tokens.first();
    let mut environment = Environment::from([
        ("SSH_USERNAME".to_owned(), config.guest_user.clone()),
        ("SSH_PASSWORD".to_owned(), config.guest_password.clone()),
    ]);
    if orka3 {
        environment.extend(token.map(|token| ("ORKA_TOKEN".to_owned(), token.token.clone())));
    } else {
        environment.extend(user.map(|user| ("ORKA_EMAIL".to_owned(), user.email.clone())));
        environment.extend(user.map(|user| ("ORKA_PASSWORD".to_owned(), user.password.clone())));
    }
    // Of its own: what is secret in the simulated cluster is not a secret of the scenario.
    let masker = Masker::default();
    let orka = demo::orka_args(sim.url(), None);
    let ssh = demo::ssh_args(None);
    let (orka, ssh) = config::backends(&orka, &ssh, &environment, &masker)?;
    Ok(Backends {
        cluster: Arc::new(OrkaCluster::new(orka)),
        guests: Arc::new(SshGuests::new(ssh)),
        witness: None,
    })
}
