//! Guards: a platform team's components that allow, change or deny what a plugin wants, before the grants are looked at.
//!
//! A guard has a store of its own and no import but a log. Whatever it does other than answering well is a denial, unless
//! the operator says otherwise ([`OnFailure`]). What it is and how it is loaded is in [`source`], one guard in its store in
//! [`instance`], what its answers mean in [`answer`].

mod answer;
mod bindings;
mod instance;
mod source;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use clap::ValueEnum;
use plugin_manifest::Manifest;
use serde::Serialize;

pub use bindings::exports::orka::plugin::guarding::{
    Artifact, ArtifactList, ArtifactsAnswer, Deployment, ExecAnswer, ExecRequest, Input, RunFacts,
    VmAnswer, VmRequest,
};
pub(crate) use instance::Guard;
#[cfg(test)]
pub(crate) use source::list_schema;
pub(crate) use source::{GUARD_EXPORT, Written};
pub use source::{GuardFile, GuardSource, is_guard};

use crate::aot::{self, Bounds, CodeCache, Origin, Source};
use crate::backend::{Exec, FileDigest};
use crate::bindings::orka::plugin::cluster::{DeployOptions, VmSpec};
use crate::console::{Console, Level, millis};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::identity::Identity;
use crate::limits::Limits;
use crate::state::RunContext;

use answer::Verdict;
use instance::{Answer, Question};

/// The report keeps so many decisions of one guard; more are counted.
const DECISIONS_MAX: usize = 1000;

/// What a guard that does not answer well stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// A denial.
    #[default]
    Deny,
    /// Consent, with a warning. Its denials hold all the same.
    Allow,
}

/// The guards that a run is to ask.
#[derive(Default)]
pub struct Wanted {
    /// In this order.
    pub sources: Vec<GuardSource>,
    /// What one that fails stands for.
    pub on_failure: OnFailure,
    /// The operator's cache of ahead-of-time code.
    pub code_cache: Option<CodeCache>,
    /// What compiling one may take.
    pub bounds: Bounds,
}

/// What a guard decided, for the report. What it allowed as it was is counted only.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// What it was asked about: `vm`, `exec` or `artifacts`.
    pub about: &'static str,
    /// Which one: an image, a program, a directory.
    pub subject: String,
    /// What it decided.
    pub decision: Decided,
    /// Why, in the guard's words; of a failure, in the host's.
    pub reason: String,
    /// What it changed, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
}

/// How a guard decided.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decided {
    /// It wanted something else in its place.
    Changed,
    /// It did not want it.
    Denied,
    /// It trapped, broke a limit or gave a wrong answer.
    Failed,
}

/// A guard and what it did, for the report.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardRecord {
    /// Its name: its manifest's, or its file's.
    pub name: String,
    /// Its version, where it has a manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `sha256:…` of its file.
    pub digest: String,
    /// `sha256:…` of its configuration, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    /// Questions that it answered with "as it is".
    pub allowed: u64,
    /// What it decided otherwise, the first thousand.
    pub decisions: Vec<Decision>,
    /// Further decisions that are not listed.
    pub more: u64,
}

/// A guard that runs, and what it has done.
struct Member {
    guard: Arc<tokio::sync::Mutex<Guard>>,
    record: Mutex<GuardRecord>,
}

/// The guards of a run, in order.
#[derive(Default)]
pub struct Guards {
    members: Vec<Member>,
    plugin_digest: String,
    on_failure: OnFailure,
}

impl Guards {
    /// Reads, checks, starts and configures guards, from ahead-of-time code where that may be trusted.
    ///
    /// # Errors
    ///
    /// The first guard that is not what it should be.
    pub async fn start(
        wanted: &Wanted,
        engine: &Engine,
        limits: Limits,
        console: &Console,
        plugin_digest: &str,
    ) -> Result<Self, Failure> {
        let mut guards = Self::none(wanted, plugin_digest);
        for source in &wanted.sources {
            let member = Member::start(source, wanted, engine, limits, console).await?;
            guards.members.push(member);
        }
        Ok(guards)
    }

