//! `ssh`: work inside the run's VMs.

mod command;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use guest_ssh::{HostKeyTrust, Limits as TransferLimits};
use plugin_manifest::Capability;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::Resource;

pub use command::Command;

use super::cluster::Vm;
use super::secrets::Secret;
use super::workspace;
use crate::artifacts;
use crate::backend::{Choice, Compare, Copied, Exec, Guest, Input, Login};
use crate::bindings::orka::plugin::ssh::{
    Compare as WantedCompare, ConnectOptions, ExecOptions, Host, HostConnection, Shell, Stdin,
    TransferOptions, TransferSummary,
};
use crate::console::{bytes, millis, seconds};
use crate::failure::{Class, Failure, Kind};
use crate::host_folder;
use crate::limits::{COMMANDS_MAX, CONNECTIONS_MAX};
use crate::state::{CallError, HostState, RunContext, SeenHostKey};

/// What the contract promises at most for a file written by the plugin.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// A login in a VM.
pub struct Connection {
    guest: Arc<dyn Guest>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    /// Closes it in order; only then it counts no more.
    async fn close(self) {
        self.guest.close().await;
    }
}

impl Host for HostState {
    async fn connect(
        &mut self,
        vm: Resource<Vm>,
        options: ConnectOptions,
    ) -> Result<Resource<Connection>, CallError> {
        let info = self.table.get(&vm)?.info.clone();
        let login = Login {
            username: options.username,
            password: self.secret(options.password.as_ref())?,
            private_key: self.secret(options.private_key.as_ref())?,
        };
        let run = self.run.clone();
        let slots = self.limiter.connections();
        let connection = run
            .call("ssh.connect", async {
                run.grants
                    .require_either(Capability::SshExec, Capability::SshTransfer)?;
                let slot = slots
                    .try_acquire_owned()
                    .map_err(|_| too_many("connections", CONNECTIONS_MAX))?;
                let patience = options
                    .timeout_ms
                    .map_or(run.guests.patience(), Duration::from_millis);
                let began = tokio::time::Instant::now();
                let guest = run
                    .guests
                    .connect(&info, &login, run.deadline_within(patience), &run.console)
                    .await?;
                run.console.info(&format!(
                    "SSH to `{}` after {}, host key {}, {}",
                    info.name,
                    seconds(began.elapsed()),
                    guest.host_key(),
                    guest.host_key_trust()
                ));
                note_host_keys(&run, &info.name, guest.as_ref());
                Ok(Connection { guest, _slot: slot })
            })
            .await?;
        self.keep(connection)
    }
}

/// Keeps for the report which keys were shown, and warns of one that nobody checked.
fn note_host_keys(run: &RunContext, vm: &str, guest: &dyn Guest) {
    let trust = guest.host_key_trust();
    if trust == HostKeyTrust::Unchecked {
        run.console.warn(&format!(
            "the host key of `{vm}` is not checked (`--ssh-host-key accept-any`): whoever holds the network on the way can \
             read and change everything, the login included"
        ));
    }
    run.note_host_key(SeenHostKey {
        host: vm.to_owned(),
        fingerprint: guest.host_key(),
        verified: trust.as_str(),
    });
    if let Some(jump) = guest.jump_host() {
        run.console.info(&format!(
            "through the jump host {}, host key {}, {}",
            jump.host, jump.fingerprint, jump.trust
        ));
        run.note_host_key(SeenHostKey {
            host: jump.host,
            fingerprint: jump.fingerprint,
            verified: jump.trust.as_str(),
        });
    }
}

impl HostState {
    fn secret(
        &self,
        handle: Option<&Resource<Secret>>,
    ) -> Result<Option<secrecy::SecretString>, CallError> {
        Ok(handle
            .map(|handle| self.table.get(handle).map(|secret| secret.value().clone()))
            .transpose()?)
    }

    fn guest(&self, connection: &Resource<Connection>) -> Result<Arc<dyn Guest>, CallError> {
        Ok(self.table.get(connection)?.guest.clone())
    }

