//! VMs as the OpenSSH clients meet them.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use orka_sim::{
    FaultAction, FaultRule, GuestFault, GuestKind, PortNumbers, SimConfig, SshdSettings, Switches,
};
use serde_json::json;
use support::{Login, Ran, Rig, client, run, until};
use tokio::net::TcpStream;

const ADMIN: Login<'static> = Login::Password("admin");

/// A cluster with one VM named `vm`, and the port of it.
async fn booted(config: SimConfig) -> (Rig, u16) {
    let rig = Rig::signed_in(config).await;
    let vm = rig.deploy("vm", "Sonoma.orkasi").await.json();
    let port = vm["ssh_port"].as_str().unwrap().parse().unwrap();
    (rig, port)
}

async fn ssh(port: u16, command: &str, input: &[u8]) -> Ran {
    let mut ssh = client("ssh", &ADMIN, port);
    ssh.args(["admin@127.0.0.1", command]);
    run(ssh, input).await
}

async fn guest_with(fault: GuestFault) -> (Rig, u16) {
    let rule = FaultRule::new("POST", "/resources/vm/deploy", FaultAction::Guest(fault));
    booted(SimConfig {
        faults: vec![rule],
        ..SimConfig::default()
    })
    .await
}

/// Waits until the SSH port answers with a banner.
async fn until_open(port: u16) {
    use tokio::io::AsyncReadExt;
    let opened = async {
        loop {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await
                && stream.read_u8().await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, opened)
        .await
        .unwrap();
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

#[tokio::test]
async fn a_command_runs_in_the_vms_home_with_a_clean_environment() {
    let (rig, port) = booted(SimConfig::default()).await;
    until_open(port).await;
    let ran = ssh(
        port,
        "pwd; printf '%s\\n' \"$HOME\" \"$USER\" \"$TMPDIR\"; echo problem >&2; exit 65",
        b"",
    )
    .await;
    let home = rig.sim.vm_home("vm").unwrap().display().to_string();
    assert_eq!(ran.text(), format!("{home}\n{home}\nadmin\n{home}/tmp\n"));
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(65), "problem\n"));
    let names = ssh(port, "env | cut -d= -f1 | sort | tr '\\n' ' '", b"")
        .await
        .text();
    assert_eq!(names, "HOME LOGNAME PATH PWD SHELL TMPDIR USER ");
}

#[tokio::test]
async fn bytes_pass_both_ways_at_once_without_loss() {
    let (_rig, port) = booted(SimConfig::default()).await;
    until_open(port).await;
    // More than every window and pipe between the two holds together.
    let sent = noise(40 << 20);
    let ran = ssh(port, "cat", &sent).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout == sent,
        "{} of {} bytes came back",
        ran.stdout.len(),
        sent.len()
    );
}

#[tokio::test]
async fn a_program_that_does_not_read_its_input_ends_all_the_same() {
    let (_rig, port) = booted(SimConfig::default()).await;
    until_open(port).await;
    let ran = ssh(port, "echo done; exit 3", &noise(30 << 20)).await;
    assert_eq!((ran.status, ran.text()), (Some(3), "done\n".to_owned()));
}

#[tokio::test]
async fn a_shell_reads_its_commands_from_the_channel_and_a_signal_is_no_status() {
    let (_rig, port) = booted(SimConfig::default()).await;
    until_open(port).await;
    let mut shell = client("ssh", &ADMIN, port);
    shell.arg("admin@127.0.0.1");
    let ran = run(shell, b"echo one\nexit 7\n").await;
    assert_eq!((ran.status, ran.text()), (Some(7), "one\n".to_owned()));
    // OpenSSH says 255 where the other side reports a signal.
    assert_eq!(ssh(port, "kill -TERM $$", b"").await.status, Some(255));
}

#[tokio::test]
async fn only_named_environment_variables_are_taken_over() {
    let (_rig, port) = booted(SimConfig::default()).await;
    until_open(port).await;
    let mut ssh = client("ssh", &ADMIN, port);
    ssh.args([
        "-o",
        "SetEnv=LC_TEST=yes SECRET=no",
        "admin@127.0.0.1",
        "echo \"$LC_TEST-$SECRET\"",
    ]);
    assert_eq!(run(ssh, b"").await.text(), "yes-\n");
}

