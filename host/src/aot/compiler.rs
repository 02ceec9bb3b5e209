//! Compiling: in this program, or, where it was built without a compiler, by the program that the image keeps for that.
//!
//! The image's `plugin-compiler` lies compressed beside this program, since hardly any run needs it. It is unpacked into memory
//! and started from there: that takes no writable path and no rights, only a kernel that lets memory be executed. It gets
//! the component as its standard input and nothing else of us, in a process group of its own: a signal meant for this step
//! must not look like a component that cannot be compiled.

#[cfg(feature = "compiler")]
use plugin_engine::told;

use crate::engine::{Component, Engine};

/// Why a component was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It is not valid: the engine's words.
    #[error("{0}")]
    Invalid(String),
    /// Nothing compiles here.
    #[error("the compiler {0}")]
    NoCompiler(String),
}

/// Compiles a component.
///
/// # Errors
///
/// [`Trouble::Invalid`] for a component that is not; [`Trouble::NoCompiler`] where this program has no compiler and the one
/// beside it cannot be used.
#[cfg(feature = "compiler")]
pub fn component(engine: &Engine, bytes: &[u8]) -> Result<Component, Trouble> {
    Component::new(engine, bytes).map_err(|error| Trouble::Invalid(told(&error)))
}

/// Compiles a component.
///
/// # Errors
///
/// [`Trouble::Invalid`] for a component that is not; [`Trouble::NoCompiler`] where this program has no compiler and the one
/// beside it cannot be used.
#[cfg(not(feature = "compiler"))]
pub fn component(engine: &Engine, bytes: &[u8]) -> Result<Component, Trouble> {
    use super::native::{self, Authority};

    let path = place()?;
    let (packed, authority) = super::place::beside_program(&path)
        .map_err(|refusal| Trouble::NoCompiler(format!("is not used: {refusal}")))?
        .ok_or_else(|| Trouble::NoCompiler(format!("`{}` is not there", path.display())))?;
    let Authority::Program(proof) = authority else {
        return Err(Trouble::NoCompiler("is not ours".to_owned()));
    };
    let code = beside::code(&packed, bytes)?;
    native::compiled(engine, &code, &proof)
        .map_err(|refusal| Trouble::NoCompiler(format!("is of no use: {refusal}")))
}

/// Where the compiler is.
#[cfg(not(feature = "compiler"))]
fn place() -> Result<std::path::PathBuf, Trouble> {
    let program = std::env::current_exe()
        .map_err(|error| Trouble::NoCompiler(format!("cannot be found: {error}")))?;
    let prefix = program.parent().and_then(|it| it.parent());
    prefix
        .map(|prefix| prefix.join("lib/orka-step/compiler.gz"))
        .ok_or_else(|| Trouble::NoCompiler("has no place".to_owned()))
}

#[cfg(any(test, not(feature = "compiler")))]
mod beside {
    use std::fs::File;
    use std::io::{self, Read as _, Write as _};
    use std::os::fd::AsRawFd as _;
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    use std::process::{Command, Output, Stdio};

    use flate2::read::GzDecoder;
    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::io::Errno;

    use super::Trouble;

    /// Unpacked it has a third of this.
    const PROGRAM_BYTES_MAX: u64 = 64 * 1024 * 1024;

    /// The exit code for a component that is not valid.
    const INVALID: i32 = 1;

    /// What the packed program writes when it reads this component.
    pub(super) fn code(packed: &[u8], component: &[u8]) -> Result<Vec<u8>, Trouble> {
        let program = unpacked(packed)
            .map_err(|error| Trouble::NoCompiler(format!("cannot be unpacked: {error}")))?;
        let output = output(&program, component)
            .map_err(|error| Trouble::NoCompiler(format!("cannot be started: {error}")))?;
        match output.status.code() {
            Some(0) => Ok(output.stdout),
            Some(INVALID) => Err(Trouble::Invalid(message(&output))),
            Some(code) => Err(Trouble::NoCompiler(format!(
                "ended with exit code {code}: {}",
                message(&output)
            ))),
            None => Err(Trouble::NoCompiler(format!(
                "was killed by signal {}; is there enough memory?",
                output.status.signal().unwrap_or_default()
            ))),
        }
    }

    fn message(output: &Output) -> String {
        crate::lines::printable(output.stderr.trim_ascii())
    }

    /// A file in memory that can be executed.
    fn unpacked(packed: &[u8]) -> io::Result<File> {
        let flags = MemfdFlags::CLOEXEC;
        // Kernels before 6.3 do not know the flag; later ones may be set up to want it.
        let memory = match memfd_create("plugin-compiler", flags | MemfdFlags::EXEC) {
            Err(Errno::INVAL) => memfd_create("plugin-compiler", flags),
            made => made,
        }?;
        let mut file = File::from(memory);
        let mut unpacked = GzDecoder::new(packed).take(PROGRAM_BYTES_MAX);
        io::copy(&mut unpacked, &mut file)?;
        Ok(file)
    }

    fn output(program: &File, input: &[u8]) -> io::Result<Output> {
        let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // One that stops reading says why in its exit code.
                stdin.map(|mut stdin| stdin.write_all(input))
            });
            child.wait_with_output()
        })
    }

    #[cfg(test)]
    mod tests {
        use std::io::Write as _;

        use flate2::Compression;
        use flate2::write::GzEncoder;

        use super::{Trouble, code};

        fn packed(program: &str) -> Vec<u8> {
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(&std::fs::read(program).unwrap()).unwrap();
            packed.finish().unwrap()
        }

        #[test]
        fn the_program_gets_the_component_and_its_output_is_the_code() {
            // More than a pipe holds, in both directions at once.
            let component = vec![7; 1 << 20];
            assert_eq!(code(&packed("/bin/cat"), &component).unwrap(), component);
        }

        #[test]
        fn what_went_wrong_is_told_apart() {
            // A shell reads its script from standard input, so this decides how it ends.
            let told = |script: &str| code(&packed("/bin/sh"), script.as_bytes()).unwrap_err();
            let invalid = told("echo unknown section >&2; exit 1");
            assert!(
                matches!(&invalid, Trouble::Invalid(message) if message == "unknown section"),
                "{invalid:?}"
            );
            for (script, words) in [
                (
                    "echo no input >&2; exit 2",
                    "ended with exit code 2: no input",
                ),
                ("kill -9 $$", "was killed by signal 9"),
            ] {
                let trouble = told(script);
                assert!(
                    matches!(&trouble, Trouble::NoCompiler(message) if message.contains(words)),
                    "{trouble:?}"
                );
            }
        }

        #[test]
        fn what_is_no_program_is_not_started() {
            let text = packed("/proc/self/status");
            for (packed, words) in [(&b"not packed"[..], "unpacked"), (&text, "started")] {
                let trouble = code(packed, b"").unwrap_err();
                assert!(trouble.to_string().contains(words), "{trouble}");
            }
        }
    }
}