    /// The program as the backend takes it, with every handle looked up, and the file it is to read, not opened yet.
    fn exec_request(
        &self,
        program: String,
        arguments: Vec<String>,
        options: ExecOptions,
    ) -> Result<(Exec, Option<String>), CallError> {
        let mut secret_env = Vec::new();
        for (name, secret) in &options.secret_env {
            secret_env.push((name.clone(), self.table.get(secret)?.value().clone()));
        }
        let mut file = None;
        let input = match options.stdin {
            Stdin::Empty => Input::Empty,
            Stdin::Bytes(bytes) => Input::Bytes(bytes),
            Stdin::Secret(secret) => Input::Secret(self.table.get(&secret)?.value().clone()),
            Stdin::File(path) => {
                file = Some(path);
                Input::Empty
            }
        };
        let exec = Exec {
            program,
            arguments,
            cwd: options.cwd,
            env: options.env,
            secret_env,
            input,
            login_shell: matches!(options.shell, Shell::Login),
            pty: options.pty,
        };
        Ok((exec, file))
    }
}

impl HostConnection for HostState {
    async fn host_key(&mut self, connection: Resource<Connection>) -> wasmtime::Result<String> {
        Ok(self.table.get(&connection)?.guest.host_key())
    }

    async fn exec(
        &mut self,
        connection: Resource<Connection>,
        program: String,
        arguments: Vec<String>,
        options: ExecOptions,
    ) -> Result<Resource<Command>, CallError> {
        let guest = self.guest(&connection)?;
        let run = self.run.clone();
        let slots = self.limiter.commands();
        let output = options.output;
        let (mut exec, file) = self.exec_request(program, arguments, options)?;
        let command = run
            .call("ssh.exec", async {
                run.grants.require(Capability::SshExec)?;
                let slot = slots
                    .try_acquire_owned()
                    .map_err(|_| too_many("commands", COMMANDS_MAX))?;
                if let Some(path) = file {
                    run.grants.require(Capability::WorkspaceRead)?;
                    let open = move |dir: &_| workspace::open_for_reading(dir, &path);
                    exec.input = Input::File(workspace::blocking(&run, open).await?);
                }
                let running = guest.exec(exec).await?;
                Ok(Command::new(&run, guest, running, output, slot))
            })
            .await?;
        self.keep(command)
    }

    async fn write_file(
        &mut self,
        connection: Resource<Connection>,
        path: String,
        contents: Vec<u8>,
        mode: u32,
    ) -> Result<(), CallError> {
        let guest = self.guest(&connection)?;
        let run = &self.run;
        run.call("ssh.write-file", async {
            run.grants.require(Capability::SshTransfer)?;
            if contents.len() > FILE_BYTES_MAX {
                return Err(Failure::invalid(
                    "files.limit",
                    format!("`{path}` would be larger than {FILE_BYTES_MAX} bytes"),
                )
                .with_hint("put it into the workspace and upload it"));
            }
            guest.write_file(&path, &contents, mode & 0o7777).await
        })
        .await
    }

    async fn upload(
        &mut self,
        connection: Resource<Connection>,
        source: String,
        target: String,
        options: TransferOptions,
    ) -> Result<TransferSummary, CallError> {
        let guest = self.guest(&connection)?;
        let run = &self.run;
        run.call("ssh.upload", async {
            run.grants.require(Capability::SshTransfer)?;
            run.grants.require(Capability::WorkspaceRead)?;
            let asked = source.clone();
            let (dir, is_root) =
                workspace::blocking(run, move |dir| workspace::open_dir(dir, &asked)).await?;
            let choice = choice(options, is_root);
            let began = tokio::time::Instant::now();
            let copied = guest.upload(&dir, &target, &choice, &run.console).await?;
            tell(run, "copied in", &copied, began.elapsed());
            Ok(summary(&copied, began.elapsed()))
        })
        .await
    }

    async fn download(
        &mut self,
        connection: Resource<Connection>,
        source: String,
        target: String,
        options: TransferOptions,
    ) -> Result<TransferSummary, CallError> {
        let guest = self.guest(&connection)?;
        let run = &self.run;
        run.call_in_grace("ssh.download", async {
            run.grants.require(Capability::SshTransfer)?;
            run.grants.require(Capability::WorkspaceWrite)?;
            let into = workspace::inside(&target)?;
            let workspace = run.workspace()?;
            let choice = choice(options, into == Path::new("."));
            let began = tokio::time::Instant::now();
            let copied = guest
                .download(&source, &workspace.dir, &into, &choice, &run.console)
                .await?;
            if copied.files == 0 && copied.unchanged == 0 && !choice.include.is_empty() {
                return Err(Failure::new(
                    Kind::NotFound,
                    Class::Files,
                    "files.nothing-matched",
                    format!(
                        "no file in `{source}` matches {}",
                        choice.include.join(", ")
                    ),
                ));
            }
            tell(run, "copied back", &copied, began.elapsed());
            let answer = summary(&copied, began.elapsed());
            artifacts::arrived(run, into, copied.entries).await;
            Ok(answer)
        })
        .await
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        let connection = self.table.delete(connection)?;
        // Once the run is over, programs are still asked to stop through it; it ends with them.
        if self.run.still_runs().is_ok() {
            // Closing takes a round trip that the guest need not wait for.
            self.run.spawn(connection.close());
        }
        Ok(())
    }
}

