//! Proving who we are, holding a machine to its key, and going through a jump host, against OpenSSH's server.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::process::Command;
use std::time::Duration;

use guest_ssh::{
    AuthMethod, ConnectOptions, Connection, Credentials, Error, ExecRequest, Exit, HostKeyMemory,
    HostKeyPolicy, HostKeyTrust, Identity, Jump, Keepalive, KnownHosts, Stdin,
};
use support::scripted::{Script, Scripted, password};
use support::sshd::{Sshd, keygen};
use support::two_steps;
use support::{options, run_out};
use tokio::net::TcpListener;
use tokio::time::Instant;

async fn connect(server: &Sshd, credentials: &Credentials) -> Result<Connection, Error> {
    let policy = HostKeyPolicy::FirstUse;
    guest_ssh::connect(&server.target(), credentials, &policy, &options(), |_| ()).await
}

async fn echo(connection: &Connection) -> Vec<u8> {
    let request = ExecRequest::new("echo", ["through"]);
    let ran = run_out(connection.exec(request).await.unwrap()).await;
    assert_eq!(ran.exit, Exit::Status(0));
    ran.stdout
}

fn key(server: &Sshd, name: &str, kind: &[&str]) -> Identity {
    let path = keygen(&server.path().join(name), kind);
    Identity::parse(&std::fs::read_to_string(path).unwrap().into(), None).unwrap()
}

