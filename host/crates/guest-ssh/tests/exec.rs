//! Commands against OpenSSH's server: what reaches the program, what comes back, how it ends.
#![allow(clippy::unwrap_used, missing_docs)]

pub mod support;

use std::time::Duration;

use guest_ssh::{Detach, EnvValue, Error, ExecRequest, Exit, RemotePath, ShellChoice, Stdin};
use secrecy::SecretString;
use support::run_out;
use support::sshd::Sshd;

fn sh(script: &str) -> ExecRequest {
    ExecRequest::new("sh", ["-c", script])
}

#[tokio::test]
async fn passes_status_and_both_outputs_through() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let ran = run_out(
        connection
            .exec(sh("echo out; echo err >&2; exit 65"))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(
        (ran.stdout.as_slice(), ran.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(ran.exit, Exit::Status(65));
    assert!(connection.server_version().starts_with("SSH-2.0-OpenSSH"));
    assert_eq!(
        connection.host_key_fingerprint(),
        server.fingerprint("ed25519")
    );
    connection.close().await;
}

#[tokio::test]
async fn tells_a_signal_from_a_status() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let ran = run_out(connection.exec(sh("kill -KILL $$")).await.unwrap()).await;
    assert!(
        matches!(&ran.exit, Exit::Signal { name, .. } if name == "KILL"),
        "{:?}",
        ran.exit
    );
}

#[tokio::test]
async fn arguments_arrive_byte_for_byte() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let odd = [
        "",
        " ",
        "a'b\\c!d",
        "$HOME `id` $(id)",
        "new\nline",
        "*",
        "-n",
        "\u{1}\u{7f}\t",
        "über \u{1f600}",
        ";&|<>",
    ];
    for shell in [ShellChoice::Direct, ShellChoice::Login] {
        let mut request = ExecRequest::new("printf", ["%s\\0"]);
        request.args.extend(odd.map(str::to_owned));
        request.shell = shell;
        let ran = run_out(connection.exec(request).await.unwrap()).await;
        let expected: Vec<u8> = odd
            .iter()
            .flat_map(|word| [word.as_bytes(), b"\0"].concat())
            .collect();
        assert_eq!(
            ran.stdout,
            expected,
            "{shell:?} {}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
}

#[tokio::test]
async fn environment_arrives_whole_and_secrets_stay_out_of_arguments() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let secret = "hun'ter\\2\n\norka-step: end\n$(id) ü!";
    for shell in [ShellChoice::Direct, ShellChoice::Login] {
        // Each of the processes between the server and the program could show it, so the program looks at them all.
        let mut request = sh(
            "printf '%s|%s|' \"$PLAIN\" \"$TOKEN\"; cat; set | grep orka_step; cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[h]un.ter'",
        );
        request.env = vec![
            ("PLAIN".to_owned(), EnvValue::from("a 'b'\nc")),
            (
                "TOKEN".to_owned(),
                EnvValue::from(SecretString::from(secret.to_owned())),
            ),
        ];
        request.stdin = Stdin::Bytes("its own input\nuntouched".into());
        request.shell = shell;
        let ran = run_out(connection.exec(request).await.unwrap()).await;
        let expected = format!("a 'b'\nc|{secret}|its own input\nuntouched0\n");
        assert_eq!(
            String::from_utf8(ran.stdout).unwrap(),
            expected,
            "{shell:?}"
        );
    }
}

#[tokio::test]
async fn the_requests_environment_wins_over_the_login_shells() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let mut request = sh("printf %s \"$PATH\"");
    request.env = vec![(
        "PATH".to_owned(),
        EnvValue::from("/only/mine:/usr/bin:/bin"),
    )];
    request.shell = ShellChoice::Login;
    let ran = run_out(connection.exec(request).await.unwrap()).await;
    assert_eq!(ran.stdout, b"/only/mine:/usr/bin:/bin");
}

