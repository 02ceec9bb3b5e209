//! Runs a program with the same argument twice, which says whether both are equal and what came after them.

use orka_plugin_sdk::ssh::{self, ConnectOptions, ExecOptions};
use orka_plugin_sdk::{Error, Plugin, Verdict, params};

/// A mask in place of the argument would show: no secret of the test holds an asterisk.
const COMPARE: &str = r#"
case "$1" in *"*"*) echo masked; exit 1 ;; esac
[ "$1" = "$2" ] && echo "equal, then ${3-nothing}"
"#;

struct SecretArguments;

impl Plugin for SecretArguments {
    fn run() -> Result<Verdict, Error> {
        let argument = params::required_text("argument")?;
        let vm = guest_common::deploy()?;
        let connection = ssh::connect(&vm, &ConnectOptions::default())?;
        let exit = ssh::run(
            &connection,
            "sh",
            &["-c", COMPARE, "sh", &argument, &argument],
            &ExecOptions::default(),
        )?;
        Ok(Verdict::from(exit))
    }
}

orka_plugin_sdk::register!(SecretArguments);
