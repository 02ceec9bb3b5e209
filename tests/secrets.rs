//! No secret turns up in anything that the program shows, writes or passes on in the open.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use end_to_end::{Cluster, Ended, Running, Step, Stream, guest};
use orka_sim::{FaultAction, FaultRule, Generation, GuestKind, SimConfig, SshdSettings, User};
use rustix::process::Signal;

const ORKA_PASSWORD: &str = "orka-pass-Zx81Qq77";
const LICENCE_KEY: &str = "licence-key-Yy52Pp66";
const SSH_PASSWORD: &str = "ssh-pass-Ww33Oo55";
const TOKEN_X: &str = "token-x-Vv14 Nn44\"quoted\"";

/// A cluster with secrets that are nothing else.
async fn cluster(config: SimConfig) -> Cluster {
    let cluster = Cluster::with(SimConfig {
        users: vec![User {
            email: "ci@example.com".to_owned(),
            password: ORKA_PASSWORD.to_owned(),
        }],
        licence_key: LICENCE_KEY.to_owned(),
        guest_password: SSH_PASSWORD.to_owned(),
        ..config
    })
    .await;
    cluster.write_orka("licenseKey", LICENCE_KEY);
    cluster
}

fn with_secret(step: Step) -> Step {
    let file = step.scratch_file("secrets/TOKEN_X", TOKEN_X.as_bytes());
    let directory = file.trim_end_matches("/TOKEN_X").to_owned();
    step.flag("--secrets", directory).argument("-vv")
}

/// Every secret there is: those above, each token handed out, and what else the test knows.
fn needles(cluster: &Cluster, more: &[String]) -> Vec<String> {
    let fixed = [ORKA_PASSWORD, LICENCE_KEY, SSH_PASSWORD, TOKEN_X].map(str::to_owned);
    let state = cluster.sim.state();
    let tokens = state.tokens.iter().map(|token| token.token.clone());
    let plain: Vec<String> = fixed
        .into_iter()
        .chain(tokens)
        .chain(more.iter().cloned())
        .collect();
    let encoded = plain.iter().map(|secret| STANDARD_NO_PAD.encode(secret));
    let escaped = plain.iter().map(|secret| secret.replace('"', "\\\""));
    let mut all: Vec<String> = plain
        .iter()
        .cloned()
        .chain(encoded)
        .chain(escaped)
        .collect();
    all.sort();
    all.dedup();
    all
}

#[track_caller]
fn assert_hidden(ended: &Ended, needles: &[String]) {
    let mut shown = vec![
        (
            "standard output".to_owned(),
            ended.stdout.clone().into_bytes(),
        ),
        (
            "standard error".to_owned(),
            ended.stderr.clone().into_bytes(),
        ),
    ];
    for directory in ["results", "report", "workspace", "home"] {
        read_all(&ended.scratch().join(directory), &mut shown);
    }
    assert!(
        shown.iter().any(|(name, _)| name.ends_with("run.html")),
        "no page"
    );
    assert!(
        shown.iter().any(|(name, _)| name.contains("ledger-")),
        "no ledger"
    );
    for (place, bytes) in &shown {
        let text = String::from_utf8_lossy(bytes);
        for needle in needles {
            assert!(
                !text.contains(needle.as_str()),
                "`{needle}` is in {place}:\n{text}"
            );
        }
    }
}

fn read_all(directory: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else {
            into.push((path.display().to_string(), std::fs::read(path).unwrap()));
        }
    }
}

/// Arguments and environment of a running program, as anybody on the node may see them.
fn open_view(running: &Running) -> String {
    let process = format!("/proc/{}", running.pid().as_raw_nonzero());
    let read = |file: &str| std::fs::read(format!("{process}/{file}")).unwrap();
    String::from_utf8_lossy(&[read("cmdline"), read("environ")].concat()).into_owned()
}

/// A script that shows its environment and what it finds in its home, each line plain and encoded.
const NOSY: &str = "#!/bin/sh\nenv | sort\necho running\nwhile [ ! -e ~/known ]; do sleep 0.02; done\n\
                    cat ~/known\ncat ~/known >&2\n\
                    while read -r line; do printf %s \"$line\" | base64 -w0; echo; done <~/known\n";

