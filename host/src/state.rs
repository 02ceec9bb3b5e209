//! What a running plugin's host functions share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use plugin_manifest::{Manifest, ParameterValue};
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wasmtime::component::{ResourceTable, ResourceTableError};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::artifacts::Artifacts;
use crate::backend::{Cluster, Guests};
use crate::bindings::orka::plugin::cluster::{Facts, SignOut, VmSpec};
use crate::bindings::orka::plugin::types::Exit;
use crate::config::Workspace;
use crate::console::Console;
use crate::failure::{Class, Failure};
use crate::grants::Grants;
use crate::guard::Guards;
#[cfg(feature = "kubernetes")]
use crate::hand_over::HandOver;
use crate::identity::Identity;
use crate::interference::Interference;
use crate::journal::{End, Journal};
use crate::ledger::Ledger;
use crate::limits::{Breach, Limiter, Limits};
use crate::results::Results;
use crate::session::{Tidying, Witness};
use crate::stop::{Grace, POLITE_STOP, Programs};

pub use crate::stop::Stop;

/// Why a host function does not return a value: a failure the guest gets told, or the end of the guest.
#[derive(Debug)]
pub enum CallError {
    /// Becomes the contract's `error`.
    Failure(Box<Failure>),
    /// Ends the guest.
    Trap(wasmtime::Error),
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        Self::Failure(Box::new(failure))
    }
}

