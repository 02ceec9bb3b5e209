//! What a client is told once: where, as whom, how long to wait.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::endpoint::Endpoint;

/// The namespace that every Orka 3 cluster has.
pub const DEFAULT_NAMESPACE: &str = "orka-default";

/// Everything a [`Client`](crate::Client) needs to know.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Base URL of the API.
    pub endpoint: Endpoint,
    /// Which API to speak.
    pub version: VersionChoice,
    /// Namespace of the VMs; Orka 3 only. VM configs and local images live in [`DEFAULT_NAMESPACE`] regardless.
    pub namespace: String,
    /// Who is calling.
    pub credentials: Credentials,
    /// PEM file with certificate authorities to trust besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// How often reads and deletions are repeated.
    pub retry: RetryPolicy,
    /// `User-Agent` of every request.
    pub user_agent: String,
    /// Public address (or host name) of each node whose private one Orka reports.
    pub node_addresses: BTreeMap<IpAddr, String>,
    /// Accepts any TLS certificate. Whoever is on the path then reads the credentials.
    pub insecure_tls: bool,
    /// How VM metadata is called in an Orka 3 deploy request.
    pub metadata_member: MetadataMember,
}

impl ClientConfig {
    /// A configuration with defaults for everything but where and who.
    pub fn new(endpoint: Endpoint, credentials: Credentials) -> Self {
        Self {
            endpoint,
            version: VersionChoice::Auto,
            namespace: DEFAULT_NAMESPACE.to_owned(),
            credentials,
            ca_file: None,
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            user_agent: concat!("orka-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            node_addresses: BTreeMap::new(),
            insecure_tls: false,
            metadata_member: MetadataMember::default(),
        }
    }
}

/// Which API to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VersionChoice {
    /// Ask the cluster.
    #[default]
    Auto,
    /// Orka 1.x and 2.x.
    V2,
    /// Orka 3.x.
    V3,
}

/// The API that a cluster speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Generation {
    /// Orka 1.x and 2.x: e-mail and password, VM configs, `/resources/…`.
    Orka2,
    /// Orka 3.x: service account tokens, namespaces, `/api/v1/…`.
    Orka3,
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Orka2 => "Orka 2",
            Self::Orka3 => "Orka 3",
        })
    }
}

/// Who is calling. Secrets print as `[REDACTED]`.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// Nobody: enough to detect the generation and read what is public.
    #[default]
    Anonymous,
    /// An Orka 2 user.
    Login {
        /// The user's e-mail address.
        email: String,
        /// The user's password.
        password: SecretString,
        /// The cluster's licence key. No call of a build agent needs it; see
        /// [`Client::check_licence_key`](crate::Client::check_licence_key).
        licence_key: Option<SecretString>,
    },
    /// A bearer token that somebody else issued: an Orka 3 service account token, or an Orka 2 token.
    Token(TokenSource),
    /// Both. On a cluster that serves both APIs the token decides for Orka 3; the login serves Orka 2.
    Both {
        /// The Orka 2 user's e-mail address.
        email: String,
        /// The Orka 2 user's password.
        password: SecretString,
        /// The cluster's licence key.
        licence_key: Option<SecretString>,
        /// The Orka 3 token.
        token: TokenSource,
    },
}

impl Credentials {
    /// E-mail address and password, where given.
    pub(crate) fn login(&self) -> Option<(&str, &SecretString)> {
        match self {
            Self::Login {
                email, password, ..
            }
            | Self::Both {
                email, password, ..
            } => Some((email, password)),
            _ => None,
        }
    }

    /// The given token, where there is one.
    pub(crate) fn token(&self) -> Option<&TokenSource> {
        match self {
            Self::Token(token) | Self::Both { token, .. } => Some(token),
            _ => None,
        }
    }

    /// The licence key, where given.
    pub(crate) fn licence_key(&self) -> Option<&SecretString> {
        match self {
            Self::Login { licence_key, .. } | Self::Both { licence_key, .. } => {
                licence_key.as_ref()
            }
            _ => None,
        }
    }
}

/// Where a given token comes from.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// The token itself.
    Static(SecretString),
    /// A file holding it, which may be replaced while the client runs: read anew after
    /// [`TOKEN_FILE_AGE_MAX`] and whenever the API answers 401.
    File(PathBuf),
}

/// How long a token read from a file is used before the file is read again.
///
/// A kubelet replaces a projected token well before it expires and writes it within a minute or so.
pub const TOKEN_FILE_AGE_MAX: Duration = Duration::from_secs(60);

/// Time limits. Each covers one attempt of one call, from connecting to the last byte, unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Connecting, with the TLS handshake. 10 s: all peers agree on it, and a missing VPN route shows as this one.
    pub connect: Duration,
    /// An ordinary call. 60 s: listing the nodes of a large cluster takes over 10 s.
    pub call: Duration,
    /// A deploy. 600 s: the first deploy of an image on an Apple-silicon node copies it there, about 4 min.
    pub deploy: Duration,
    /// Each of the two unauthenticated questions that tell the generation. 5 s, so that a wrong endpoint shows early.
    pub probe: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            call: Duration::from_secs(60),
            deploy: Duration::from_secs(600),
            probe: Duration::from_secs(5),
        }
    }
}

/// How reads and deletions are repeated after a failure that may pass.
///
/// A call that creates something is repeated only if the connection was never made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; at least 1.
    pub attempts_max: u32,
    /// Longest wait after the first failure; it doubles with each further one.
    pub wait_first: Duration,
    /// No wait is longer, whatever `Retry-After` says.
    pub wait_max: Duration,
}

impl Default for RetryPolicy {
    /// Five attempts over at most 15 s: an Orka 3 API server that is being replaced is gone for some seconds.
    fn default() -> Self {
        Self {
            attempts_max: 5,
            wait_first: Duration::from_secs(1),
            wait_max: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// Every call is made once.
    pub const NONE: Self = Self {
        attempts_max: 1,
        wait_first: Duration::ZERO,
        wait_max: Duration::ZERO,
    };
}

/// How VM metadata is called in an Orka 3 deploy request.
///
/// The public documentation shows neither; one production client sends `customMetadata`, and the custom resource
/// behind the API has `customVMMetadata`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetadataMember {
    /// `customMetadata`.
    #[default]
    CustomMetadata,
    /// `customVMMetadata`.
    CustomVmMetadata,
}

impl MetadataMember {
    /// The member's name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CustomMetadata => "customMetadata",
            Self::CustomVmMetadata => "customVMMetadata",
        }
    }
}
