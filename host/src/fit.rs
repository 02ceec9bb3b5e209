//! What of the contract a plugin wants otherwise than this host has it, for messages.

use std::time::Duration;

pub use plugin_fit::Difference;

use crate::aot::{self, Bounds, Trouble};

/// What comparing may take where another program does it: a hundred times what it takes, and no more than a step that is stopped
/// can wait.
const COMPARE_TIME: Duration = Duration::from_secs(10);

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

/// Why a component cannot be linked.
pub struct Mismatch {
    /// Whether it is WASI that it wants more of.
    pub is_wasi: bool,
    /// In a sentence.
    pub what: String,
    /// A further fact, with its name.
    pub detail: (&'static str, String),
}

/// A component that the engine could not link, in the words of the contract: its differences, the first in the message and all
/// of them in the details. What the engine says is for those who make one by hand, and is told where nothing else is known.
pub fn mismatch(component: &[u8], engine: &wasmtime::Error) -> Mismatch {
    let differences = match differences(component) {
        Ok(differences) => differences,
        Err(trouble) => {
            let mut mismatch = unknown(engine);
            mismatch.detail.1 += &format!("\nwhat differs cannot be told: {trouble}");
            return mismatch;
        }
    };
    let Some(first) = differences.first() else {
        return unknown(engine);
    };
    let more = differences.len() - 1;
    let what = match more {
        0 => first.to_string(),
        _ => format!("{first}; and {more} more"),
    };
    let mut lines: Vec<String> = (differences.iter().take(SHOWN))
        .map(ToString::to_string)
        .collect();
    if differences.len() > SHOWN {
        lines.push(format!("and {} more", differences.len() - SHOWN));
    }
    Mismatch {
        is_wasi: false,
        what,
        detail: ("what differs", lines.join("\n")),
    }
}

/// One of which no difference is known.
fn unknown(engine: &wasmtime::Error) -> Mismatch {
    let engine = format!("{engine:#}");
    // It names the instance first, as `component imports instance `wasi:…`, …`.
    let named = engine.split('`').nth(1).unwrap_or_default();
    let what = if named.contains(':') {
        format!("what it imports of `{named}` is not what this host has")
    } else {
        "its imports or exports are not what this host has".to_owned()
    };
    Mismatch {
        is_wasi: named.starts_with("wasi:"),
        what,
        detail: ("what the engine says", engine),
    }
}
