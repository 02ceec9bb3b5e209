//! What the author of a plugin for `orka-step` sees: one trait, one macro line, and the host's functions.
//!
//! ```no_run
//! use orka_plugin_sdk::{Error, Plugin, Verdict, cluster, params, phase, ssh};
//!
//! struct Hello;
//!
//! impl Plugin for Hello {
//!     fn run() -> Result<Verdict, Error> {
//!         let session = phase("sign in", cluster::sign_in)?;
//!         let spec = cluster::VmSpec::from_image(params::required_text("base-image")?);
//!         let config = phase("create VM config", || session.create_config(&spec))?;
//!         let vm = phase("deploy VM", || config.deploy(&cluster::DeployOptions::default()))?;
//!         let connection = phase("wait for SSH", || ssh::connect(&vm, &ssh::ConnectOptions::default()))?;
//!         let exit = ssh::run(&connection, "sw_vers", &[], &ssh::ExecOptions::default())?;
//!         Ok(Verdict::from(exit))
//!     }
//! }
//!
//! orka_plugin_sdk::register!(Hello);
//! ```
//!
//! [`with_vm`] is the usual way to one VM, [`retry`] tries again what may work the next time.
//!
//! Nothing needs to be cleaned up: the host deletes every VM and VM config of the run, however the plugin ends.
//! Built for `wasm32-unknown-unknown` a plugin imports nothing but `orka:plugin`.

mod error;
mod exit;
mod machine;
pub mod params;
mod phase;
pub mod recipes;
mod register;
mod retry;
pub mod ssh;

/// The generated bindings of `orka:plugin`, as they are.
#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::all,
    reason = "generated from wit/, where every item is documented"
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "plugin",
        pub_export_macro: true,
        export_macro_name: "export_policy",
        default_bindings_module: "orka_plugin_sdk::bindings",
    });
}

pub use bindings::exports::orka::plugin::policy::Verdict;
pub use bindings::orka::plugin::types::{Error, ErrorInfo, Exit, ExitSignal};
pub use bindings::orka::plugin::{
    clock, console, handoff, random, results, secrets, wait, workspace,
};
pub use error::ErrorContext;
pub use machine::with_vm;
pub use phase::{phase, phase_with, skipped};
pub use register::{Plugin, announce_panics};
pub use retry::{Retry, retry};

/// An Orka cluster: sessions, VM configs and VMs.
pub mod cluster {
    pub use crate::bindings::orka::plugin::cluster::*;

    impl VmSpec {
        /// A VM from `image`, everything else left to the cluster.
        pub fn from_image(image: impl Into<String>) -> Self {
            Self {
                image: image.into(),
                cpu_cores: None,
                vcpus: None,
                memory_mib: None,
                vnc_console: None,
                gpu_passthrough: None,
                system_serial: None,
                tag: None,
                tag_required: false,
                scheduler: None,
                options: Vec::new(),
            }
        }
    }

    #[allow(
        clippy::derivable_impls,
        reason = "the type is generated, so `derive` cannot be put on it"
    )]
    impl Default for DeployOptions {
        fn default() -> Self {
            Self {
                node: None,
                metadata: Vec::new(),
                reserved_ports: Vec::new(),
                timeout_ms: None,
                capacity_wait_ms: None,
                options: Vec::new(),
            }
        }
    }
}
