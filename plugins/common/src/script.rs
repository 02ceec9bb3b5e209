//! The build script: where it comes from, and what is put in front of it.

use orka_plugin_sdk::{Error, params, workspace};

/// What a script without a `#!` line gets in front.
const PREAMBLE: &[u8] = b"#!/bin/sh\nset -ex\n";
/// What a script that names its own interpreter begins with.
const SHEBANG: &[u8] = b"#!";

/// The script, complete, from the one place that gives it.
pub fn from_params() -> Result<Vec<u8>, Error> {
    let text = params::non_empty_text("script")?;
    let file = params::non_empty_text("script-file")?;
    let own = params::script();
    let given = [text.is_some(), file.is_some(), own.is_some()]
        .into_iter()
        .filter(|given| *given)
        .count();
    if given > 1 {
        return Err(Error::parameter(
            "script",
            "is given more than once; use one of `script`, `script-file` and the positional SCRIPT",
        ));
    }
    let script = match (text, file, own) {
        (Some(text), ..) => text.into_bytes(),
        (None, Some(path), _) => from_file(&path)?,
        (None, None, Some(script)) => script,
        (None, None, None) => {
            return Err(Error::parameter(
                "script",
                "is missing: give it with `-p script=…`, `-p script-file=…` or as the positional SCRIPT",
            ));
        }
    };
    Ok(with_preamble(script))
}

fn from_file(path: &str) -> Result<Vec<u8>, Error> {
    workspace::read(path).map_err(|error| match error {
        // The path is the user's, so what is wrong with it is no fault of this plugin.
        Error::Invalid(info) | Error::NoCapacity(info) => {
            Error::parameter("script-file", format!("cannot be used: {}", info.message))
        }
        Error::NotFound(info) if info.code == "files.not-found" => Error::parameter(
            "script-file",
            format!("names `{path}`, which the workspace does not have"),
        ),
        error => error.context("reading `script-file`"),
    })
}

fn with_preamble(script: Vec<u8>) -> Vec<u8> {
    if script.starts_with(SHEBANG) {
        script
    } else {
        [PREAMBLE, &script].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_with_an_interpreter_stays_as_it_is() {
        let ruby = b"#!/usr/bin/env ruby\nputs 1\n".to_vec();
        assert_eq!(with_preamble(ruby.clone()), ruby);
    }

    #[test]
    fn a_script_without_one_gets_the_tasks_preamble_and_nothing_else_changes() {
        let text = "echo $$ $(HOME) `id` 'q' \"q\" é\ncat <<EOF\nEOF\n";
        assert_eq!(
            with_preamble(text.into()),
            format!("#!/bin/sh\nset -ex\n{text}").into_bytes()
        );
    }
}
