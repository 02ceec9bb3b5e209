//! From a trap to a message: what happened, what the guest said last, where it was, and its last host calls.

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::failure::{Class, Failure, Kind};
use crate::journal::End;
use crate::limits::{Breach, SetIn, Whose};
use crate::state::{BreachError, RunContext};

/// Frames shown of a guest's stack.
const FRAMES_MAX: usize = 12;

/// Parts of function names that say nothing about a policy: panic machinery and generated glue.
const MACHINERY: [&str; 9] = [
    "rust_panic",
    "panicking::",
    "rust_begin_unwind",
    "rustc_entry",
    "__rust_",
    "core::panic",
    "std::process::abort",
    "std::sys::pal::",
    "cabi_realloc",
];

/// What a C library calls its way out.
const ABORT: &str = "abort";

/// Parts of function names of Python's interpreter. Where they are, no function is the author's: those are in a traceback.
const INTERPRETER: [&str; 3] = [
    "_PyEval_",
    "componentize_py_runtime::",
    "wit_dylib_export_call",
];

/// Explains why a guest ended without an answer.
pub fn explain(
    run: &RunContext,
    error: &wasmtime::Error,
    breach: Option<Breach>,
    output: &str,
) -> Failure {
    let name = &run.manifest.name;
    let breach = breach
        .or_else(|| error.downcast_ref::<BreachError>().map(|found| found.0))
        .or_else(|| Breach::found_by_engine(error, &run.limits));
    let mask = |text: &str| run.console.masker().mask(text);
    let last_words = run.last_words();
    let raised = uncaught(error, output);
    let mut failure = match (breach, error.downcast_ref::<I32Exit>(), last_words.as_deref()) {
        (Some(breach), _, _) => {
            let place = if run.is_played() { SetIn::Scenario } else { SetIn::CommandLine };
            let (what, hint) = breach.explain(Whose::Plugin, place);
            plugin_failure("plugin.limit", format!("plugin `{name}` was stopped: {what}")).with_hint(hint)
        }
        (None, Some(I32Exit(status)), _) => plugin_failure(
            "plugin.exited",
            format!("plugin `{name}` left through WASI's exit with status {status} instead of giving a verdict"),
        )
        .with_hint("return a verdict or an error from `policy.run`"),
        (None, None, Some(words)) => plugin_failure("plugin.panicked", format!("plugin `{name}` panicked: {}", mask(words)))
            .with_hint("this is a mistake in the plugin; report it to its author with these lines"),
        (None, None, None) if raised.is_some() => {
            let exception = mask(raised.unwrap_or_default());
            plugin_failure("plugin.exception", format!("plugin `{name}` did not catch an exception: {exception}"))
                .with_hint("this is a mistake in the plugin; report it to its author with these lines")
        }
        (None, None, None) => plugin_failure("plugin.trapped", format!("plugin `{name}` trapped: {}", reason(error)))
            .with_hint("this is a mistake in the plugin; report it to its author with these lines"),
    };
    if let Some(words) = last_words.filter(|_| failure.code != "plugin.panicked") {
        failure = failure.with_detail("its last words", mask(&words));
    }
    if !output.trim().is_empty() {
        failure = failure.with_detail("the plugin's output", mask(output.trim_end()));
    }
    if let Some(frames) = frames(error) {
        failure = failure.with_detail("in", frames);
    }
    with_last_calls(run, failure)
}

/// Adds what the guest asked the host for last.
pub fn with_last_calls(run: &RunContext, failure: Failure) -> Failure {
    let calls = last_calls(run);
    if calls.is_empty() {
        failure
    } else {
        failure.with_detail("its last host calls", calls)
    }
}

fn plugin_failure(code: &'static str, message: String) -> Failure {
    Failure::new(Kind::Other, Class::Plugin, code, message)
}

/// What a trap says, in words.
pub fn reason(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<Trap>() {
        Some(Trap::MemoryOutOfBounds) => {
            "it reached outside its memory (in Rust, mostly a stack that is too deep)".to_owned()
        }
        Some(Trap::UnreachableCodeReached) => {
            "it gave up without saying why (`unreachable`)".to_owned()
        }
        Some(trap) => trap.to_string(),
        // The backtrace is the outermost layer of the chain; what happened is the innermost.
        None => error.root_cause().to_string(),
    }
}

/// Where a trap was, by the guest's own function names.
pub fn frames(error: &wasmtime::Error) -> Option<String> {
    let backtrace = error.downcast_ref::<WasmBacktrace>()?;
    let names = backtrace
        .frames()
        .iter()
        .filter_map(|frame| frame.func_name())
        .map(|name| format!("{:#}", rustc_demangle::demangle(name)))
        .collect();
    let names = of_the_author(names);
    (!names.is_empty()).then(|| names.join("\n"))
}

