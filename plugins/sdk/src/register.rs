//! From a type that implements [`Plugin`] to a component's export.

use crate::{Error, Verdict};

/// A build policy.
pub trait Plugin {
    /// Runs the policy once; see `policy.run` in the contract.
    ///
    /// # Errors
    ///
    /// An error of a host call may be handed back as it came: its code decides the step's outcome.
    fn run() -> Result<Verdict, Error>;
}

/// Sends the message of a panic to the host, which shows it with the trap that follows.
///
/// A bare trap says nothing, and a plugin has no standard error of its own. [`register!`](crate::register) calls this.
pub fn announce_panics() {
    std::panic::set_hook(Box::new(|panic| {
        crate::console::last_words(&panic.to_string())
    }));
}

/// Makes a type that implements [`Plugin`] the component's `policy`.
#[macro_export]
macro_rules! register {
    ($plugin:ty) => {
        const _: () = {
            struct Registered;

            impl $crate::bindings::exports::orka::plugin::policy::Guest for Registered {
                fn run() -> ::core::result::Result<$crate::Verdict, $crate::Error> {
                    $crate::announce_panics();
                    <$plugin as $crate::Plugin>::run()
                }
            }

    $crate::bindings::export_policy!(Registered with_types_in $crate::bindings);
        };
    };
}
