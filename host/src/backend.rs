//! What the capabilities stand on: a cluster and its guests, as traits, so that tests of plugins can script both.
//!
//! The real ones are in [`orka`] and [`ssh`].

pub(crate) mod image;
pub mod orka;
pub mod ssh;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cap_std::fs::Dir;
use futures_util::future::BoxFuture;
use guest_ssh::HostKeyTrust;
pub use guest_ssh::{Compare, FileDigest, Gone};
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bindings::orka::plugin::cluster::{DeployOptions, Facts, Node, SignOut, VmInfo, VmSpec};
use crate::bindings::orka::plugin::types::Exit;
use crate::console::Console;
use crate::failure::Failure;

/// A deployment to make.
#[derive(Clone, Debug)]
pub struct Deploy {
    /// The VM config's name.
    pub config: String,
    /// The VM's name: the config's on 2.x, one of its own on 3.x.
    pub name: String,
    /// The VM's shape.
    pub spec: VmSpec,
    /// What belongs to this deployment.
    pub options: DeployOptions,
    /// Whose the VM is, for its metadata where the API carries such. A help for people; nothing relies on it.
    pub owner: Vec<(String, String)>,
}

/// A VM config that the cluster stores, as far as it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredConfig {
    /// The image.
    pub image: Option<String>,
    /// CPU cores.
    pub cpu_cores: Option<u32>,
    /// Memory in MiB; none where the cluster chooses.
    pub memory_mib: Option<u32>,
}

/// What exists under a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// VMs.
    pub vms: u32,
    /// Whether there is a VM config.
    pub config: bool,
}

impl Remains {
    /// Whether there is neither.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl std::fmt::Display for Remains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.vms, self.config) {
            (0, true) => f.write_str("its VM config"),
            (1, _) => f.write_str("a VM"),
            (vms, _) => write!(f, "{vms} VMs"),
        }
    }
}

/// One entry of a cluster's list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its name: unique on 3.x, shared by a VM config and its VMs on 2.x.
    pub name: String,
    /// Whether it is a VM config and no VM.
    pub is_config: bool,
    /// What the cluster says about a VM, in its own words.
    pub state: Option<String>,
    /// The node that it runs on; one that is still being deployed may have none.
    pub node: Option<String>,
    /// When the VM was made, as the cluster writes it; configs have no such thing.
    pub created_at: Option<String>,
    /// Its metadata, where lists carry it (3.x).
    pub metadata: BTreeMap<String, String>,
}

/// What a removal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Something, which the cluster agreed to delete.
    Removed,
    /// Nothing, by the cluster's word.
    AlreadyGone,
}

