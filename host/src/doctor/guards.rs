//! What the operator's guards, and the grants after them, make of the VM that the parameters ask for.
//!
//! They are started, configured and asked about the VM as a run would. What they say of programs and of files shows only in
//! a run.

use super::check::{Check, Checks, Stage, Subject};
use crate::bindings::orka::plugin::cluster::VmSpec;
use crate::console::Console;
use crate::failure::Failure;
use crate::grants::Ceilings;
use crate::guard::{Decided, GuardRecord, Guards, RunFacts};

/// The VM, and who has a say in it.
#[derive(Default)]
pub(super) struct Judges {
    /// The guards that are to be asked, started; none where there are none or one of them is unusable.
    pub(super) guards: Option<Guards>,
    /// What guards are told of the run; the namespace is known later.
    pub(super) facts: Option<RunFacts>,
    /// The VMs, one for each image, as far as the parameters tell.
    pub(super) specs: Vec<VmSpec>,
    /// The ceilings, and what was found of the grants besides.
    pub(super) granted: Option<(Ceilings, Check)>,
}

impl Judges {
    /// Asks them in the order of a run, and gives the VMs that are left to be deployed.
    pub(super) async fn ask(
        self,
        namespace: Option<String>,
        is_orka2: bool,
        console: &Console,
        checks: &mut Checks,
    ) -> Vec<VmSpec> {
        let mut specs = self.specs;
        if let Some(guards) = self.guards {
            let (asked, unasked) = match self.facts {
                None => (Ok(()), "the plugin is not loaded that it would judge"),
                Some(_) if specs.is_empty() => (Ok(()), "no image is named to ask it about"),
                Some(mut facts) => {
                    facts.orka_namespace = namespace;
                    (rehearse(&guards, &facts, console, &mut specs).await, "")
                }
            };
            checks.add(guards_row(asked, &guards.records(), unasked));
        }
        if let Some((ceilings, check)) = self.granted {
            let admitted = specs.iter_mut().try_for_each(|spec| {
                let (cores, memory) = (&mut spec.cpu_cores, &mut spec.memory_mib);
                ceilings.admit(&spec.image, cores, memory, is_orka2)
            });
            checks.add(match admitted {
                Ok(()) => check,
                Err(failure) => Check::failed(Subject::Grants, Stage::Deploy, vec![failure]),
            });
        }
        specs
    }
}

async fn rehearse(
    guards: &Guards,
    facts: &RunFacts,
    console: &Console,
    specs: &mut [VmSpec],
) -> Result<(), Failure> {
    for spec in specs {
        guards.rehearse(facts, console, spec).await?;
    }
    Ok(())
}

fn guards_row(asked: Result<(), Failure>, records: &[GuardRecord], unasked: &str) -> Check {
    if let Err(failure) = asked {
        return Check::failed(Subject::Guards, Stage::Deploy, vec![failure]);
    }
    let texts = records.iter().map(|record| told(record, unasked));
    let failed = |record: &&GuardRecord| {
        let mut decisions = record.decisions.iter();
        decisions.any(|it| it.decision == Decided::Failed)
    };
    let hint = records.iter().find(failed).map(|record| {
        format!(
            "tell the author of guard `{}`; without `--guard-failure allow` it would end the run",
            record.name
        )
    });
    Check::found(Subject::Guards, texts, hint)
}

fn told(record: &GuardRecord, unasked: &str) -> String {
    let version = record.version.iter();
    let version: String = version.map(|version| format!(" {version}")).collect();
    let config = if record.config_digest.is_some() {
        " and takes its configuration"
    } else {
        ""
    };
    let decisions = record.decisions.iter();
    let decided = decisions.map(|decision| match decision.decision {
        Decided::Changed => format!(
            "it would change {}: {}; {}",
            decision.subject,
            decision.changes.join(", "),
            decision.reason
        ),
        Decided::Denied | Decided::Failed => format!(
            "it failed when it was asked about {}, and would be passed over: {}",
            decision.subject, decision.reason
        ),
    });
    let decided: Vec<String> = decided.collect();
    let says = match decided.is_empty() {
        false => decided.join("; "),
        true if unasked.is_empty() => "it allows the VM as it is".to_owned(),
        true => unasked.to_owned(),
    };
    format!(
        "`{}`{version} loads{config} ({}); {says}",
        record.name, record.digest
    )
}
