//! The `orka-sim` program, and the sequence of shell commands that builds have run for years.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use support::run;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

async fn start(words: &[&str]) -> (Child, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orka-sim"));
    let mut child = command
        .args(words)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(support::PATIENCE, lines.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    // Reading on keeps the pipe open; nothing more may come.
    tokio::spawn(async move { assert_eq!(lines.next_line().await.unwrap(), None) });
    (child, serde_json::from_str(&line).unwrap())
}

async fn stop(mut child: Child, signal: &str) -> i32 {
    let pid = child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &pid])
            .status()
            .await
            .unwrap()
            .success()
    );
    let status = tokio::time::timeout(support::PATIENCE, child.wait())
        .await
        .unwrap()
        .unwrap();
    status.code().unwrap()
}

/// Token, create, deploy, SSH, purge, sign out: with `curl`, `jq` and `ssh` alone.
const SEQUENCE: &str = r#"
set -eu
token=$(curl --fail --silent --location --request POST "$URL/token" --header 'Content-Type: application/json' \
  --data-raw "{\"email\": \"$EMAIL\", \"password\": \"$PASSWORD\"}" | jq -r .token)
call() { curl --fail --silent --location --request "$1" "$URL/$2" --header 'Content-Type: application/json' \
  --header "Authorization: Bearer $token" --data-raw "$3"; }
call POST resources/vm/create '{"orka_vm_name": "tekton-1a2b3c4d", "orka_base_image": "Catalina.img",
  "orka_image": "tekton-1a2b3c4d", "orka_cpu_core": 3, "vcpu_count": 3, "vnc_console": false, "tag": "",
  "tag_required": false, "scheduler": "default"}' > /dev/null
vm=$(call POST resources/vm/deploy '{"orka_vm_name": "tekton-1a2b3c4d", "gpu_passthrough": false,
  "vm_metadata": {"items": [{"key": "foo", "value": "1"}]}}')
ip=$(echo "$vm" | jq -r .ip) port=$(echo "$vm" | jq -r .ssh_port)
ssh_() { sshpass -p "$SSH_PASSWORD" ssh -F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
  -o LogLevel=ERROR -o ConnectTimeout=10 -p "$port" "$SSH_USER@$ip" "$@" < /dev/null; }
tries=0
until ssh_ true 2> /dev/null; do
  tries=$((tries + 1)); test $tries -lt 100; sleep 0.1
done
ssh_ 'echo built on $USER'
call DELETE resources/vm/purge '{"orka_vm_name": "tekton-1a2b3c4d"}' | jq -r .message
curl --fail --silent --request DELETE "$URL/token" --header "Authorization: Bearer $token" | jq .tokensRevoked
"#;

#[tokio::test]
async fn the_old_shell_sequence_builds_and_leaves_nothing() {
    let (child, told) = start(&["--generation", "2", "--boot-delay", "300ms"]).await;
    let text = |name: &str| told[name].as_str().unwrap().to_owned();
    let mut shell = Command::new("bash");
    shell
        .args(["-c", SEQUENCE])
        .env("URL", text("url"))
        .env("EMAIL", text("email"));
    shell
        .env("PASSWORD", text("password"))
        .env("SSH_USER", text("ssh_user"));
    shell.env("SSH_PASSWORD", text("ssh_password"));
    let ran = run(shell, b"").await;
    assert_eq!(
        ran.text(),
        "built on admin\nSuccessfully purged VM\n1\n",
        "{}",
        ran.stderr
    );
    let mut curl = Command::new("curl");
    curl.args(["--silent", &text("state_url")]);
    let state: Value = serde_json::from_slice(&run(curl, b"").await.stdout).unwrap();
    assert_eq!(
        (&state["vms"], &state["configs"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    assert_eq!(state["tokens"][0]["revoked"], true);
    assert_eq!(stop(child, "-TERM").await, 0);
}

#[tokio::test]
async fn a_signal_stops_guests_and_removes_the_temporary_files() {
    let (child, told) = start(&["--guests", "sshd"]).await;
    let key = told["ssh_key"].as_str().unwrap().to_owned();
    assert!(told["ssh_password"].is_null());
    assert!(Path::new(&key).is_file());
    assert_eq!(stop(child, "-INT").await, 0);
    assert!(!Path::new(&key).parent().unwrap().exists());
}

#[tokio::test]
async fn faults_and_switches_come_from_files() {
    let scratch = tempfile::tempdir().unwrap();
    let (faults, switches) = (
        scratch.path().join("faults.toml"),
        scratch.path().join("switches.json"),
    );
    let rule = "[[fault]]\npath = \"/version\"\naction = { kind = \"html-page\", status = 503 }\n";
    std::fs::write(&faults, rule).unwrap();
    std::fs::write(&switches, r#"{"v2-statuses": {"login-refused": 418}}"#).unwrap();
    let files = [faults.to_str().unwrap(), switches.to_str().unwrap()];
    let (child, told) = start(&[
        "--faults",
        files[0],
        "--switches",
        files[1],
        "--api-version",
        "2.1.0",
    ])
    .await;
    let url = told["url"].as_str().unwrap();
    let script = format!(
        "curl -s -o /dev/null -w '%{{http_code}} ' {url}/version; \
         curl -s -o /dev/null -w '%{{http_code}} ' -d 'email=a&password=b' {url}/token; \
         curl -s {url}/health-check | jq -r .api_version"
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]);
    assert_eq!(run(shell, b"").await.text(), "503 418 2.1.0\n");
    assert_eq!(stop(child, "-TERM").await, 0);
}

#[tokio::test]
async fn a_wrong_word_or_file_is_refused_before_anything_starts() {
    for words in [&["--user", "nobody"][..], &["--faults", "/does/not/exist"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orka-sim"));
        command.args(words);
        let ran = run(command, b"").await;
        assert_eq!((ran.status, ran.stdout.len()), (Some(1), 0));
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    }
}
