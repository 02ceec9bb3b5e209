//! What the author of a guard for `orka-step` sees: one trait, one macro line, and a log.
//!
//! ```no_run
//! use orka_guard_sdk::{Decision, Guard, RunFacts, VmRequest};
//!
//! struct NoLatest {
//!     denied: Vec<String>,
//! }
//!
//! impl Guard for NoLatest {
//!     fn configure(text: &str) -> Result<Self, String> {
//!         let denied = text.lines().map(|line| line.trim().to_owned());
//!         Ok(Self {
//!             denied: denied.filter(|line| !line.is_empty()).collect(),
//!         })
//!     }
//!
//!     fn vm(&mut self, _run: &RunFacts, vm: VmRequest) -> Decision<VmRequest> {
//!         // A reference without a tag means `latest`; what is in no registry has no tags.
//!         let name = vm.image.rsplit_once('/').map(|(_, name)| name);
//!         if vm.image.ends_with(":latest") || name.is_some_and(|it| !it.contains([':', '@'])) {
//!             return Decision::deny("`latest` moves; name a tag that stays");
//!         }
//!         if self.denied.contains(&vm.image) {
//!             return Decision::deny("this image is not for builds");
//!         }
//!         Decision::Allow
//!     }
//! }
//!
//! orka_guard_sdk::register!(NoLatest);
//! ```
//!
//! What a guard does not decide about it allows. Whatever else goes wrong in it, a panic included, is a denial. `orka-step
//! plugin new --guard NAME` makes a project, `orka-step plugin build` its component, which a run is given with `--guard`. A
//! crate of its own, apart from the SDK for plugins: what is linked into a component decides its world.

/// The generated bindings of the world `guard`, as they are.
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
        world: "guard",
        pub_export_macro: true,
        export_macro_name: "export_guard",
        default_bindings_module: "orka_guard_sdk::bindings",
        additional_derives: [PartialEq, Eq],
    });
}

pub use bindings::exports::orka::plugin::guarding::{
    Artifact, ArtifactList, Deployment, ExecRequest, Input, RunFacts, VmRequest,
};
pub use bindings::orka::plugin::guard_log::log;

/// What a guard decides about something of type `T`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<T> {
    /// As it was asked for.
    Allow,
    /// This instead, for this reason.
    Change(T, String),
    /// Not at all, for this reason.
    Deny(String),
}

impl<T> Decision<T> {
    /// Another request, and why.
    pub fn change(to: T, reason: impl Into<String>) -> Self {
        Self::Change(to, reason.into())
    }

    /// Nothing, and why.
    pub fn deny(reason: impl Into<String>) -> Self {
        Self::Deny(reason.into())
    }
}

/// A platform team's rules. One value lives as long as the run.
pub trait Guard: Sized + 'static {
    /// Reads the operator's configuration, an empty text where none is given.
    ///
    /// # Errors
    ///
    /// What is wrong with the text; the run ends with it before anything is sent.
    fn configure(text: &str) -> Result<Self, String>;

    /// Decides about a VM, before its config is made and again, with [`VmRequest::deployment`], before it is deployed.
    fn vm(&mut self, _run: &RunFacts, _vm: VmRequest) -> Decision<VmRequest> {
        Decision::Allow
    }

    /// Decides about a program, before it is started.
    fn exec(&mut self, _run: &RunFacts, _program: ExecRequest) -> Decision<ExecRequest> {
        Decision::Allow
    }

    /// Decides about files that came back: a change names the paths to leave out.
    fn artifacts(&mut self, _run: &RunFacts, _files: ArtifactList) -> Decision<Vec<String>> {
        Decision::Allow
    }
}

/// Sends the message of a panic to the log: the trap that follows says nothing. [`register!`] calls this.
pub fn announce_panics() {
    std::panic::set_hook(Box::new(|panic| log(&panic.to_string())));
}

/// Makes a type that implements [`Guard`] the component's export.
#[macro_export]
macro_rules! register {
    ($guard:ty) => {
        const _: () = {
            use $crate::bindings::exports::orka::plugin::guarding as wit;

            ::std::thread_local! {
                static GUARD: ::core::cell::RefCell<::core::option::Option<$guard>> =
                    const { ::core::cell::RefCell::new(::core::option::Option::None) };
            }

            fn ask<T>(question: impl FnOnce(&mut $guard) -> T) -> T {
                GUARD.with_borrow_mut(|guard| {
                    question(guard.as_mut().expect("the host configures a guard first"))
                })
            }

            struct Registered;

            impl wit::Guest for Registered {
                fn configure(
                    text: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::announce_panics();
                    let guard = <$guard as $crate::Guard>::configure(&text)?;
                    GUARD.set(::core::option::Option::Some(guard));
                    ::core::result::Result::Ok(())
                }

                fn vm(run: $crate::RunFacts, request: $crate::VmRequest) -> wit::VmAnswer {
                    match ask(|guard| $crate::Guard::vm(guard, &run, request)) {
                        $crate::Decision::Allow => wit::VmAnswer::Allow,
                        $crate::Decision::Change(request, reason) => {
                            wit::VmAnswer::Change(wit::ChangedVm { request, reason })
                        }
                        $crate::Decision::Deny(reason) => wit::VmAnswer::Deny(reason),
                    }
                }

                fn exec(run: $crate::RunFacts, request: $crate::ExecRequest) -> wit::ExecAnswer {
                    match ask(|guard| $crate::Guard::exec(guard, &run, request)) {
                        $crate::Decision::Allow => wit::ExecAnswer::Allow,
                        $crate::Decision::Change(request, reason) => {
                            wit::ExecAnswer::Change(wit::ChangedExec { request, reason })
                        }
                        $crate::Decision::Deny(reason) => wit::ExecAnswer::Deny(reason),
                    }
                }

                fn artifacts(
                    run: $crate::RunFacts,
                    files: $crate::ArtifactList,
                ) -> wit::ArtifactsAnswer {
                    match ask(|guard| $crate::Guard::artifacts(guard, &run, files)) {
                        $crate::Decision::Allow => wit::ArtifactsAnswer::Allow,
                        $crate::Decision::Change(leave_out, reason) => {
                            wit::ArtifactsAnswer::Change(wit::FewerArtifacts { leave_out, reason })
                        }
                        $crate::Decision::Deny(reason) => wit::ArtifactsAnswer::Deny(reason),
                    }
                }
            }

    $crate::bindings::export_guard!(Registered with_types_in $crate::bindings);
        };
    };
}
