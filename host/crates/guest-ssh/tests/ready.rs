//! Waiting for a VM: every way it can be not ready, and every way it must not be let in.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use guest_ssh::{
    AuthMethod, ConnectOptions, Connection, Credentials, Error, Fingerprint, HostKeyPolicy,
    KnownHosts, Target,
};
use support::options;
use support::scripted::{Script, Scripted, password, private_key};
use support::sshd::{Sshd, keygen};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

fn local(port: u16) -> Target {
    Target {
        host: "127.0.0.1".to_owned(),
        port,
    }
}

fn soon() -> ConnectOptions {
    ConnectOptions {
        attempt_timeout: Duration::from_millis(150),
        ..ConnectOptions::until(Instant::now() + Duration::from_millis(700))
    }
}

async fn connect(
    target: &Target,
    credentials: &Credentials,
    policy: &HostKeyPolicy,
) -> Result<Connection, Error> {
    guest_ssh::connect(target, credentials, policy, &options(), |_| ()).await
}

/// Connects with little time and returns how the last attempt ended.
async fn last_state(target: &Target) -> Error {
    let seen = Mutex::new(0);
    let outcome = guest_ssh::connect(
        target,
        &password("x"),
        &HostKeyPolicy::FirstUse,
        &soon(),
        |waiting| {
            *seen.lock().unwrap() = waiting.attempt;
            assert!(waiting.next_in <= Duration::from_secs(1));
        },
    )
    .await;
    match outcome {
        Err(Error::TimedOut {
            attempts,
            last: Some(last),
            ..
        }) => {
            assert!(attempts >= 2, "{attempts} attempts");
            assert!(*seen.lock().unwrap() >= 1);
            *last
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_closed_port_is_reported_as_refused() {
    // Bound and not listening: nobody else can take it, and connections are refused.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let last = last_state(&local(socket.local_addr().unwrap().port())).await;
    assert!(matches!(last, Error::Refused { .. }), "{last:?}");
    assert!(last.hint().unwrap().contains("Remote Login"));
}

#[tokio::test]
async fn a_server_that_accepts_and_hangs_is_given_up_and_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    let last = last_state(&local(port)).await;
    assert!(
        matches!(
            last,
            Error::Silent {
                during: "before its SSH banner",
                ..
            }
        ),
        "{last:?}"
    );
    held.abort();
}

#[tokio::test]
async fn a_server_that_hangs_after_its_banner_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-Hanging\r\n").await.unwrap();
            held.push(stream);
        }
    });
    let last = last_state(&local(port)).await;
    assert!(
        matches!(
            last,
            Error::Silent {
                during: "during key exchange",
                ..
            }
        ),
        "{last:?}"
    );
    held.abort();
}

#[tokio::test]
async fn a_server_that_cuts_the_connection_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let cut = tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    let last = last_state(&local(port)).await;
    assert!(matches!(last, Error::Reset { .. }), "{last:?}");
    cut.abort();
}

#[tokio::test]
async fn a_name_without_an_address_is_told_apart() {
    let target = Target {
        host: "no-such-host.invalid".to_owned(),
        port: 22,
    };
    let options = ConnectOptions::until(Instant::now() + Duration::from_secs(20));
    let told = Mutex::new(None);
    let credentials = password("x");
    let waiting = guest_ssh::connect(
        &target,
        &credentials,
        &HostKeyPolicy::FirstUse,
        &options,
        |waiting| {
            told.lock()
                .unwrap()
                .get_or_insert(matches!(waiting.last, Error::Unresolved { .. }));
        },
    );
    let _ = tokio::time::timeout(Duration::from_secs(3), waiting).await;
    assert_eq!(*told.lock().unwrap(), Some(true));
}

#[tokio::test]
async fn a_server_that_starts_late_is_noticed() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let target = local(socket.local_addr().unwrap().port());
    let policy = HostKeyPolicy::FirstUse;
    let (refused, mut told) = tokio::sync::mpsc::unbounded_channel();
    let credentials = password("x");
    let options = options();
    let connecting = guest_ssh::connect(&target, &credentials, &policy, &options, |waiting| {
        refused
            .send(matches!(waiting.last, Error::Refused { .. }))
            .unwrap();
    });
    let serving = async {
        assert_eq!(told.recv().await, Some(true));
        let listener = socket.listen(8).unwrap();
        // Once somebody knocks on the open port the point is made.
        listener.accept().await.unwrap()
    };
    tokio::select! {
        outcome = connecting => panic!("{outcome:?}"),
        _ = serving => {}
    }
}

