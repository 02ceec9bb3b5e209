//! The Wasm engine: strict, with a clock that stops spinning guests, and a linker with the contract and inert WASI.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime::{Store, UpdateDeadline};

pub use wasmtime::Engine;
pub use wasmtime::component::Component;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::aot::{self, Bounds, Trouble};
use crate::bindings::Plugin as PluginWorld;
use crate::failure::Failure;
use crate::limits::{Breach, EPOCH_TICK, Limiter, Limits, Whose};
use crate::plugin::Plugin;
use crate::state::{BreachError, HostState, RunContext};

/// So much of what a guest writes to its standard streams is kept for error messages; older text is dropped.
const GUEST_OUTPUT_KEPT: usize = 16 * 1024;

/// What to do where nothing compiles.
const WITHOUT_COMPILER: &str = "compile it once where that works, with `orka-step plugin compile`, `--plugin-cache` and \
                                `--plugin-cache-key`, and run it with the same two flags";

/// An engine with the configuration that all code is compiled for ([`plugin_engine::config`]), and the stack of the default
/// limits.
///
/// # Errors
///
/// A configuration that wasmtime refuses, which is a bug of ours.
pub fn engine() -> Result<Engine, Failure> {
    engine_with(&Limits::default())
}

/// As [`engine`], with the stack of these limits, and with code that counts its steps where they limit those: what belongs to
/// the engine and not to a store.
///
/// # Errors
///
/// As [`engine`].
pub fn engine_with(limits: &Limits) -> Result<Engine, Failure> {
    let mut config = plugin_engine::config()
        .map_err(|error| internal("the Wasm engine does not know this machine", &error))?;
    config
        .max_wasm_stack(limits.stack_bytes)
        .async_stack_size(limits.fibre_stack_bytes())
        .consume_fuel(limits.fuel.is_some());
    let engine = Engine::new(&config)
        .map_err(|error| internal("the Wasm engine cannot be set up", &error))?;
    tick(&engine)?;
    Ok(engine)
}

/// Advances the engine's epoch until the engine is gone. A thread of its own, since a spinning guest may hold up the
/// async runtime.
fn tick(engine: &Engine) -> Result<(), Failure> {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("epoch".to_owned())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(EPOCH_TICK);
            }
        })
        .map(drop)
        .map_err(|error| Failure::internal("no thread can be started").with_source(error))
}

/// Compiles a plugin.
///
/// # Errors
///
/// A component that is not valid, or a compiler that cannot be used.
pub fn compile(engine: &Engine, plugin: &Plugin, bounds: &Bounds) -> Result<Component, Failure> {
    aot::component(engine, &plugin.bytes, bounds).map_err(|trouble| {
        let shown = plugin.path.display();
        let message = format!("cannot compile plugin `{shown}`: {trouble}");
        match trouble {
            Trouble::Invalid(_) => Failure::plugin_rejected("plugin.invalid", message)
                .with_hint("rebuild it; `wasm-tools validate` names the place"),
            Trouble::NoCompiler(_) => {
                Failure::plugin_rejected("plugin.compiler", message).with_hint(WITHOUT_COMPILER)
            }
            Trouble::Stopped => Failure::cancelled(),
        }
    })
}

/// A compiled plugin, ready to be started any number of times.
pub struct Compiled {
    engine: Engine,
    instance: crate::bindings::PluginPre<HostState>,
}

impl Compiled {
    /// Compiles a plugin and links it.
    ///
    /// # Errors
    ///
    /// A component that is not valid or imports functions this host does not have, or of another type.
    pub fn new(engine: &Engine, plugin: &Plugin) -> Result<Self, Failure> {
        Self::link(
            engine,
            &compile(engine, plugin, &Bounds::default())?,
            plugin,
        )
    }

    /// Links a plugin's code, wherever that is from.
    ///
    /// # Errors
    ///
    /// A component that imports functions this host does not have, or of another type.
    pub fn link(engine: &Engine, component: &Component, plugin: &Plugin) -> Result<Self, Failure> {
        let shown = plugin.path.display();
        let linker = linker(engine)?;
        let instance = linker
            .instantiate_pre(component)
            .and_then(crate::bindings::PluginPre::new)
            .map_err(|error| {
                let mismatch = crate::fit::mismatch(&plugin.bytes, &error);
                let (major, minor) = crate::plugin::CONTRACT_VERSION;
                let hint = if mismatch.is_wasi {
                    crate::plugin::WASI_HINT.to_owned()
                } else {
                    format!(
                        "rebuild it against the contract `{}` {major}.{minor} as it is in `wit/`",
                        crate::plugin::CONTRACT_PACKAGE
                    )
                };
                let (name, detail) = mismatch.detail;
                Failure::plugin_rejected(
                    "plugin.mismatch",
                    format!("plugin `{shown}` does not fit this host: {}", mismatch.what),
                )
                .with_detail(name, detail)
                .with_hint(hint)
            })?;
        Ok(Self {
            engine: engine.clone(),
            instance,
        })
    }

    /// What it was compiled for.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A fresh store with its limits, and the instance in it.
    ///
    /// # Errors
    ///
    /// A guest that does not start within its limits.
    pub async fn start(&self, run: Arc<RunContext>) -> Result<Started, wasmtime::Error> {
        let limits = run.limits;
        let (mut store, output) = store(&self.engine, run);
        if let Some(fuel) = limits.fuel {
            store.set_fuel(fuel)?;
        }
        match self.instance.instantiate_async(&mut store).await {
            Ok(instance) => Ok(Started {
                store,
                instance,
                output,
            }),
            Err(error) => {
                // The breach is in the store, which ends here: say it in the error.
                let found = || Breach::found_by_engine(&error, &limits);
                Err(match store.data().limiter.breach().or_else(found) {
                    Some(breach) => error.context(BreachError(breach)),
                    None => error,
                })
            }
        }
    }
}

