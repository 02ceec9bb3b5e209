//! What of the contract a plugin wants otherwise than this host has it, for messages.

use std::time::Duration;

pub use plugin_fit::Difference;

use crate::aot::{self, Bounds, Trouble};
use crate::failure::Failure;

/// What comparing may take where another program does it: a thousand times what it takes.
const COMPARE_TIME: Duration = Duration::from_secs(60);

/// So many differences are told.
const SHOWN: usize = 20;

/// What a component wants of the contract that this host does not have, or has otherwise.
///
/// Nothing for a component that fits, and for one that cannot be read: that is told elsewhere.
///
/// # Errors
///
/// A program without a compiler has one beside it compare, which may not be usable.
pub fn differences(component: &[u8]) -> Result<Vec<Difference>, Trouble> {
    let bounds = Bounds {
        time: COMPARE_TIME,
        ..Bounds::default()
    };
    aot::differences(component, &bounds)
}

/// A failure with a component's differences in its details.
pub fn told(failure: Failure, component: &[u8]) -> Failure {
    let differences = match differences(component) {
        Ok(differences) if differences.is_empty() => return failure,
        Ok(differences) => differences,
        Err(trouble) => {
            return failure.with_detail("what differs", format!("cannot be told: {trouble}"));
        }
    };
    let mut lines: Vec<String> = (differences.iter().take(SHOWN))
        .map(ToString::to_string)
        .collect();
    if differences.len() > SHOWN {
        lines.push(format!("and {} more", differences.len() - SHOWN));
    }
    failure.with_detail("what differs", lines.join("\n"))
}
