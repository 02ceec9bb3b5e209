//! A build that goes to the next of several places when a VM does not come up: another image, tag or node.
//!
//! Everything else is as in `build`. Once the script has begun, it is run in no other VM: nobody knows what it has done.

use orka_plugin_common::{
    Change, Failed, Machine, VmSettings, Work, bring_up, build, may_do_better_elsewhere, warn_of,
};
use orka_plugin_sdk::cluster::Session;
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::{Error, Plugin, Verdict, params, phase, results};

/// The result that says what the VM was that came up.
const BUILT_ON: &str = "built-on";

struct RetryElsewhere;

impl Plugin for RetryElsewhere {
    fn run() -> Result<Verdict, Error> {
        let places = places()?;
        build(|session, work| first_that_comes_up(session, work, &places))
    }
}

orka_plugin_sdk::register!(RetryElsewhere);

/// What the parameters ask for, then each alternative to it.
fn places() -> Result<Vec<VmSettings>, Error> {
    let first = VmSettings::from_params(params::required_text("base-image")?)?;
    let mut places = vec![first.clone()];
    for line in params::list("alternatives")? {
        let change =
            Change::parse(&line).map_err(|problem| Error::parameter("alternatives", problem))?;
        places.push(change.of(&first));
    }
    if places.len() == 1 {
        let problem = "is empty; the plugin `build` has one place and needs none";
        return Err(Error::parameter("alternatives", problem));
    }
    Ok(places)
}

fn first_that_comes_up(
    session: &Session,
    work: &Work,
    places: &[VmSettings],
) -> Result<Machine, Error> {
    let mut failures = String::new();
    let mut remaining = places.iter().peekable();
    while let Some(place) = remaining.next() {
        let failed = match bring_up(session, place, work) {
            Ok(machine) => {
                // Worth knowing, and no reason to end a build.
                warn_of(results::set(BUILT_ON, &place.to_string()));
                return Ok(machine);
            }
            Err(failed) => failed,
        };
        let next = remaining
            .peek()
            .filter(|_| may_do_better_elsewhere(&failed.error));
        let Some(next) = next else {
            return Err(given_up(failed, &failures, place));
        };
        let reason = &failed.error.info().message;
        console::log(
            Level::Warn,
            &format!("no VM on `{place}`: {reason}; going to `{next}`"),
        );
        failures.push_str(&format!("`{place}`: {reason}; "));
        if let Some(config) = failed.config {
            // The host deletes at the end what stays here.
            warn_of(phase("purge VM", || config.purge()));
        }
    }
    unreachable!("there is one place at least, and the last is returned from")
}

/// The last failure, with those before it; its code decides the step's outcome.
fn given_up(failed: Failed, failures: &str, place: &VmSettings) -> Error {
    if failures.is_empty() || failed.error.is_final() {
        failed.error
    } else {
        let all = format!("no VM came up; {failures}`{place}`");
        failed.error.context(&all)
    }
}
