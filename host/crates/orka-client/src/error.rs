//! What can go wrong, sorted by what a caller can do about it.

use std::fmt;
use std::time::Duration;

use crate::http::Effect;

type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection was made, so nothing was sent: check the network, VPN, proxy or address.
    #[error("cannot reach Orka at `{endpoint}`: {kind}")]
    Unreachable {
        /// The endpoint, or the place it redirected to.
        endpoint: String,
        /// What kept the connection from being made.
        kind: UnreachableKind,
        /// The failure below.
        #[source]
        source: Option<BoxError>,
    },
    /// The API does not accept the e-mail address and password, or none were given where it wants them.
    #[error("Orka refused the login: {0}")]
    LoginRefused(Box<Rejection>),
    /// The token is missing, expired, revoked or invalid, and could not be renewed.
    #[error("Orka did not accept the token: {0}")]
    Unauthorized(Box<Rejection>),
    /// The token is good, and has no right to this.
    #[error("Orka does not allow this{}: {reply}", in_namespace(namespace.as_deref()))]
    Forbidden {
        /// The Orka 3 namespace that was asked for.
        namespace: Option<String>,
        /// The answer.
        reply: Box<Rejection>,
    },
    /// There is no such VM, VM config, image or namespace.
    #[error("Orka knows no such thing: {0}")]
    NotFound(Box<Rejection>),
    /// The name is taken.
    #[error("the name is taken: {0}")]
    Conflict(Box<Rejection>),
    /// No node has room now; later may work.
    #[error("no Orka node has room: {0}")]
    NoCapacity(Box<Rejection>),
    /// What was asked cannot be right, found before sending it or by the API.
    #[error("{what} is not valid: {why}")]
    Invalid {
        /// The offending thing: a field, an option, a file or a call.
        what: String,
        /// What is wrong with it.
        why: String,
        /// What to do instead, where that is known.
        hint: Option<String>,
        /// The API's answer; `None` if nothing was sent.
        reply: Option<Box<Rejection>>,
    },
    /// A time limit passed.
    #[error("`{call}` got no answer within {} s", after.as_secs_f64())]
    TimedOut {
        /// The call, as method and path.
        call: String,
        /// The limit that passed.
        after: Duration,
        /// Whether the request may have taken effect nevertheless, now or later.
        may_have_happened: bool,
    },
    /// The connection broke between the request and the whole of its answer.
    #[error("the connection broke before `{call}` was answered")]
    Interrupted {
        /// The call, as method and path.
        call: String,
        /// Whether the request may have taken effect nevertheless, now or later.
        may_have_happened: bool,
        /// The failure below.
        #[source]
        source: BoxError,
    },
    /// Too many requests.
    #[error("Orka asks for fewer requests: {reply}")]
    RateLimited {
        /// How long to wait, where the answer says so.
        retry_after: Option<Duration>,
        /// The answer.
        reply: Box<Rejection>,
    },
    /// The API, or a proxy in front of it, failed.
    #[error("Orka failed: {reply}")]
    Server {
        /// Whether the request may have taken effect nevertheless.
        may_have_happened: bool,
        /// How long to wait, where the answer says so.
        retry_after: Option<Duration>,
        /// The answer.
        reply: Box<Rejection>,
    },
    /// The answer is not what this API sends: a web page, something cut short, or far too much.
    #[error("`{call}` was answered {status} with {why}{}", quoted(excerpt))]
    UnexpectedReply {
        /// The call, as method and path.
        call: String,
        /// HTTP status code.
        status: u16,
        /// What is wrong with the answer.
        why: String,
        /// The beginning of the answer, at most 100 characters on one line.
        excerpt: String,
        /// Whether the request may have taken effect nevertheless.
        may_have_happened: bool,
    },
    /// The API redirects to a place that must not be given the credentials.
    #[error("`{call}` was redirected to `{target}`: {why}")]
    Redirected {
        /// The call, as method and path.
        call: String,
        /// Where to, without credentials and query.
        target: String,
        /// Why it was not followed.
        why: &'static str,
    },
    /// A VM was deployed that cannot be used. Delete it, then try again.
    #[error("VM `{name}` was deployed but cannot be used: {why}")]
    UnusableVm {
        /// The VM's name.
        name: String,
        /// Its id, where the answer gave one.
        id: Option<String>,
        /// What is wrong with the answer.
        why: String,
        /// What to do about it, where that is known.
        hint: Option<String>,
    },
    /// Something answers at the endpoint, and it is neither generation of Orka.
    #[error(
        "`{endpoint}` does not answer as Orka: asked for Orka 3 at `/api/v1/cluster-info`, {orka3}; \
         asked for Orka 2 at `/health-check`, {orka2}"
    )]
    NotOrka {
        /// The endpoint.
        endpoint: String,
        /// What came of the Orka 3 probe.
        orka3: String,
        /// What came of the Orka 2 probe.
        orka2: String,
    },
}