#[tokio::test]
async fn files_are_copied_by_both_scp_protocols_and_by_sftp() {
    let (rig, port) = booted(SimConfig::default()).await;
    until_open(port).await;
    let scratch = tempfile::tempdir().unwrap();
    let (source, back) = (scratch.path().join("source"), scratch.path().join("back"));
    let bytes = noise(3 << 20);
    std::fs::write(&source, &bytes).unwrap();
    for (number, old) in [(1, "-s"), (2, "-O")] {
        let mut up = client("scp", &ADMIN, port);
        up.args([old, "-p"])
            .arg(&source)
            .arg(format!("admin@127.0.0.1:up-{number}"));
        let ran = run(up, b"").await;
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let landed =
            std::fs::read(rig.sim.vm_home("vm").unwrap().join(format!("up-{number}"))).unwrap();
        assert!(landed == bytes);
        let mut down = client("scp", &ADMIN, port);
        down.arg(old)
            .arg(format!("admin@127.0.0.1:up-{number}"))
            .arg(&back);
        assert_eq!(run(down, b"").await.status, Some(0));
        assert!(std::fs::read(&back).unwrap() == bytes);
    }
    let mut sftp = client("sftp", &ADMIN, port);
    // `-b` would forbid asking for a password; what is said first holds.
    sftp.args(["-o", "BatchMode=no", "-b", "-", "admin@127.0.0.1"]);
    let batch = "mkdir d\nrename up-1 d/renamed\nln -s d/renamed link\nchmod 600 d/renamed\nrm up-2\nls d\npwd\n";
    let ran = run(sftp, batch.as_bytes()).await;
    let home = rig.sim.vm_home("vm").unwrap();
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.text().contains("d/renamed"), "{}", ran.text());
    assert_eq!(
        std::fs::read_link(home.join("link")).unwrap(),
        PathBuf::from("d/renamed")
    );
    assert!(!home.join("up-2").exists());
}

#[tokio::test]
async fn wrong_passwords_are_refused_and_keys_are_taken() {
    let scratch = tempfile::tempdir().unwrap();
    let key = scratch.path().join("key");
    let mut keygen = tokio::process::Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key);
    assert!(keygen.status().await.unwrap().success());
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let config = SimConfig {
        authorized_keys: vec![public],
        ..SimConfig::default()
    };
    let (_rig, port) = booted(config).await;
    until_open(port).await;
    let mut wrong = client("ssh", &Login::Password("wrong"), port);
    wrong.args(["admin@127.0.0.1", "true"]);
    assert_eq!(
        run(wrong, b"").await.status,
        Some(5),
        "sshpass says 5 for a refused password"
    );
    let mut other = client("ssh", &ADMIN, port);
    other.args(["root@127.0.0.1", "true"]);
    assert_eq!(run(other, b"").await.status, Some(5));
    let mut by_key = client("ssh", &Login::Key(&key), port);
    by_key.args(["admin@127.0.0.1", "echo in"]);
    assert_eq!(run(by_key, b"").await.text(), "in\n");
    let mut interactive = client("ssh", &ADMIN, port);
    interactive.args([
        "-o",
        "PreferredAuthentications=keyboard-interactive",
        "admin@127.0.0.1",
        "echo in",
    ]);
    assert_eq!(run(interactive, b"").await.text(), "in\n");
}

#[tokio::test]
async fn the_port_is_closed_until_the_boot_delay_is_over() {
    let config = SimConfig {
        boot_delay: Duration::from_millis(400),
        ..SimConfig::default()
    };
    let (_rig, port) = booted(config).await;
    let refused = TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    until_open(port).await;
    assert_eq!(ssh(port, "echo up", b"").await.text(), "up\n");
}

