//! `orka-step plugin bench`: what a plugin costs before and while it runs, apart from what it does.

mod guard;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orka_client::{ClientConfig, Credentials, Endpoint};
use rand::SeedableRng as _;
use serde_json::json;

use crate::aot::{self, Bounds, CacheKey};
use crate::backend::orka::OrkaCluster;
use crate::backend::ssh::SshGuests;
use crate::cli::BenchArgs;
use crate::config::SshConfig;
use crate::console::{Console, bytes};
use crate::engine::{self, Compiled, Component, Engine};
use crate::failure::Failure;
use crate::grants::Grants;
use crate::guard::Guards;
use crate::identity::{DEFAULT_PREFIX, Identity};
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::mask::Masker;
use crate::plugin::{Plugin, PluginRef};
use crate::precompile::Subject;
use crate::results::Results;
use crate::state::{RunContext, RunParts, Stop};

/// A guest that does nothing but call the host: `host-call.wat`, assembled.
const HOST_CALLS: &[u8] = include_bytes!("measure/host-call.wasm");

/// Calls in a row; the start of a row is not noticed among them.
const CALLS: u32 = 20_000;

/// Steps that take milliseconds are repeated less often by this factor.
const SLOW_STEPS: u32 = 10;

/// No guest of a measurement lives longer.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Medians.
struct Figures {
    read: Duration,
    engine: Duration,
    compile: Duration,
    code_bytes: usize,
    load_code: Duration,
    link: Duration,
    first_start: Duration,
    start: Duration,
    host_call: Duration,
}

impl Figures {
    /// From the file to a plugin that can be started, with its code compiled ahead of time.
    fn load(&self) -> Duration {
        self.read + self.load_code + self.link
    }
}

/// Measures a plugin or a guard, for people or as JSON.
///
/// # Errors
///
/// A plugin that cannot be loaded, does not fit or does not start.
pub async fn bench(args: &BenchArgs) -> Result<String, Failure> {
    let plugin = match Subject::load(&args.plugin, &args.place)? {
        Subject::Plugin(plugin) => plugin,
        Subject::Guard(source, file) => {
            return guard::bench(&source, &file, args.repetitions, args.json).await;
        }
    };
    let reference = args.place.reference(&args.plugin)?;
    let figures = measure(&reference, &plugin, args.repetitions).await?;
    Ok(if args.json {
        as_json(&plugin, &figures, args.repetitions)
    } else {
        as_text(&plugin, &figures, args.repetitions)
    })
}

async fn measure(
    reference: &PluginRef,
    plugin: &Plugin,
    repetitions: u32,
) -> Result<Figures, Failure> {
    let few = (repetitions / SLOW_STEPS).max(3);
    let engine = engine::engine()?;
    // Nobody else's code is loaded: this process compiles, seals and opens it.
    let key = CacheKey::random();
    let sealed = aot::sealed(aot::code_of(&engine, plugin)?, &plugin.digest, &key);
    let load_code = || load_code(&engine, &plugin.digest, &sealed, &key);
    let component = load_code()?;
    let compiled = Compiled::link(&engine, &component, plugin)?;
    let host_call = host_call(&engine, plugin, few).await?;
    Ok(Figures {
        read: median(repetitions, || Plugin::load(reference))?,
        engine: median(few, engine::engine)?,
        compile: median(few, || engine::compile(&engine, plugin, &Bounds::default()))?,
        code_bytes: sealed.len(),
        load_code: median(repetitions, load_code)?,
        link: median(repetitions, || Compiled::link(&engine, &component, plugin))?,
        first_start: first_start(&engine, plugin, few, load_code).await?,
        start: median_of(repetitions, async || {
            let run = context(plugin)?;
            timed(start(&compiled, run)).await
        })
        .await?,
        host_call,
    })
}

/// Loads code that this process has sealed.
fn load_code(
    engine: &Engine,
    digest: &str,
    sealed: &[u8],
    key: &CacheKey,
) -> Result<Component, Failure> {
    aot::load_sealed(engine, digest, sealed, key)
        .map_err(|refusal| Failure::internal("code of our own is refused").with_source(refusal))
}

/// The first instance of code that was just loaded meets pages that were never touched.
async fn first_start(
    engine: &Engine,
    plugin: &Plugin,
    repetitions: u32,
    load_code: impl Fn() -> Result<Component, Failure>,
) -> Result<Duration, Failure> {
    median_of(repetitions, async || {
        let compiled = Compiled::link(engine, &load_code()?, plugin)?;
        let run = context(plugin)?;
        timed(start(&compiled, run)).await
    })
    .await
}

async fn start(compiled: &Compiled, run: Arc<RunContext>) -> Result<(), Failure> {
    let started = compiled.start(run).await;
    started.map(drop).map_err(|error| {
        Failure::plugin_rejected(
            "plugin.start",
            format!("the plugin does not start: {error:#}"),
        )
    })
}

/// One call through this host's linker to a function that reads the clock.
async fn host_call(
    engine: &Engine,
    plugin: &Plugin,
    repetitions: u32,
) -> Result<Duration, Failure> {
    let trouble = |error: wasmtime::Error| {
        Failure::internal(format!("host calls cannot be measured: {error:#}"))
    };
    let component = aot::component(engine, HOST_CALLS, &Bounds::default()).map_err(|trouble| {
        Failure::internal("host calls cannot be measured").with_source(trouble)
    })?;
    let linker = engine::linker(engine)?;
    let row = median_of(repetitions, async || {
        let (mut store, _output) = engine::store(engine, context(plugin)?);
        let instance = linker
            .instantiate_async(&mut store, &component)
            .await
            .map_err(trouble)?;
        let run = instance
            .get_typed_func::<(u32,), ()>(&mut store, "run")
            .map_err(trouble)?;
        timed(async { run.call_async(&mut store, (CALLS,)).await.map_err(trouble) }).await
    })
    .await?;
    Ok(row / CALLS)
}