/// A fresh store with its limits, and what a guest in it will print.
pub(crate) fn store(engine: &Engine, run: Arc<RunContext>) -> (Store<HostState>, GuestOutput) {
    let limits = run.limits;
    let output = GuestOutput::default();
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits.handles);
    // Nothing is granted: no files, arguments, environment or sockets. What a guest prints is kept for messages.
    let mut wasi = WasiCtxBuilder::new();
    wasi.stdout(output.clone()).stderr(output.clone());
    wasi.max_random_size(u64::try_from(limits.host_call_bytes).unwrap_or(u64::MAX));
    let wasi = wasi.build();
    let state = HostState {
        run,
        table,
        limiter: Limiter::new(limits, Whose::Plugin),
        wasi,
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(limits.host_call_bytes);
    store.set_max_component_handles(limits.handles);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |mut store| {
        let state = store.data_mut();
        let used = state.run.cpu.pause();
        if used >= limits.cpu {
            let limit = limits.cpu;
            return Err(state.limiter.broken(Breach::Cpu { used, limit }));
        }
        state.run.cpu.resume();
        Ok(UpdateDeadline::Yield(1))
    });
    store.data().run.cpu.resume();
    (store, output)
}

/// A guest in its store.
pub struct Started {
    /// The store; gone, the guest is gone.
    pub store: Store<HostState>,
    /// The guest.
    pub instance: PluginWorld,
    /// What it wrote to its standard streams.
    pub output: GuestOutput,
}

pub(crate) fn linker(engine: &Engine) -> Result<Linker<HostState>, Failure> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)
        .map_err(|error| internal("WASI cannot be linked", &error))?;
    PluginWorld::add_to_linker::<HostState, HasSelf<HostState>>(&mut linker, |state| state)
        .map_err(|error| internal("the contract cannot be linked", &error))?;
    Ok(linker)
}

fn internal(what: &str, error: &wasmtime::Error) -> Failure {
    Failure::internal(format!("{what}: {error:#}"))
}

/// The tail of what a guest wrote to its standard streams.
#[derive(Clone, Default)]
pub struct GuestOutput(Arc<Mutex<BytesMut>>);

impl GuestOutput {
    /// What is kept, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    fn append(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(bytes);
        if kept.len() > GUEST_OUTPUT_KEPT {
            let surplus = kept.len() - GUEST_OUTPUT_KEPT;
            let _dropped = kept.split_to(surplus);
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.append(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(GUEST_OUTPUT_KEPT)
    }
}

impl AsyncWrite for GuestOutput {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.append(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Component, engine, linker};
    use crate::plugin::WASI;

    /// Something of each interface: a function, or else a resource. What is only an empty interface is missed by nobody.
    const PARTS: [(&str, &str); 27] = [
        ("cli/environment", "get-arguments"),
        ("cli/exit", "exit"),
        ("cli/stderr", "get-stderr"),
        ("cli/stdin", "get-stdin"),
        ("cli/stdout", "get-stdout"),
        ("cli/terminal-input", "(resource) terminal-input"),
        ("cli/terminal-output", "(resource) terminal-output"),
        ("cli/terminal-stderr", "get-terminal-stderr"),
        ("cli/terminal-stdin", "get-terminal-stdin"),
        ("cli/terminal-stdout", "get-terminal-stdout"),
        ("clocks/monotonic-clock", "now"),
        ("clocks/wall-clock", "now"),
        ("filesystem/preopens", "get-directories"),
        ("filesystem/types", "filesystem-error-code"),
        ("io/error", "(resource) error"),
        ("io/poll", "poll"),
        ("io/streams", "(resource) input-stream"),
        ("random/insecure", "get-insecure-random-u64"),
        ("random/insecure-seed", "insecure-seed"),
        ("random/random", "get-random-u64"),
        ("sockets/instance-network", "instance-network"),
        ("sockets/ip-name-lookup", "resolve-addresses"),
        ("sockets/network", "(resource) network"),
        ("sockets/tcp", "(resource) tcp-socket"),
        ("sockets/tcp-create-socket", "create-tcp-socket"),
        ("sockets/udp", "(resource) udp-socket"),
        ("sockets/udp-create-socket", "create-udp-socket"),
    ];

    #[test]
    fn what_is_said_to_be_lent_of_wasi_is_linked() {
        let lent = WASI.iter().flat_map(|(package, interfaces)| {
            let names = interfaces.iter();
            names.map(move |interface| format!("{package}/{interface}"))
        });
        let lent: BTreeSet<String> = lent.collect();
        assert_eq!(lent, PARTS.map(|(name, _)| name.to_owned()).into());
        let engine = engine().unwrap();
        let linker = linker(&engine).unwrap();
        let missing = "implementation is missing";
        let problem = |interface: &str, part: &str| {
            let export = match part.strip_prefix("(resource) ") {
                Some(resource) => format!("(export \"{resource}\" (type (sub resource)))"),
                // Of a type that none of them has.
                None => format!("(export \"{part}\" (func (param \"odd\" (list char))))"),
            };
            let text =
                format!("(component (import \"wasi:{interface}@0.2.0\" (instance {export})))");
            let component = Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
            let error = linker.instantiate_pre(&component).err();
            error.map(|error| format!("{error:#}")).unwrap_or_default()
        };
        for (interface, part) in PARTS {
            let problem = problem(interface, part);
            assert!(!problem.contains(missing), "{interface}: {problem}");
        }
        for part in ["odd", "(resource) odd"] {
            let problem = problem("http/types", part);
            assert!(problem.contains(missing), "{problem}");
        }
    }
}