#[tokio::test]
async fn a_declined_password_stops_at_once() {
    let server = Scripted::start(Script::quiet()).await;
    let outcome = connect(
        &server.target(),
        &password("wrong"),
        &HostKeyPolicy::FirstUse,
    )
    .await;
    let Err(Error::AuthenticationDeclined {
        user,
        accepts,
        tried,
        ..
    }) = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        (user.as_str(), accepts, tried),
        (
            "admin",
            vec!["password".to_owned()],
            vec!["password".to_owned()]
        )
    );
    assert_eq!(server.logins.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn declined_logins_are_tolerated_only_as_often_as_asked() {
    let script = Script::quiet();
    script.refusals.store(2, Ordering::SeqCst);
    let server = Scripted::start(script.clone()).await;
    let tolerant = ConnectOptions {
        auth_refusals_tolerated: 2,
        ..options()
    };
    let policy = HostKeyPolicy::FirstUse;
    guest_ssh::connect(
        &server.target(),
        &password("admin"),
        &policy,
        &tolerant,
        |_| (),
    )
    .await
    .unwrap();

    script.refusals.store(3, Ordering::SeqCst);
    let outcome = guest_ssh::connect(
        &server.target(),
        &password("admin"),
        &policy,
        &tolerant,
        |_| (),
    )
    .await;
    assert!(
        matches!(outcome, Err(Error::AuthenticationDeclined { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_password_answers_hidden_questions_only() {
    let server = Scripted::start(Script {
        password: None,
        interactive: Some("admin"),
        ..Script::quiet()
    })
    .await;
    connect(
        &server.target(),
        &password("admin"),
        &HostKeyPolicy::FirstUse,
    )
    .await
    .unwrap();
    let outcome = connect(
        &server.target(),
        &password("wrong"),
        &HostKeyPolicy::FirstUse,
    )
    .await;
    assert!(
        matches!(outcome, Err(Error::AuthenticationDeclined { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn methods_the_server_does_not_accept_are_passed_over() {
    let server = Sshd::start();
    let mut credentials = server.credentials();
    credentials
        .methods
        .insert(0, AuthMethod::Password("x".to_owned().into()));
    connect(&server.target(), &credentials, &HostKeyPolicy::FirstUse)
        .await
        .unwrap();

    credentials.methods.truncate(1);
    let outcome = connect(&server.target(), &credentials, &HostKeyPolicy::FirstUse).await;
    let Err(Error::AuthenticationDeclined { accepts, tried, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        (accepts, tried),
        (
            vec!["publickey".to_owned()],
            vec!["not password".to_owned()]
        )
    );
}

#[tokio::test]
async fn rsa_and_ecdsa_keys_log_in() {
    let server = Sshd::start();
    for kind in [["-t", "rsa"], ["-t", "ecdsa"]] {
        let path = keygen(&server.path().join(kind[1]), &kind);
        let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        std::fs::write(server.path().join("id.pub"), public).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let identity = guest_ssh::Identity::parse(&text.into(), None).unwrap();
        let credentials = Credentials {
            methods: vec![AuthMethod::PrivateKey(identity)],
            ..server.credentials()
        };
        connect(&server.target(), &credentials, &HostKeyPolicy::FirstUse)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_wrong_key_is_named_by_its_fingerprint() {
    let server = Sshd::start();
    let credentials = server.credentials();
    keygen(&server.path().join("other"), &["-t", "ed25519"]);
    std::fs::rename(
        server.path().join("other.pub"),
        server.path().join("id.pub"),
    )
    .unwrap();
    let outcome = connect(&server.target(), &credentials, &HostKeyPolicy::FirstUse).await;
    let Err(Error::AuthenticationDeclined { tried, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(tried[0].contains("ssh-ed25519 SHA256:"), "{tried:?}");
}

#[tokio::test]
async fn a_pinned_key_of_any_kind_is_found() {
    let server = Sshd::start();
    for kind in ["ed25519", "ecdsa"] {
        let policy =
            HostKeyPolicy::Pinned(vec![Fingerprint::parse(&server.fingerprint(kind)).unwrap()]);
        let connection = connect(&server.target(), &server.credentials(), &policy)
            .await
            .unwrap();
        assert_eq!(connection.host_key_fingerprint(), server.fingerprint(kind));
    }
}

#[tokio::test]
async fn a_key_that_is_not_pinned_stops_at_once_and_before_any_login() {
    let server = Scripted::start(Script::quiet()).await;
    let pin = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let policy = HostKeyPolicy::Pinned(vec![Fingerprint::parse(pin).unwrap()]);
    let outcome = connect(&server.target(), &password("admin"), &policy).await;
    let Err(Error::HostKeyMismatch { expected, got, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(expected, [pin]);
    assert!(got.starts_with("SHA256:") && got != pin);
    assert_eq!(server.logins.load(Ordering::SeqCst), 0);
}

fn known(text: &str) -> HostKeyPolicy {
    HostKeyPolicy::KnownHosts(KnownHosts::parse(text).unwrap())
}

#[tokio::test]
async fn known_hosts_lines_are_read_as_openssh_reads_them() {
    let server = Sshd::start();
    let (port, key, other) = (
        server.port,
        server.host_key("ed25519"),
        server.host_key("ecdsa"),
    );
    let target = server.target();
    let accepted = [
        format!("# comment\n\n[127.0.0.1]:{port} {key}\n"),
        format!("[127.0.0.*]:{port}\t{key} a comment\n"),
        format!("example.com,[127.0.0.1]:{port} {key}"),
        // The server has both kinds; the one that is known must be asked for.
        format!("[127.0.0.1]:{port} {other}"),
    ];
    for text in accepted {
        connect(&target, &server.credentials(), &known(&text))
            .await
            .unwrap_or_else(|problem| panic!("{text}: {problem}"));
    }
    let unknown = [
        format!("127.0.0.1 {key}"),
        format!("[127.0.0.2]:{port} {key}"),
        format!("!*,[127.0.0.1]:{port} {key}"),
        String::new(),
    ];
    for text in unknown {
        let outcome = connect(&target, &server.credentials(), &known(&text)).await;
        assert!(
            matches!(outcome, Err(Error::HostKeyUnknown { .. })),
            "{text}: {outcome:?}"
        );
    }
    let stranger = private_key("ed25519").public_key().to_openssh().unwrap();
    let outcome = connect(
        &target,
        &server.credentials(),
        &known(&format!("[127.0.0.1]:{port} {stranger}")),
    )
    .await;
    assert!(
        matches!(outcome, Err(Error::HostKeyMismatch { .. })),
        "{outcome:?}"
    );
    let revoked = format!("[127.0.0.1]:{port} {key}\n@revoked * {key}");
    let outcome = connect(&target, &server.credentials(), &known(&revoked)).await;
    assert!(
        matches!(outcome, Err(Error::HostKeyRevoked { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn hashed_names_as_ssh_keygen_writes_them_are_found() {
    let server = Sshd::start();
    let path = server.path().join("known_hosts");
    std::fs::write(
        &path,
        format!(
            "[127.0.0.1]:{} {}\n",
            server.port,
            server.host_key("ed25519")
        ),
    )
    .unwrap();
    let hashed = std::process::Command::new("ssh-keygen")
        .arg("-Hf")
        .arg(&path)
        .output()
        .unwrap();
    assert!(hashed.status.success(), "{hashed:?}");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("|1|"), "{text}");
    connect(&server.target(), &server.credentials(), &known(&text))
        .await
        .unwrap();
}

#[tokio::test]
async fn host_certificates_are_judged_by_their_authority_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let authority = keygen(&dir.path().join("ca"), &["-t", "ed25519"]);
    let host = keygen(&dir.path().join("host"), &["-t", "ed25519"]);
    let sign = |arguments: &[&str]| {
        let signed = std::process::Command::new("ssh-keygen")
            .args(["-q", "-s"])
            .arg(&authority)
            .args(["-I", "test"])
            .args(arguments)
            .arg(host.with_extension("pub"))
            .output()
            .unwrap();
        assert!(signed.status.success(), "{signed:?}");
        let extra = format!(
            "HostKey {0}\nHostCertificate {0}-cert.pub\n",
            host.display()
        );
        Sshd::with(&extra)
    };
    let public = std::fs::read_to_string(authority.with_extension("pub")).unwrap();
    let policy = known(&format!("@cert-authority * {public}"));

    let server = sign(&["-h", "-n", "127.0.0.1", "-V", "+1h"]);
    connect(&server.target(), &server.credentials(), &policy)
        .await
        .unwrap();
    let stranger = private_key("ed25519").public_key().to_openssh().unwrap();
    let other = known(&format!("@cert-authority * {stranger}"));
    let outcome = connect(&server.target(), &server.credentials(), &other).await;
    assert!(
        matches!(outcome, Err(Error::HostCertificateInvalid { .. })),
        "{outcome:?}"
    );
    let revoked = known(&format!("@cert-authority * {public}\n@revoked * {public}"));
    let outcome = connect(&server.target(), &server.credentials(), &revoked).await;
    assert!(
        matches!(outcome, Err(Error::HostKeyRevoked { .. })),
        "{outcome:?}"
    );

    for bad in [
        &["-h", "-n", "elsewhere", "-V", "+1h"][..],
        &["-h", "-n", "127.0.0.1", "-V", "20200101:20200102"],
    ] {
        let server = sign(bad);
        let outcome = connect(&server.target(), &server.credentials(), &policy).await;
        assert!(
            matches!(outcome, Err(Error::HostCertificateInvalid { .. })),
            "{bad:?}: {outcome:?}"
        );
    }
}

#[test]
fn host_key_lists_that_cannot_be_read_name_the_line() {
    let problem = KnownHosts::parse("# fine\n\nexample.com ssh-ed25519 not-a-key\n").unwrap_err();
    assert!(problem.to_string().contains("line 3"), "{problem}");
    for text in ["", "MD5:00:11", "SHA256:short", "sha256 AAAA"] {
        assert!(Fingerprint::parse(text).is_err(), "{text}");
    }
}