/// Puts a file into the one VM's home, whole at once.
fn plant(cluster: &Cluster, name: &str, text: &str) {
    let home = cluster.only_vm().home;
    std::fs::write(home.join("tmp-plant"), text).unwrap();
    std::fs::rename(home.join("tmp-plant"), home.join(name)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_shows_no_secret_at_the_highest_verbosity() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = cluster(config.clone()).await;
        let mut running = with_secret(cluster.build(NOSY)).start();
        running.says(Stream::Stdout, "running\n").await;
        let tokens: Vec<String> = cluster
            .sim
            .config()
            .sa_tokens
            .iter()
            .map(|it| it.token.clone())
            .collect();
        let needles = needles(&cluster, &tokens);
        let view = open_view(&running);
        for needle in &needles {
            assert!(!view.contains(needle.as_str()), "`{needle}` is in {view}");
        }
        let token = tokens.first().map_or("", String::as_str);
        // What the run logs in with: it never sees the other generation's credentials.
        let own = if config.generation == Generation::Three {
            token
        } else {
            ORKA_PASSWORD
        };
        let known = [own, LICENCE_KEY, SSH_PASSWORD, TOKEN_X];
        plant(&cluster, "known", &format!("{}\n", known.join("\n")));
        let ended = running.ended().await;
        ended.assert(0, "succeeded");
        let is_hidden = |line: &&str| line.trim_end_matches('=') == "***";
        let hidden = ended.stdout.lines().filter(is_hidden).count();
        assert_eq!(hidden, 3 * known.len(), "{ended}");
        assert_hidden(&ended, &needles);
        cluster.assert_purged();
    }
}

