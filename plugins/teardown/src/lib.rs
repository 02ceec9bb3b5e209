//! Deletes everything that the pipeline run made: the last of three Tasks, meant for `finally`.
//!
//! It needs nothing of the others but the run's identity, so it also works where none of them ever ran.

use orka_plugin_sdk::{Error, Plugin, Verdict, cluster, console, phase};

struct Teardown;

impl Plugin for Teardown {
    fn run() -> Result<Verdict, Error> {
        let session = phase("sign in", cluster::sign_in)?;
        let purged = phase("purge run", || session.purge_run())?;
        let mut text = match purged.removed.len() {
            0 => "nothing of this run was left".to_owned(),
            1 => "purged 1 name".to_owned(),
            count => format!("purged {count} names"),
        };
        if !purged.kept.is_empty() {
            text.push_str(&format!("; kept on purpose: {}", purged.kept.join(", ")));
        }
        console::log(console::Level::Info, &text);
        if let Err(error) = phase("sign out", || session.sign_out()) {
            // Everything is gone: a token left behind changes nothing about that.
            console::log(console::Level::Warn, &error.info().message);
        }
        Ok(Verdict::Succeeded)
    }
}

orka_plugin_sdk::register!(Teardown);
