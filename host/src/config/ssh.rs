//! How VMs are logged into, and through which host.

use std::path::Path;
use std::time::Duration;

use guest_ssh::{
    AuthMethod, Credentials, Fingerprint, HostKeyMemory, HostKeyPolicy, Identity, Jump, Keepalive,
    KnownHosts, Target,
};
use secrecy::{ExposeSecret as _, SecretString};

use super::{Environment, SecretDirectory};
use crate::cli::SshArgs;
use crate::failure::Failure;
use crate::mask::Masker;

/// File names that hold a private key, in the order in which they are looked for.
const KEY_FILES: [&str; 4] = ["ssh-privatekey", "id_ed25519", "id_ecdsa", "id_rsa"];

/// What a private key begins with, in the form of OpenSSH as well as in that of PEM (RFC 7468).
const KEY_BEGINS: &str = "-----BEGIN ";

/// Where SSH servers listen, where nothing else is said.
const SSH_PORT_TEXT: &str = "22";

/// How to log into VMs.
#[derive(Clone, Debug)]
pub struct SshConfig {
    /// The user to log in as.
    pub username: String,
    /// Ways to authenticate, in order.
    pub methods: Vec<AuthMethod>,
    /// Which host keys to accept.
    pub host_keys: HostKeyPolicy,
    /// How long a deployed VM may take until it accepts the login.
    pub timeout: Duration,
    /// When a silent connection counts as lost.
    pub keepalive: Keepalive,
    /// The host to go through.
    pub jump: Option<Jump>,
}

impl SshConfig {
    /// No way to log in, for a policy that never does.
    pub(crate) fn without_login(timeout: Duration, keepalive: Duration) -> Self {
        Self {
            username: String::new(),
            methods: Vec::new(),
            host_keys: HostKeyPolicy::FirstUse,
            timeout,
            keepalive: Keepalive::within(keepalive),
            jump: None,
        }
    }
}

/// Reads the flags, the directories and the variables.
///
/// # Errors
///
/// The first thing that is missing or wrong.
pub(super) fn resolve(
    args: &SshArgs,
    environment: &Environment,
    masker: &Masker,
) -> Result<SshConfig, Failure> {
    let directory = args
        .ssh_credentials
        .as_deref()
        .map(|path| SecretDirectory::open(path, "--ssh-credentials"))
        .transpose()?;
    let where_to_look = "put the files `username` and `password`, or a private key, into the directory given with \
                         `--ssh-credentials`, or set `SSH_USERNAME` and `SSH_PASSWORD`";
    let login = Login::read(directory.as_ref(), environment, masker, args.ssh_key)?;
    let Some(username) = login.username else {
        return Err(Failure::config("no SSH user name is given").with_hint(where_to_look));
    };
    if login.methods.is_empty() {
        return Err(Failure::config(
            "the SSH credentials have neither a password nor a private key",
        )
        .with_hint(where_to_look));
    }
    Ok(SshConfig {
        username,
        methods: login.methods,
        host_keys: host_keys(&args.ssh_host_keys, login.known_hosts)?,
        timeout: args.ssh_timeout,
        keepalive: Keepalive::within(args.ssh_keepalive),
        jump: jump(args, masker)?,
    })
}

/// What a directory of credentials holds.
struct Login {
    username: Option<String>,
    methods: Vec<AuthMethod>,
    known_hosts: Option<KnownHosts>,
}

