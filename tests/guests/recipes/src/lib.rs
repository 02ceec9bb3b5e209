//! Follows the recipes of the SDK on whatever the VM is, and shows what came of it in the log.

use orka_plugin_sdk::recipes::{self, Certificate};
use orka_plugin_sdk::ssh::{self, ConnectOptions, Connection, ExecOptions};
use orka_plugin_sdk::{Error, ErrorInfo, Exit, Plugin, Verdict, params, secrets};

struct Recipes;

impl Plugin for Recipes {
    fn run() -> Result<Verdict, Error> {
        let vm = guest_common::deploy()?;
        let connection = ssh::connect(&vm, &ConnectOptions::default())?;
        let env: Vec<(String, String)> = params::list("env")?
            .iter()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let exit = match params::required_text("recipe")?.as_str() {
            "unlock" => unlock(&connection, &env)?,
            "identity" => identity(&connection, &env, false)?,
            "identity-then-fail" => identity(&connection, &env, true)?,
            "homebrew" => homebrew(&connection)?,
            _ => console_user(&connection, &env)?,
        };
        Ok(Verdict::from(exit))
    }
}

fn unlock(connection: &Connection, env: &[(String, String)]) -> Result<Exit, Error> {
    let keychain = params::non_empty_text("keychain")?;
    let password = secrets::open("KEYCHAIN_PASSWORD")?;
    let path = recipes::unlock_keychain(connection, keychain.as_deref(), &password, env)?;
    show(connection, "echo \"unlocked $1\"", &path, env)
}

fn identity(connection: &Connection, env: &[(String, String)], fails: bool) -> Result<Exit, Error> {
    let certificate = secrets::open("CERTIFICATE")?;
    let passphrase = secrets::open("PASSPHRASE")?;
    recipes::with_identity(
        connection,
        Certificate::Base64(&certificate),
        Some(&passphrase),
        env,
        |keychain| {
            if fails {
                return Err(Error::Other(ErrorInfo::new(
                    "guest.failed",
                    "the work failed",
                )));
            }
            let name = keychain
                .identities
                .first()
                .map_or("nothing", |it| it.name.as_str());
            show(
                connection,
                "echo \"signs with $1\"; security list-keychains -d user; ls \"${TMPDIR:-/tmp}\"/orka-step-identity.* 2>&1 || true",
                name,
                env,
            )
        },
    )
}

fn homebrew(connection: &Connection) -> Result<Exit, Error> {
    let prefixes = params::list("prefixes")?;
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    let env = recipes::homebrew_in(connection, &prefixes)?;
    show(
        connection,
        "brew --version; echo \"in $HOMEBREW_PREFIX\"",
        "",
        &env,
    )
}

fn console_user(connection: &Connection, env: &[(String, String)]) -> Result<Exit, Error> {
    let user = recipes::console_user(connection, env)?;
    let secret = secrets::open("PASSPHRASE")?;
    let options = ExecOptions {
        env: env.to_vec(),
        secret_env: vec![("TOKEN".to_owned(), &secret)],
        ..ExecOptions::default()
    };
    let script = "echo \"session of $FAKE_SESSION as $FAKE_USER: $1 ${#TOKEN}\"";
    let command = user.exec(connection, "sh", &["-c", script, "sh", "a  b"], &options)?;
    loop {
        if let Some(exit) = command.wait(None)? {
            return Ok(exit);
        }
    }
}

fn show(
    connection: &Connection,
    script: &str,
    argument: &str,
    env: &[(String, String)],
) -> Result<Exit, Error> {
    let options = ExecOptions {
        env: env.to_vec(),
        ..ExecOptions::default()
    };
    ssh::run(connection, "sh", &["-c", script, "sh", argument], &options)
}

orka_plugin_sdk::register!(Recipes);
