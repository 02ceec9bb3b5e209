//! Which generation of Orka answers at an endpoint.

use tokio::time::sleep;

use crate::config::{ClientConfig, Credentials, Generation, VersionChoice};
use crate::endpoint::Endpoint;
use crate::error::{Error, UnreachableKind};
use crate::http::{Call, Reply, Transport};
use crate::retry::Backoff;
use crate::version::ApiVersion;
use crate::{v2, v3};

/// What a probe that was answered by Orka found.
struct Found {
    /// Where an upgrade to https led.
    endpoint: Option<Endpoint>,
    version: Option<ApiVersion>,
}

/// Finds out the generation, and moves the transport to https if the endpoint redirects there, so that no credentials
/// are ever sent in the clear first.
///
/// Asks both questions at once: a missing VPN route is then reported after one time limit, and both outcomes are
/// there to be shown.
pub(crate) async fn detect(
    transport: &mut Transport,
    config: &ClientConfig,
) -> Result<(Generation, Option<ApiVersion>), Error> {
    let (orka3, orka2) = match config.version {
        VersionChoice::Auto => {
            let (orka3, orka2) = tokio::join!(
                probe_orka3(transport, config),
                probe_orka2(transport, config)
            );
            (Some(orka3), Some(orka2))
        }
        VersionChoice::V2 => (None, Some(probe_orka2(transport, config).await)),
        VersionChoice::V3 => (Some(probe_orka3(transport, config).await), None),
    };
    let (generation, found) = choose(config, transport.endpoint(), orka3, orka2)?;
    if let Some(endpoint) = found.endpoint {
        transport.move_to(endpoint);
    }
    tracing::debug!(generation = %generation, version = found.version.as_ref().map(ApiVersion::as_str), "orka.detected");
    Ok((generation, found.version))
}

type Outcome = Option<Result<Found, Error>>;

fn choose(
    config: &ClientConfig,
    endpoint: &Endpoint,
    orka3: Outcome,
    orka2: Outcome,
) -> Result<(Generation, Found), Error> {
    // A cluster that serves both APIs is an Orka 3 one; its old API is for those who have an old login only.
    let login_only = matches!(config.credentials, Credentials::Login { .. });
    match (orka3, orka2) {
        (Some(Ok(_)), Some(Ok(found))) if login_only => Ok((Generation::Orka2, found)),
        (Some(Ok(found)), _) => Ok((Generation::Orka3, found)),
        (_, Some(Ok(found))) => Ok((Generation::Orka2, found)),
        (Some(Err(orka3)), Some(Err(orka2))) => Err(neither(endpoint, orka3, &orka2)),
        (Some(Err(error)), None) => as_told(Generation::Orka3, error),
        (None, Some(Err(error))) => as_told(Generation::Orka2, error),
        (None, None) => Err(Error::invalid(
            "the API version",
            "no generation was asked for",
        )),
    }
}

/// Where the caller named the generation, an odd answer is taken for an odd release; silence is not.
fn as_told(generation: Generation, error: Error) -> Result<(Generation, Found), Error> {
    match error {
        Error::UnexpectedReply { .. }
        | Error::NotFound(_)
        | Error::Unauthorized(_)
        | Error::Forbidden { .. }
        | Error::Invalid { reply: Some(_), .. } => {
            tracing::warn!(generation = %generation, error = %error, "the API does not answer as expected; going on as told");
            Ok((
                generation,
                Found {
                    endpoint: None,
                    version: None,
                },
            ))
        }
        other => Err(other),
    }
}

fn neither(endpoint: &Endpoint, orka3: Error, orka2: &Error) -> Error {
    if !is_answer(&orka3) && !is_answer(orka2) {
        // Nobody is there; the second probe says no more than the first.
        return match orka3 {
            Error::TimedOut { .. } => Error::Unreachable {
                endpoint: endpoint.to_string(),
                kind: UnreachableKind::TimedOut,
                source: Some(Box::new(orka3)),
            },
            other => other,
        };
    }
    match (&orka3, orka2) {
        // These are no matter of which generation it is.
        (Error::Redirected { .. }, Error::Redirected { .. })
        | (Error::Server { .. }, Error::Server { .. }) => orka3,
        _ => Error::NotOrka {
            endpoint: endpoint.to_string(),
            orka3: orka3.to_string(),
            orka2: orka2.to_string(),
        },
    }
}

fn is_answer(error: &Error) -> bool {
    !matches!(
        error,
        Error::Unreachable { .. } | Error::TimedOut { .. } | Error::Interrupted { .. }
    )
}

async fn probe_orka3(transport: &Transport, config: &ClientConfig) -> Result<Found, Error> {
    let call = Call::get(&["api", "v1", "cluster-info"], config.timeouts.probe);
    probe(transport, config, &call, |reply| {
        let answer = v3::object(&call, reply)?;
        if !v3::is_cluster_info(&answer) {
            return Err(reply.unexpected(&call, "no `apiEndpoint`"));
        }
        Ok(None)
    })
    .await
}

async fn probe_orka2(transport: &Transport, config: &ClientConfig) -> Result<Found, Error> {
    let call = Call::get(&["health-check"], config.timeouts.probe);
    probe(transport, config, &call, |reply| {
        let answer = v2::judge(&call, reply)?;
        if !v2::is_health_check(&answer) {
            return Err(reply.unexpected(&call, "no `api_version`"));
        }
        Ok(v2::version(&answer))
    })
    .await
}

async fn probe(
    transport: &Transport,
    config: &ClientConfig,
    call: &Call,
    read: impl Fn(&Reply) -> Result<Option<ApiVersion>, Error>,
) -> Result<Found, Error> {
    let mut backoff = Backoff::new(config.retry);
    loop {
        let outcome = match transport.send(call, None).await {
            Ok(reply) => read(&reply).map(|version| Found {
                endpoint: transport.endpoint().moved_to(&reply.url),
                version,
            }),
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if error.is_worth_repeating(call.effect) && !is_silence(&error) => {
                match backoff.next_wait(error.retry_after()) {
                    Some(wait) => sleep(wait).await,
                    None => return Err(error),
                }
            }
            other => return other,
        }
    }
}

/// A missing route does not appear within seconds, and waiting for it once is enough.
fn is_silence(error: &Error) -> bool {
    matches!(
        error,
        Error::Unreachable {
            kind: UnreachableKind::TimedOut | UnreachableKind::NoRoute,
            ..
        }
    )
}
