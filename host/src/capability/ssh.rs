//! `ssh`: work inside the run's VMs.

mod command;
mod silence;

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use guest_ssh::{HostKeyTrust, Limits as TransferLimits};
use plugin_manifest::Capability;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::Resource;

pub use command::Command;
use command::Treatment;
use silence::Silence;

use super::cluster::{Vm, key_of};
use super::console::masked;
use super::pending::Pending;
use super::secrets::Secret;
use super::wait::Waitable;
use super::workspace;
use crate::artifacts;
use crate::backend::ssh::VM_DELETED;
use crate::backend::{Choice, Compare, Copied, Exec, Gone, Guest, Input, Login, Review};
use crate::bindings::orka::plugin::cluster::VmInfo;
use crate::bindings::orka::plugin::ssh::{
    Compare as WantedCompare, ConnectOptions, ExecOptions, Host, HostConnecting, HostConnection,
    Shell, Stdin, TransferOptions, TransferSummary,
};
use crate::console::{bytes, millis, seconds};
use crate::failure::{Class, Failure, Kind};
use crate::grants::Ceilings;
use crate::guard::Input as Reads;
use crate::host_folder;
use crate::lines::printable;
use crate::state::{CallError, HostState, RunContext, SeenHostKey};

/// What the contract promises at most for a file written by the plugin.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// What the contract promises to show of a label of lines.
const LABEL_BYTES_MAX: usize = 64;

/// A login in a VM.
pub struct Connection {
    guest: Arc<dyn Guest>,
    vm: String,
    /// What lines of its programs begin with, fit to be shown.
    label: String,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    /// Closes it in order; only then it counts no more.
    async fn close(self) {
        self.guest.close().await;
    }
}

/// A login under way.
pub struct Connecting(Pending<Connection>);

/// A login that was asked for, and the slot that it counts in.
struct Asked {
    vm: VmInfo,
    login: Login,
    patience: Duration,
    slot: OwnedSemaphorePermit,
}

impl HostState {
    /// Checks what was asked for, in the call of that name.
    fn ask_to_connect(
        &self,
        vm: &Resource<Vm>,
        options: &ConnectOptions,
    ) -> Result<impl FnOnce(&RunContext) -> Result<Asked, Failure> + use<>, CallError> {
        let vm = self.table.get(vm)?.info.clone();
        let login = Login {
            username: options.username.clone(),
            password: self.secret(options.password.as_ref())?,
            private_key: self.secret(options.private_key.as_ref())?,
        };
        let slots = self.limiter.connections();
        let patience = options.timeout_ms.map(Duration::from_millis);
        Ok(move |run: &RunContext| {
            run.grants
                .require_either(Capability::SshExec, Capability::SshTransfer)?;
            still_there(run, &vm)?;
            let slot = slots
                .try_acquire_owned()
                .map_err(|_| too_many("connections", run.limits.connections))?;
            Ok(Asked {
                vm,
                login,
                patience: patience.unwrap_or(run.guests.patience()),
                slot,
            })
        })
    }
}

/// Refuses a VM that this run has deleted: its address may be another run's by now, and it would be logged into with
/// credentials that many VMs take.
fn still_there(run: &RunContext, vm: &VmInfo) -> Result<(), Failure> {
    if !run.ledger.is_gone(&vm.name, key_of(vm)) {
        return Ok(());
    }
    Err(Failure::new(
        Kind::NotFound,
        Class::Plugin,
        VM_DELETED,
        format!(
            "VM `{}` was deleted by this run; there is nothing to log into",
            vm.name
        ),
    ))
}

/// What asks [`still_there`] for as long as there is a connection: it may outlive the call, and dials again by itself.
fn gone(run: &Arc<RunContext>, vm: &VmInfo) -> Gone {
    let (run, vm) = (Arc::downgrade(run), vm.clone());
    // A run that is over has deleted what was its own.
    Gone::when(move || {
        run.upgrade()
            .is_none_or(|run| still_there(&run, &vm).is_err())
    })
}

