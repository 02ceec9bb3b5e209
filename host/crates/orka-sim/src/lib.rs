//! An Orka cluster in a process.
//!
//! [`Sim::start`] opens the REST API of Orka 1.x/2.x, of Orka 3.x or of both on a port of this machine. Virtual
//! machines deployed through it are directories here, each reached by real SSH on a port of its own. Every rule the
//! real cluster is known to enforce is enforced, what is not known is a switch ([`Switches`]), and what goes wrong in
//! production can be made to go wrong on demand ([`FaultRule`]).
//!
//! The simulator knows nothing of any particular client. It records each request in the order of arrival
//! ([`Sim::state`]), so that a test can ask what a client really did.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cluster;
mod config;
mod deploy;
mod fault;
mod guest;
mod id;
mod reply;
mod request;
mod seed;
mod server;
mod sim;
mod snapshot;
mod switches;
mod tls;
mod v2;
mod v3;

pub use config::{
    Architecture, ConfigError, Generation, GuestKind, ImageSpec, NodeSpec, SaToken, SimConfig,
    SshdSettings, User,
};
pub use fault::{FaultAction, FaultFileError, FaultRule, GuestFault, Occurrence, parse_faults};
pub use seed::{Seed, SeedKind};
pub use sim::{Sim, StartError};
pub use snapshot::{DeletionRecord, RequestRecord, State, TokenRecord, VmConfigRecord, VmRecord};
pub use switches::{
    BooleanStyle, DeleteReply, FullCluster, NetworkMode, PortNumbers, PortStyle, Switches,
    TokenModel, V2Statuses,
};
pub use tls::{Tls, TlsError};
