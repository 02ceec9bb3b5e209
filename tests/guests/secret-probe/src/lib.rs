//! Uses a secret in every way it can and tells all it sees.

use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::ssh::{self, ConnectOptions, Connection, ExecOptions, Output, Stdin};
use orka_plugin_sdk::{Error, ErrorInfo, Plugin, Verdict, handoff, params, results, secrets};

const NAME: &str = "TOKEN_X";

/// Shows the secret to the log in several forms and its length, and looks for it where every process
/// of the VM could see it: in arguments.
const SHOW: &str = r#"
echo "plain $TOKEN_X"
echo "again $TOKEN_X" >&2
printf %s "$TOKEN_X" | base64 -w0; echo
printf 'length %s\n' "$(printf %s "$TOKEN_X" | wc -c)"
for file in /proc/$$/cmdline /proc/$PPID/cmdline; do
  case "$(tr '\0' ' ' <"$file")" in *"$TOKEN_X"*) echo 'seen in arguments' ;; *) echo 'not in arguments' ;; esac
done
"#;

struct SecretProbe;

impl Plugin for SecretProbe {
    fn run() -> Result<Verdict, Error> {
        let secret = secrets::open(NAME)?;
        console::log(Level::Info, &format!("opened {}", secret.name()));
        let vm = guest_common::deploy()?;
        let connection = ssh::connect(&vm, &ConnectOptions::default())?;
        let with_secret = |output| ExecOptions {
            secret_env: vec![(NAME.to_owned(), &secret)],
            output,
            ..ExecOptions::default()
        };
        let shown = ssh::run(&connection, "sh", &["-c", SHOW], &with_secret(Output::Log))?;
        let options = ExecOptions {
            stdin: Stdin::Secret(&secret),
            ..ExecOptions::default()
        };
        ssh::run(
            &connection,
            "sh",
            &["-c", "printf 'stdin '; cat; echo"],
            &options,
        )?;
        let from_env = "printf %s \"$TOKEN_X\"";
        let seen = seen(&connection, from_env, &with_secret(Output::Capture))?;
        // In two writes, so that no single piece of output holds the whole secret.
        let halves = "printf %s \"${TOKEN_X%??????}\"; sleep 0.1; printf %s \"${TOKEN_X#\"${TOKEN_X%??????}\"}\"";
        must_be_hidden(&connection, halves, &with_secret(Output::Capture))?;
        let stdin = ExecOptions {
            stdin: Stdin::Secret(&secret),
            output: Output::Capture,
            ..ExecOptions::default()
        };
        must_be_hidden(&connection, "cat", &stdin)?;
        must_be_hidden(&connection, "cat >&2", &stdin)?;
        handoff::put("seen", &seen)?;
        console::log(Level::Info, &format!("seen {seen}"));
        results::set("seen", &seen)?;
        if params::flag("fail")? {
            panic!("the secret is {seen}");
        }
        Ok(Verdict::from(shown))
    }
}

/// Fails unless a script that prints the secret is read here as the mask alone.
fn must_be_hidden(
    connection: &Connection,
    script: &str,
    options: &ExecOptions<'_>,
) -> Result<(), Error> {
    let seen = seen(connection, script, options)?;
    if seen == "***" {
        return Ok(());
    }
    let message = format!("`{script}` let {} bytes of the secret be read", seen.len());
    Err(Error::Other(ErrorInfo::new("probe.read", message)))
}

/// What this guest can read of a script's output.
fn seen(connection: &Connection, script: &str, options: &ExecOptions<'_>) -> Result<String, Error> {
    let arguments = ["-c".to_owned(), script.to_owned()];
    let command = connection.exec("sh", &arguments, options)?;
    let mut seen = Vec::new();
    while let Some(chunks) = command.read_output(4096, 10_000)? {
        chunks
            .iter()
            .for_each(|chunk| seen.extend_from_slice(&chunk.data));
    }
    Ok(String::from_utf8_lossy(&seen).into_owned())
}

orka_plugin_sdk::register!(SecretProbe);