async fn connect(run: &Arc<RunContext>, asked: Asked) -> Result<Connection, Failure> {
    let Asked {
        vm,
        login,
        patience,
        slot,
    } = asked;
    let began = tokio::time::Instant::now();
    let guest = run
        .guests
        .connect(
            &vm,
            &login,
            &gone(run, &vm),
            run.deadline_within(patience),
            &run.console,
        )
        .await?;
    if let Err(failure) = still_there(run, &vm) {
        guest.close().await;
        return Err(failure);
    }
    run.console.info(&format!(
        "SSH to `{}` after {}, host key {}, {}",
        vm.name,
        seconds(began.elapsed()),
        guest.host_key(),
        guest.host_key_trust()
    ));
    note_host_keys(run, &vm.name, guest.as_ref());
    Ok(Connection {
        guest,
        vm: vm.name,
        label: String::new(),
        _slot: slot,
    })
}

impl Host for HostState {
    async fn connect(
        &mut self,
        vm: Resource<Vm>,
        options: ConnectOptions,
    ) -> Result<Resource<Connection>, CallError> {
        let ask = self.ask_to_connect(&vm, &options)?;
        let run = self.run.clone();
        let connection = run
            .call("ssh.connect", async { connect(&run, ask(&run)?).await })
            .await?;
        self.keep(connection)
    }

    async fn start_connect(
        &mut self,
        vm: Resource<Vm>,
        options: ConnectOptions,
    ) -> Result<Resource<Connecting>, CallError> {
        let ask = self.ask_to_connect(&vm, &options)?;
        let run = self.run.clone();
        let asked = run.call_now("ssh.start-connect", || ask(&run))?;
        let work_run = run.clone();
        let connecting = Pending::begin(&run, async move { connect(&work_run, asked).await });
        self.keep(Connecting(connecting))
    }
}

impl HostConnecting for HostState {
    async fn subscribe(
        &mut self,
        connecting: Resource<Connecting>,
    ) -> wasmtime::Result<Resource<Waitable>> {
        let ready = self.table.get(&connecting)?.0.waitable();
        self.keep_or_trap(ready)
    }

    async fn finish(
        &mut self,
        connecting: Resource<Connecting>,
    ) -> Result<Resource<Connection>, CallError> {
        let connecting = self.table.get(&connecting)?.0.clone();
        let run = self.run.clone();
        let taken = "this login was taken already";
        let connection = run
            .call(
                "ssh.finish-connect",
                connecting.take("connecting.finished", taken),
            )
            .await?;
        self.keep(connection)
    }

    async fn drop(&mut self, connecting: Resource<Connecting>) -> wasmtime::Result<()> {
        self.table.delete(connecting)?;
        Ok(())
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
    ) -> Result<(Exec, Reads), CallError> {
        let mut secret_env = Vec::new();
        for (name, secret) in &options.secret_env {
            secret_env.push((name.clone(), self.table.get(secret)?.value().clone()));
        }
        let (input, reads) = match options.stdin {
            Stdin::Empty => (Input::Empty, Reads::Empty),
            Stdin::Bytes(bytes) => {
                let length = bytes.len() as u64;
                (Input::Bytes(bytes), Reads::Bytes(length))
            }
            Stdin::Secret(secret) => {
                let secret = self.table.get(&secret)?;
                let name = secret.name().to_owned();
                (Input::Secret(secret.value().clone()), Reads::Secret(name))
            }
            Stdin::File(path) => (Input::Empty, Reads::File(path)),
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
            detach: options.detach,
        };
        Ok((exec, reads))
    }
}

impl HostConnection for HostState {
    async fn host_key(&mut self, connection: Resource<Connection>) -> wasmtime::Result<String> {
        Ok(self.table.get(&connection)?.guest.host_key())
    }