/// An Orka cluster.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Finds out which API it speaks and signs in.
    async fn sign_in(&self) -> Result<Facts, Failure>;

    /// Names of the images on offer.
    async fn images(&self) -> Result<Vec<String>, Failure>;

    /// Nodes that this login can see.
    async fn nodes(&self) -> Result<Vec<Node>, Failure>;

    /// Checks the shape and stores the VM config where the API has such a thing; says whether it did.
    async fn create_config(&self, name: &str, spec: &VmSpec) -> Result<(), Failure>;

    /// Stores a VM config for other Tasks to find, also where VMs need none (3.x).
    async fn store_config(&self, name: &str, spec: &VmSpec) -> Result<(), Failure> {
        self.create_config(name, spec).await
    }

    /// Tells that a VM config of this name may be stored also where VMs need none (3.x), so that it is looked for.
    fn expect_config(&self, _name: &str) {}

    /// Every VM config that the cluster stores and this login can see.
    async fn stored_configs(&self) -> Result<Vec<(String, StoredConfig)>, Failure> {
        Ok(Vec::new())
    }

    /// Whether the cluster stores VM configs (2.x); if not, each VM has a name of its own (3.x).
    ///
    /// Known after [`Cluster::sign_in`].
    fn stores_configs(&self) -> bool;

    /// Deploys one VM and waits for its address. Never repeats a request that may have taken effect.
    async fn deploy(&self, deploy: &Deploy) -> Result<VmInfo, Failure>;

    /// Adds what the cluster has to a failure about what was asked of it. Takes its time, so it is for the last failure.
    async fn explain(&self, failure: Failure, _spec: &VmSpec) -> Failure {
        failure
    }

    /// Whether the cluster lists this VM.
    async fn exists(&self, vm: &VmInfo) -> Result<bool, Failure>;

    /// The VM config of this name that the cluster stores, if there is one (2.x).
    async fn config(&self, name: &str) -> Result<Option<StoredConfig>, Failure>;

    /// The VMs of this name, by Orka's id, or by the name where there is none.
    async fn instances(&self, name: &str) -> Result<Vec<String>, Failure>;

    /// Deletes one VM, by Orka's id where it has one; what is gone already counts as deleted.
    async fn delete(&self, name: &str, id: Option<&str>) -> Result<(), Failure>;

    /// Deletes everything of this name: VMs, and the VM config where there is one. Says whether there
    /// was anything.
    async fn remove(&self, name: &str) -> Result<Removal, Failure>;

    /// What exists under this name.
    async fn remains(&self, name: &str) -> Result<Remains, Failure>;

    /// Ends the login, as far as that is possible and safe.
    async fn sign_out(&self) -> Result<SignOut, Failure>;

    /// The token of the login, for a Secret that other Tasks of the run read.
    async fn token(&self) -> Result<SecretString, Failure> {
        Err(Failure::internal("this cluster has no tokens"))
    }

    /// Whether the token comes from a login of this run, and was not given to it.
    fn token_is_from_login(&self) -> bool {
        false
    }

    /// The token in use; none before the sign-in, and nobody is asked for one.
    async fn held_token(&self) -> Option<SecretString> {
        None
    }

    /// Ends a login of an earlier Task that got a token for itself, as far as that is possible and safe.
    async fn revoke(&self, _token: SecretString) -> Result<SignOut, Failure> {
        Ok(SignOut::NotApplicable)
    }

    /// Every VM and every VM config that this login can see: on 2.x the user's own, on 3.x the VMs of everybody in the
    /// namespace.
    async fn list(&self) -> Result<Vec<Listed>, Failure>;

    /// The memory in MiB of a VM that this process deployed, where the cluster told it.
    fn memory_told(&self, _name: &str) -> Option<u32> {
        None
    }

    /// How a person deletes what is left under this name.
    fn removal_command(&self, name: &str) -> String;
}

/// How to log into a VM; absent members take the run's own credentials.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// The user.
    pub username: Option<String>,
    /// A password to try instead.
    pub password: Option<SecretString>,
    /// A private key to try instead.
    pub private_key: Option<SecretString>,
}

/// Opens connections to VMs.
#[async_trait]
pub trait Guests: Send + Sync {
    /// Waits until the VM accepts the login, until `deadline` at the latest. Once it is `gone`, nothing that is made here
    /// logs in at its address again.
    async fn connect(
        &self,
        vm: &VmInfo,
        login: &Login,
        gone: &Gone,
        deadline: Instant,
        console: &Console,
    ) -> Result<Arc<dyn Guest>, Failure>;

    /// The user that is logged in as if nothing else is said, where one is known.
    fn username(&self) -> Option<&str> {
        None
    }

    /// How long a deployed VM may take until it accepts the login.
    fn patience(&self) -> Duration;
}

/// What a program reads.
#[derive(Debug)]
pub enum Input {
    /// Nothing.
    Empty,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A file's contents.
    File(std::fs::File),
    /// A secret.
    Secret(SecretString),
}

/// A program to run.
#[derive(Debug)]
pub struct Exec {
    /// The program.
    pub program: String,
    /// Its arguments, unchanged.
    pub arguments: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Environment variables that must not appear in any process's arguments.
    pub secret_env: Vec<(String, SecretString)>,
    /// Standard input.
    pub input: Input,
    /// Whether the user's login shell and profile are used.
    pub login_shell: bool,
    /// Whether to ask for a pseudo-terminal.
    pub pty: bool,
    /// Whether it outlives the connection.
    pub detach: bool,
}

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a running program does.
#[derive(Debug)]
pub enum Event {
    /// It wrote something.
    Output(OutputStream, Bytes),
    /// The connection broke under a detached program, which runs on; a new one is being made.
    Interrupted(String),
    /// A detached program is followed again.
    Resumed,
    /// The answer to [`Control::ask_for_sign`]: what was written until now was told before this.
    Heard,
    /// It ended. No further event follows.
    Exit(Exit),
    /// The connection broke; whether it still runs is unknown. No further event follows.
    Lost(Failure),
}