/// What kept a connection from being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnreachableKind {
    /// The host name could not be resolved.
    Dns,
    /// Nothing listens there.
    Refused,
    /// No answer to the connection attempt; the usual sign of a missing VPN route.
    TimedOut,
    /// The TLS handshake failed.
    Tls,
    /// There is no route.
    NoRoute,
    /// Anything else.
    Other,
}

impl fmt::Display for UnreachableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "the host name cannot be resolved",
            Self::Refused => "the connection was refused",
            Self::TimedOut => "the connection attempt timed out",
            Self::Tls => "no secure connection could be made",
            Self::NoRoute => "there is no route to it",
            Self::Other => "the connection failed",
        })
    }
}

/// What the API said to a call that it did not carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The call, as method and path.
    pub call: String,
    /// HTTP status code.
    pub status: u16,
    /// The API's own texts, each on one line; empty if it gave none.
    pub messages: Vec<String>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` was answered {}", self.call, self.status)?;
        match self.messages.as_slice() {
            [] => f.write_str(" without a reason"),
            messages => write!(f, ": {}", messages.join("; ")),
        }
    }
}

impl Error {
    /// Something that was found wrong before anything was sent.
    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.into(),
            why: why.into(),
            hint: None,
            reply: None,
        }
    }

    /// [`Error::invalid`] with what to do instead.
    pub(crate) fn invalid_with_hint(
        what: impl Into<String>,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            what: what.into(),
            why: why.into(),
            hint: Some(hint.into()),
            reply: None,
        }
    }

    /// Whether the same call may succeed when it is made again later.
    ///
    /// After [`Error::may_have_happened`] look or delete first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { kind, .. } => *kind != UnreachableKind::Tls,
            Self::NoCapacity(_)
            | Self::TimedOut { .. }
            | Self::Interrupted { .. }
            | Self::RateLimited { .. }
            | Self::Server { .. }
            | Self::UnusableVm { .. } => true,
            Self::LoginRefused(_)
            | Self::Unauthorized(_)
            | Self::Forbidden { .. }
            | Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Invalid { .. }
            | Self::UnexpectedReply { .. }
            | Self::Redirected { .. }
            | Self::NotOrka { .. } => false,
        }
    }

    /// Whether what was asked for may exist nevertheless, now or a little later.
    ///
    /// Then look, or delete by name, before asking again.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::TimedOut {
                may_have_happened, ..
            }
            | Self::Interrupted {
                may_have_happened, ..
            }
            | Self::Server {
                may_have_happened, ..
            }
            | Self::UnexpectedReply {
                may_have_happened, ..
            } => *may_have_happened,
            Self::UnusableVm { .. } => true,
            _ => false,
        }
    }

    /// Whether a client should make the same call again by itself, without looking first.
    ///
    /// A call that creates something is repeated only if it was certainly not carried out: no connection was made, or
    /// it was turned away for coming too fast (RFC 6585, status 429). A time limit that passed is not waited for
    /// again, and a name that cannot be resolved or a certificate that is wrong stays so for long.
    pub(crate) fn is_worth_repeating(&self, effect: Effect) -> bool {
        use UnreachableKind::{NoRoute, Other, Refused, TimedOut};
        match self {
            Self::Unreachable { kind, .. } => matches!(kind, Refused | TimedOut | NoRoute | Other),
            Self::RateLimited { .. } => true,
            Self::Interrupted { .. } | Self::Server { .. } => effect != Effect::Create,
            _ => false,
        }
    }

    /// How long the API asks to wait before the next attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Server { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// The API's own texts; empty if nothing was sent or it gave none.
    pub fn server_messages(&self) -> &[String] {
        self.reply().map_or(&[], |reply| &reply.messages)
    }

    /// HTTP status of the answer, where there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::UnexpectedReply { status, .. } => Some(*status),
            _ => self.reply().map(|reply| reply.status),
        }
    }

    fn reply(&self) -> Option<&Rejection> {
        match self {
            Self::LoginRefused(reply)
            | Self::Unauthorized(reply)
            | Self::NotFound(reply)
            | Self::Conflict(reply)
            | Self::NoCapacity(reply)
            | Self::Forbidden { reply, .. }
            | Self::RateLimited { reply, .. }
            | Self::Server { reply, .. } => Some(reply),
            Self::Invalid { reply, .. } => reply.as_deref(),
            _ => None,
        }
    }

    /// What to do next, as a sentence without a final stop; `None` if the message says it all.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { kind, source, .. } => {
                return unreachable_hint(*kind, source.as_deref());
            }
            Self::Invalid { hint, .. } | Self::UnusableVm { hint, .. } => return hint.clone(),
            Self::LoginRefused(_) => {
                "check e-mail address and password, and that the endpoint is the cluster this user belongs to"
            }
            Self::Unauthorized(reply) if reply.call.contains("/api/v1") => {
                "the service account token expired, or a cluster upgrade invalidated it; have an administrator issue \
                 a new one"
            }
            Self::Unauthorized(_) => {
                "the token was revoked or belongs to another cluster; issue a new one"
            }
            Self::Forbidden {
                namespace: Some(namespace),
                ..
            } => {
                return Some(format!(
                    "have an administrator give the service account a role in namespace `{namespace}`, or name \
                     another namespace"
                ));
            }
            Self::Forbidden {
                namespace: None, ..
            } => "the user lacks the right to do this; ask an administrator",
            Self::NoCapacity(_) => {
                "wait for other VMs to end, ask for fewer CPUs, or drop the node or tag the VM is tied to"
            }
            Self::Conflict(_) => "choose another name, or delete what holds this one",
            Self::TimedOut {
                may_have_happened: true,
                ..
            }
            | Self::Interrupted {
                may_have_happened: true,
                ..
            } => "it may have happened nevertheless; delete by name before trying again",
            Self::Redirected { .. } => {
                "set the endpoint to the address it redirects to, if that is the Orka API"
            }
            Self::UnexpectedReply { .. } => {
                "check that the endpoint is the Orka API itself, and what any proxy in between answers"
            }
            Self::NotOrka { .. } => {
                "check the address and port; a proxy or another web server may be answering"
            }
            Self::RateLimited { .. } | Self::Server { .. } => "try again in a little while",
            Self::NotFound(_) | Self::TimedOut { .. } | Self::Interrupted { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

fn unreachable_hint(
    kind: UnreachableKind,
    source: Option<&(dyn std::error::Error + Send + Sync + 'static)>,
) -> Option<String> {
    let hint = match kind {
        UnreachableKind::Dns => "check the spelling of the endpoint, and the cluster's DNS",
        UnreachableKind::Refused => {
            "check address and port; addresses of the cluster's network answer http only, domains https only"
        }
        UnreachableKind::TimedOut | UnreachableKind::NoRoute => {
            "Orka is usually reachable through a VPN only; check the route from this network, and any proxy"
        }
        UnreachableKind::Tls => return Some(tls_hint(source)),
        UnreachableKind::Other => return None,
    };
    Some(hint.to_owned())
}

fn tls_hint(source: Option<&(dyn std::error::Error + Send + Sync + 'static)>) -> String {
    use rustls::{CertificateError, Error as Tls};

    let hint = match source.and_then(|source| source.downcast_ref::<Tls>()) {
        Some(Tls::InvalidCertificate(why)) => match why {
            CertificateError::UnknownIssuer => {
                "the certificate is self-signed or from a private authority; name its CA file"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired; have it renewed"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the certificate is for another name; use the name in it as endpoint"
            }
            _ => "have the certificate of the endpoint checked",
        },
        Some(Tls::InvalidMessage(_)) => "the server may speak plain http; try `http://`",
        _ => "check the certificate of the endpoint, and whether the port speaks https",
    };
    hint.to_owned()
}

fn in_namespace(namespace: Option<&str>) -> String {
    namespace
        .map(|name| format!(" in namespace `{name}`"))
        .unwrap_or_default()
}

fn quoted(excerpt: &str) -> String {
    if excerpt.is_empty() {
        String::new()
    } else {
        format!(": {excerpt}")
    }
}
