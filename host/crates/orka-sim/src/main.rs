//! `orka-sim`: the simulated cluster as a server of its own.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cli;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use orka_sim::{GuestKind, Sim};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(LevelFilter::WARN)
        .init();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The logger may be set to silence; a refusal to start must be seen.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: cli::Cli) -> anyhow::Result<()> {
    // Installed first, so that a signal during start-up still leads through the orderly end.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let sim = Sim::start(cli.config()?)
        .await
        .context("cannot start the cluster")?;
    writeln!(std::io::stdout(), "{}", introduction(&sim))
        .context("cannot print the introduction")?;
    std::io::stdout()
        .flush()
        .context("cannot print the introduction")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    sim.shutdown().await;
    Ok(())
}

/// What a client needs to know, on one line.
fn introduction(sim: &Sim) -> Value {
    let config = sim.config();
    let user = config.users.first();
    let token = config.sa_tokens.first();
    let password = match config.guests {
        GuestKind::Sshd(_) => None,
        GuestKind::Embedded | GuestKind::None => Some(&config.guest_password),
    };
    json!({
        "url": sim.url(),
        "email": user.map(|user| &user.email),
        "password": user.map(|user| &user.password),
        "licence_key": config.licence_key,
        "token": token.map(|token| &token.token),
        "namespace": token.and_then(|token| token.namespaces.first()),
        "authority": sim.authority(),
        "ssh_user": sim.guest_user(),
        "ssh_password": password,
        "ssh_key": sim.guest_key(),
        "state_url": format!("{}/_sim/state", sim.url()),
        "faults_url": format!("{}/_sim/faults", sim.url()),
    })
}