/// What to copy, within the host's own limits, and without the host's folder where it would be.
fn choice(options: TransferOptions, is_root: bool) -> Choice {
    let own = TransferLimits::default();
    let mut exclude = options.exclude;
    if is_root {
        exclude.push(host_folder::PATTERN.to_owned());
    }
    let compare = match options.compare {
        Some(WantedCompare::Always) => Compare::Always,
        Some(WantedCompare::SizeTime) => Compare::SizeTime,
        Some(WantedCompare::Hash) => Compare::Hash,
        // A workspace comes back as it was but for what the build changed; artifacts are wanted whatever is there.
        None if options.include.is_empty() => Compare::SizeTime,
        None => Compare::Always,
    };
    Choice {
        include: options.include,
        exclude,
        max_bytes: options.max_bytes.map(|bytes| bytes.min(own.bytes)),
        max_entries: options
            .max_entries
            .map(|entries| u64::from(entries).min(own.entries)),
        compare,
    }
}

fn too_many(what: &str, limit: usize) -> Failure {
    Failure::new(
        Kind::NoCapacity,
        Class::Plugin,
        format!("run.too-many-{what}"),
        format!("this run has {limit} {what} already"),
    )
    .with_hint(format!(
        "end some of the {what} and drop their handles first"
    ))
}

fn summary(copied: &Copied, elapsed: Duration) -> TransferSummary {
    TransferSummary {
        files: copied.files,
        bytes: copied.bytes,
        elapsed_ms: millis(elapsed),
        digest: copied.digest.clone(),
        unchanged: copied.unchanged,
        notes: copied.notes.clone(),
    }
}

fn tell(run: &RunContext, what: &str, copied: &Copied, elapsed: Duration) {
    let rate = copied.bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let files = if copied.files == 1 { "file" } else { "files" };
    let unchanged = match copied.unchanged {
        0 => String::new(),
        count => format!(", {count} unchanged"),
    };
    run.console.info(&format!(
        "{what} {} {files}, {} in {} ({}/s){unchanged}",
        copied.files,
        bytes(copied.bytes),
        seconds(elapsed),
        bytes(rate as u64)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(max_bytes: Option<u64>, max_entries: Option<u32>) -> TransferOptions {
        TransferOptions {
            include: Vec::new(),
            exclude: vec!["*.o".to_owned()],
            max_bytes,
            max_entries,
            compare: None,
        }
    }

    #[test]
    fn limits_of_a_transfer_can_be_lowered_and_not_raised() {
        let lower = choice(options(Some(5), Some(6)), false);
        assert_eq!((lower.max_bytes, lower.max_entries), (Some(5), Some(6)));
        let higher = choice(options(Some(u64::MAX), Some(u32::MAX)), false);
        assert_eq!(
            (higher.max_bytes, higher.max_entries),
            (Some(64 << 30), Some(500_000))
        );
    }

    #[test]
    fn everything_comes_back_by_difference_and_artifacts_always() {
        let everything = options(None, None);
        assert_eq!(choice(everything.clone(), false).compare, Compare::SizeTime);
        let artifacts = TransferOptions {
            include: vec!["*.ipa".to_owned()],
            ..everything.clone()
        };
        assert_eq!(choice(artifacts, false).compare, Compare::Always);
        let asked = TransferOptions {
            compare: Some(WantedCompare::Hash),
            ..everything
        };
        assert_eq!(choice(asked, false).compare, Compare::Hash);
    }

    #[test]
    fn only_the_workspaces_root_holds_the_hosts_folder() {
        assert_eq!(choice(options(None, None), false).exclude, ["*.o"]);
        assert_eq!(choice(options(None, None), true).exclude.len(), 2);
    }
}