/// A run that reaches nothing: no cluster is contacted before a guest signs in, and none does.
fn context(plugin: &Plugin) -> Result<Arc<RunContext>, Failure> {
    let endpoint = Endpoint::parse("http://127.0.0.1")
        .map_err(|error| Failure::internal("there is no loopback").with_source(error))?;
    let (console, _) = Console::captured(Masker::default());
    Ok(RunContext::new(RunParts {
        cluster: Arc::new(OrkaCluster::new(ClientConfig::new(
            endpoint,
            Credentials::Anonymous,
        ))),
        guests: Arc::new(SshGuests::new(SshConfig::without_login(TIMEOUT, TIMEOUT))),
        console,
        ledger: Ledger::in_memory(),
        grants: Grants::intersect(None, &plugin.manifest, &plugin.digest, true)?,
        guards: Guards::default(),
        params: BTreeMap::new(),
        script: None,
        manifest: plugin.manifest.clone(),
        workspace: None,
        results: Results::new(None)?,
        secrets: BTreeMap::new(),
        identity: Identity::new(DEFAULT_PREFIX, None, None)?,
        owner: Vec::new(),
        limits: Limits::default(),
        timeout: TIMEOUT,
        stop: Stop::default(),
        random: Box::new(rand::rngs::StdRng::from_os_rng()),
    }))
}

/// How long something takes that gives nothing but success.
async fn timed(work: impl Future<Output = Result<(), Failure>>) -> Result<Duration, Failure> {
    let began = Instant::now();
    work.await?;
    Ok(began.elapsed())
}

fn median<T>(
    repetitions: u32,
    mut work: impl FnMut() -> Result<T, Failure>,
) -> Result<Duration, Failure> {
    let mut durations = Vec::new();
    for _ in 0..repetitions {
        let began = Instant::now();
        let made = work()?;
        durations.push(began.elapsed());
        // Taking things apart is not what is measured.
        drop(made);
    }
    Ok(middle(durations))
}

async fn median_of(
    repetitions: u32,
    mut work: impl AsyncFnMut() -> Result<Duration, Failure>,
) -> Result<Duration, Failure> {
    let mut durations = Vec::new();
    for _ in 0..repetitions {
        durations.push(work().await?);
    }
    Ok(middle(durations))
}

fn middle(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations
        .get(durations.len() / 2)
        .copied()
        .unwrap_or_default()
}

fn as_text(plugin: &Plugin, figures: &Figures, repetitions: u32) -> String {
    let rows = [
        (
            "read and check",
            ms(figures.read),
            "the file, its digest, contract and manifest",
        ),
        (
            "load the code",
            ms(figures.load_code),
            "compiled ahead of time: checked and mapped",
        ),
        ("link", ms(figures.link), "with the contract and inert WASI"),
        (
            "load",
            ms(figures.load()),
            "the three above: from the file to a plugin that can start",
        ),
        (
            "start, first",
            ms(figures.first_start),
            "an instance of code that was just loaded",
        ),
        ("start, later", ms(figures.start), "an instance more"),
        (
            "a host call",
            micros(figures.host_call),
            "there and back, of any plugin",
        ),
        ("set up the engine", ms(figures.engine), "once in a process"),
        (
            "compile",
            ms(figures.compile),
            "what is saved by doing it ahead of time",
        ),
    ];
    let mut text = format!(
        "{} {} ({}): {}, code {}; medians of {repetitions} for {}\n",
        plugin.manifest.name,
        plugin.manifest.version,
        plugin.digest,
        bytes(plugin.bytes.len() as u64),
        bytes(figures.code_bytes as u64),
        plugin_engine::target(),
    );
    write_rows(&mut text, &rows);
    text
}

/// What was measured, how long it took and what it means.
type Row = (&'static str, String, &'static str);

fn write_rows(text: &mut String, rows: &[Row]) {
    for (what, figure, meaning) in rows {
        // Writing into a `String` cannot fail.
        let _ = writeln!(text, "  {what:<18} {figure:>12}  {meaning}");
    }
}

fn ms(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

fn micros(duration: Duration) -> String {
    format!("{:.3} µs", duration.as_secs_f64() * 1e6)
}

fn as_json(plugin: &Plugin, figures: &Figures, repetitions: u32) -> String {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let value = json!({
        "plugin": plugin.manifest.name, "version": plugin.manifest.version, "digest": plugin.digest,
        "bytes": plugin.bytes.len(), "codeBytes": figures.code_bytes, "target": plugin_engine::target(),
        "repetitions": repetitions,
        "readMs": ms(figures.read), "loadCodeMs": ms(figures.load_code), "linkMs": ms(figures.link),
        "loadMs": ms(figures.load()), "firstStartMs": ms(figures.first_start), "startMs": ms(figures.start),
        "hostCallUs": figures.host_call.as_secs_f64() * 1e6, "engineMs": ms(figures.engine),
        "compileMs": ms(figures.compile),
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_that_calls_is_its_source() {
        let assembled = wat::parse_str(include_str!("measure/host-call.wat")).unwrap();
        assert_eq!(assembled, HOST_CALLS);
    }

    #[test]
    fn the_median_is_the_middle() {
        let of =
            |millis: &[u64]| middle(millis.iter().map(|&ms| Duration::from_millis(ms)).collect());
        assert_eq!(of(&[]), Duration::ZERO);
        assert_eq!(of(&[9, 1, 5]), Duration::from_millis(5));
    }
}
