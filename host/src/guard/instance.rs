//! One guard in its store.

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Store, UpdateDeadline};

use super::bindings::orka::plugin::guard_log;
use super::bindings::{Guard as GuardWorld, GuardPre};
use super::source::refused;
use super::{
    ArtifactList, ArtifactsAnswer, ExecAnswer, ExecRequest, GuardFile, RunFacts, VmAnswer,
    VmRequest,
};
use crate::aot::{self, Bounds, Trouble};
use crate::console::{Console, Level};
use crate::engine::{Component, Engine};
use crate::failure::Failure;
use crate::fit;
use crate::limits::{Breach, Limiter, Limits, SetIn, Whose};
use crate::state::{BreachError, CpuMeter};
use crate::trap;

/// A line longer than this is cut: a log is for people.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// What a guard is asked.
pub(super) enum Question {
    Vm(VmRequest),
    Exec(ExecRequest),
    Artifacts(ArtifactList),
}

/// What it answers.
pub(super) enum Answer {
    Vm(VmAnswer),
    Exec(ExecAnswer),
    Artifacts(ArtifactsAnswer),
}

/// The `T` of a guard's store.
struct GuardState {
    name: String,
    console: Console,
    limiter: Limiter,
    cpu: CpuMeter,
    lines: u64,
}

/// A guard that was started and configured.
pub(crate) struct Guard {
    store: Store<GuardState>,
    instance: GuardWorld,
    limits: Limits,
    /// Why it cannot be asked any more: a component that trapped is not entered again.
    broken: Option<String>,
}

/// A guard's code, linked.
#[derive(Clone)]
pub(crate) struct Linked {
    engine: Engine,
    guard: GuardPre<GuardState>,
}

impl GuardFile {
    /// Compiles the guard.
    pub(crate) fn compile(&self, engine: &Engine, bounds: &Bounds) -> Result<Component, Failure> {
        aot::component(engine, &self.bytes, bounds).map_err(|trouble| match trouble {
            Trouble::Stopped => Failure::cancelled(),
            trouble => refused(&self.shown, &format!("it cannot be compiled: {trouble}")),
        })
    }

    /// Links the guard's code, wherever that is from.
    pub(crate) fn link(&self, engine: &Engine, component: &Component) -> Result<Linked, Failure> {
        let mut linker = Linker::new(engine);
        guard_log::add_to_linker::<GuardState, HasSelf<GuardState>>(&mut linker, |state| state)
            .map_err(|error| Failure::internal(format!("the log cannot be linked: {error:#}")))?;
        let guard = linker
            .instantiate_pre(component)
            .and_then(GuardPre::new)
            .map_err(|error| {
                let mismatch = fit::mismatch(&self.bytes, &error);
                let (name, detail) = mismatch.detail;
                let problem = format!("it does not fit this host: {}", mismatch.what);
                refused(&self.shown, &problem).with_detail(name, detail)
            })?;
        Ok(Linked {
            engine: engine.clone(),
            guard,
        })
    }

    /// The guard's native code, for use later.
    ///
    /// # Errors
    ///
    /// A component that is not valid or does not fit this host.
    pub fn code(&self, engine: &Engine) -> Result<Vec<u8>, Failure> {
        let component = self.compile(engine, &Bounds::default())?;
        self.link(engine, &component)?;
        aot::code(&component)
    }
}

impl guard_log::Host for GuardState {
    fn log(&mut self, message: String) -> wasmtime::Result<()> {
        let max = self.limiter.limits().guard_log_lines;
        self.lines = self.lines.saturating_add(1);
        if self.lines <= max {
            let text = super::answer::cut(&message, MESSAGE_BYTES_MAX);
            self.console
                .log_of_plugin(Level::Info, &format!("guard `{}`: {text}", self.name));
        } else if self.lines == max + 1 {
            self.console.warn(&format!(
                "guard `{}` has written {max} lines to this log; the rest is left out (`--limit guard-log-lines={}`)",
                self.name,
                max * 2
            ));
        }
        Ok(())
    }
}