/// A program that was started.
pub struct Running {
    /// What it does, in order. Not taking events holds the program back.
    pub events: mpsc::Receiver<Event>,
    /// For sending signals.
    pub control: Arc<dyn Control>,
}

/// Influence on a running program.
#[async_trait]
pub trait Control: Send + Sync {
    /// Sends a signal by its name without `SIG`, also to a program whose output nobody takes. Succeeds if it has ended.
    async fn signal(&self, name: &str) -> Result<(), Failure>;

    /// Asks whether the VM is still there, which [`Event::Heard`] answers; over a dead connection it never does. False where
    /// there is no connection that could be dead.
    async fn ask_for_sign(&self) -> bool {
        false
    }
}

/// What to copy.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Globs that choose; empty means everything.
    pub include: Vec<String>,
    /// Globs that leave out.
    pub exclude: Vec<String>,
    /// Upper limit of all files together, in bytes.
    pub max_bytes: u64,
    /// Upper limit of the number of entries.
    pub max_entries: u64,
    /// Which of the chosen files a download fetches.
    pub compare: Compare,
    /// Who looks at the files of a download before they take their place.
    pub review: Option<Review>,
}

/// Looks at files that came back and are not in place yet.
#[derive(Clone)]
pub struct Review(Arc<Look>);

type Look =
    dyn Fn(Vec<FileDigest>) -> BoxFuture<'static, Result<Vec<usize>, Failure>> + Send + Sync;

impl Review {
    /// A look that gives the positions of the files to leave out, or fails the download.
    pub fn new(
        look: impl Fn(Vec<FileDigest>) -> BoxFuture<'static, Result<Vec<usize>, Failure>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(look))
    }

    /// The positions of the files to leave out.
    ///
    /// # Errors
    ///
    /// Why none of them may come.
    pub async fn look(&self, files: Vec<FileDigest>) -> Result<Vec<usize>, Failure> {
        (self.0)(files).await
    }
}

impl std::fmt::Debug for Review {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Review")
    }
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// SHA-256 of the set, for what was received.
    pub digest: Option<String>,
    /// Each file with its size and SHA-256, for what was received.
    pub entries: Vec<FileDigest>,
    /// Files left where they are because the target has the same.
    pub unchanged: u64,
    /// Files that came and were left out by whoever looked at them.
    pub left_out: u64,
    /// Bytes that counted against the limit of bytes.
    pub counted_bytes: u64,
    /// Files, links and directories that counted against the limit of entries.
    pub counted_entries: u64,
    /// How it went, where that is worth knowing.
    pub notes: Vec<String>,
}

/// A jump host and the key it showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JumpHostKey {
    /// `host:port`.
    pub host: String,
    /// Its host key, as `SHA256:…`.
    pub fingerprint: String,
    /// Why that was accepted.
    pub trust: HostKeyTrust,
}

/// A VM that is logged into.
#[async_trait]
pub trait Guest: Send + Sync {
    /// The host key's fingerprint, as `SHA256:…`.
    fn host_key(&self) -> String;

    /// Why the host key was accepted.
    fn host_key_trust(&self) -> HostKeyTrust {
        HostKeyTrust::FirstUse
    }

    /// The host that the connection goes through.
    fn jump_host(&self) -> Option<JumpHostKey> {
        None
    }

    /// How long it may take to notice that the connection is dead.
    fn loss_after(&self) -> Duration {
        Duration::ZERO
    }

    /// Starts a program.
    async fn exec(&self, exec: Exec) -> Result<Running, Failure>;

    /// Writes a small file whole or not at all.
    async fn write_file(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), Failure>;

    /// Copies the contents of `source` into the remote directory `target`.
    async fn upload(
        &self,
        source: &Dir,
        target: &str,
        choice: &Choice,
        console: &Console,
    ) -> Result<Copied, Failure>;

    /// Copies the contents of the remote directory `source` over `into` below `workspace`.
    async fn download(
        &self,
        source: &str,
        workspace: &Dir,
        into: &Path,
        choice: &Choice,
        console: &Console,
    ) -> Result<Copied, Failure>;

    /// Closes the connection in order.
    async fn close(&self);
}
