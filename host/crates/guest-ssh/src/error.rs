//! What can go wrong with a VM over SSH, by what a caller can do about it.

use std::io;
use std::time::Duration;

use crate::command::Exit;
use crate::transfer::Direction;

/// Why an SSH operation did not succeed. Messages state their own layer; the cause is in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host name has no address.
    #[error("host name `{host}` did not resolve")]
    Unresolved {
        /// The name asked for.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// The machine answers and nothing listens on the port: booting, or the wrong port.
    #[error("{address} refused the connection")]
    Refused {
        /// `host:port`.
        address: String,
    },
    /// The network has no way to the machine.
    #[error("there is no route to {address}")]
    NoRoute {
        /// `host:port`.
        address: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Nothing came back from the machine at all.
    #[error("{address} did not answer within {}", seconds(*after))]
    Unanswered {
        /// `host:port`.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// The connection was accepted and then nothing, or not enough, was said.
    #[error("{address} accepted the connection and then went silent {during} for {}", seconds(*after))]
    Silent {
        /// `host:port`.
        address: String,
        /// What was being waited for.
        during: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The connection was cut before it was usable.
    #[error("{address} cut the connection {during}")]
    Reset {
        /// `host:port`.
        address: String,
        /// What was being waited for.
        during: &'static str,
    },
    /// What answers does not speak SSH with us.
    #[error("{address} and this program could not agree on an SSH session")]
    Handshake {
        /// `host:port`.
        address: String,
        /// What the SSH library said.
        #[source]
        source: russh::Error,
    },
    /// The server and we have no algorithm of a kind in common. Trying again does not help.
    #[error("{address} offers as {what} only {}", list(theirs))]
    NoCommonAlgorithm {
        /// `host:port`.
        address: String,
        /// Which kind of algorithm.
        what: &'static str,
        /// Its name in `sshd_config(5)`.
        setting: &'static str,
        /// What the server offers.
        theirs: Vec<String>,
        /// Those of them that are refused because they are weak.
        weak: Vec<String>,
        /// What we offer.
        ours: Vec<String>,
    },
    /// The jump host itself could not be used; the machine behind it was not reached.
    #[error("the jump host {jump} cannot be used")]
    JumpHost {
        /// `host:port` of the jump host.
        jump: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// The jump host could not or would not connect to the machine.
    #[error("the jump host {jump} {} {address}", if *is_forbidden { "does not forward to" } else { "could not connect to" })]
    NotForwarded {
        /// `host:port` of the jump host.
        jump: String,
        /// `host:port` of the machine behind it.
        address: String,
        /// Its rules forbid it; otherwise the machine does not answer it, which passes when that comes up.
        is_forbidden: bool,
    },
    /// The caller's word is that the machine is gone ([`crate::Gone`]): what answers at its address may be another one.
    #[error("the machine at {address} was deleted, and its address may be another's by now")]
    Gone {
        /// `host:port`.
        address: String,
    },
    /// The deadline passed before the VM could be used. The source is how the last attempt ended.
    #[error("{address} was not ready for SSH after {} and {attempts} attempts", seconds(*waited))]
    TimedOut {
        /// `host:port`.
        address: String,
        /// How long was waited in all.
        waited: Duration,
        /// How many connections were tried.
        attempts: u32,
        /// How the last attempt ended.
        #[source]
        last: Option<Box<Error>>,
    },
    /// The server accepts none of the credentials. Trying again does not help.
    #[error(
        "{address} declined user `{user}`: it accepts {}; tried {}",
        list(accepts),
        list(tried)
    )]
    AuthenticationDeclined {
        /// `host:port`.
        address: String,
        /// The login name.
        user: String,
        /// Methods the server says it accepts, in SSH's words.
        accepts: Vec<String>,
        /// What was tried, with key fingerprints but no secrets.
        tried: Vec<String>,
    },
    /// The server's key is not the expected one: another machine answers, or somebody listens in.
    #[error("{address} presented host key {got}, expected {}", list(expected))]
    HostKeyMismatch {
        /// `host:port`.
        address: String,
        /// Fingerprints that would have been accepted.
        expected: Vec<String>,
        /// The fingerprint seen.
        got: String,
    },
    /// Nothing is known about this host, so its key cannot be judged.
    #[error("host key {got} of {address} is not known")]
    HostKeyUnknown {
        /// `host:port`.
        address: String,
        /// The fingerprint seen.
        got: String,
    },
    /// The server's key, or the authority that signed it, is marked `@revoked`.
    #[error("host key {got} of {address} is revoked")]
    HostKeyRevoked {
        /// `host:port`.
        address: String,
        /// The fingerprint seen.
        got: String,
    },
    /// The server's host certificate does not hold.
    #[error("host certificate {got} of {address} is not valid: {reason}")]
    HostCertificateInvalid {
        /// `host:port`.
        address: String,
        /// The fingerprint of the certified key.
        got: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The `known_hosts` text or a fingerprint cannot be understood.
    #[error("host key list is not valid: {reason}")]
    InvalidHostKeys {
        /// Which line, and why.
        reason: String,
    },
    /// The text is not a private key in a form we read.
    #[error("not a private key: {reason}")]
    InvalidKey {
        /// What was found instead.
        reason: String,
    },
    /// The text is not a certificate that goes with the key.
    #[error("the certificate cannot be used: {reason}")]
    InvalidCertificate {
        /// What is wrong with it.
        reason: String,
    },
    /// The text is the public half of a key.
    #[error("this is a public key; the private half is needed")]
    PublicKeyGiven,
    /// The private key is encrypted and no passphrase was given.
    #[error("the private key is encrypted and needs a passphrase")]
    PassphraseNeeded,
    /// The passphrase does not open the private key.
    #[error("the passphrase does not open the private key")]
    WrongPassphrase,
    /// An argument cannot be carried over SSH.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// Which argument.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// What a program was to read could not be read here. The program has read a part of it.
    #[error("the standard input for a command at {address} cannot be read")]
    Input {
        /// `host:port`.
        address: String,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// The server would not start the command.
    #[error("{address} would not run the command: {reason}")]
    ExecRefused {
        /// `host:port`.
        address: String,
        /// What it said.
        reason: String,
    },
    /// The connection ended under a command: its fate is unknown.
    #[error("the connection to {address} was lost: {reason}")]
    Lost {
        /// `host:port`.
        address: String,
        /// What is known about the end.
        reason: String,
    },
    /// A detached command cannot be followed to its end: its fate is unknown.
    #[error("the detached command at {address} cannot be followed to its end: {reason}")]
    Detached {
        /// `host:port`.
        address: String,
        /// What is known.
        reason: String,
    },
    /// The VM's SFTP server answers nonsense.
    #[error("the VM's SFTP server does not keep to the protocol: {reason}")]
    Protocol {
        /// What it did.
        reason: String,
    },
    /// A path in the VM does not exist.
    #[error("`{path}` does not exist in the VM")]
    NotFound {
        /// The remote path.
        path: String,
    },
    /// The VM lacks a program that transfers need.
    #[error("the VM has no `{tool}`")]
    RemoteToolMissing {
        /// The program's name.
        tool: &'static str,
    },
    /// A helper program in the VM failed.
    #[error("{what} failed in the VM with {exit}: {stderr}")]
    RemoteFailed {
        /// What it was doing.
        what: &'static str,
        /// How it ended.
        exit: Exit,
        /// The last of its standard error.
        stderr: String,
    },
    /// An entry of a transfer was refused. Nothing was moved into place.
    #[error("{direction} refused at `{entry}`: {reason}")]
    Transfer {
        /// Up or down.
        direction: Direction,
        /// The entry, control characters escaped.
        entry: String,
        /// Why.
        reason: String,
        /// The operating system's word, where it has one.
        #[source]
        source: Option<io::Error>,
    },
    /// The volume here has no room for a transfer. Nothing was moved into place.
    #[error("{direction} stopped at `{entry}`: {} needed, and {room}", crate::transfer::printable_size(*needed))]
    NoRoom {
        /// Up or down.
        direction: Direction,
        /// The entry that does not fit; `.` for all of them together.
        entry: String,
        /// Bytes that are missing a place.
        needed: u64,
        /// How much room there is, in words.
        room: String,
        /// What the operating system said, if it was asked.
        #[source]
        source: Option<io::Error>,
    },
    /// The VM's disk has no room for an upload. The VM holds a part.
    #[error("upload stopped at `{entry}`: the VM's disk is full{}", free.map_or_else(String::new, |free| format!(", with {} free", crate::transfer::printable_size(free))))]
    VmFull {
        /// The entry that does not fit.
        entry: String,
        /// Bytes that are free there, where the VM says so. Some may be where no more files can be made.
        free: Option<u64>,
    },
    /// A transfer is larger than it may be. Nothing was moved into place.
    #[error("{direction} stopped at `{entry}`: more than {}", amount(*allowed, limit))]
    LimitExceeded {
        /// Up or down.
        direction: Direction,
        /// What is counted.
        limit: &'static str,
        /// How much is allowed.
        allowed: u64,
        /// The entry at which it was passed.
        entry: String,
    },
}

impl Error {
    /// What to do next, as one sentence without a final stop; [`None`] where the message says it all.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unresolved { .. } => "check the VM's address as Orka reports it".into(),
            Self::Refused { .. } => "check the SSH port, and that Remote Login is on in the image".into(),
            Self::NoRoute { .. } | Self::Unanswered { .. } => {
                "check that this network reaches the Orka nodes; a VPN or an address map may be needed".into()
            }
            Self::Silent { .. } | Self::Reset { .. } => {
                "the VM may still be booting, or something between here and it holds the connection".into()
            }
            Self::Handshake { .. } => "check that the port is the VM's SSH port".into(),
            Self::NoCommonAlgorithm { weak, ours, setting, .. } => {
                let weak = if weak.is_empty() {
                    String::new()
                } else {
                    format!("{} is refused on purpose, as too weak; ", weak.join(", "))
                };
                format!("{weak}let `{setting}` in the image's `sshd_config` allow one of {}", ours.join(", "))
            }
            Self::JumpHost { source, .. } => match source.as_ref() {
                Self::AuthenticationDeclined { user, .. } => format!("check the jump host's credentials for user `{user}`"),
                Self::Refused { .. } | Self::NoRoute { .. } | Self::Unanswered { .. } | Self::Unresolved { .. } => {
                    "check the jump host's name and port, and that this network reaches it".into()
                }
                other => return other.hint(),
            },
            Self::NotForwarded { is_forbidden: true, .. } => {
                "check `AllowTcpForwarding` and `PermitOpen` in the jump host's `sshd_config`".into()
            }
            Self::NotForwarded { is_forbidden: false, .. } => {
                "the VM may still be booting, or the jump host's network does not reach it".into()
            }
            Self::InvalidCertificate { .. } => "sign the key anew, or take the `-cert.pub` file away".into(),
            Self::TimedOut { last: Some(last), .. } => return last.hint(),
            Self::TimedOut { last: None, .. } => "allow more time".into(),
            Self::AuthenticationDeclined { user, .. } => {
                format!("check the credentials for user `{user}`, or add the key's public half to the VM image")
            }
            Self::HostKeyMismatch { .. } => {
                "if the image's key changed on purpose, update the expected keys; otherwise do not connect".into()
            }
            Self::HostKeyUnknown { got, .. } => format!("add the host's key to `known_hosts`, or pin `{got}`"),
            Self::HostKeyRevoked { .. } | Self::HostCertificateInvalid { .. } => {
                "give the VM image a new host key or certificate".into()
            }
            Self::InvalidHostKeys { .. } => "each line is `host key-type base64-key`; a pin is `SHA256:` and base64".into(),
            Self::InvalidKey { .. } => "give an OpenSSH or PEM private key".into(),
            Self::PublicKeyGiven => "give the file without `.pub`".into(),
            Self::PassphraseNeeded => "add the file `passphrase` beside the key".into(),
            Self::WrongPassphrase => "check the passphrase; a trailing newline is not part of it".into(),
            Self::Lost { .. } => "the VM may have gone, or the network to it; the command may have run in part".into(),
            Self::Detached { .. } => "look for what may have killed processes in the VM, or filled its disk".into(),
            Self::Input { .. } => "check the file that is given as standard input, and the volume that it is on".into(),
            Self::RemoteToolMissing { tool } => format!("install `{tool}` in the VM image"),
            Self::LimitExceeded { limit: "bytes" | "entries", .. } => "select less, or raise the limit".into(),
            Self::LimitExceeded { .. } => "select less: this limit is fixed".into(),
            Self::VmFull { .. } => "send less (a file `.orkaignore` in the tree leaves things out), or take an image with a larger disk".into(),
            Self::NoRoom { .. } => "select less, or give the workspace a larger volume".into(),
            Self::ExecRefused { .. } => "check the server's `ForceCommand` and the user's shell".into(),
            Self::Protocol { .. } => {
                "check the `Subsystem sftp` line of the server, and that no start-up file of the user's shell prints".into()
            }
            Self::Gone { .. } | Self::Invalid { .. } | Self::NotFound { .. } | Self::RemoteFailed { .. } | Self::Transfer { .. } => {
                return None;
            }
        })
    }

    /// Whether the same attempt may go differently a moment later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        if let Self::JumpHost { source, .. } = self {
            return source.may_pass() || matches!(**source, Self::Lost { .. });
        }
        matches!(
            self,
            Self::NotForwarded {
                is_forbidden: false,
                ..
            } | Self::Unresolved { .. }
                | Self::Refused { .. }
                | Self::NoRoute { .. }
                | Self::Unanswered { .. }
                | Self::Silent { .. }
                | Self::Reset { .. }
                | Self::Handshake { .. }
        )
    }
}

fn amount(allowed: u64, limit: &str) -> String {
    match limit {
        "bytes" => crate::transfer::printable_size(allowed),
        limit => format!("{allowed} {limit}"),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn list(words: &[String]) -> String {
    if words.is_empty() {
        "nothing".to_owned()
    } else {
        words.join(", ")
    }
}
