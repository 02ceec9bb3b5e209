//! Diagnostics of the libraries and our own, to the step's log; off unless asked for.

use std::io::{self, Write};

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::console::Console;

/// Our own crates: with `-v` their debug messages, with `-vv` everything; libraries come one level later.
const OWN: [&str; 4] = ["orka_step", "orka_client", "guest_ssh", "orka_sim"];

/// Starts logging at the level that `-v` given so many times asks for.
pub fn start(verbose: u8, console: &Console) {
    let (own, others) = match verbose {
        0 => (LevelFilter::WARN, LevelFilter::ERROR),
        1 => (LevelFilter::DEBUG, LevelFilter::WARN),
        _ => (LevelFilter::TRACE, LevelFilter::from_level(Level::DEBUG)),
    };
    let targets = Targets::new()
        .with_default(others)
        .with_targets(OWN.map(|target| (target, own)));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(ToConsole(console.clone()))
        .with_ansi(false);
    // Fails only if logging was started already, which tests in one process may have done.
    let _ = tracing_subscriber::registry()
        .with(targets)
        .with(layer)
        .try_init();
}

/// The step's log, with secrets masked: a library may log what it should not.
struct ToConsole(Console);

impl<'a> MakeWriter<'a> for ToConsole {
    type Writer = MaskedLine;

    fn make_writer(&'a self) -> Self::Writer {
        MaskedLine {
            console: self.0.clone(),
            line: Vec::new(),
        }
    }
}

/// One event on its way to the log, written when it is complete, so that no secret is cut in two.
struct MaskedLine {
    console: Console,
    line: Vec<u8>,
}

impl Write for MaskedLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for MaskedLine {
    fn drop(&mut self) {
        let masked = self.console.masker().mask_bytes(&self.line);
        self.console.diagnostics(&masked);
    }
}
