//! Whether a component's imports are what this host has, and if not, what differs: item by item, in the words of the contract.
//!
//! The engine stops at the first mismatch and names it by position. This compares the component's own description of what
//! it wants with the contract's text, which is part of this crate. As with the compiler, two programs need it: the one that runs
//! plugins knows what a difference is, and the image's `plugin-compiler` finds it, since hardly any run has one.

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::fmt;

use serde::{Deserialize, Serialize};

#[cfg(any(test, feature = "compare"))]
mod compare;

#[cfg(any(test, feature = "compare"))]
pub use compare::differences;

/// The argument that has the image's compiler compare the component that it reads, in place of compiling it, and write its
/// differences as JSON.
pub const COMPARE: &str = "--compare";

/// What is wanted where a whole interface is; no name, and so without backticks.
const INTERFACE: &str = "the interface";

/// One way in which a component does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The interface, such as `orka:plugin/ssh`, and the item in it.
    pub item: String,
    /// What the component wants; empty where it wants nothing of the kind.
    pub wants: String,
    /// What this host has; empty where it has nothing of the kind.
    pub has: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| match text {
            "" => "nothing of the kind".to_owned(),
            INTERFACE => INTERFACE.to_owned(),
            text => format!("`{text}`"),
        };
        write!(
            f,
            "{}: it wants {}, this host has {}",
            self.item,
            shown(&self.wants),
            shown(&self.has)
        )
    }
}