/// The innermost functions that are the author's.
fn of_the_author(mut names: Vec<String>) -> Vec<String> {
    let has = |parts: &[&str], name: &String| parts.iter().any(|part| name.contains(part));
    if names.iter().any(|name| has(&INTERPRETER, name)) {
        return Vec::new();
    }
    names.retain(|name| name != ABORT && !has(&MACHINERY, name));
    names.truncate(FRAMES_MAX);
    names
}

/// What Python calls the list of its frames.
const TRACEBACK: &str = "Traceback (most recent call last):\n";

/// What componentize-py says last when nothing in Python has caught an exception.
const UNCAUGHT: &str = "Python function threw an unexpected exception";

/// The exception that a guest in Python gave up over: the last one in its output, its name and the first line of its words.
///
/// A traceback alone says nothing: one that was caught is printed in the same way, and a build's in a plugin of any
/// language. What came after the last words of componentize-py is another end.
fn uncaught<'a>(error: &wasmtime::Error, output: &'a str) -> Option<&'a str> {
    let gave_up = error.downcast_ref::<Trap>() == Some(&Trap::UnreachableCodeReached);
    let (_, traceback) = output.rsplit_once(TRACEBACK).filter(|_| gave_up)?;
    let said = traceback.lines().rev().map(str::trim_end);
    let mut said = said.filter(|line| !line.is_empty() && !line.starts_with("note: "));
    if said.next() != Some(UNCAUGHT) || !said.next()?.contains(" panicked at ") {
        return None;
    }
    // Frames and marks are indented.
    traceback
        .lines()
        .find(|line| !line.is_empty() && !line.starts_with(char::is_whitespace))
}

fn last_calls(run: &RunContext) -> String {
    let mut lines: Vec<String> = run
        .journal
        .last()
        .iter()
        .map(|call| match &call.end {
            End::Succeeded => format!("{} ({} ms)", call.function, call.elapsed_ms),
            End::Failed(code) => format!("{} ({} ms): {code}", call.function, call.elapsed_ms),
            End::Refused => format!("{} (refused)", call.function),
        })
        .collect();
    if let Some(current) = run.journal.current() {
        lines.push(format!("{current} (still running)"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_authors_functions_are_shown() {
        let names =
            |names: &[&str]| of_the_author(names.iter().map(|it| (*it).to_owned()).collect());
        let rust = [
            "abort",
            "std::sys::pal::wasi::abort_internal",
            "std::process::abort",
            "build::abort_the_build",
            "build::run",
            "orka:plugin/policy@0.1.0#run",
        ];
        assert_eq!(names(&rust), &rust[3..]);
        assert_eq!(
            names(&[&rust[..3], &["wit_dylib_export_call"], &rust[5..]].concat()),
            [""; 0]
        );
        let python = [
            "PyList_Append",
            "_PyEval_EvalFrameDefault",
            "_PyEval_Vector",
        ];
        assert_eq!(names(&python), [""; 0]);
        assert_eq!(names(&["f"; 20]).len(), FRAMES_MAX);
    }

    #[test]
    fn an_exception_is_the_last_one_of_the_output_of_a_guest_that_gave_up() {
        let output = "Traceback (most recent call last):
  File \"/0/plugin.py\", line 3, in run
KeyError: 'a'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File \"/0/plugin.py\", line 5, in run
    f(x)
    ~^^^
ValueError: no such thing:
x

thread '<unnamed>' (1) panicked at runtime/src/lib.rs:1293:29:
Python function threw an unexpected exception
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
";
        let gave_up = wasmtime::Error::from(Trap::UnreachableCodeReached);
        assert_eq!(
            uncaught(&gave_up, output),
            Some("ValueError: no such thing:")
        );
        assert_eq!(uncaught(&gave_up, "Traceback of another kind"), None);
        // One that was caught, whatever came after it.
        let (caught, end) = output.split_once("\nthread").unwrap();
        assert_eq!(uncaught(&gave_up, caught), None);
        for more in [
            "\nthread '<unnamed>' (1) panicked at src/lib.rs:7:1:\nno rules\n",
            "\ncompiling the rest\n",
            "\nPython function threw an unexpected exception\n",
        ] {
            assert_eq!(uncaught(&gave_up, &format!("{caught}{more}")), None);
        }
        let went_on = format!("{caught}\nthread{end}and went on\n");
        assert_eq!(uncaught(&gave_up, &went_on), None);
        let other = wasmtime::Error::from(Trap::MemoryOutOfBounds);
        assert_eq!(uncaught(&other, output), None);
    }
}
