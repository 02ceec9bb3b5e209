//! Speaks and leaves through WASI, as guests in other languages do: a word on standard error, then the end.

use orka_plugin_sdk::{Error, Plugin, Verdict, params};

/// As much of WASI as is used here.
#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::all,
    reason = "generated"
)]
mod bindings {
    wit_bindgen::generate!({
        inline: r#"
            package guest:wasi@0.1.0;

            world speaks {
                import wasi:cli/stderr@0.2.0;
                import wasi:cli/exit@0.2.0;
            }

            package wasi:io@0.2.0 {
                interface error {
                    resource error;
                }
                interface streams {
                    use error.{error};
                    variant stream-error {
                        last-operation-failed(error),
                        closed,
                    }
                    resource output-stream {
                        blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
                    }
                }
            }

            package wasi:cli@0.2.0 {
                interface stderr {
                    use wasi:io/streams@0.2.0.{output-stream};
                    get-stderr: func() -> output-stream;
                }
                interface exit {
                    exit: func(status: result);
                }
            }
        "#,
        generate_all,
    });
}

use bindings::wasi::cli::{exit::exit, stderr::get_stderr};

struct Wasi;

impl Plugin for Wasi {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        let stderr = get_stderr();
        // As components of componentize-py do.
        for line in [
            "Traceback (most recent call last):\n",
            "KeyError: 'ipa'\n\n",
            "thread '<unnamed>' (1) panicked at runtime/src/lib.rs:1293:29:\n",
            "Python function threw an unexpected exception\n",
        ] {
            // Whether anybody reads it is not known here.
            let _ = stderr.blocking_write_and_flush(line.as_bytes());
        }
        if params::flag("exit")? {
            exit(Err(()));
        }
        give_up()
    }
}

#[cfg(target_arch = "wasm32")]
#[inline(never)]
fn give_up() -> ! {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
fn give_up() -> ! {
    std::process::abort()
}

orka_plugin_sdk::register!(Wasi);