/// Shows a key that it finds in its home, as it is and with something before each line.
const SHOW_KEY: &str = "#!/bin/sh\necho running\nwhile [ ! -e ~/key ]; do sleep 0.02; done\ncat ~/key\n\
                        sed 's/^/indented /' ~/key\nexit 9\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_private_key_is_shown_neither_whole_nor_by_line() {
    let cluster = cluster(SimConfig {
        guests: GuestKind::Sshd(SshdSettings::default()),
        ..Cluster::orka2()
    })
    .await;
    let key = std::fs::read_to_string(cluster.ssh_credentials().join("ssh-privatekey")).unwrap();
    let step = with_secret(cluster.build(SHOW_KEY));
    let mut running = step.start();
    running.says(Stream::Stdout, "running\n").await;
    plant(&cluster, "key", &key);
    let ended = running.ended().await;
    ended.assert(9, "build-failed");
    let lines: Vec<String> = key
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::to_owned)
        .collect();
    assert!(ended.stdout.contains("indented ***"), "{ended}");
    assert_hidden(&ended, &needles(&cluster, &lines));
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_show_no_secret() {
    // Declined by the VM.
    let declined = cluster(Cluster::orka2()).await;
    declined.write_ssh("password", "another-pass-Uu99");
    let ended = with_secret(declined.build("#!/bin/sh\ntrue\n"))
        .ended()
        .await;
    ended.assert(216, "infra-failed");
    assert_hidden(
        &ended,
        &needles(&declined, &["another-pass-Uu99".to_owned()]),
    );
    // Stopped in the middle.
    let stopped = cluster(Cluster::orka2()).await;
    let mut running = with_secret(stopped.build("#!/bin/sh\necho running\nsleep 300\n")).start();
    running.says(Stream::Stdout, "running\n").await;
    running.signal(Signal::TERM);
    let ended = running.ended().await;
    ended.assert(143, "cancelled");
    assert_hidden(&ended, &needles(&stopped, &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn declined_orka_credentials_are_not_shown() {
    let cluster = cluster(Cluster::orka2()).await;
    cluster.write_orka("password", "another-pass-Uu99");
    let ended = with_secret(cluster.build("#!/bin/sh\ntrue\n"))
        .ended()
        .await;
    ended.assert(211, "infra-failed");
    assert_hidden(
        &ended,
        &needles(&cluster, &["another-pass-Uu99".to_owned()]),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_uses_a_secret_and_neither_it_nor_the_log_shows_it() {
    for fail in ["false", "true"] {
        let cluster = cluster(Cluster::orka2()).await;
        let ended = with_secret(cluster.guest("secret-probe").param("fail", fail))
            .ended()
            .await;
        if fail == "true" {
            ended.assert(213, "plugin-failed");
        } else {
            ended.assert(0, "succeeded");
        }
        ended.assert_says(&["opened TOKEN_X"]);
        let lines: Vec<&str> = ended.stdout.lines().collect();
        let length = format!("length {}", TOKEN_X.len());
        for line in ["plain ***", "again ***", "stdin ***", &length] {
            assert!(lines.contains(&line), "no `{line}`: {ended}");
        }
        assert_eq!(
            lines
                .iter()
                .filter(|&&line| line == "not in arguments")
                .count(),
            2,
            "{ended}"
        );
        assert_eq!(ended.result("seen"), "***");
        assert!(!ended.stdout.contains(&STANDARD.encode(TOKEN_X)), "{ended}");
        assert_hidden(&ended, &needles(&cluster, &[]));
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_has_learned_a_secret_by_a_detour_cannot_have_it_shown() {
    for (end, code, outcome) in [
        ("return", 0, "succeeded"),
        ("error", 213, "plugin-failed"),
        ("code", 213, "plugin-failed"),
        ("panic", 213, "plugin-failed"),
    ] {
        let cluster = cluster(Cluster::orka2()).await;
        let step = with_secret(cluster.guest("leaker").param("end", end));
        let session = step.scratch_file("report/session.yaml", b"");
        let ended = step.flag("--record", session.as_str()).ended().await;
        ended.assert(code, outcome);
        ended.assert_says(&[&format!("length: {}", TOKEN_X.len())]);
        assert_eq!(ended.result("seen"), "***");
        // Whole, and the beginning that a text which is cut off might end with.
        let needles = needles(&cluster, &[TOKEN_X[..12].to_owned()]);
        assert_hidden(&ended, &needles);
        let session = ended.scratch().join("report/session.yaml");
        let session = std::fs::read_to_string(session).unwrap();
        assert!(session.contains("***"), "{session}");
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_the_run_has_not_is_told_before_anything_is_deployed() {
    let cluster = Cluster::start().await;
    let ended = cluster.guest("secret-probe").ended().await;
    ended.assert(211, "infra-failed");
    ended.assert_says(&["no secret `TOKEN_X`", "`--secrets`"]);
    cluster.assert_untouched();
}

/// This one deploys its VM first, and opens no secret at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_a_plugin_needs_is_looked_for_before_anything_is_deployed() {
    let cluster = Cluster::start().await;
    let step = cluster.guest("grabby");
    let file = step.scratch_file("secrets/ANOTHER", b"there");
    let secrets = file.trim_end_matches("/ANOTHER");
    let ended = step.flag("--secrets", secrets).ended().await;
    ended.assert(211, "infra-failed");
    ended.assert_says(&[
        "error: this run has no secret `SIGNING_KEY`, which plugin `grabby` needs\n",
        "hint: put a file `SIGNING_KEY` into the directory given with `--secrets`\n",
    ]);
    cluster.assert_untouched();
    // A scenario without it ends as the run would.
    let step = Step::new(&["plugin", "test"]);
    let scenario = "scenarios:
  - name: its secret is nowhere
    expect:
      outcome: infra-failed
      exit-code: 211
      calls: []
      log: { includes: [\"no secret `SIGNING_KEY`, which plugin `grabby` needs\"] }
";
    let scenario = step.scratch_file("scenario.yaml", scenario.as_bytes());
    let plugin = guest("grabby");
    let step = step.flag("--plugin", plugin.to_str().unwrap());
    let ended = step.argument(scenario).ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_from_the_environment_are_masked_like_those_from_files() {
    let cluster = cluster(Cluster::orka2()).await;
    let mut running = with_secret(cluster.build(NOSY))
        .without("--orka-credentials")
        .without("--ssh-credentials")
        .environment("ORKA_EMAIL", "ci@example.com")
        .environment("ORKA_PASSWORD", ORKA_PASSWORD)
        .environment("ORKA_LICENSE_KEY", LICENCE_KEY)
        .environment("SSH_USERNAME", "admin")
        .environment("SSH_PASSWORD", SSH_PASSWORD)
        .start();
    running.says(Stream::Stdout, "running\n").await;
    plant(
        &cluster,
        "known",
        &format!("{ORKA_PASSWORD} {SSH_PASSWORD} {LICENCE_KEY}\n"),
    );
    let ended = running.ended().await;
    ended.assert(0, "succeeded");
    assert!(ended.stdout.contains("*** *** ***\n"), "{ended}");
    assert_hidden(&ended, &needles(&cluster, &[]));
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_the_endpoint_is_refused_and_not_repeated() {
    let cluster = cluster(Cluster::orka2()).await;
    let url = cluster
        .sim
        .url()
        .replace("http://", "http://ci:another-pass-Uu99@");
    // As a variable: a command line can be read by everybody.
    let step = with_secret(cluster.build("#!/bin/sh\ntrue\n")).without("--orka-api");
    let ended = step.environment("ORKA_API", &url).ended().await;
    ended.assert(211, "infra-failed");
    ended.assert_says(&["must not hold a user name or password"]);
    for text in [&ended.stdout, &ended.stderr, &ended.report.to_string()] {
        assert!(!text.contains("another-pass-Uu99"), "{text}");
    }
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_repeats_a_secret_is_not_quoted() {
    let cluster = cluster(Cluster::orka2()).await;
    let encoded = STANDARD.encode(ORKA_PASSWORD);
    let talkative = FaultAction::Error {
        status: 400,
        message: format!("{ORKA_PASSWORD} {encoded} {LICENCE_KEY} is no good"),
    };
    cluster
        .sim
        .add_fault(FaultRule::new("POST", "/resources/vm/deploy", talkative));
    let ended = with_secret(cluster.build("#!/bin/sh\ntrue\n"))
        .ended()
        .await;
    assert_ne!(ended.code, Some(0), "{ended}");
    ended.assert_says(&["*** *** *** is no good"]);
    assert_hidden(&ended, &needles(&cluster, &[]));
    cluster.assert_nothing_left();
}

const SIGNS: &str = "#!/bin/sh\nset -e\nmkdir -p out\nprintf %s \"$KEY\" | wc -c | tr -d ' ' >out/length\necho \"key: $KEY\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_build_gets_a_secret_that_is_granted_to_it_by_name() {
    let cluster = cluster(Cluster::orka2()).await;
    let build = |line: &str| with_secret(cluster.build(SIGNS)).param("secret-env", line);
    let denied = build("KEY=TOKEN_X").ended().await;
    denied.assert(212, "denied");
    denied.assert_says(&[
        "`secret-env` names the secret `TOKEN_X`, which this run was not granted",
        "secrets = [\"TOKEN_X\"]\n",
    ]);
    cluster.assert_untouched();
    let grant = "[[grant]]\nplugin = \"build\"\ncapabilities = [\"*\"]\nsecrets = [\"TOKEN_X\"]\n";
    let ended = build("KEY=TOKEN_X").granted(grant).ended().await;
    ended.assert(0, "succeeded");
    let length = ended.file("out/length").unwrap();
    assert_eq!(
        String::from_utf8_lossy(&length).trim(),
        TOKEN_X.len().to_string()
    );
    assert!(ended.stdout.contains("key: ***"), "{ended}");
    assert_eq!(
        ended.report["grants"]["used"]["secrets"][0], "TOKEN_X",
        "{ended}"
    );
    assert_hidden(&ended, &needles(&cluster, &[]));
    let unknown = build("TOKEN_Y").granted(&grant.replace("_X", "_Y"));
    let unknown = unknown.ended().await;
    unknown.assert(211, "infra-failed");
    unknown.assert_says(&["this run has no secret `TOKEN_Y`"]);
    cluster.assert_nothing_left();
}
