//! `orka-step doctor`: whether a run with this command line would start, and what to mend if not.
//!
//! It takes the command line of `run` and goes through everything that a run needs, up to the first thing that would
//! cost money: it deploys nothing and makes no VM config. Each check that can still be made is made although another
//! one failed. The exit code is the one that the run would end with.
//!
//! What it cannot see it does not claim. Whether a service account may deploy, whether an OCI image can be pulled,
//! whether a VM accepts the SSH login, and what the plugin itself thinks of its parameters beyond what its manifest says
//! show only in a run.

mod capacity;
mod check;
mod cluster;
mod guards;
mod image;
mod local;
mod parts;

use crate::cli::DoctorArgs;
use crate::config::Environment;
use crate::console::Console;
use crate::failure::Failure;
use crate::outcome::EXIT_INTERNAL;
use crate::report;
use crate::state::Stop;

use check::Checks;
pub use check::{Check, Diagnosis, Finding, Status, Subject};

/// Makes all checks, prints them on standard output, and gives the exit code.
pub async fn doctor(
    args: &DoctorArgs,
    environment: &Environment,
    console: &Console,
    stop: &Stop,
) -> u8 {
    let diagnosis = examine(args, environment, console, stop).await;
    if !args.json {
        console.data(&diagnosis.table()).await;
        return diagnosis.exit_code();
    }
    match diagnosis.json() {
        Ok(text) => {
            console.data(&text).await;
            diagnosis.exit_code()
        }
        Err(error) => {
            let failure =
                Failure::internal("the diagnosis cannot be written as JSON").with_source(error);
            report::print_failure(console, &failure);
            EXIT_INTERNAL
        }
    }
}

/// Makes all checks. Signs in to the cluster and out again, and changes nothing else there.
///
/// A signal ends the checks early; those not made are then [`Status::Skipped`]. Whoever was signed in is signed out in
/// any case.
pub async fn examine(
    args: &DoctorArgs,
    environment: &Environment,
    console: &Console,
    stop: &Stop,
) -> Diagnosis {
    let mut checks = Checks::default();
    let plan = local::examine(args, environment, console, stop, &mut checks).await;
    cluster::examine(plan, console, stop, &mut checks).await;
    Diagnosis::new(checks, stop.signal(), console.masker())
}