    async fn label_output(
        &mut self,
        connection: Resource<Connection>,
        label: String,
    ) -> wasmtime::Result<()> {
        let label = masked(self.run.console.masker(), &label, LABEL_BYTES_MAX);
        self.table.get_mut(&connection)?.label = printable(label.as_bytes());
        Ok(())
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
        let silence_ms = options.silence_timeout_ms;
        let connected = self.table.get(&connection)?;
        let (vm, label) = (connected.vm.clone(), connected.label.clone());
        let (mut exec, reads) = self.exec_request(program, arguments, options)?;
        let command = run
            .call("ssh.exec", async {
                run.grants.require(Capability::SshExec)?;
                let silence = Silence::after(silence_ms, guest.loss_after())?;
                run.guards.exec(&run, &vm, &mut exec, reads.clone()).await?;
                run.grants.admit_program(&exec.program)?;
                let slot = slots
                    .try_acquire_owned()
                    .map_err(|_| too_many("commands", run.limits.commands))?;
                if let Reads::File(path) = reads {
                    run.grants.require(Capability::WorkspaceRead)?;
                    let open = move |dir: &_| workspace::open_for_reading(dir, &path);
                    exec.input = Input::File(workspace::blocking(&run, open).await?);
                }
                let running = guest.exec(exec).await?;
                let treatment = Treatment {
                    output,
                    silence,
                    label,
                };
                Ok(Command::new(&run, guest, running, treatment, slot))
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
            let choice = choice(options, is_root, Most::of_host());
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
        let run = self.run.clone();
        run.call_in_grace("ssh.download", async {
            run.grants.require(Capability::SshTransfer)?;
            run.grants.require(Capability::WorkspaceWrite)?;
            let into = workspace::inside(&target)?;
            let workspace = run.workspace()?;
            let asked = (options.max_bytes, options.max_entries);
            let most = Most::left_of(&run);
            let mut choice = choice(options, into == Path::new("."), most);
            if !run.guards.is_empty() {
                choice.review = Some(review(&run, &source, &target));
            }
            let began = tokio::time::Instant::now();
            let copied = guest
                .download(&source, &workspace.dir, &into, &choice, &run.console)
                .await
                .map_err(|failure| explain_limit(failure, asked, most, &run.grants.ceilings))?;
            run.grants.note_artifacts(&copied, most.used_before(&run));
            most.note(&run, &copied);
            let has_none = copied.files == 0 && copied.unchanged == 0 && copied.left_out == 0;
            if has_none && !choice.include.is_empty() {
                return Err(Failure::new(
                    Kind::NotFound,
                    Class::Files,
                    "files.nothing-matched",
                    format!(
                        "no file in `{source}` matches `{}`",
                        choice.include.join("`, `")
                    ),
                )
                .with_hint(format!(
                    "patterns begin at `{source}` in the VM, and `/` at their beginning stands for it; the files have to lie there when the script ends"
                )));
            }
            tell(&run, "copied back", &copied, began.elapsed());
            let answer = summary(&copied, began.elapsed());
            artifacts::arrived(&run, into, copied.entries).await;
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

/// What a transfer may move, whatever the plugin asks for.
#[derive(Clone, Copy, Debug)]
struct Most {
    bytes: u64,
    entries: u64,
}

impl Most {
    /// The host's own limits.
    fn of_host() -> Self {
        let TransferLimits { bytes, entries, .. } = TransferLimits::default();
        Self { bytes, entries }
    }

    /// What the run may still fetch under its ceilings.
    fn left_of(run: &RunContext) -> Self {
        let ceilings = &run.grants.ceilings;
        let (bytes, files) = *run.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            bytes: ceilings.artifacts_max_size.saturating_sub(bytes),
            entries: ceilings.artifacts_max_count.saturating_sub(files),
        }
    }

    /// What was fetched before this, by the ceilings.
    fn used_before(self, run: &RunContext) -> (u64, u64) {
        let ceilings = &run.grants.ceilings;
        (
            ceilings.artifacts_max_size.saturating_sub(self.bytes),
            ceilings.artifacts_max_count.saturating_sub(self.entries),
        )
    }

    /// Counts what was fetched.
    fn note(self, run: &RunContext, copied: &Copied) {
        let mut fetched = run.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.0 = fetched.0.saturating_add(copied.bytes);
        fetched.1 = fetched.1.saturating_add(copied.files);
    }
}

/// Says of a limit that a download passed who set it and what raises it.
fn explain_limit(
    failure: Failure,
    asked: (Option<u64>, Option<u32>),
    most: Most,
    ceilings: &Ceilings,
) -> Failure {
    if failure.code != "files.limit" {
        return failure;
    }
    let limit = failure.details.iter().find(|(name, _)| name == "limit");
    let (is_plugins, option, ceiling) = match limit.map(|(_, limit)| limit.as_str()) {
        Some("bytes") => (
            asked.0.is_some_and(|bytes| bytes < most.bytes),
            "max-bytes",
            "artifacts-max-size",
        ),
        Some("entries") => (
            asked
                .1
                .is_some_and(|entries| u64::from(entries) < most.entries),
            "max-entries",
            "artifacts-max-count",
        ),
        _ => return failure,
    };
    if is_plugins {
        return failure
            .with_detail("set by", "the plugin")
            .with_hint(format!(
                "the plugin, or a parameter of it, has to allow more (`{option}`)"
            ));
    }
    // What lies above a grant is a denial, whatever kind of error the contract gives it.
    let mut failure = failure;
    failure.class = Class::Denied;
    failure
        .with_detail("set by", "the operator")
        .with_hint(format!(
            "{}; it counts all that a run fetches",
            ceilings.how_to_raise(ceiling)
        ))
}

/// What to copy, within what may be moved at most, and without the host's folder where it would be.
fn choice(options: TransferOptions, is_root: bool, most: Most) -> Choice {
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
        max_bytes: options.max_bytes.unwrap_or(u64::MAX).min(most.bytes),
        max_entries: options
            .max_entries
            .map_or(u64::MAX, u64::from)
            .min(most.entries),
        compare,
        review: None,
    }
}

/// Asks the guards about files that came back.
fn review(run: &Arc<RunContext>, source: &str, target: &str) -> Review {
    let (run, source, target) = (Arc::clone(run), source.to_owned(), target.to_owned());
    Review::new(move |files| {
        let (run, source, target) = (Arc::clone(&run), source.clone(), target.clone());
        Box::pin(async move { run.guards.artifacts(&run, &source, &target, &files).await })
    })
}

fn too_many(what: &str, limit: usize) -> Failure {
    Failure::new(
        Kind::NoCapacity,
        Class::Plugin,
        format!("run.too-many-{what}"),
        format!("this run has {limit} {what} already"),
    )
    .with_hint(format!(
        "end some of the {what} and drop their handles first, or raise `--limit {what}={}`",
        limit * 2
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

    fn chosen(options: TransferOptions, is_root: bool) -> Choice {
        choice(options, is_root, Most::of_host())
    }

    #[test]
    fn limits_of_a_transfer_can_be_lowered_and_not_raised() {
        let lower = chosen(options(Some(5), Some(6)), false);
        assert_eq!((lower.max_bytes, lower.max_entries), (5, 6));
        for (bytes, entries) in [(Some(u64::MAX), Some(u32::MAX)), (None, None)] {
            let most = chosen(options(bytes, entries), false);
            assert_eq!((most.max_bytes, most.max_entries), (64 << 30, 500_000));
        }
    }

    #[test]
    fn a_limit_is_told_with_who_set_it_and_what_raises_it() {
        let most = Most {
            bytes: 10,
            entries: 10,
        };
        let failed = |limit| {
            crate::backend::ssh::transfer_failure(guest_ssh::Error::LimitExceeded {
                direction: guest_ssh::Direction::Download,
                limit,
                allowed: 5,
                entry: "dist/big".to_owned(),
            })
        };
        for (limit, asked, hint) in [
            ("bytes", (Some(5), None), "`max-bytes`"),
            ("bytes", (Some(10), None), "raise `artifacts-max-size`"),
            ("bytes", (None, Some(5)), "raise `artifacts-max-size`"),
            ("entries", (None, Some(5)), "`max-entries`"),
            ("entries", (None, None), "raise `artifacts-max-count`"),
            ("bytes in a path", (None, None), "this limit is fixed"),
        ] {
            let told = explain_limit(failed(limit), asked, most, &Ceilings::default());
            assert!(told.message.contains("`dist/big`"), "{}", told.message);
            let is_denied = told.class == Class::Denied;
            assert_eq!(is_denied, hint.starts_with("raise"), "{limit}");
            assert_eq!(told.kind, Kind::NoCapacity);
            let said = told.hint.unwrap_or_default();
            assert!(said.contains(hint), "{limit}: {said}");
        }
    }

    #[test]
    fn everything_comes_back_by_difference_and_artifacts_always() {
        let everything = options(None, None);
        assert_eq!(chosen(everything.clone(), false).compare, Compare::SizeTime);
        let artifacts = TransferOptions {
            include: vec!["*.ipa".to_owned()],
            ..everything.clone()
        };
        assert_eq!(chosen(artifacts, false).compare, Compare::Always);
        let asked = TransferOptions {
            compare: Some(WantedCompare::Hash),
            ..everything
        };
        assert_eq!(chosen(asked, false).compare, Compare::Hash);
    }

    #[test]
    fn only_the_workspaces_root_holds_the_hosts_folder() {
        assert_eq!(chosen(options(None, None), false).exclude, ["*.o"]);
        assert_eq!(chosen(options(None, None), true).exclude.len(), 2);
    }
}
