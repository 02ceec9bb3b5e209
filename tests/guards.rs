//! Guards: asked about every VM, program and file, in order, and taken for a denial when they fail.

use end_to_end::{Cluster, Ended, Step, bundled, guest};
use sha2::{Digest as _, Sha256};

use crate::plugins::component;

const TRUE: &str = "#!/bin/sh\ntrue\n";

/// Makes two artifacts and shows its environment and arguments.
const BUILDS: &str = "#!/bin/sh\nset -e\nmkdir -p dist\necho one > dist/app.ipa\necho two > dist/app.log\necho \"TOKEN is ${TOKEN-unset}\"\n";

fn path(name: &str) -> String {
    guest(name).to_str().unwrap().to_owned()
}

/// Asks the odd guard with this configuration.
fn guarded(step: Step, config: &str) -> Step {
    let file = step.scratch_file("guard.txt", config.as_bytes());
    step.flag("--guard", format!("{}={file}", path("odd-guard")))
}

fn decisions(ended: &Ended) -> &serde_json::Value {
    &ended.report["guards"][0]["decisions"]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_allows_everything_is_named_and_changes_nothing() {
    let cluster = Cluster::start().await;
    let step = cluster
        .build(BUILDS)
        .param("artifacts", "dist/**")
        .flag("--run-uid", "run-1");
    let ended = guarded(step, "tell vm\ntell exec\ntell artifacts\n")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    let digest = hex::encode(Sha256::digest(std::fs::read(guest("odd-guard")).unwrap()));
    let plugin = hex::encode(Sha256::digest(std::fs::read(bundled("build")).unwrap()));
    ended.assert_says(&[
        &format!("guard `odd-guard` 0.1.0 (sha256:{digest})"),
        &format!("guard `odd-guard`: question 1 about vm: plugin build sha256:{plugin} in None, run Some(\"run-1\"), 0 VMs, 0 in all"),
        "../build-script",
        "about artifacts",
    ]);
    let guard = &ended.report["guards"][0];
    assert_eq!(guard["digest"], format!("sha256:{digest}"));
    assert!(guard["allowed"].as_u64().unwrap() >= 4, "{guard:#}");
    assert!(
        guard["configDigest"]
            .as_str()
            .unwrap()
            .starts_with("sha256:")
    );
    assert_eq!(decisions(&ended).as_array().map(Vec::len), Some(0));
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guard_denies_ends_the_run_as_denied_with_its_reason() {
    for about in ["vm", "exec", "artifacts"] {
        let cluster = Cluster::start().await;
        let step = cluster.build(BUILDS).param("artifacts", "dist/**");
        let ended = guarded(step, &format!("deny {about}\n")).ended().await;
        ended.assert(212, "denied");
        ended.assert_says(&["guard `odd-guard` denied ", ": told to deny"]);
        assert_eq!(ended.report["failures"][0]["code"], "guard.denied");
        assert_eq!(decisions(&ended)[0]["about"], about);
        assert_eq!(decisions(&ended)[0]["decision"], "denied");
        assert!(ended.file("dist/app.ipa").is_none(), "{ended}");
        if about == "vm" {
            let state = cluster.sim.state();
            assert!(state.requests_to("POST", "/resources/vm/create").is_empty());
        }
        cluster.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_fails_in_any_way_denies() {
    for about in ["vm", "exec", "artifacts"] {
        for (act, said) in [
            ("panic", "it trapped: "),
            ("spin", "it computed for 1 s without an end"),
            ("allocate", "may have 8"),
            ("recurse", "stack"),
        ] {
            let cluster = Cluster::start().await;
            let step = cluster
                .build(BUILDS)
                .param("artifacts", "dist/**")
                .argument("--limit")
                .argument("guard-cpu-seconds=1,guard-memory-mib=8");
            let ended = guarded(step, &format!("{act} {about}\n")).ended().await;
            ended.assert(212, "denied");
            ended.assert_says(&["guard `odd-guard` failed when it was asked about ", said]);
            assert_eq!(ended.report["failures"][0]["code"], "guard.failed");
            assert_eq!(decisions(&ended)[0]["decision"], "failed");
            if act == "panic" {
                ended.assert_says(&[&format!("told to panic about {about}")]);
            }
            assert!(ended.file("dist/app.ipa").is_none(), "{ended}");
            cluster.assert_nothing_left();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_answer_denies() {
    for (config, said) in [
        (
            "no-deployment vm",
            "has another `deployment` than the question",
        ),
        ("image vm", "names no image"),
        ("cpu vm 0", "without CPU cores"),
        (
            "late-image vm Ventura.orkasi",
            "settled once the VM config is made: image",
        ),
        (
            "more-cpu vm",
            "settled once the VM config is made: cpu-cores",
        ),
        (
            "set exec INJECTED",
            "adds the environment variable `INJECTED`",
        ),
        ("other-vm exec", "changes the VM or what the program reads"),
        (
            "invent artifacts",
            "leaves out `../../etc/passwd`, which is not in the list",
        ),
    ] {
        let cluster = Cluster::with(Cluster::orka3()).await;
        let step = cluster.build(BUILDS).param("artifacts", "dist/**");
        let ended = guarded(step, config).ended().await;
        ended.assert(212, "denied");
        ended.assert_says(&["guard `odd-guard` failed", said]);
        cluster.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_fails_is_passed_over_only_if_the_operator_says_so_and_stays_out() {
    let cluster = Cluster::start().await;
    let step = cluster.build(TRUE).flag("--guard-failure", "allow");
    let ended = guarded(step, "panic vm\ndeny exec\n").ended().await;
    ended.assert(0, "succeeded");
    ended.assert_says(&[
        "warning: guard `odd-guard` failed",
        "passed over",
        "it failed before: it trapped",
    ]);
    cluster.assert_purged();
    let denies = cluster.build(TRUE).flag("--guard-failure", "allow");
    let ended = guarded(denies, "deny vm\n").ended().await;
    ended.assert(212, "denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guard_changes_is_what_the_cluster_and_the_vm_get() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let step = cluster
        .build(BUILDS)
        .param("artifacts", "dist/**")
        .param("env", "TOKEN=open");
    let config = "cpu vm 4\nmemory vm 2048\nunset exec TOKEN\nleave-out artifacts .log\n";
    let ended = guarded(step, config).ended().await;
    ended.assert(0, "succeeded");
    assert!(ended.stdout.contains("TOKEN is unset"), "{ended}");
    assert!(ended.file("dist/app.ipa").is_some(), "{ended}");
    assert!(ended.file("dist/app.log").is_none(), "{ended}");
    let files = ended.report["artifacts"]["files"].as_array().unwrap();
    assert_eq!(files.len(), 1, "{:#}", ended.report);
    // The digest is that of what is there.
    let line = format!("{}  dist/app.ipa\n", hex::encode(Sha256::digest(b"one\n")));
    let digest = hex::encode(Sha256::digest(line));
    assert_eq!(ended.result("artifacts-digest"), format!("sha256:{digest}"));
    ended.assert_says(&[
        "guard `odd-guard` changed image `Sonoma.orkasi`: cpu-cores from 3 to 4, ",
        "memory-mib from none to 2048",
        "environment from [`TOKEN`] to []",
        "left out `dist/app.log`; `.log` stays where it is",
    ]);
    let state = cluster.sim.state();
    let deployed = &state.requests_to("POST", "/api/v1/namespaces/*/vms")[0];
    let body: serde_json::Value = serde_json::from_str(&deployed.body).unwrap();
    assert_eq!(body["cpu"], 4, "{body:#}");
    assert_eq!(body["memory"].as_f64(), Some(2.0), "{body:#}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn guards_are_asked_in_order_and_each_sees_what_the_one_before_left() {
    let cluster = Cluster::start().await;
    let step = cluster.build(TRUE).param("cpu-count", "12");
    let first = step.scratch_file("first.txt", b"image *\ncores - 8\n");
    let second = step.scratch_file("second.txt", b"image Sonoma.orkasi\ncores - 6\n");
    let allowed = bundled("allowed-vms").to_str().unwrap().to_owned();
    let guards = format!("{allowed}={first},{allowed}={second}");
    let ended = step.environment("ORKA_GUARD", &guards).ended().await;
    ended.assert(0, "succeeded");
    let at = |text: &str| {
        ended
            .stderr
            .find(text)
            .unwrap_or_else(|| panic!("no `{text}`: {ended}"))
    };
    assert!(at("cpu-cores from 12 to 8") < at("cpu-cores from 8 to 6"));
    assert_eq!(ended.report["guards"].as_array().map(Vec::len), Some(2));
    cluster.assert_purged();
    // The first sees what the second made of it when the VM is deployed, and two that contradict each other deny.
    let step = cluster.build(TRUE);
    let first = step.scratch_file("first.txt", b"cpu vm 12\n");
    let second = step.scratch_file("second.txt", b"image *\ncores - 6\n");
    let guards = format!("{}={first},{allowed}={second}", path("odd-guard"));
    let ended = step.environment("ORKA_GUARD", &guards).ended().await;
    ended.assert(212, "denied");
    ended.assert_says(&["settled once the VM config is made: cpu-cores from 6 to 12"]);
    cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_cannot_widen_what_the_grants_allow() {
    let cluster = Cluster::start().await;
    let grants = "[[grant]]\nplugin = \"build\"\ncapabilities = [\"*\"]\n[grant.ceilings]\nimages = [\"Sonoma.*\"]\ncpu-cores = 6\n";
    for (config, said) in [
        ("cpu vm 12\n", "12 CPU cores are above the 6 granted"),
        (
            "image vm Ventura.orkasi\n",
            "image `Ventura.orkasi` is none of",
        ),
    ] {
        let ended = guarded(cluster.build(TRUE), config)
            .granted(grants)
            .ended()
            .await;
        ended.assert(212, "denied");
        ended.assert_says(&[said]);
    }
    let narrowed = guarded(cluster.build(TRUE).param("cpu-count", "12"), "cpu vm 6\n");
    let ended = narrowed
        .param("vcpu-count", "6")
        .granted(grants)
        .ended()
        .await;
    ended.assert(0, "succeeded");
    cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_guard_is_the_one_that_was_pinned() {
    let cluster = Cluster::start().await;
    let file = guest("odd-guard");
    let digest = hex::encode(Sha256::digest(std::fs::read(&file).unwrap()));
    let pinned = |digits: &str| format!("{}@sha256:{digits}", file.display());
    let ended = cluster
        .build(TRUE)
        .flag("--guard", pinned(&digest))
        .ended()
        .await;
    ended.assert(0, "succeeded");
    let other = "0".repeat(64);
    let other_cluster = Cluster::start().await;
    let ended = other_cluster
        .build(TRUE)
        .flag("--guard", pinned(&other))
        .ended()
        .await;
    ended.assert(212, "denied");
    ended.assert_says(&[&digest, &other, "pin its new digest"]);
    other_cluster.assert_untouched();
}

/// A guard may repeat its configuration when it refuses it. What it says is cut after the secrets in it are hidden.
#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_secret_is_in_why_a_guard_refuses_its_configuration() {
    const SECRET: &str = "a-secret-of-the-configuration";
    let cluster = Cluster::start().await;
    for filler in (980..1020).step_by(8) {
        let step = cluster.build(TRUE);
        let file = step.scratch_file("secrets/TOKEN_X", SECRET.as_bytes());
        let secrets = file.trim_end_matches("/TOKEN_X").to_owned();
        let config = format!("refuse {}{SECRET}\n", "x".repeat(filler));
        let ended = guarded(step.flag("--secrets", secrets), &config)
            .ended()
            .await;
        ended.assert(212, "denied");
        ended.assert_says(&["it refuses its configuration: told to refusexxx"]);
        let all = format!("{ended}{}", ended.report);
        assert!(!all.contains("xa-s"), "{filler}: {ended}");
    }
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_guard_denies_before_anything_is_sent() {
    let cluster = Cluster::start().await;
    let scratch = cluster.build(TRUE);
    let text = scratch.scratch_file("text.wasm", b"this is no component");
    let refuses = scratch.scratch_file("refuse.txt", b"refuse\n");
    let panics = scratch.scratch_file("panic.txt", b"panic configure\n");
    let spins = scratch.scratch_file("spin.txt", b"spin configure\n");
    let odd = path("odd-guard");
    let build = bundled("build").to_str().unwrap().to_owned();
    for (guard, said) in [
        ("./nowhere.wasm".to_owned(), "cannot be read"),
        (
            "no-such-guard".to_owned(),
            "there is no guard named `no-such-guard`",
        ),
        (text, "not a component"),
        (build, "it is a plugin and no guard"),
        (
            format!("{odd}={refuses}"),
            "it refuses its configuration: told to refuse",
        ),
        (format!("{odd}={panics}"), "it trapped"),
        (
            format!("{odd}={spins}"),
            "it computed for 2 s without an end",
        ),
    ] {
        let ended = cluster.build(TRUE).flag("--guard", guard).ended().await;
        ended.assert(212, "denied");
        ended.assert_says(&[said]);
    }
    let ended = cluster
        .run()
        .flag("--plugin", odd)
        .granted("[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\n")
        .ended()
        .await;
    ended.assert(212, "plugin-failed");
    let said = [
        "it is a guard and no plugin",
        "give it with `--guard`",
        "`orka-step plugin check` says what is known of it",
    ];
    ended.assert_says(&said);
    cluster.assert_untouched();
    for command in [
        &["plugin", "inspect", "allowed-vms"][..],
        &["demo", "--plugin", "allowed-vms"],
    ] {
        let ended = Step::new(command).ended().await;
        assert_eq!(ended.code, Some(212), "{command:?}: {ended}");
        ended.assert_says(&said);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_imports_more_than_its_log_denies() {
    for import in [
        "orka:plugin/clock@0.1.0",
        "orka:plugin/console@0.1.0",
        "wasi:cli/environment@0.2.0",
        "acme:tool/net@1.0.0",
    ] {
        let (package, rest) = import.split_once('/').unwrap();
        let (interface, version) = rest.split_once('@').unwrap();
        let body = format!("interface {interface} {{ act: func(); }}");
        let (name, own, foreign) = match package {
            "orka:plugin" => (interface, body, String::new()),
            _ => {
                let foreign = format!("package {package}@{version} {{ {body} }}");
                (import, String::new(), foreign)
            }
        };
        let guard = component(&format!(
            "package orka:plugin@0.1.0; {own} interface guarding {{ ask: func(); }} \
             world plugin {{ import {name}; export guarding; }} {foreign}"
        ));
        let cluster = Cluster::start().await;
        let step = cluster.build(TRUE);
        let file = step.scratch_file("greedy.wasm", &guard);
        let ended = step.flag("--guard", &file).ended().await;
        ended.assert(212, "denied");
        ended.assert_says(&[
            &format!(
                "it imports `{import}`; a guard has `orka:plugin/guard-log@0.1` and nothing else"
            ),
            "so nothing is allowed",
        ]);
        cluster.assert_untouched();
        let checked = Step::new(&["plugin", "check", &file]).ended().await;
        assert_eq!(checked.code, Some(212), "{checked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_is_shown_no_secret_and_can_write_so_many_lines() {
    let cluster = Cluster::start().await;
    let password = cluster.sim.config().users[0].password.clone();
    let step = cluster
        .build("#!/bin/sh\necho \"got $1\"\n")
        .param("env", &format!("PASSWORD={password}"));
    let ended = guarded(step, "tell exec\nchat exec\n")
        .argument("--limit")
        .argument("guard-log-lines=5")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    ended.assert_says(&["has written 5 lines to this log; the rest is left out"]);
    assert!(!ended.stderr.contains(&password), "{ended}");
    assert!(!ended.stderr.contains("line 10"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_in_arguments_survive_a_guard_that_changes_others() {
    let cluster = Cluster::start().await;
    let password = cluster.sim.config().users[0].password.clone();
    let step = cluster
        .guest("secret-arguments")
        .param("argument", &password);
    let ended = guarded(step, "tell exec\nargument exec appended\n")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    // The program compares the argument itself: the log would show the mask.
    assert!(ended.stdout.contains("equal, then appended"), "{ended}");
    ended.assert_says(&["\"***\""]);
    assert!(!format!("{}{}", ended.stdout, ended.stderr).contains(&password));
}

/// One Task of a pipeline run that shares a VM config, guarded by `allowed-vms` with these rules.
fn sharing(cluster: &Cluster, plugin: &str, rules: &str) -> Step {
    let step = cluster
        .run()
        .flag("--plugin", plugin)
        .flag("--run-uid", "run")
        .flag("--task-uid", format!("run-{plugin}"))
        .flag("--pod-uid", format!("run-{plugin}-pod"));
    let rules = step.scratch_file("rules.txt", rules.as_bytes());
    step.flag("--guard", format!("allowed-vms={rules}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_config_that_tasks_share_is_asked_about_where_it_is_made_and_where_it_is_taken_up() {
    let rules = "image Sonoma.orkasi\ncores * 6\n";
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let denied = sharing(&cluster, "init", rules)
            .param("base-image", "Ventura.orkasi")
            .ended()
            .await;
        denied.assert(212, "denied");
        assert!(cluster.sim.state().configs.is_empty());
        let made = sharing(&cluster, "init", rules)
            .param("base-image", "Sonoma.orkasi")
            .param("cpu-count", "12")
            .ended()
            .await;
        made.assert(0, "succeeded");
        made.assert_says(&["cpu-cores from 12 to 6"]);
        assert_eq!(cluster.sim.state().configs[0].cpu, 6);
        assert_eq!(
            made.report["grants"]["used"]["images"],
            serde_json::json!(["Sonoma.orkasi"])
        );
        // Made under other rules, it cannot be changed any more.
        let narrower = "image Sonoma.orkasi\ncores * 4\n";
        let refused = sharing(&cluster, "deploy", narrower)
            .param("script", TRUE)
            .ended()
            .await;
        refused.assert(212, "denied");
        assert!(cluster.sim.state().vms.is_empty());
        let built = sharing(&cluster, "deploy", rules)
            .param("script", TRUE)
            .ended()
            .await;
        built.assert(0, "succeeded");
    }
}