#[tokio::test]
async fn further_keys_are_offered_on_a_new_connection_where_one_try_is_allowed() {
    let server = Sshd::with("MaxAuthTries 1\n");
    let mut credentials = server.credentials();
    for name in ["first", "second"] {
        let stranger = key(&server, name, &["-t", "ed25519"]);
        credentials
            .methods
            .insert(0, AuthMethod::PrivateKey(stranger));
    }
    echo(&connect(&server, &credentials).await.unwrap()).await;

    credentials.methods.truncate(2);
    let outcome = connect(&server, &credentials).await;
    let Err(Error::AuthenticationDeclined { tried, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(tried.len(), 2, "{tried:?}");
}

#[tokio::test]
async fn two_keys_are_shown_where_both_are_asked_for() {
    let server = Sshd::with("AuthenticationMethods publickey,publickey\n");
    let second = key(&server, "second", &["-t", "ecdsa"]);
    let mut credentials = server.credentials();
    let outcome = connect(&server, &credentials).await;
    let Err(Error::AuthenticationDeclined { tried, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        tried[0].ends_with("(accepted, and not enough)"),
        "{tried:?}"
    );

    let mut allowed = std::fs::read_to_string(server.path().join("id.pub")).unwrap();
    allowed += &std::fs::read_to_string(server.path().join("second.pub")).unwrap();
    std::fs::write(server.path().join("id.pub"), allowed).unwrap();
    credentials.methods.push(AuthMethod::PrivateKey(second));
    echo(&connect(&server, &credentials).await.unwrap()).await;
}

#[tokio::test]
async fn a_certificate_logs_in_where_the_bare_key_does_not() {
    for kind in [
        &["-t", "ed25519"][..],
        &["-t", "ecdsa"],
        &["-t", "rsa", "-b", "2048"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let authority = keygen(&dir.path().join("ca"), &["-t", "ed25519"]);
        let user = keygen(&dir.path().join("user"), kind);
        let signed = Command::new("ssh-keygen")
            .args(["-q", "-s"])
            .arg(&authority)
            .args(["-I", "build-7", "-n", &support::sshd::user(), "-V", "+1h"])
            .arg(user.with_extension("pub"))
            .output()
            .unwrap();
        assert!(signed.status.success(), "{signed:?}");
        let server = Sshd::with(&format!(
            "TrustedUserCAKeys {}.pub\nAuthorizedKeysFile none\n",
            authority.display()
        ));
        let bare = Identity::parse(&std::fs::read_to_string(&user).unwrap().into(), None).unwrap();
        let certificate = std::fs::read_to_string(dir.path().join("user-cert.pub")).unwrap();
        let certified = bare.clone().with_certificate(&certificate).unwrap();
        let with = |identity| Credentials {
            methods: vec![AuthMethod::PrivateKey(identity)],
            ..server.credentials()
        };
        let outcome = connect(&server, &with(bare)).await;
        assert!(
            matches!(outcome, Err(Error::AuthenticationDeclined { .. })),
            "{kind:?}: {outcome:?}"
        );
        let connection = connect(&server, &with(certified))
            .await
            .unwrap_or_else(|problem| panic!("{kind:?}: {problem}"));
        echo(&connection).await;
    }
}

#[tokio::test]
async fn the_strictest_servers_are_spoken_to() {
    for extra in [
        "KexAlgorithms curve25519-sha256\nCiphers chacha20-poly1305@openssh.com\nMACs hmac-sha2-512-etm@openssh.com\n\
         HostKeyAlgorithms ssh-ed25519\nPubkeyAcceptedAlgorithms ssh-ed25519\n",
        "KexAlgorithms ecdh-sha2-nistp384\nCiphers aes256-gcm@openssh.com\nHostKeyAlgorithms ecdsa-sha2-nistp256\n",
        "KexAlgorithms diffie-hellman-group16-sha512\nCiphers aes256-ctr\nMACs hmac-sha2-256-etm@openssh.com\n",
        "MaxSessions 1\nMaxAuthTries 1\nMaxStartups 2\nPermitUserEnvironment no\nAllowTcpForwarding no\n\
         PermitTTY no\nLoginGraceTime 10\n",
    ] {
        let server = Sshd::with(extra);
        let connection = connect(&server, &server.credentials())
            .await
            .unwrap_or_else(|problem| panic!("{extra}: {problem}"));
        assert_eq!(echo(&connection).await, b"through\n", "{extra}");
    }
}

#[tokio::test]
async fn the_oldest_servers_are_spoken_to_and_weak_ones_refused_by_name() {
    let server = Sshd::with(
        "KexAlgorithms diffie-hellman-group14-sha256\nCiphers aes128-ctr\nMACs hmac-sha1\n",
    );
    echo(&connect(&server, &server.credentials()).await.unwrap()).await;

    for (extra, weak) in [
        (
            "KexAlgorithms diffie-hellman-group14-sha1\n",
            "diffie-hellman-group14-sha1",
        ),
        ("Ciphers aes128-cbc\n", "aes128-cbc"),
    ] {
        let server = Sshd::with(extra);
        let outcome = connect(&server, &server.credentials()).await;
        let Err(problem @ Error::NoCommonAlgorithm { .. }) = outcome else {
            panic!("{extra}: {outcome:?}")
        };
        assert!(problem.to_string().contains(weak), "{problem}");
        let hint = problem.hint().unwrap();
        assert!(
            hint.contains(&format!("{weak} is refused on purpose")),
            "{hint}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let rsa = keygen(&dir.path().join("rsa"), &["-t", "rsa", "-b", "2048"]);
    let server = Sshd::with(&format!(
        "HostKey {}\nHostKeyAlgorithms ssh-rsa\n",
        rsa.display()
    ));
    let outcome = connect(&server, &server.credentials()).await;
    let Err(problem) = outcome else { panic!() };
    assert!(problem.to_string().contains("ssh-rsa"), "{problem:?}");
}

#[tokio::test]
async fn a_machine_must_show_the_same_key_on_every_connection() {
    let script = |kind| Script {
        host_key: Some(support::scripted::private_key(kind)),
        ..Script::quiet()
    };
    let (one, other) = (
        Scripted::start(script("ed25519")).await,
        Scripted::start(script("ed25519")).await,
    );
    let memory = HostKeyMemory::default();
    let remembering = ConnectOptions {
        memory: memory.clone(),
        ..options()
    };
    let credentials = password("admin");
    let go = |server: &Scripted, policy| {
        let target = server.target();
        let (credentials, remembering) = (&credentials, &remembering);
        async move { guest_ssh::connect(&target, credentials, &policy, remembering, |_| ()).await }
    };
    let first = go(&one, HostKeyPolicy::FirstUse).await.unwrap();
    assert_eq!(first.host_key().trust, HostKeyTrust::FirstUse);
    assert_eq!(memory.recall(), Some(first.host_key()));
    go(&one, HostKeyPolicy::FirstUse).await.unwrap();
    let outcome = go(&other, HostKeyPolicy::FirstUse).await;
    assert!(
        matches!(outcome, Err(Error::HostKeyMismatch { .. })),
        "{outcome:?}"
    );
    let unchecked = go(&other, HostKeyPolicy::AcceptAny).await.unwrap();
    assert_eq!(unchecked.host_key().trust, HostKeyTrust::Unchecked);
    // What was not checked is not remembered.
    assert_eq!(memory.recall(), Some(first.host_key()));
}

#[tokio::test]
async fn first_use_holds_hosts_to_what_the_file_knows() {
    let server = Sshd::start();
    let name = format!("[127.0.0.1]:{}", server.port);
    let stranger = support::scripted::private_key("ed25519")
        .public_key()
        .to_openssh()
        .unwrap();
    let go = |text: String| {
        let policy = HostKeyPolicy::FirstUseUnlessKnown(KnownHosts::parse(&text).unwrap());
        let (target, credentials) = (server.target(), server.credentials());
        async move { guest_ssh::connect(&target, &credentials, &policy, &options(), |_| ()).await }
    };
    let trust = |connection: Connection| connection.host_key().trust;
    let known = go(format!("{name} {}", server.host_key("ed25519")))
        .await
        .unwrap();
    assert_eq!(trust(known), HostKeyTrust::KnownHosts);
    let unknown = go(format!("elsewhere {stranger}")).await.unwrap();
    assert_eq!(trust(unknown), HostKeyTrust::FirstUse);
    let outcome = go(format!("{name} {stranger}")).await;
    assert!(
        matches!(outcome, Err(Error::HostKeyMismatch { .. })),
        "{outcome:?}"
    );
    // A host that an authority vouches for gets nowhere with a bare key.
    let outcome = go(format!("@cert-authority {name} {stranger}")).await;
    assert!(
        matches!(outcome, Err(Error::HostKeyUnknown { .. })),
        "{outcome:?}"
    );
}

fn through(jump: &Sshd, credentials: Credentials) -> ConnectOptions {
    ConnectOptions {
        jump: Some(Jump {
            target: jump.target(),
            credentials,
            host_keys: HostKeyPolicy::FirstUse,
            memory: HostKeyMemory::default(),
        }),
        ..options()
    }
}

#[tokio::test]
async fn a_jump_host_carries_several_commands_at_once() {
    let (jump, server) = (Sshd::start(), Sshd::start());
    let connection = guest_ssh::connect(
        &server.target(),
        &server.credentials(),
        &HostKeyPolicy::FirstUse,
        &through(&jump, jump.credentials()),
        |_| (),
    )
    .await
    .unwrap();
    assert_eq!(
        connection.jump_host_key().unwrap().fingerprint.to_string(),
        jump.fingerprint("ed25519")
    );
    assert_eq!(
        connection.host_key_fingerprint(),
        server.fingerprint("ed25519")
    );
    // The first one's output is not read, and the second gets through all the same.
    let flood = ExecRequest::new("head", ["-c", "20000000", "/dev/zero"]);
    let flood = connection.exec(flood).await.unwrap();
    assert_eq!(echo(&connection).await, b"through\n");
    assert_eq!(run_out(flood).await.stdout.len(), 20_000_000);

    jump.kill_sessions();
    let problem = loop {
        match connection.exec(ExecRequest::new("true", [""; 0])).await {
            Err(problem) => break problem,
            Ok(command) => drop(run_or_lost(command).await),
        }
    };
    assert!(problem.to_string().contains("jump host"), "{problem}");
}

async fn run_or_lost(mut command: guest_ssh::Command) -> Result<Exit, Error> {
    while command.next_output().await.is_some() {}
    command.wait().await
}

#[tokio::test]
async fn a_jump_hosts_failures_are_told_from_the_vms() {
    let (jump, server) = (Sshd::start(), Sshd::start());
    let go = |options: ConnectOptions, credentials: Credentials| {
        let target = server.target();
        async move {
            let policy = HostKeyPolicy::FirstUse;
            guest_ssh::connect(&target, &credentials, &policy, &options, |_| ())
                .await
                .unwrap_err()
        }
    };
    let stranger = Credentials {
        methods: vec![AuthMethod::PrivateKey(key(
            &jump,
            "stranger",
            &["-t", "ed25519"],
        ))],
        ..jump.credentials()
    };
    let problem = go(through(&jump, stranger.clone()), server.credentials()).await;
    match &problem {
        Error::JumpHost { source, .. } => {
            assert!(
                matches!(**source, Error::AuthenticationDeclined { .. }),
                "{problem:?}"
            );
        }
        _ => panic!("{problem:?}"),
    }
    let problem = go(through(&jump, jump.credentials()), stranger).await;
    assert!(
        matches!(problem, Error::AuthenticationDeclined { .. }),
        "{problem:?}"
    );

    let closed = Sshd::with("AllowTcpForwarding no\n");
    let problem = go(through(&closed, closed.credentials()), server.credentials()).await;
    assert!(
        matches!(
            problem,
            Error::NotForwarded {
                is_forbidden: true,
                ..
            }
        ),
        "{problem:?}"
    );
}

#[tokio::test]
async fn one_hang_does_not_hold_up_a_machine_that_is_ready() {
    let server = Sshd::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target = server.target();
    target.port = listener.local_addr().unwrap().port();
    let inner = server.target();
    // The first connection is accepted and left alone; the further ones are served.
    let relay = tokio::spawn(async move {
        let _held = listener.accept().await.unwrap();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut upstream = tokio::net::TcpStream::connect((inner.host.as_str(), inner.port))
                .await
                .unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    let patient = ConnectOptions {
        attempt_timeout: Duration::from_secs(25),
        hedge_after: Duration::from_millis(200),
        ..options()
    };
    let told = std::sync::Mutex::new(Vec::new());
    let began = Instant::now();
    let connection = guest_ssh::connect(
        &target,
        &server.credentials(),
        &HostKeyPolicy::FirstUse,
        &patient,
        |waiting| told.lock().unwrap().push(waiting.last.to_string()),
    )
    .await
    .unwrap();
    assert!(
        began.elapsed() < patient.attempt_timeout,
        "the hanging attempt was waited for"
    );
    assert!(
        told.lock().unwrap()[0].contains("before its SSH banner"),
        "{told:?}"
    );
    echo(&connection).await;
    relay.abort();
}

/// Stops every process that serves our sessions, without ending a connection.
fn freeze(server: &Sshd, signal: &str) {
    let mut pids = vec![server.pid().to_string()];
    let mut at = 0;
    while at < pids.len() {
        let children = format!("/proc/{0}/task/{0}/children", pids[at]);
        let children = std::fs::read_to_string(children).unwrap_or_default();
        pids.extend(children.split_whitespace().map(str::to_owned));
        at += 1;
    }
    assert!(
        Command::new("kill")
            .arg(signal)
            .args(&pids)
            .status()
            .unwrap()
            .success()
    );
}

#[tokio::test]
async fn a_frozen_peer_is_noticed_while_reading_and_while_writing() {
    for is_writing in [false, true] {
        let server = Sshd::start();
        let watchful = ConnectOptions {
            keepalive: Keepalive::within(Duration::from_secs(2)),
            ..options()
        };
        let policy = HostKeyPolicy::FirstUse;
        let connection = guest_ssh::connect(
            &server.target(),
            &server.credentials(),
            &policy,
            &watchful,
            |_| (),
        )
        .await
        .unwrap();
        let mut request = ExecRequest::new(
            "sh",
            ["-c", "echo started; exec cat >/dev/null; sleep 1000"],
        );
        if is_writing {
            request.stdin = Stdin::Reader(Box::new(tokio::io::repeat(b'x')));
        } else {
            request = ExecRequest::new("sh", ["-c", "echo started; sleep 1000"]);
        }
        let mut command = connection.exec(request).await.unwrap();
        assert!(command.next_output().await.is_some());
        freeze(&server, "-STOP");
        let outcome = tokio::time::timeout(Duration::from_secs(40), run_or_lost(command)).await;
        freeze(&server, "-KILL");
        let outcome = outcome.expect("the dead link was not noticed");
        assert!(
            matches!(outcome, Err(Error::Lost { .. })),
            "{is_writing}: {outcome:?}"
        );
    }
}

/// As with `AuthenticationMethods publickey,password` and `publickey,keyboard-interactive`.
#[tokio::test]
async fn a_key_and_then_a_password_log_in_where_both_are_asked_for() {
    use russh::MethodKind;
    let keys = tempfile::tempdir().unwrap();
    let path = keygen(&keys.path().join("id"), &["-t", "ed25519"]);
    let identity = Identity::parse(&std::fs::read_to_string(path).unwrap().into(), None).unwrap();
    let key = AuthMethod::PrivateKey(identity);
    let word = |text: &str| AuthMethod::Password(text.to_owned().into());
    let right = || word(two_steps::PASSWORD);
    for (second, name) in [
        (MethodKind::Password, "password"),
        (MethodKind::KeyboardInteractive, "keyboard-interactive"),
    ] {
        let target = two_steps::start(second).await;
        let login = async |methods: Vec<AuthMethod>| {
            let credentials = Credentials {
                username: "admin".to_owned(),
                methods,
            };
            let policy = HostKeyPolicy::FirstUse;
            guest_ssh::connect(&target, &credentials, &policy, &options(), |_| ()).await
        };
        // In whatever order they are given, and with a wrong one beside the right one.
        for methods in [
            vec![key.clone(), right()],
            vec![right(), key.clone()],
            vec![word("wrong"), key.clone(), right()],
        ] {
            let outcome = login(methods).await;
            assert!(outcome.is_ok(), "{name}: {outcome:?}");
        }
        for (methods, said) in [
            (vec![key.clone()], "(accepted, and not enough)"),
            (vec![key.clone(), word("wrong")], name),
            (vec![right()], "not password"),
        ] {
            let outcome = login(methods).await;
            let Err(Error::AuthenticationDeclined { tried, .. }) = outcome else {
                panic!("{name}: {outcome:?}")
            };
            assert!(
                tried.iter().any(|entry| entry.contains(said)),
                "{name}: {tried:?}"
            );
        }
    }
}
