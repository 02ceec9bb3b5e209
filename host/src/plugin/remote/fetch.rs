//! From a reference to bytes, for every command that takes a plugin.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::registry::{Access, Registry, verified};
use super::web::{Call, Web, unavailable};
use super::{Fetched, UrlRef, is_remote};
use crate::cli::{PluginPlace, RegistryArgs, RunArgs};
use crate::config::{Environment, RegistryLogins};
use crate::console::{Console, seconds};
use crate::failure::Failure;
use crate::plugin::{PLUGIN_BYTES_MAX, PluginRef};
use crate::state::Stop;

/// 128 MiB at 1 MiB/s: slower than that is as good as not at all.
const FETCH_TIME_MAX: Duration = Duration::from_secs(2 * 60);

/// What is done before needs no words; then a line every so often.
const FIRST_LINE_AFTER: Duration = Duration::from_secs(3);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Fetches what has to be fetched; other references are given back as they are.
///
/// # Errors
///
/// Whatever keeps the bytes from being here, whole and as their digest says.
pub async fn fetch(
    reference: PluginRef,
    args: &RegistryArgs,
    environment: &Environment,
    console: &Console,
) -> Result<PluginRef, Failure> {
    let shown = reference.to_string();
    let began = Instant::now();
    let bytes = match reference {
        PluginRef::Url(url) => {
            let web = Web::new(args.ca())?;
            let bytes = watched(&shown, &web, console, from_url(&web, &url)).await?;
            verified(
                bytes,
                &url.digest,
                &format!("cannot fetch plugin `{shown}`"),
            )?
        }
        PluginRef::Oci(artifact) => {
            let web = Web::new(args.ca())?;
            let logins = RegistryLogins::resolve(args, environment, console.masker())?;
            let registry = Registry::new(
                &web,
                &artifact.repository,
                Access::Pull,
                &logins,
                console.masker(),
            )?;
            watched(&shown, &web, console, registry.component(&artifact)).await?
        }
        local => return Ok(local),
    };
    let took = began.elapsed();
    tracing::debug!(
        plugin = shown,
        bytes = bytes.len(),
        elapsed_ms = took.as_millis() as u64,
        "plugin.fetched"
    );
    Ok(PluginRef::Fetched(Fetched {
        shown,
        bytes: bytes[..].into(),
        took,
    }))
}

/// Fetches the plugins that a command names, as far as that is needed, for [`PluginPlace::reference`] to find them.
///
/// # Errors
///
/// As [`PluginRef::parse`] and [`fetch`].
pub async fn bring(
    place: &mut PluginPlace,
    plugins: &[String],
    environment: &Environment,
    console: &Console,
) -> Result<(), Failure> {
    for text in plugins.iter().filter(|text| is_remote(text)) {
        let reference = PluginRef::parse(text, None)?;
        let fetched = fetch(reference, &place.registry, environment, console).await?;
        if let PluginRef::Fetched(fetched) = fetched {
            place.fetched.insert(text.clone(), fetched);
        }
    }
    Ok(())
}

/// The plugin of a run, if it has to be fetched. The failure is one of the run's problems, told with the others.
pub async fn for_run(
    args: &RunArgs,
    environment: &Environment,
    console: &Console,
    stop: &Stop,
) -> Option<Result<Fetched, Failure>> {
    if !is_remote(&args.plugin) {
        return None;
    }
    let reference = match PluginRef::parse(&args.plugin, None) {
        Ok(reference) => reference,
        Err(failure) => return Some(Err(failure)),
    };
    let fetched = fetch(reference, &args.registry, environment, console);
    let fetched = tokio::select! {
        biased;
        () = stop.stopped() => Err(Failure::cancelled()),
        () = tokio::time::sleep(args.timeout) => Err(Failure::deadline()),
        fetched = fetched => fetched,
    };
    match fetched {
        Ok(PluginRef::Fetched(fetched)) => Some(Ok(fetched)),
        Ok(_) => None,
        Err(failure) => Some(Err(failure)),
    }
}

async fn from_url(web: &Web, reference: &UrlRef) -> Result<Bytes, Failure> {
    let what = format!("cannot fetch plugin `{reference}`");
    let call = Call::get(reference.url.clone(), PLUGIN_BYTES_MAX, what.clone());
    let answer = web.call(&call).await?;
    match answer.status {
        200 => Ok(answer.body),
        404 | 410 => Err(Failure::plugin_rejected(
            "plugin.not-found",
            format!("{what}: there is nothing"),
        )),
        _ => Err(answer.unexpected(&what)),
    }
}

/// Bounds the time, and says now and then how far it is.
async fn watched<T>(
    shown: &str,
    web: &Web,
    console: &Console,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let telling = async {
        let mut due = interval_at(Instant::now() + FIRST_LINE_AFTER, LINE_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            console.info(&format!("fetching the plugin: {}", web.progress()));
        }
    };
    let work = async {
        tokio::select! {
            biased;
            done = work => done,
            never = telling => never,
        }
    };
    timeout(FETCH_TIME_MAX, work).await.unwrap_or_else(|_| {
        Err(unavailable(format!(
            "cannot fetch plugin `{shown}`: it takes longer than {}",
            seconds(FETCH_TIME_MAX)
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Masker;

    #[tokio::test(start_paused = true)]
    async fn a_slow_fetch_is_told_of_and_one_that_never_ends_is_given_up() {
        let (console, captured) = Console::captured(Masker::default());
        let web = Web::new(None).unwrap();
        let soon = tokio::time::sleep(Duration::from_secs(2));
        watched("x", &web, &console, async {
            soon.await;
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(captured.lines(), [""; 0]);
        let began = Instant::now();
        let never = watched(
            "x",
            &web,
            &console,
            std::future::pending::<Result<(), Failure>>(),
        )
        .await;
        assert_eq!(began.elapsed(), FETCH_TIME_MAX);
        assert_eq!(captured.lines().len(), 12);
        let failure = never.unwrap_err();
        assert_eq!(failure.code, "plugin.unreachable");
        assert!(
            failure.message.contains("longer than"),
            "{}",
            failure.message
        );
    }
}