#[tokio::test]
async fn what_cannot_be_carried_is_refused_before_anything_runs() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let with_env = |name: &str, value: EnvValue| ExecRequest {
        env: vec![(name.to_owned(), value)],
        ..sh("true")
    };
    let mut secret_on_a_terminal = with_env("A", SecretString::from("x".to_owned()).into());
    secret_on_a_terminal.pty = true;
    let refused = [
        ExecRequest::new("", [""; 0]),
        ExecRequest::new("-c", [""; 0]),
        ExecRequest::new("echo", ["a\0b"]),
        with_env("A B", "x".into()),
        with_env("1A", "x".into()),
        with_env("A=B", "x".into()),
        with_env("A", "x\0".into()),
        secret_on_a_terminal,
    ];
    for request in refused {
        let outcome = connection.exec(request).await;
        assert!(matches!(outcome, Err(Error::Invalid { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn runs_where_it_is_told_and_says_when_it_cannot() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let dir = server.path().join("-odd 'place'\n");
    std::fs::create_dir(&dir).unwrap();
    let mut request = sh("pwd; :");
    request.cwd = Some(RemotePath::parse(dir.as_os_str().as_encoded_bytes()).unwrap());
    let ran = run_out(connection.exec(request).await.unwrap()).await;
    assert_eq!(
        ran.stdout,
        [dir.as_os_str().as_encoded_bytes(), b"\n"].concat()
    );

    let mut request = sh("echo ran");
    request.cwd = Some(RemotePath::parse("/no/such/place").unwrap());
    let ran = run_out(connection.exec(request).await.unwrap()).await;
    assert_eq!(ran.exit, Exit::Status(guest_ssh::WRAPPER_FAILED));
    assert!(ran.stdout.is_empty() && !ran.stderr.is_empty());

    let ran = run_out(
        connection
            .exec(ExecRequest::new("no-such-program", ["x"]))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(ran.exit, Exit::Status(127));
}

#[tokio::test]
async fn a_flood_of_output_arrives_in_order_and_without_loss() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let mut command = connection.exec(sh("seq 1 3000000")).await.unwrap();
    let (mut expected, mut rest) = (1_u64, Vec::new());
    while let Some(chunk) = command.next_output().await {
        rest.extend_from_slice(&chunk.data);
        let whole = rest
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        for line in rest[..whole]
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            assert_eq!(line, expected.to_string().as_bytes());
            expected += 1;
        }
        rest.drain(..whole);
    }
    assert_eq!(expected, 3_000_001);
    assert_eq!(command.wait().await.unwrap(), Exit::Status(0));
}

#[tokio::test]
async fn an_unread_flood_holds_up_no_other_command() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let flood = connection
        .exec(ExecRequest::new("yes", [""; 0]))
        .await
        .unwrap();
    // Enough to fill every buffer on the flood's way.
    for _ in 0..3 {
        let ran = run_out(
            connection
                .exec(sh("head -c 3000000 /dev/zero"))
                .await
                .unwrap(),
        )
        .await;
        assert_eq!(ran.stdout.len(), 3_000_000);
    }
    drop(flood);
    assert_eq!(
        run_out(connection.exec(sh("exit 3")).await.unwrap())
            .await
            .exit,
        Exit::Status(3)
    );
}

#[tokio::test]
async fn input_comes_from_bytes_a_reader_or_the_caller() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let data: Vec<u8> = (0..5_000_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 3])
        .collect();
    let reader = Box::new(std::io::Cursor::new(data.clone()));
    for stdin in [Stdin::Bytes(data.clone().into()), Stdin::Reader(reader)] {
        let request = ExecRequest {
            stdin,
            ..ExecRequest::new("cat", [""; 0])
        };
        assert!(
            run_out(connection.exec(request).await.unwrap())
                .await
                .stdout
                == data
        );
    }
    let request = ExecRequest {
        stdin: Stdin::Open,
        ..ExecRequest::new("cat", [""; 0])
    };
    let command = connection.exec(request).await.unwrap();
    command.write_input("by ").await.unwrap();
    command.write_input("hand").await.unwrap();
    command.close_input().await.unwrap();
    assert_eq!(run_out(command).await.stdout, b"by hand");
    let ran = run_out(
        connection
            .exec(ExecRequest::new("cat", [""; 0]))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(ran.exit, Exit::Status(0));
}

#[tokio::test]
async fn a_program_that_ignores_its_input_still_ends() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let stdin = Stdin::Bytes(vec![0; 20_000_000].into());
    let request = ExecRequest {
        stdin,
        ..sh("exit 7")
    };
    assert_eq!(
        run_out(connection.exec(request).await.unwrap()).await.exit,
        Exit::Status(7)
    );
}

#[tokio::test]
async fn a_daemon_left_behind_does_not_hold_the_command_open() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let mut command = connection
        .exec(sh("sleep 300 & echo $!; exit 4"))
        .await
        .unwrap();
    let pid = command.next_output().await.unwrap().data;
    assert_eq!(command.wait().await.unwrap(), Exit::Status(4));
    assert!(command.output_left_open());
    let kill = format!("kill {}", String::from_utf8_lossy(&pid));
    assert!(
        run_out(connection.exec(sh(&kill)).await.unwrap())
            .await
            .exit
            .success()
    );
}