#[tokio::test]
async fn a_guest_is_silent_then_resets_then_refuses_then_works() {
    let fault = GuestFault {
        silent_connections: 1,
        reset_connections: 1,
        auth_refusals: 1,
        ..GuestFault::default()
    };
    let (_rig, port) = guest_with(fault).await;
    let silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut byte = [0];
    let heard = tokio::time::timeout(Duration::from_millis(100), async {
        silent.readable().await.unwrap();
        silent.try_read(&mut byte)
    });
    assert!(heard.await.is_err(), "not a byte is sent");
    let reset = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    reset.readable().await.unwrap();
    assert_eq!(
        reset.try_read(&mut byte).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    assert_eq!(ssh(port, "true", b"").await.status, Some(5));
    assert_eq!(ssh(port, "true", b"").await.status, Some(0));
}

#[tokio::test]
async fn a_connection_is_cut_in_the_middle_of_a_command() {
    let fault = GuestFault {
        cut_after_ms: Some(1000),
        ..GuestFault::default()
    };
    let (rig, port) = guest_with(fault).await;
    let ran = ssh(port, "echo $$ > pid; exec sleep 600", b"").await;
    assert_eq!(ran.status, Some(255));
    let pid = std::fs::read_to_string(rig.sim.vm_home("vm").unwrap().join("pid")).unwrap();
    until("the command goes with its connection", || {
        !is_alive(pid.trim())
    })
    .await;
}

/// Whether a process exists and is no zombie.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn purge_ends_sessions_and_daemons_and_removes_the_home() {
    let (rig, port) = booted(SimConfig::default()).await;
    until_open(port).await;
    let daemon = "setsid sleep 600 >/dev/null 2>&1 & echo $! > daemon";
    assert_eq!(ssh(port, daemon, b"").await.status, Some(0));
    let home = rig.sim.vm_home("vm").unwrap();
    let pid = std::fs::read_to_string(home.join("daemon")).unwrap();
    assert!(
        is_alive(pid.trim()),
        "what a command leaves in the background outlives the session"
    );
    let session = tokio::spawn(async move { ssh(port, "touch begun; sleep 600", b"").await });
    until("the command has begun", || home.join("begun").exists()).await;
    assert_eq!(rig.purge("vm").await.status, 200);
    assert_eq!(session.await.unwrap().status, Some(255));
    until("the daemon is gone", || !is_alive(pid.trim())).await;
    assert!(!home.exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[tokio::test]
async fn each_vm_has_its_own_host_key_and_home() {
    let (rig, first) = booted(SimConfig::default()).await;
    let vm = rig.deploy("other", "Sonoma.orkasi").await.json();
    let second: u16 = vm["ssh_port"].as_str().unwrap().parse().unwrap();
    let mut keys = Vec::new();
    for port in [first, second] {
        until_open(port).await;
        let mut scan = tokio::process::Command::new("ssh-keyscan");
        scan.args(["-t", "ed25519", "-p", &port.to_string(), "127.0.0.1"]);
        let text = run(scan, b"").await.text();
        keys.push(text.split_whitespace().last().unwrap().to_owned());
    }
    assert_ne!(keys[0], keys[1]);
    assert_ne!(rig.sim.vm_home("vm"), rig.sim.vm_home("other"));
}

#[tokio::test]
async fn cluster_port_numbers_start_at_8822_on_each_nodes_own_address() {
    let switches = Switches {
        port_numbers: PortNumbers::Cluster,
        ..Switches::default()
    };
    let (rig, port) = booted(SimConfig {
        switches,
        ..SimConfig::default()
    })
    .await;
    // Another simulator on this machine may hold the first ones.
    assert!((8822..9122).contains(&port), "{port}");
    let vm = &rig.sim.state().vms[0];
    let mut ssh = client("ssh", &ADMIN, vm.ssh_port);
    ssh.args([&format!("admin@{}", vm.ip), "echo up"]);
    assert_eq!(vm.ip.to_string(), "127.0.0.2");
    assert_eq!(run(ssh, b"").await.text(), "up\n");
}

#[tokio::test]
async fn a_real_sshd_guest_logs_in_by_key_and_goes_with_its_vm() {
    let guests = GuestKind::Sshd(SshdSettings::default());
    let (rig, port) = booted(SimConfig {
        guests,
        ..SimConfig::default()
    })
    .await;
    until_open(port).await;
    let home = rig.sim.vm_home("vm").unwrap();
    let destination = format!("{}@127.0.0.1", rig.sim.guest_user());
    let login = Login::Key(rig.sim.guest_key().unwrap());
    let mut ssh = client("ssh", &login, port);
    ssh.args([&destination, "pwd; echo \"$HOME\"; cat; exit 9"]);
    let ran = run(ssh, b"input").await;
    assert_eq!(
        (ran.status, ran.text()),
        (Some(9), format!("{0}\n{0}\ninput", home.display()))
    );
    let mut names = client("ssh", &login, port);
    names.args([&destination, "env | cut -d= -f1 | sort | tr '\\n' ' '"]);
    let names = run(names, b"").await.text();
    let expected = "HOME LOGNAME PATH PWD SHELL SSH_CLIENT SSH_CONNECTION TMPDIR USER ";
    assert_eq!(names, expected);
    let mut scp = client("scp", &login, port);
    scp.arg("/etc/hostname")
        .arg(format!("{destination}:copied"));
    assert_eq!(run(scp, b"").await.status, Some(0));
    assert!(home.join("copied").is_file());
    let mut daemon = client("ssh", &login, port);
    daemon.args([
        &destination,
        "setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!",
    ]);
    let pid = run(daemon, b"").await.text();
    assert_eq!(rig.purge("vm").await.status, 200);
    until("the daemon is gone", || !is_alive(pid.trim())).await;
    assert!(!home.exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    assert_eq!(
        rig.get("/resources/vm/list").await.json()["virtual_machine_resources"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_cut_heals_and_one_that_freezes_does_not() {
    let (rig, port) = booted(SimConfig::default()).await;
    let home = rig.sim.vm_home("vm").unwrap();
    let long = tokio::spawn(ssh(port, "touch up; sleep 300", b""));
    until("the command runs", || home.join("up").exists()).await;
    assert_eq!(rig.sim.cut_ssh(), 1);
    assert_ne!(long.await.unwrap().status, Some(0));
    assert_eq!(ssh(port, "echo again", b"").await.text(), "again\n");

    let frozen = tokio::spawn(ssh(port, "touch going; sleep 0.1; touch gone", b""));
    until("the command runs", || home.join("going").exists()).await;
    assert_eq!(rig.sim.freeze_ssh(), 1);
    // The program in the VM knows nothing of it.
    until("the command has ended", || home.join("gone").exists()).await;
    let mut late = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let banner = tokio::io::AsyncReadExt::read_u8(&mut late);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), banner)
            .await
            .is_err()
    );
    assert!(
        !frozen.is_finished(),
        "nobody told the client that it is over"
    );
    frozen.abort();
}