impl Login {
    fn read(
        directory: Option<&SecretDirectory>,
        environment: &Environment,
        masker: &Masker,
        password_is_key: bool,
    ) -> Result<Self, Failure> {
        let file = |name: &str| {
            directory
                .map(|directory| directory.read(name))
                .transpose()
                .map(Option::flatten)
        };
        let variable = |name: &str| {
            environment
                .get(name)
                .filter(|value| !value.is_empty())
                .map(|value| SecretString::from(value.clone()))
        };
        let username = file("username")?
            .or_else(|| variable("SSH_USERNAME"))
            .map(|username| username.expose_secret().to_owned());
        let password = file("password")?.or_else(|| variable("SSH_PASSWORD"));
        let passphrase = file("passphrase")?;
        if let Some(passphrase) = &passphrase {
            masker.add(passphrase.expose_secret());
        }
        let mut methods = Vec::new();
        for name in KEY_FILES {
            if let Some(key) = file(name)? {
                masker.add(key.expose_secret());
                let certificate = file(&format!("{name}-cert.pub"))?;
                let identity = identity(name, &key, passphrase.as_ref(), certificate.as_ref())?;
                methods.push(AuthMethod::PrivateKey(identity));
            }
        }
        let is_key = |text: &SecretString| {
            password_is_key || text.expose_secret().trim_start().starts_with(KEY_BEGINS)
        };
        if let Some(key) = password.as_ref().filter(|text| is_key(text)) {
            masker.add(key.expose_secret());
            let identity = identity("password", key, passphrase.as_ref(), None)?;
            methods.push(AuthMethod::PrivateKey(identity));
        } else if let Some(password) = password {
            // MacStadium's images have the password `admin` for the user `admin`: hiding it would hide every home
            // directory.
            if username.as_deref() != Some(password.expose_secret()) {
                masker.add(password.expose_secret());
            }
            methods.push(AuthMethod::Password(password));
        }
        let parse = |text: SecretString| {
            KnownHosts::parse(text.expose_secret()).map_err(|error| {
                Failure::config("the file `known_hosts` is wrong").with_source(error)
            })
        };
        Ok(Self {
            username,
            methods,
            known_hosts: file("known_hosts")?.map(parse).transpose()?,
        })
    }
}

fn identity(
    name: &str,
    key: &SecretString,
    passphrase: Option<&SecretString>,
    certificate: Option<&SecretString>,
) -> Result<Identity, Failure> {
    let refused = |what: String| {
        move |error: guest_ssh::Error| {
            let failure = Failure::config(format!("{what} cannot be used"));
            let failure = match error.hint() {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            };
            failure.with_source(error)
        }
    };
    let identity =
        Identity::parse(key, passphrase).map_err(refused(format!("the private key `{name}`")))?;
    match certificate {
        None => Ok(identity),
        Some(text) => identity
            .with_certificate(text.expose_secret())
            .map_err(refused(format!("the certificate `{name}-cert.pub`"))),
    }
}

/// The flag over the file: pins stand alone, `first-use` leaves the file what it names.
fn host_keys(given: &[String], known: Option<KnownHosts>) -> Result<HostKeyPolicy, Failure> {
    let hint = "give `SHA256:…` as `ssh-keygen -lf` prints it (several for several keys), or `first-use`, or `accept-any`";
    let words: Vec<&str> = given.iter().map(|word| word.trim()).collect();
    match words.as_slice() {
        [] => Ok(known.map_or(HostKeyPolicy::FirstUse, HostKeyPolicy::KnownHosts)),
        ["first-use"] => {
            Ok(known.map_or(HostKeyPolicy::FirstUse, HostKeyPolicy::FirstUseUnlessKnown))
        }
        ["accept-any"] => Ok(HostKeyPolicy::AcceptAny),
        words if words.contains(&"first-use") || words.contains(&"accept-any") => {
            Err(Failure::config(
                "`--ssh-host-key` has `first-use` or `accept-any` beside something else",
            )
            .with_hint(hint))
        }
        words => words
            .iter()
            .map(|word| Fingerprint::parse(word))
            .collect::<Result<_, _>>()
            .map(HostKeyPolicy::Pinned)
            .map_err(|error| {
                Failure::config("`--ssh-host-key` is wrong")
                    .with_source(error)
                    .with_hint(hint)
            }),
    }
}

