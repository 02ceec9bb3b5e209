//! Both MacStadium Orka APIs over HTTP, as a build agent uses them: sign in, make a VM config, deploy, look, delete,
//! sign out.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use orka_client::{Client, ClientConfig, Credentials, DeployRequest, Endpoint, VmConfigSpec};
//!
//! let login = Credentials::Login { email: "ci@example.com".into(), password: "secret".into(), licence_key: None };
//! let client = Client::connect(ClientConfig::new(Endpoint::parse("http://10.221.188.20")?, login)).await?;
//! client.sign_in().await?;
//! let spec = VmConfigSpec { name: "ci-1".into(), image: "Sonoma.orkasi".into(), cpu: 4, ..Default::default() };
//! client.create_config(&spec).await?;
//! let vm = client.deploy(&DeployRequest::from(&spec)).await?;
//! println!("ssh -p {} {}", vm.ssh_port, vm.address);
//! client.purge("ci-1").await?;
//! client.sign_out().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Facts about Orka 1.x and 2.x are those of MacStadium's Orka 2.1 API collection and of the clients it publishes;
//! facts about Orka 3.x those of its documentation and its published clients. Where they disagree, or a cluster is
//! known to answer in several ways, the crate takes every form.
//!
//! # Invariants
//!
//! - A request that creates something is sent at most once, unless no connection was made or its token was refused.
//! - An error says whether what was asked for may exist nevertheless: [`Error::may_have_happened`].
//! - No failure is taken for "already gone": only an answer of Orka itself that says so is.
//! - A token or password is never in a `Debug`, `Display` or log line, and never goes to a host other than the
//!   endpoint's.
//! - `POST /token` is never made because `POST /token` was refused. Callers that find their token refused at the same
//!   time share one renewal.
//! - A token is revoked only where it is certainly this client's own.
//! - No answer is read beyond [`BODY_BYTES_MAX`], and no answer makes the crate panic.
//! - All waiting is `tokio::time`, and every wait is bounded.
//! - TLS is rustls with the `ring` provider, installed as the process's default unless the program chose one before.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod client;
mod config;
mod detect;
mod endpoint;
mod error;
mod http;
mod lenient;
mod options;
mod patience;
mod placement;
mod refusal;
mod retry;
mod spec;
mod token;
mod v2;
mod v3;
pub mod validate;
mod version;
mod vm;

pub use secrecy::SecretString;

pub use client::Client;
pub use config::{
    ClientConfig, Credentials, DEFAULT_NAMESPACE, Generation, MetadataMember, RetryPolicy,
    TOKEN_FILE_AGE_MAX, Timeouts, TokenSource, VersionChoice,
};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{Error, Rejection, UnreachableKind};
pub use http::{BODY_BYTES_MAX, install_crypto_provider};
pub use patience::patient_until;
pub use spec::{DeployRequest, Display, PortReservation, Protocol, Scheduler, VmConfigSpec};
pub use version::ApiVersion;
pub use vm::{
    ClusterInfo, DeployedVm, Image, Node, Removal, SignOut, TokenState, VmConfig, VmInstance,
    VmState,
};
