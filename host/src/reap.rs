//! `orka-step reap`: deletes what provably belongs to finished runs, and nothing else.
//!
//! It needs no state of its own: names say which run and which pod made a thing (see [`crate::identity`]). Two ways to
//! know that a run is over: the caller says so by its UID, as a `finally` Task may, or nothing of the run is alive any
//! more in a list of pods, as a CronJob has it.
//!
//! # Why the cluster is listed first
//!
//! A thing on the cluster was made by a pod that lived before the cluster was listed. If that pod is missing from a
//! list of pods that is read *afterwards*, it has ended: a pod that starts in between is not among those whose things
//! were listed. The other way round, a pod that starts between the two reads would be missing from the older list of
//! pods and have a VM on the newer list of VMs, and its build would be ended. A list from a file or a pipe may be older
//! than the cluster's; there `--grace` is what protects young VMs, and things without an age are left alone.
//!
//! # The modules
//!
//! [`name`] knows what is ours, [`inventory`] what there is, [`live`] who is alive, [`plan`](mod@plan) decides,
//! [`execute`] deletes, `sweep` decides their order, `summary` tells. `kubernetes` asks for live pods.

pub mod config;
pub mod execute;
pub mod inventory;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod live;
pub mod name;
pub mod plan;
mod sightings;
mod source;
mod summary;
mod sweep;

pub use config::ReapConfig;
pub use execute::{Execution, Fate};
pub use inventory::Inventory;
pub use live::Live;
pub use plan::{Plan, Reason, Rules, Selection, plan};
pub use summary::{Done, Summary};
pub use sweep::sweep;

use crate::backend::orka::OrkaCluster;
use crate::cli::ReapArgs;
use crate::config::Environment;
use crate::console::Console;
use crate::report;
use crate::state::Stop;

/// Resolves, sweeps, prints the summary on standard output, and gives the exit code.
pub async fn reap(
    args: &ReapArgs,
    environment: &Environment,
    console: &Console,
    stop: &Stop,
    verbose: bool,
) -> u8 {
    for variable in &args.passed_over {
        console.info(&format!(
            "`{variable}` is not looked at: the command line says which runs are over"
        ));
    }
    let summary = match ReapConfig::resolve(args, environment, console.masker()) {
        Ok((orka, config)) => sweep(&OrkaCluster::new(orka), &config, console, stop).await,
        Err(failures) => Summary::not_started(failures),
    };
    for warning in summary.odd_uids() {
        console.warn(&warning);
    }
    for failure in &summary.failures {
        report::print_failure(console, failure);
    }
    summary.print(console, args.json, verbose).await;
    summary.exit_code()
}