fn jump(args: &SshArgs, masker: &Masker) -> Result<Option<Jump>, Failure> {
    let Some(text) = &args.ssh_jump else {
        return Ok(None);
    };
    let (user, target) = jump_target(text).ok_or_else(|| {
        Failure::config(format!("`--ssh-jump {text}` names no host")).with_hint(
            "write it as `jump.example.com`, `user@10.0.0.5:2222` or `user@[fd00::5]:2222`",
        )
    })?;
    let path = args
        .ssh_jump_credentials
        .as_deref()
        .unwrap_or(Path::new(""));
    let directory = SecretDirectory::open(path, "--ssh-jump-credentials")?;
    // The variables are for the VMs; what is theirs is not sent to another machine.
    let login = Login::read(Some(&directory), &Environment::new(), masker, false)?;
    let where_to_look = "put the files `username` and `password`, or a private key, into the directory given with \
                         `--ssh-jump-credentials`; the user can also be given as `--ssh-jump USER@HOST`";
    let Some(username) = user.or(login.username) else {
        return Err(
            Failure::config("no user name is given for the jump host").with_hint(where_to_look)
        );
    };
    if login.methods.is_empty() {
        return Err(Failure::config(
            "the jump host's credentials have neither a password nor a private key",
        )
        .with_hint(where_to_look));
    }
    Ok(Some(Jump {
        target,
        credentials: Credentials {
            username,
            methods: login.methods,
        },
        host_keys: host_keys(&[], login.known_hosts)?,
        memory: HostKeyMemory::default(),
    }))
}

/// `[USER@]HOST[:PORT]`; an IPv6 address with a port stands in brackets.
fn jump_target(text: &str) -> Option<(Option<String>, Target)> {
    let (user, address) = match text.trim().rsplit_once('@') {
        Some((user, address)) => (Some(user.to_owned()), address),
        None => (None, text.trim()),
    };
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        (
            host,
            port.strip_prefix(':')
                .or(port.is_empty().then_some(SSH_PORT_TEXT)),
        )
    } else {
        match address.split_once(':') {
            // More than one colon: an IPv6 address and nothing else.
            Some((_, rest)) if rest.contains(':') => (address, Some(SSH_PORT_TEXT)),
            Some((host, port)) => (host, Some(port)),
            None => (address, Some(SSH_PORT_TEXT)),
        }
    };
    let port = port?.parse().ok().filter(|port| *port != 0)?;
    let is_named = !host.is_empty() && user.as_deref() != Some("");
    let host = host.to_owned();
    is_named.then_some((user, Target { host, port }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_host_is_read_in_every_form() {
        for (text, user, host, port) in [
            ("jump.example.com", None, "jump.example.com", 22),
            ("me@10.0.0.5:2222", Some("me"), "10.0.0.5", 2222),
            ("fd00::5", None, "fd00::5", 22),
            ("me@[fd00::5]:2222", Some("me"), "fd00::5", 2222),
            ("[fd00::5]", None, "fd00::5", 22),
            ("a@b@host", Some("a@b"), "host", 22),
        ] {
            let (got_user, target) = jump_target(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(got_user.as_deref(), user, "{text}");
            assert_eq!((target.host.as_str(), target.port), (host, port), "{text}");
        }
        for text in [
            "",
            "@host",
            "me@",
            "host:",
            "host:x",
            "host:0",
            "[fd00::5",
            "[fd00::5]x",
        ] {
            assert!(jump_target(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_flag_decides_over_the_file_and_contradictions_are_refused() {
        let known = || Some(KnownHosts::parse("").unwrap());
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let pin = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert!(matches!(host_keys(&[], None), Ok(HostKeyPolicy::FirstUse)));
        assert!(matches!(
            host_keys(&[], known()),
            Ok(HostKeyPolicy::KnownHosts(_))
        ));
        assert!(matches!(
            host_keys(&words(&["first-use"]), known()),
            Ok(HostKeyPolicy::FirstUseUnlessKnown(_))
        ));
        assert!(matches!(
            host_keys(&words(&["accept-any"]), known()),
            Ok(HostKeyPolicy::AcceptAny)
        ));
        match host_keys(&words(&[pin, pin]), known()) {
            Ok(HostKeyPolicy::Pinned(pins)) => assert_eq!(pins.len(), 2),
            other => panic!("{other:?}"),
        }
        for wrong in [
            &["any"][..],
            &[pin, "accept-any"],
            &["first-use", "first-use"],
            &["MD5:00"],
        ] {
            assert!(host_keys(&words(wrong), None).is_err(), "{wrong:?}");
        }
    }
}