impl Guard {
    /// Starts a guard and gives it its configuration.
    pub(crate) async fn start(
        file: &GuardFile,
        linked: Linked,
        limits: Limits,
        console: &Console,
        config: &str,
    ) -> Result<Self, Failure> {
        let Linked { engine, guard } = linked;
        let limits = limits.of_guard();
        let shown = &file.shown;
        let mut store = Store::new(
            &engine,
            GuardState {
                name: file.name.clone(),
                console: console.clone(),
                limiter: Limiter::new(limits, Whose::Guard),
                cpu: CpuMeter::default(),
                lines: 0,
            },
        );
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(limits.host_call_bytes);
        store.set_max_component_handles(limits.handles);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |mut store| {
            let state = store.data_mut();
            let used = state.cpu.pause();
            if used >= limits.cpu {
                let limit = limits.cpu;
                return Err(state.limiter.broken(Breach::Cpu { used, limit }));
            }
            state.cpu.resume();
            Ok(UpdateDeadline::Yield(1))
        });
        store.data().cpu.resume();
        let instance = match guard.instantiate_async(&mut store).await {
            Ok(instance) => instance,
            Err(error) => {
                let (problem, hint) = trouble(&store, &error, &limits);
                return Err(with_hint(refused(shown, &problem), hint));
            }
        };
        let mut guard = Self {
            store,
            instance,
            limits,
            broken: None,
        };
        guard.configure(shown, config).await?;
        Ok(guard)
    }

    async fn configure(&mut self, shown: &str, config: &str) -> Result<(), Failure> {
        self.begin();
        let configured = self
            .instance
            .orka_plugin_guarding()
            .call_configure(&mut self.store, config)
            .await;
        match configured {
            Ok(Ok(())) => Ok(()),
            Ok(Err(problem)) => {
                // Before it is cut: half a secret is not known for one.
                let problem = self.store.data().console.masker().mask(&problem);
                let problem = super::answer::shortened(&problem);
                Err(
                    refused(shown, &format!("it refuses its configuration: {problem}")).with_hint(
                        "its configuration is the file behind `=` in `--guard REF=FILE`",
                    ),
                )
            }
            Err(error) => {
                let (problem, hint) = trouble(&self.store, &error, &self.limits);
                Err(with_hint(refused(shown, &problem), hint))
            }
        }
    }

    /// Asks it; an error is what went wrong, in words.
    pub(super) async fn answer(
        &mut self,
        facts: &RunFacts,
        question: &Question,
    ) -> Result<Answer, String> {
        if let Some(reason) = &self.broken {
            return Err(format!("it failed before: {reason}"));
        }
        self.begin();
        // Taken back by an answer: one that is never finished leaves a component that cannot be entered again.
        self.broken = Some("it never finished an answer".to_owned());
        let guarding = self.instance.orka_plugin_guarding();
        let store = &mut self.store;
        let answered = match question {
            Question::Vm(request) => guarding
                .call_vm(store, facts, request)
                .await
                .map(Answer::Vm),
            Question::Exec(request) => guarding
                .call_exec(store, facts, request)
                .await
                .map(Answer::Exec),
            Question::Artifacts(list) => guarding
                .call_artifacts(store, facts, list)
                .await
                .map(Answer::Artifacts),
        };
        match answered {
            Ok(answer) => {
                self.broken = None;
                Ok(answer)
            }
            Err(error) => {
                let (problem, hint) = trouble(&self.store, &error, &self.limits);
                self.broken = Some(problem.clone());
                Err(match hint {
                    Some(hint) => format!("{problem} ({hint})"),
                    None => problem,
                })
            }
        }
    }

    /// Asks about some VM, for measurements: what the answer is does not matter.
    pub(crate) async fn answers(&mut self) -> Result<(), String> {
        let facts = RunFacts {
            plugin_name: "build".to_owned(),
            plugin_version: "1.0.0".to_owned(),
            plugin_digest: format!("sha256:{}", "0".repeat(64)),
            orka_namespace: None,
            run_uid: None,
            task_uid: None,
            pod_uid: None,
            name_prefix: "tekton-".to_owned(),
            vms_at_once: 0,
            vms_total: 0,
            elapsed_ms: 0,
        };
        let request = VmRequest {
            image: "sonoma.orkasi".to_owned(),
            cpu_cores: Some(4),
            vcpus: None,
            memory_mib: None,
            vnc_console: None,
            gpu_passthrough: None,
            system_serial: None,
            tag: None,
            tag_required: false,
            scheduler: None,
            options: Vec::new(),
            deployment: None,
        };
        self.answer(&facts, &Question::Vm(request)).await.map(drop)
    }

    /// Each question has the whole time.
    fn begin(&mut self) {
        self.store.data_mut().cpu = CpuMeter::default();
        self.store.data().cpu.resume();
    }
}

fn with_hint(failure: Failure, hint: Option<String>) -> Failure {
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// What went wrong and what to do about it.
fn trouble(
    store: &Store<GuardState>,
    error: &wasmtime::Error,
    limits: &Limits,
) -> (String, Option<String>) {
    let breach = store
        .data()
        .limiter
        .breach()
        .or_else(|| error.downcast_ref::<BreachError>().map(|found| found.0))
        .or_else(|| Breach::found_by_engine(error, limits));
    if let Some(breach) = breach {
        let (problem, hint) = breach.explain(Whose::Guard, SetIn::CommandLine);
        return (problem, Some(hint));
    }
    let place = trap::frames(error)
        .and_then(|frames| frames.lines().next().map(str::to_owned))
        .map_or_else(String::new, |frame| format!(", in `{frame}`"));
    (format!("it trapped: {}{place}", trap::reason(error)), None)
}