    /// As [`Guards::start`], but tries them all.
    ///
    /// # Errors
    ///
    /// Every guard that is not what it should be.
    pub async fn start_all(
        wanted: &Wanted,
        engine: &Engine,
        limits: Limits,
        console: &Console,
        plugin_digest: &str,
    ) -> Result<Self, Vec<Failure>> {
        let mut guards = Self::none(wanted, plugin_digest);
        let mut failures = Vec::new();
        for source in &wanted.sources {
            match Member::start(source, wanted, engine, limits, console).await {
                Ok(member) => guards.members.push(member),
                Err(failure) => failures.push(failure),
            }
        }
        if failures.is_empty() {
            Ok(guards)
        } else {
            Err(failures)
        }
    }

    fn none(wanted: &Wanted, plugin_digest: &str) -> Self {
        Self {
            members: Vec::new(),
            plugin_digest: plugin_digest.to_owned(),
            on_failure: wanted.on_failure,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What the guards are and did.
    pub fn records(&self) -> Vec<GuardRecord> {
        self.members.iter().map(|it| it.record().clone()).collect()
    }

    /// Asks about the shape of a VM whose config is to be made; leaves in `spec` what the guards want.
    ///
    /// # Errors
    ///
    /// `denied`, naming the guard and its reason.
    pub async fn config(&self, run: &RunContext, spec: &mut VmSpec) -> Result<(), Failure> {
        if self.is_empty() {
            return Ok(());
        }
        let wanted = answer::vm_request(spec, None);
        let request = self.vm(&self.facts(run), &run.console, wanted).await?;
        answer::apply_spec(request, spec);
        Ok(())
    }

    /// As [`Guards::config`] for a config that others have made: it cannot be changed any more.
    ///
    /// # Errors
    ///
    /// As [`Guards::config`], also where a guard wants a change.
    pub async fn settled_config(&self, run: &RunContext, spec: &VmSpec) -> Result<(), Failure> {
        let mut wanted = spec.clone();
        self.config(run, &mut wanted).await?;
        let (before, after) = (
            answer::vm_request(spec, None),
            answer::vm_request(&wanted, None),
        );
        if before == after {
            return Ok(());
        }
        Err(denied(format!(
            "a guard wants another VM than the config that another Task made: {}",
            answer::vm_changes(&before, &after).join(", ")
        )))
    }

    /// Asks about a deployment of a config that is made; leaves in `options` what the guards want.
    ///
    /// # Errors
    ///
    /// As [`Guards::config`].
    pub async fn deployment(
        &self,
        run: &RunContext,
        spec: &VmSpec,
        options: &mut DeployOptions,
    ) -> Result<(), Failure> {
        if self.is_empty() {
            return Ok(());
        }
        let wanted = answer::vm_request(spec, Some(options));
        let request = self.vm(&self.facts(run), &run.console, wanted).await?;
        answer::apply_deployment(request, options);
        Ok(())
    }

    /// As [`Guards::config`] before there is a run.
    ///
    /// # Errors
    ///
    /// As [`Guards::config`].
    pub async fn rehearse(
        &self,
        facts: &RunFacts,
        console: &Console,
        spec: &mut VmSpec,
    ) -> Result<(), Failure> {
        let request = self
            .vm(facts, console, answer::vm_request(spec, None))
            .await?;
        answer::apply_spec(request, spec);
        Ok(())
    }

    async fn vm(
        &self,
        facts: &RunFacts,
        console: &Console,
        mut request: VmRequest,
    ) -> Result<VmRequest, Failure> {
        for member in &self.members {
            let subject = format!("image `{}`", request.image);
            let question = Question::Vm(request.clone());
            let given = self.ask(facts, member, question).await;
            let verdict = answer::judge_vm(&request, given);
            if let Some(changed) = self.settle(console, member, "vm", subject, verdict)? {
                request = changed;
            }
        }
        Ok(request)
    }

    /// Asks about a program; leaves in `exec` what the guards want.
    ///
    /// # Errors
    ///
    /// As [`Guards::config`].
    pub async fn exec(
        &self,
        run: &RunContext,
        vm: &str,
        exec: &mut Exec,
        input: Input,
    ) -> Result<(), Failure> {
        if self.is_empty() {
            return Ok(());
        }
        let shown = answer::exec_request(vm, exec, input, run.console.masker());
        let mut request = shown.clone();
        for member in &self.members {
            let subject = format!("program `{}`", request.program);
            let question = Question::Exec(request.clone());
            let given = self.ask(&self.facts(run), member, question).await;
            let verdict = answer::judge_exec(&request, given);
            if let Some(changed) = self.settle(&run.console, member, "exec", subject, verdict)? {
                request = changed;
            }
        }
        answer::apply_exec(&shown, request, exec);
        Ok(())
    }

    /// Asks about files that came back; gives the positions of those to leave out.
    ///
    /// # Errors
    ///
    /// As [`Guards::config`].
    pub async fn artifacts(
        &self,
        run: &RunContext,
        source: &str,
        target: &str,
        files: &[FileDigest],
    ) -> Result<Vec<usize>, Failure> {
        let shown: Vec<Artifact> = files.iter().map(answer::artifact).collect();
        let mut left_out = BTreeSet::new();
        for member in &self.members {
            let files = shown.iter().filter(|file| !left_out.contains(&file.path));
            let list = ArtifactList {
                source: source.to_owned(),
                target: target.to_owned(),
                files: files.cloned().collect(),
            };
            let question = Question::Artifacts(list.clone());
            let given = self.ask(&self.facts(run), member, question).await;
            let verdict = answer::judge_artifacts(&list, given);
            let subject = format!("{} files of `{source}`", list.files.len());
            if let Some(fewer) = self.settle(&run.console, member, "artifacts", subject, verdict)? {
                left_out.extend(fewer);
            }
        }
        let is_left_out = |at: &usize| left_out.contains(&shown[*at].path);
        Ok((0..shown.len()).filter(is_left_out).collect())
    }

    /// One question to one guard. It is answered also if nobody waits any more, so that the guard stays usable.
    async fn ask(
        &self,
        facts: &RunFacts,
        member: &Member,
        question: Question,
    ) -> Result<Answer, String> {
        let guard = Arc::clone(&member.guard);
        let facts = facts.clone();
        let asked = tokio::spawn(async move {
            let mut guard = guard.lock_owned().await;
            guard.answer(&facts, &question).await
        });
        asked
            .await
            .unwrap_or_else(|_| Err("the host failed while it was asked".to_owned()))
    }

    /// Tells and records a verdict. Gives what the guard wants instead, if it wants a change.
    fn settle<T>(
        &self,
        console: &Console,
        member: &Member,
        about: &'static str,
        subject: String,
        verdict: Verdict<T>,
    ) -> Result<Option<T>, Failure> {
        let masker = console.masker();
        let mut record = member.record();
        let name = record.name.clone();
        let (decided, reason, changes, changed) = match verdict {
            Verdict::Allowed => {
                record.allowed += 1;
                return Ok(None);
            }
            Verdict::Changed {
                to,
                reason,
                changes,
            } => (Decided::Changed, reason, changes, Some(to)),
            Verdict::Denied(reason) => (Decided::Denied, reason, Vec::new(), None),
            Verdict::Failed(reason) => (Decided::Failed, reason, Vec::new(), None),
        };
        let reason = answer::shortened(&masker.mask(&reason));
        let changes: Vec<String> = changes.iter().map(|it| masker.mask(it)).collect();
        let words = match decided {
            Decided::Changed => format!(
                "guard `{name}` changed {subject}: {}; {reason}",
                changes.join(", ")
            ),
            Decided::Denied => format!("guard `{name}` denied {subject}: {reason}"),
            Decided::Failed => {
                format!("guard `{name}` failed when it was asked about {subject}: {reason}")
            }
        };
        record.note(Decision {
            about,
            subject: masker.mask(&subject),
            decision: decided,
            reason,
            changes,
        });
        drop(record);
        match (decided, self.on_failure) {
            (Decided::Changed, _) => {
                console.info(&words);
                Ok(changed)
            }
            (Decided::Failed, OnFailure::Allow) => {
                console.warn(&format!(
                    "{words}; passed over, as `--guard-failure allow` says"
                ));
                Ok(None)
            }
            (Decided::Failed, OnFailure::Deny) => Err(Failure::denied("guard.failed", words)
                .with_hint(
                    "a guard that fails denies; tell its author, or leave it out of `--guard`",
                )),
            (Decided::Denied, _) => Err(denied(words)),
        }
    }

    fn facts(&self, run: &RunContext) -> RunFacts {
        let (vms_at_once, vms_total) = run.ledger.vms();
        RunFacts {
            orka_namespace: run.facts.get().and_then(|facts| facts.namespace.clone()),
            vms_at_once,
            vms_total,
            elapsed_ms: millis(run.started.elapsed()),
            ..RunFacts::before_it_begins(
                &run.manifest,
                &self.plugin_digest,
                &run.identity,
                &run.owner,
            )
        }
    }
}

impl RunFacts {
    /// What a guard is told of a run that has not begun.
    pub(crate) fn before_it_begins(
        manifest: &Manifest,
        digest: &str,
        identity: &Identity,
        owner: &[(String, String)],
    ) -> Self {
        let uid = |name: &str| {
            let found = owner.iter().find(|(known, _)| known == name);
            found.map(|(_, uid)| uid.clone())
        };
        Self {
            plugin_name: manifest.name.clone(),
            plugin_version: manifest.version.to_string(),
            plugin_digest: digest.to_owned(),
            orka_namespace: None,
            run_uid: uid("run"),
            task_uid: uid("task"),
            pod_uid: uid("pod"),
            name_prefix: identity.run_prefix(),
            vms_at_once: 0,
            vms_total: 0,
            elapsed_ms: 0,
        }
    }
}

impl Member {
    async fn start(
        source: &GuardSource,
        wanted: &Wanted,
        engine: &Engine,
        limits: Limits,
        console: &Console,
    ) -> Result<Self, Failure> {
        let file = source.load()?;
        let record = GuardRecord {
            name: file.name.clone(),
            version: file.version.clone(),
            digest: file.digest.clone(),
            config_digest: source.config_digest(),
            allowed: 0,
            decisions: Vec::new(),
            more: 0,
        };
        console.info(&format!(
            "guard `{}`{} ({}){}",
            record.name,
            record
                .version
                .as_deref()
                .map_or_else(String::new, |version| format!(" {version}")),
            record.digest,
            source
                .config_path()
                .map_or_else(String::new, |path| format!(" with `{}`", path.display()))
        ));
        let code = Source {
            digest: &file.digest,
            path: &file.path,
            bundled: file.bundled,
        };
        let compiling = aot::tell_compiling(console, "guard", &file.name);
        let made = aot::made(
            engine,
            code,
            wanted.code_cache.as_ref(),
            || file.compile(engine, &wanted.bounds),
            |component| file.link(engine, component),
        )?;
        drop(compiling);
        made.warnings.iter().for_each(|it| console.warn(it));
        console.log(Level::Debug, &origin(&file.name, &made.origin));
        let guard = Guard::start(&file, made.linked, limits, console, source.config_text()).await?;
        Ok(Self {
            guard: Arc::new(tokio::sync::Mutex::new(guard)),
            record: Mutex::new(record),
        })
    }

    fn record(&self) -> std::sync::MutexGuard<'_, GuardRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GuardRecord {
    fn note(&mut self, decision: Decision) {
        if self.decisions.len() < DECISIONS_MAX {
            self.decisions.push(decision);
        } else {
            self.more += 1;
        }
    }
}

/// Where a guard's code came from, for the log.
fn origin(guard: &str, origin: &Origin) -> String {
    match origin {
        Origin::Compiled(took) => format!("guard `{guard}` was compiled in {} ms", millis(*took)),
        Origin::Program(path) | Origin::Cache(path) => {
            format!("the code of guard `{guard}` is from `{}`", path.display())
        }
    }
}

fn denied(message: String) -> Failure {
    Failure::denied("guard.denied", message)
        .with_hint("ask whoever keeps the guard; the report lists what it decided")
}