#[tokio::test]
async fn waiting_may_be_given_up_and_taken_up_again() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let request = ExecRequest {
        stdin: Stdin::Open,
        ..sh("read line; exit 5")
    };
    let mut command = connection.exec(request).await.unwrap();
    for _ in 0..3 {
        assert!(
            tokio::time::timeout(Duration::from_millis(5), command.wait())
                .await
                .is_err()
        );
    }
    command.write_input("\n").await.unwrap();
    assert_eq!(command.wait().await.unwrap(), Exit::Status(5));
    assert_eq!(command.wait().await.unwrap(), Exit::Status(5));
}

#[tokio::test]
async fn a_terminal_is_given_where_asked_for() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let request = ExecRequest {
        pty: true,
        ..sh("test -t 0 && test -t 1 && stty size; cat; exit 6")
    };
    let ran = run_out(connection.exec(request).await.unwrap()).await;
    assert_eq!(
        ran.exit,
        Exit::Status(6),
        "{}",
        String::from_utf8_lossy(&ran.stdout)
    );
    assert!(
        ran.stdout.starts_with(b"24 80"),
        "{}",
        String::from_utf8_lossy(&ran.stdout)
    );
}

#[tokio::test]
async fn a_lost_connection_is_an_error_and_no_status() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let mut command = connection.exec(sh("echo ready; sleep 60")).await.unwrap();
    assert_eq!(command.next_output().await.unwrap().data, "ready\n");
    server.kill_sessions();
    let outcome = command.wait().await;
    assert!(matches!(outcome, Err(Error::Lost { .. })), "{outcome:?}");
    // And no new session is opened behind the caller's back.
    let outcome = connection.exec(sh("true")).await;
    assert!(matches!(outcome, Err(Error::Lost { .. })), "{outcome:?}");
}

#[tokio::test]
async fn files_are_written_whole_and_read_back() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let path = RemotePath::parse(
        server
            .path()
            .join("new dir/-x'y")
            .as_os_str()
            .as_encoded_bytes(),
    )
    .unwrap();
    let bytes: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    connection.write_file(&path, &bytes, 0o755).await.unwrap();
    assert!(connection.read_file(&path, 2_000_000).await.unwrap() == bytes);
    connection.write_file(&path, b"", 0o600).await.unwrap();
    assert_eq!(connection.read_file(&path, 0).await.unwrap(), b"");
    let metadata = std::fs::metadata(server.path().join("new dir/-x'y")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777,
        0o600
    );
    assert_eq!(
        std::fs::read_dir(server.path().join("new dir"))
            .unwrap()
            .count(),
        1
    );

    let missing = RemotePath::parse("/no/such/file").unwrap();
    assert!(matches!(
        connection.read_file(&missing, 10).await,
        Err(Error::NotFound { .. })
    ));
    connection
        .write_file(&path, b"eleven bytes", 0o600)
        .await
        .unwrap();
    assert!(matches!(
        connection.read_file(&path, 11).await,
        Err(Error::LimitExceeded { .. })
    ));
    let inside_a_file = path.join("below").unwrap();
    let outcome = connection.write_file(&inside_a_file, b"x", 0o600).await;
    assert!(
        matches!(outcome, Err(Error::RemoteFailed { .. })),
        "{outcome:?}"
    );
}

/// A file that cannot be read to its end.
struct Torn(usize);

impl tokio::io::AsyncRead for Torn {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.0 == 0 {
            return std::task::Poll::Ready(Err(std::io::Error::other("stale file handle")));
        }
        let count = self.0.min(buffer.remaining());
        buffer.put_slice(&vec![b'x'; count]);
        self.0 -= count;
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_input_that_cannot_be_read_is_an_error_and_never_a_shorter_input() {
    let server = Sshd::start();
    let connection = server.connect().await;
    for detach in [None, Some(Detach::default())] {
        let request = ExecRequest {
            stdin: Stdin::Reader(Box::new(Torn(3_000_000))),
            detach,
            ..ExecRequest::new("sh", ["-c", "wc -c >\"$HOME/counted\"; echo acted"])
        };
        let running = async { connection.exec(request).await?.wait().await };
        let ended = tokio::time::timeout(Duration::from_secs(30), running)
            .await
            .unwrap();
        let counted = std::fs::read_to_string(server.path().join("counted"));
        assert!(
            matches!(&ended, Err(Error::Input { source, .. }) if source.to_string().contains("stale")),
            "{ended:?}"
        );
        assert!(counted.is_ok_and(|count| count.is_empty()), "{detach:?}");
    }
}