impl From<ResourceTableError> for CallError {
    fn from(error: ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

/// No run lasts longer; far above every TaskRun's timeout, and far from where time overflows.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Measures how long the guest itself computes: not while a host call does its work. Real time also where the run's
/// time is virtual.
#[derive(Debug, Default)]
pub struct CpuMeter(Mutex<Computed>);

#[derive(Debug, Default)]
struct Computed {
    total: Duration,
    since: Option<std::time::Instant>,
}

impl CpuMeter {
    /// The guest runs from here on.
    pub fn resume(&self) {
        self.state().since = Some(std::time::Instant::now());
    }

    /// The guest does not run from here on. Gives the sum so far.
    pub fn pause(&self) -> Duration {
        let mut state = self.state();
        if let Some(since) = state.since.take() {
            state.total += since.elapsed();
        }
        state.total
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Computed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A failure and the words in which the guest was told of it.
struct Issued {
    failure: Failure,
    message: String,
}

/// A host key that was accepted, for the report.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SeenHostKey {
    /// The VM's name, or the jump host's address.
    pub host: String,
    /// The key, as `SHA256:…`.
    pub fingerprint: String,
    /// How it was verified: `known-hosts`, `authority`, `pinned`, `first-use` or `unchecked`.
    pub verified: &'static str,
}

/// One run: everything that outlives the guest.
pub struct RunContext {
    /// The cluster.
    pub cluster: Arc<dyn Cluster>,
    /// Its guests.
    pub guests: Arc<dyn Guests>,
    /// The step's log.
    pub console: Console,
    /// What the run owes.
    pub ledger: Ledger,
    /// What the plugin may do.
    pub grants: Grants,
    /// Who is asked before that.
    pub guards: Guards,
    /// The plugin's parameters, checked.
    pub params: BTreeMap<String, ParameterValue>,
    /// The script given as a file.
    pub script: Option<Vec<u8>>,
    /// What the plugin says of itself.
    pub manifest: Manifest,
    /// The workspace.
    pub workspace: Option<Workspace>,
    /// Tekton results.
    pub results: Results,
    /// Secrets by name.
    pub secrets: BTreeMap<String, SecretString>,
    /// Names.
    pub identity: Identity,
    /// Whose the run's VMs are, for their metadata.
    pub owner: Vec<(String, String)>,
    /// The sandbox's limits.
    pub limits: Limits,
    /// When the run began.
    pub started: Instant,
    /// The same on the calendar.
    pub started_at: jiff::Timestamp,
    /// The run's own deadline.
    pub deadline: Instant,
    /// Whether it is being stopped.
    pub stop: Stop,
    /// The last host calls.
    pub journal: Journal,
    /// Random numbers for the guest.
    pub random: Mutex<Box<dyn rand::RngCore + Send>>,
    /// What is known of the cluster, once signed in.
    pub facts: tokio::sync::OnceCell<Facts>,
    /// How the login ended, once it did.
    pub signed_out: OnceLock<SignOut>,
    /// Host keys that were accepted, each once.
    host_keys: Mutex<Vec<SeenHostKey>>,
    /// Artifacts that came back.
    pub artifacts: Mutex<Artifacts>,
    /// What the run has fetched from its VMs so far: bytes and number of files.
    pub fetched: Mutex<(u64, u64)>,
    /// How the last program that the guest waited for ended.
    pub last_exit: Mutex<Option<Exit>>,
    /// Time the guest itself computed.
    pub cpu: CpuMeter,
    /// Parameters that the guest asked for and its manifest does not have.
    pub undeclared: Mutex<BTreeSet<String>>,
    /// What a guest says before it traps or fails.
    pub last_words: Mutex<Option<String>>,
    /// Programs that run in its VMs.
    pub programs: Programs,
    /// What the guest gets once the run is over.
    grace: Grace,
    /// Whether the guest was told that the run is over.
    is_told: AtomicBool,
    /// What the guest was told last under each code.
    issued: Mutex<HashMap<String, Issued>>,
    /// Work that goes on beside the guest: deployments, output of commands.
    tasks: Mutex<JoinSet<()>>,
    /// What a test does to host calls.
    interference: OnceLock<Arc<Interference>>,
    /// Who records the run, or plays it again.
    witness: OnceLock<Arc<dyn Witness>>,
    /// The hand-over of the older Tasks, where it is asked for.
    #[cfg(feature = "kubernetes")]
    hand_over: OnceLock<HandOver>,
}

/// The parts of a [`RunContext`] that a caller decides.
pub struct RunParts {
    /// See [`RunContext`].
    pub cluster: Arc<dyn Cluster>,
    /// See [`RunContext`].
    pub guests: Arc<dyn Guests>,
    /// See [`RunContext`].
    pub console: Console,
    /// See [`RunContext`].
    pub ledger: Ledger,
    /// See [`RunContext`].
    pub grants: Grants,
    /// See [`RunContext`].
    pub guards: Guards,
    /// See [`RunContext`].
    pub params: BTreeMap<String, ParameterValue>,
    /// See [`RunContext`].
    pub script: Option<Vec<u8>>,
    /// See [`RunContext`].
    pub manifest: Manifest,
    /// See [`RunContext`].
    pub workspace: Option<Workspace>,
    /// See [`RunContext`].
    pub results: Results,
    /// See [`RunContext`].
    pub secrets: BTreeMap<String, SecretString>,
    /// See [`RunContext`].
    pub identity: Identity,
    /// See [`RunContext`].
    pub owner: Vec<(String, String)>,
    /// See [`RunContext`].
    pub limits: Limits,
    /// From now to the run's own deadline.
    pub timeout: Duration,
    /// See [`RunContext`].
    pub stop: Stop,
    /// See [`RunContext`].
    pub random: Box<dyn rand::RngCore + Send>,
}

impl RunContext {
    /// What the guest said last, if anything.
    pub fn last_words(&self) -> Option<String> {
        let words = self.last_words.lock();
        words.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets a VM of this shape through, as [`Grants::admit_vm`].
    ///
    /// # Errors
    ///
    /// `denied`, naming the ceiling.
    pub fn admit_vm(&self, spec: &mut VmSpec) -> Result<(), Failure> {
        // What stores VM configs is Orka 2.
        self.grants.admit_vm(spec, self.cluster.stores_configs())
    }

    /// A run that begins now.
    pub fn new(parts: RunParts) -> Arc<Self> {
        Self::began_at(parts, jiff::Timestamp::now())
    }

    /// As [`RunContext::new`], where the calendar says something else.
    pub fn began_at(parts: RunParts, started_at: jiff::Timestamp) -> Arc<Self> {
        let started = Instant::now();
        let results = if parts.grants.may_fetch() {
            parts.results.with_artifacts()
        } else {
            parts.results
        };
        Arc::new(Self {
            cluster: parts.cluster,
            guests: parts.guests,
            console: parts.console,
            ledger: parts.ledger,
            grants: parts.grants,
            guards: parts.guards,
            params: parts.params,
            script: parts.script,
            manifest: parts.manifest,
            workspace: parts.workspace,
            results,
            secrets: parts.secrets,
            identity: parts.identity,
            owner: parts.owner,
            limits: parts.limits,
            started,
            started_at,
            deadline: started
                .checked_add(parts.timeout)
                .unwrap_or(started + TIMEOUT_MAX),
            stop: parts.stop,
            journal: Journal::default(),
            random: Mutex::new(parts.random),
            facts: tokio::sync::OnceCell::new(),
            signed_out: OnceLock::new(),
            host_keys: Mutex::default(),
            artifacts: Mutex::default(),
            fetched: Mutex::default(),
            last_exit: Mutex::default(),
            cpu: CpuMeter::default(),
            undeclared: Mutex::default(),
            last_words: Mutex::default(),
            programs: Programs::default(),
            grace: Grace::default(),
            is_told: AtomicBool::new(false),
            issued: Mutex::default(),
            tasks: Mutex::default(),
            interference: OnceLock::new(),
            witness: OnceLock::new(),
            #[cfg(feature = "kubernetes")]
            hand_over: OnceLock::new(),
        })
    }

    /// Lets a recorder or a replay know what the plugin does. The first one stays.
    pub fn witnessed_by(&self, witness: Arc<dyn Witness>) {
        let _ = self.witness.set(witness);
    }

    /// Hands over as the older Tasks did, besides.
    #[cfg(feature = "kubernetes")]
    pub fn hand_over_by(&self, hand_over: HandOver) {
        let _ = self.hand_over.set(hand_over);
    }

    /// The hand-over of the older Tasks, where it is asked for.
    #[cfg(feature = "kubernetes")]
    pub fn hand_over(&self) -> Option<&HandOver> {
        self.hand_over.get()
    }

    /// Notes a file of the workspace that the plugin read, where somebody takes notes.
    pub fn note_read(&self, path: &str, contents: &[u8]) {
        if let Some(witness) = self.witness.get() {
            witness.read(path, contents);
        }
    }

    /// Notes that the plugin's part is over, where somebody takes notes.
    pub fn tell_plugin_ended(&self) {
        if let Some(witness) = self.witness.get() {
            witness.plugin_ended();
        }
    }

    /// Does what tidies up at the plugin's request, and has it noted where somebody takes notes.
    ///
    /// # Errors
    ///
    /// What the work failed with, or had failed with in the session that is played again.
    pub async fn tidy<T>(
        &self,
        what: Tidying<'_>,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Some(witness) = self.witness.get() else {
            return work.await;
        };
        let number = witness.tidies(what).await?;
        let result = work.await;
        witness.tidied(number, result.as_ref().err());
        result
    }

    /// Whether it is played in a test, whose limits stand in a scenario.
    pub fn is_played(&self) -> bool {
        self.interference.get().is_some()
    }

    /// Lets a test note this run's host calls and strike at one. The first one stays.
    pub fn interfere(&self, interference: Arc<Interference>) {
        let _ = self.interference.set(interference);
    }

    /// Keeps a host key for the report.
    pub fn note_host_key(&self, key: SeenHostKey) {
        let mut seen = self
            .host_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !seen.contains(&key) {
            seen.push(key);
        }
    }

    /// The host keys that were accepted.
    pub fn host_keys(&self) -> Vec<SeenHostKey> {
        self.host_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Does the work of a host call within the run's life: ends early when the run is stopped or its deadline passes.
    ///
    /// # Errors
    ///
    /// What the work failed with, `cancelled`, the deadline, or a trap for too many calls.
    pub async fn call<T>(
        &self,
        function: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, CallError> {
        self.recorded(function, self.within_the_run(work)).await
    }

    /// As [`RunContext::call`] for work that brings evidence home. Told once that the run is over, the guest may ask for
    /// it again, and it is done as far as the guest's grace reaches.
    ///
    /// # Errors
    ///
    /// As [`RunContext::call`].
    pub async fn call_in_grace<T>(
        &self,
        function: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, CallError> {
        if !self.is_told.load(Ordering::Relaxed) {
            return self.call(function, work).await;
        }
        let within_the_grace = async {
            let _fetching = self.grace.fetch();
            tokio::select! {
                biased;
                () = self.grace.evidence_ends(&self.stop, self.deadline) => Err(self.over().await),
                result = work => result,
            }
        };
        self.recorded(function, within_the_grace).await
    }

    async fn recorded<T>(
        &self,
        function: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, CallError> {
        let number = self.count_call(function)?;
        let began = Instant::now();
        self.cpu.pause();
        let result = match self.struck(number, function) {
            Some(failure) => Err(failure),
            None => self.kept(number, work.await),
        };
        self.cpu.resume();
        self.note_told(result.as_ref().err());
        let code = result.as_ref().err().map(|failure| &*failure.code);
        tracing::debug!(function, elapsed_ms = crate::console::millis(began.elapsed()), error.type = code, "host call");
        self.journal
            .end(function, began.elapsed(), End::of(&result));
        result.map_err(CallError::from)
    }

    /// As [`RunContext::call`] for work that does not wait.
    ///
    /// # Errors
    ///
    /// What the work failed with, or a trap for too many calls.
    pub fn call_now<T>(
        &self,
        function: &'static str,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, CallError> {
        let number = self.count_call(function)?;
        let result = match self.struck(number, function) {
            Some(failure) => Err(failure),
            None => self.kept(number, work()),
        };
        self.note_told(result.as_ref().err());
        self.journal.end(function, Duration::ZERO, End::of(&result));
        result.map_err(CallError::from)
    }

    /// Lets work take as long as the run lasts.
    ///
    /// # Errors
    ///
    /// What the work failed with, `cancelled`, or the deadline.
    pub async fn within_the_run<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            failure = self.over() => Err(failure),
            result = work => result,
        }
    }

    /// Waits until the run is stopped or its deadline passes; the failure that says which.
    async fn over(&self) -> Failure {
        tokio::select! {
            biased;
            () = self.stop.stopped() => Failure::cancelled(),
            () = sleep_until(self.deadline) => self.grants.deadline_passed(),
        }
    }

    /// Refuses what must not begin any more once the run is over.
    ///
    /// # Errors
    ///
    /// `cancelled`, or the deadline.
    pub fn still_runs(&self) -> Result<(), Failure> {
        if self.stop.signal().is_some() {
            return Err(Failure::cancelled());
        }
        if Instant::now() >= self.deadline {
            return Err(self.grants.deadline_passed());
        }
        Ok(())
    }

    /// Returns once the guest has had its time to say why, after a signal or the deadline. Meanwhile asks the programs in
    /// its VMs to stop, and waits for nobody who reads the log.
    pub async fn patience_ends(&self) {
        let politely = async {
            self.over().await;
            self.console.stop_waiting();
            self.stop_programs().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.grace.ends(&self.stop, self.deadline) => {}
            () = politely => {}
        }
    }

    /// Asks the programs in the run's VMs to stop, and gives them a moment for it; none after a second signal.
    pub async fn stop_programs(&self) {
        let from = self.stop.stopped_at().unwrap_or_else(Instant::now);
        tokio::select! {
            () = self.programs.stop(from + POLITE_STOP) => {}
            () = self.stop.hurried() => {}
        }
    }

    fn note_told(&self, failure: Option<&Failure>) {
        let over = [Class::Cancelled, Class::Deadline];
        if failure.is_some_and(|failure| over.contains(&failure.class)) {
            self.is_told.store(true, Ordering::Relaxed);
        }
    }

    fn count_call(&self, function: &'static str) -> Result<u64, CallError> {
        let number = self.journal.begin(function);
        if number > self.limits.host_calls {
            self.journal.refuse(function);
            return Err(CallError::Trap(
                BreachError(Breach::HostCalls(self.limits.host_calls)).into(),
            ));
        }
        Ok(number)
    }

    /// What a test lets a call fail with before it does its work.
    fn struck(&self, number: u64, function: &'static str) -> Option<Failure> {
        self.interference
            .get()?
            .begins(number, function, &self.stop)
    }

    /// What a call came to, unless a test lets it fail all the same.
    fn kept<T>(&self, number: u64, result: Result<T, Failure>) -> Result<T, Failure> {
        match self.interference.get().and_then(|it| it.ends(number)) {
            Some(failure) => result.and(Err(failure)),
            None => result,
        }
    }

    /// Notes how a program ended that the guest waited for: the last one's exit is what is known of the script.
    pub fn note_exit(&self, exit: &Exit) {
        // One that ends when it is asked to has not run to an end.
        if self.is_told.load(Ordering::Relaxed) {
            return;
        }
        *self
            .last_exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(exit.clone());
        // Known now, so written now; the end of the run tries again and tells if it cannot be written.
        if let Err(failure) = self
            .results
            .set_own("exit-status", &crate::outcome::status_of(exit).to_string())
        {
            tracing::debug!(error = %failure, "the result `exit-status` cannot be written");
        }
    }

    /// Starts work beside the guest; it ends with the run at the latest.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // What has ended makes room, so that a long run does not collect it.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    /// Ends all work beside the guest.
    pub async fn stop_tasks(&self) {
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }

    /// Notes what the guest was told, so that the same failure handed back decides the outcome.
    pub fn issued(&self, failure: Failure, message: &str) {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.insert(
            failure.code.to_string(),
            Issued {
                failure,
                message: message.to_owned(),
            },
        );
    }

    /// Whose failure a code is that the guest was told; none if it never was.
    pub fn class_of(&self, code: &str) -> Option<Class> {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.get(code).map(|issued| issued.failure.class)
    }

    /// The failure behind an error that the guest hands back: with its causes apart if the guest left the message alone,
    /// with the guest's message otherwise. None if the guest was never told this code.
    pub fn handed_back(&self, code: &str, message: &str) -> Option<Failure> {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let Issued {
            failure,
            message: told,
        } = issued.get(code)?;
        let mut failure = failure.clone();
        if let Some(context) = message.strip_suffix(told.as_str()) {
            failure.message = format!("{context}{}", failure.message);
            return Some(failure);
        }
        Some(failure.reworded(message))
    }

    /// How long until the run's own deadline.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The earlier of the run's deadline and `limit` from now.
    pub fn deadline_within(&self, limit: Duration) -> Instant {
        Instant::now()
            .checked_add(limit)
            .map_or(self.deadline, |limit| limit.min(self.deadline))
    }

    /// The workspace.
    ///
    /// # Errors
    ///
    /// `not-found` if the run has none.
    pub fn workspace(&self) -> Result<&Workspace, Failure> {
        self.workspace.as_ref().ok_or_else(|| {
            Failure::new(
                crate::failure::Kind::NotFound,
                Class::Config,
                "run.no-workspace",
                "this run has no workspace",
            )
            .with_hint("give a directory with `--workspace`")
        })
    }
}

/// A breach that a host function found.
#[derive(Debug, thiserror::Error)]
#[error("limit exceeded")]
pub struct BreachError(pub Breach);

/// The `T` of the guest's store.
pub struct HostState {
    /// The run.
    pub run: Arc<RunContext>,
    /// What the guest's handles stand for.
    pub table: ResourceTable,
    /// What the guest takes.
    pub limiter: Limiter,
    /// WASI, inert.
    pub wasi: WasiCtx,
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl HostState {
    /// Keeps what a new handle stands for.
    ///
    /// # Errors
    ///
    /// A trap if the guest keeps too many.
    pub fn keep<T: Send + 'static>(
        &mut self,
        thing: T,
    ) -> Result<wasmtime::component::Resource<T>, CallError> {
        match self.table.push(thing) {
            Err(ResourceTableError::Full) => Err(CallError::Trap(
                self.limiter
                    .broken(Breach::Handles(self.run.limits.handles)),
            )),
            other => Ok(other?),
        }
    }
}
