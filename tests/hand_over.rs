//! `--hand-over kubernetes`: the Secret and the ConfigMap of the older Tasks, for steps that are not ours.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end::{
    Cluster, Ended, Kubernetes, Refusal, Step, Stream, documents, granted, hash, repository,
};
use orka_sim::{FaultAction, FaultRule};
use rustix::process::Signal;
use serde_json::Value;

const SECRET: &str = "secrets/orka-token";
const CONFIG_MAP: &str = "configmaps/orka-vm-name";

fn task(cluster: &Cluster, kubernetes: &Kubernetes, plugin: &str, run: &str) -> Step {
    let step = cluster
        .run()
        .without("--workspace")
        .without("--ssh-credentials")
        .flag("--plugin", plugin);
    of_run(step, kubernetes, run, plugin)
}

fn of_run(step: Step, kubernetes: &Kubernetes, run: &str, task: &str) -> Step {
    let credentials = kubernetes.credentials();
    step.flag("--run-uid", run)
        .flag("--run-name", format!("name-of-{run}"))
        .flag("--task-uid", format!("task-{run}-{task}"))
        .flag("--pod-uid", format!("{run}-{task}"))
        .flag("--hand-over", "kubernetes")
        .flag("--kubernetes-api", kubernetes.url())
        .flag("--kubernetes-credentials", credentials.to_str().unwrap())
}

fn init(cluster: &Cluster, kubernetes: &Kubernetes, run: &str) -> Step {
    task(cluster, kubernetes, "init", run).param("base-image", "Sonoma.orkasi")
}

fn teardown(cluster: &Cluster, kubernetes: &Kubernetes, run: &str) -> Step {
    task(cluster, kubernetes, "teardown", run)
}

async fn hands_over(cluster: &Cluster, kubernetes: &Kubernetes, run: &str) {
    let ended = init(cluster, kubernetes, run).ended().await;
    ended.assert(0, "succeeded");
}

fn token(kubernetes: &Kubernetes) -> String {
    let encoded = kubernetes.objects()[SECRET]["data"]["token"].clone();
    let bytes = STANDARD.decode(encoded.as_str().unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Nothing was deployed, and nothing was left anywhere.
#[track_caller]
fn assert_untouched(cluster: &Cluster, ended: &Ended) {
    assert_eq!(ended.code, Some(211), "{ended}");
    let state = cluster.sim.state();
    assert!(state.is_clean(), "{ended}");
    for path in ["/resources/vm/*", "/api/v1/*/vm*"] {
        assert_eq!(state.requests_to("POST", path).len(), 0, "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_fills_both_and_teardown_revokes_and_deletes_them() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let kubernetes = Kubernetes::start().await;
        let ended = init(&cluster, &kubernetes, "run-a").ended().await;
        ended.assert(0, "succeeded");
        let objects = kubernetes.objects();
        assert_eq!(objects.keys().collect::<Vec<_>>(), [CONFIG_MAP, SECRET]);
        let name = objects[CONFIG_MAP]["data"]["vm-name"].as_str().unwrap();
        assert!(
            name.starts_with(&format!("tekton-{}-", hash("run-a"))),
            "{name}"
        );
        assert_eq!(name, ended.result("vm-name"));
        for object in objects.values() {
            let owner = &object["metadata"]["ownerReferences"][0];
            assert_eq!(owner["kind"], "PipelineRun");
            assert_eq!(
                (&owner["name"], &owner["uid"]),
                (&"name-of-run-a".into(), &"run-a".into())
            );
        }
        let token = token(&kubernetes);
        let state = cluster.sim.state();
        let is_live = state
            .tokens
            .iter()
            .any(|it| it.token == token && !it.revoked);
        let given = std::fs::read_to_string(cluster.orka_credentials().join("token"));
        assert!(
            is_live || given.is_ok_and(|given| given.trim() == token),
            "{ended}"
        );
        for said in [&ended.stderr, &ended.stdout] {
            assert!(!said.contains(&token), "{ended}");
        }
        assert!(!ended.results.values().any(|result| result.contains(&token)));

        let ended = teardown(&cluster, &kubernetes, "run-a").ended().await;
        ended.assert(0, "succeeded");
        assert!(!ended.stderr.contains(&token), "{ended}");
        assert!(kubernetes.objects().is_empty());
        cluster.assert_nothing_left();
    }
}

/// Before 2.1.1 each login has a token of its own, and nobody else loses anything with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_revoked_where_that_is_safe() {
    for (version, is_revoked) in [("2.1.0", true), ("2.1.1", false)] {
        let mut config = Cluster::orka2();
        config.api_version = version.to_owned();
        let cluster = Cluster::with(config).await;
        let kubernetes = Kubernetes::start().await;
        hands_over(&cluster, &kubernetes, "run-a").await;
        assert_eq!(cluster.sim.state().live_tokens(), 1, "{version}");
        let ended = teardown(&cluster, &kubernetes, "run-a").ended().await;
        ended.assert(0, "succeeded");
        let left = cluster.sim.state().live_tokens();
        assert_eq!(left, usize::from(!is_revoked), "{version}: {ended}");
        let said = ended
            .stderr
            .contains("the Secret `orka-token`: token revoked");
        assert_eq!(said, is_revoked, "{version}: {ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named_before_anything_is_deployed() {
    let rights = ["create", "get", "patch", "delete"];
    for right in rights.map(|verb| ["secrets", "configmaps"].map(|it| format!("{verb} {it}"))) {
        for right in right {
            let cluster = Cluster::start().await;
            let kubernetes = Kubernetes::start().await;
            kubernetes.forbid(&right);
            let ended = init(&cluster, &kubernetes, "run-a").ended().await;
            assert_untouched(&cluster, &ended);
            let (verb, resource) = right.split_once(' ').unwrap();
            ended.assert_says(&[
                &format!("cannot {verb} resource \"{resource}\""),
                &format!("with the verb `{verb}` on `{resource}`"),
                "tekton/overlays/hand-over",
            ]);
            let objects = kubernetes.objects();
            let left: Vec<_> = objects.keys().collect();
            if verb == "delete" {
                assert_eq!(left.len(), 1, "{left:?}");
                let name = format!("{}/", resource.trim_end_matches('s'));
                assert!(ended.result("leftovers").starts_with(&name), "{ended}");
            } else {
                assert!(left.is_empty(), "{right}: {left:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_with_the_same_names_is_refused_and_the_first_is_left_alone() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    hands_over(&cluster, &kubernetes, "run-a").await;
    kubernetes.add_pipeline_run("run-a");
    let before = kubernetes.objects();
    let ended = init(&cluster, &kubernetes, "run-b").ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&[
        "there is a Secret `orka-token` already",
        &hash("run-a"),
        "`orka-token-$(context.pipelineRun.name)`",
        "kubectl --namespace ci delete secret/orka-token",
    ]);
    // Its `finally` runs all the same.
    teardown(&cluster, &kubernetes, "run-b")
        .ended()
        .await
        .assert(0, "succeeded");
    assert_eq!(kubernetes.objects(), before);
    // With names of its own it works beside the first.
    let named = |step: Step| {
        step.flag("--token-secret", "b-token")
            .flag("--vm-name-config", "b-name")
    };
    named(init(&cluster, &kubernetes, "run-c"))
        .ended()
        .await
        .assert(0, "succeeded");
    assert_eq!(kubernetes.objects().len(), 4);
    named(teardown(&cluster, &kubernetes, "run-c"))
        .ended()
        .await
        .assert(0, "succeeded");
    assert_eq!(kubernetes.objects(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_made_is_neither_filled_nor_deleted() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    kubernetes.add_object(CONFIG_MAP);
    let ended = init(&cluster, &kubernetes, "run-a").ended().await;
    assert_untouched(&cluster, &ended);
    ended.assert_says(&[
        "there is a ConfigMap `orka-vm-name` already, and no run of this program has made it",
    ]);
    teardown(&cluster, &kubernetes, "run-a")
        .ended()
        .await
        .assert(0, "succeeded");
    assert_eq!(
        kubernetes.objects().keys().collect::<Vec<_>>(),
        [CONFIG_MAP]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_fails_gives_the_names_back() {
    let cluster = Cluster::start().await;
    cluster.sim.add_fault(FaultRule::new(
        "POST",
        "/resources/vm/create",
        FaultAction::Error {
            status: 400,
            message: "no such image".to_owned(),
        },
    ));
    let kubernetes = Kubernetes::start().await;
    let ended = init(&cluster, &kubernetes, "run-a").ended().await;
    assert_ne!(ended.code, Some(0), "{ended}");
    assert!(kubernetes.objects().is_empty(), "{ended}");
    ended.assert_says(&["deleted the Secret `orka-token`"]);
}

/// The retry of a pod that was killed in between: the run's own objects are taken up.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_pods_objects_are_taken_up() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    hands_over(&cluster, &kubernetes, "run-a").await;
    let again = init(&cluster, &kubernetes, "run-a").flag("--pod-uid", "retry");
    again.ended().await.assert(0, "succeeded");
    assert_eq!(kubernetes.objects().len(), 2);
    let tokens = cluster.sim.state().tokens;
    let live: Vec<_> = tokens.iter().filter(|it| !it.revoked).collect();
    assert_eq!(live.len(), 1, "the earlier one is nobody's any more");
    assert_eq!(live[0].token, token(&kubernetes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_fails_in_passing_is_made_again() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    kubernetes.script([
        Some(Refusal::Status(500)),
        Some(Refusal::Close),
        None,
        Some(Refusal::Status(429)),
    ]);
    hands_over(&cluster, &kubernetes, "run-a").await;
    assert_eq!(kubernetes.objects().len(), 2);
}

/// VMs cost money: they go, whatever becomes of the Secret; and what stays of that is no success.
#[tokio::test(flavor = "multi_thread")]
async fn teardown_purges_also_where_it_may_not_delete_the_secret() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    hands_over(&cluster, &kubernetes, "run-a").await;
    kubernetes.forbid("delete secrets");
    let ended = teardown(&cluster, &kubernetes, "run-a").ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&["with the verb `delete` on `secrets`"]);
    assert_eq!(kubernetes.objects().keys().collect::<Vec<_>>(), [SECRET]);
    let state = cluster.sim.state();
    assert!(state.configs.is_empty(), "{:?}", state.configs);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_flag_kubernetes_is_not_asked() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    for step in [
        init(&cluster, &kubernetes, "run-a"),
        teardown(&cluster, &kubernetes, "run-a"),
    ] {
        step.without("--hand-over")
            .ended()
            .await
            .assert(0, "succeeded");
    }
    assert_eq!(kubernetes.requests(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_could_recognise_is_refused() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    for flag in ["--run-uid", "--run-name"] {
        let lone = init(&cluster, &kubernetes, "run-a").without(flag);
        let ended = lone.ended().await;
        assert_untouched(&cluster, &ended);
        ended.assert_says(&["`--hand-over kubernetes` needs a PipelineRun"]);
    }
    for (flag, value, said) in [
        (
            "--token-secret",
            "../secrets/x",
            "`orka-token-secret` is `../secrets/x`, which is no name of a Secret",
        ),
        (
            "--vm-name-config-key",
            "a/b",
            "`orka-vm-name-config-key` is `a/b`, which is no key of a ConfigMap",
        ),
    ] {
        let bad = init(&cluster, &kubernetes, "run-a").flag(flag, value);
        let ended = bad.ended().await;
        assert_untouched(&cluster, &ended);
        ended.assert_says(&[said]);
    }
    assert_eq!(kubernetes.requests(), Vec::<String>::new());
}

/// The Role is all that it needs, and all of it is needed.
#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_the_overlay_has_what_is_asked_for_and_nothing_besides() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    for step in [
        init(&cluster, &kubernetes, "run-a"),
        init(&cluster, &kubernetes, "run-a").flag("--pod-uid", "retry"),
        // Whose PipelineRun is gone.
        init(&cluster, &kubernetes, "run-b"),
        teardown(&cluster, &kubernetes, "run-b"),
    ] {
        step.ended().await.assert(0, "succeeded");
    }
    let path = repository().join("tekton/overlays/hand-over/role.yaml");
    let role = documents(&std::fs::read_to_string(path).unwrap()).remove(0);
    assert_eq!(kubernetes.rights(), granted(&role));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_may_not_purge_the_run_reaches_neither_token_nor_objects() {
    let cluster = Cluster::with(orka_2_1_0()).await;
    let kubernetes = Kubernetes::start().await;
    hands_over(&cluster, &kubernetes, "run-a").await;
    let before = kubernetes.objects();
    let ended = of_run(cluster.guest("powers"), &kubernetes, "run-a", "powers")
        .granted("[[grant]]\nplugin = \"powers\"\ncapabilities = [\"cluster.read\"]\n")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    ended.assert_says(&["cluster.purge-run: run.not-granted"]);
    assert_eq!(kubernetes.objects(), before, "{ended}");
    let token = token(&kubernetes);
    let tokens = cluster.sim.state().tokens;
    assert!(
        tokens.iter().any(|it| it.token == token && !it.revoked),
        "{ended}"
    );
}

fn orka_2_1_0() -> orka_sim::SimConfig {
    let mut config = Cluster::orka2();
    config.api_version = "2.1.0".to_owned();
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn another_init_of_the_same_run_takes_nothing_away() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    hands_over(&cluster, &kubernetes, "run-a").await;
    let before = kubernetes.objects();
    let second = |image: &str| {
        task(&cluster, &kubernetes, "init", "run-a")
            .param("base-image", image)
            .flag("--task-uid", "task-second")
            .flag("--pod-uid", "second")
    };
    // The same names, another image: refused before the VM config is looked at.
    let ended = second("Ventura.orkasi").ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&[
        "there is a Secret `orka-token` already, of another Task of this run",
        "give each `orka-init` of a Pipeline an `orka-token-secret` of its own",
    ]);
    assert_eq!(kubernetes.objects(), before, "{ended}");
    // A Secret of its own, but the first one's ConfigMap: its own is given back, and no more.
    let ended = second("Sonoma.orkasi")
        .flag("--token-secret", "second")
        .ended()
        .await;
    assert_eq!(ended.code, Some(211), "{ended}");
    assert_eq!(kubernetes.objects(), before, "{ended}");
    // The purge is of the whole run.
    teardown(&cluster, &kubernetes, "run-a")
        .ended()
        .await
        .assert(0, "succeeded");
    assert!(kubernetes.objects().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_taken_the_place_of_a_claimed_object_is_not_filled() {
    let cluster = Cluster::start().await;
    let kubernetes = Arc::new(Kubernetes::start().await);
    let other = Arc::clone(&kubernetes);
    kubernetes.before(
        "PATCH /api/v1/namespaces/ci/secrets/orka-token",
        move || other.replace_object(SECRET, "another"),
    );
    let ended = init(&cluster, &kubernetes, "run-a").ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&[
        "somebody has put another of this name in its place",
        "field is immutable",
    ]);
    let objects = kubernetes.objects();
    assert_eq!(objects.keys().collect::<Vec<_>>(), [SECRET]);
    assert_eq!(objects[SECRET]["data"], Value::Null);
    assert!(cluster.sim.state().configs.is_empty(), "{ended}");
    // The refusal repeats what was sent.
    for token in &cluster.sim.state().tokens {
        assert!(
            !ended.stderr.contains(&STANDARD.encode(&token.token)),
            "{ended}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_the_token_may_be_revoked_is_told_by_where_it_is_from() {
    let given_to = |cluster: &Cluster, step: Step, token: &str| {
        let path = cluster.orka_credentials().with_file_name("given");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("token"), token).unwrap();
        step.without("--orka-credentials")
            .flag("--orka-credentials", path.to_str().unwrap())
    };
    let is_live = |cluster: &Cluster, token: &str| {
        let tokens = cluster.sim.state().tokens;
        tokens.iter().any(|it| it.token == token && !it.revoked)
    };
    // `init` is given a token that others have, too; `teardown` logs in.
    let cluster = Cluster::with(orka_2_1_0()).await;
    let kubernetes = Kubernetes::start().await;
    let named = |step: Step| {
        step.flag("--token-secret", "others")
            .flag("--vm-name-config", "others-name")
    };
    hands_over(&cluster, &kubernetes, "run-x").await;
    let shared = token(&kubernetes);
    let step = named(init(&cluster, &kubernetes, "run-a"));
    let ended = given_to(&cluster, step, &shared).ended().await;
    ended.assert(0, "succeeded");
    ended.assert_says(&["the Secret `others` holds a copy of the token that was given"]);
    let ended = named(teardown(&cluster, &kubernetes, "run-a"))
        .ended()
        .await;
    ended.assert(0, "succeeded");
    assert!(is_live(&cluster, &shared), "{ended}");
    // `init` has logged in; `teardown` is given a token.
    init(&cluster, &kubernetes, "run-y")
        .flag("--token-secret", "own")
        .flag("--vm-name-config", "own-name")
        .ended()
        .await
        .assert(0, "succeeded");
    let encoded = kubernetes.objects()["secrets/own"]["data"]["token"].clone();
    let other = String::from_utf8(STANDARD.decode(encoded.as_str().unwrap()).unwrap()).unwrap();
    let step = teardown(&cluster, &kubernetes, "run-x");
    let ended = given_to(&cluster, step, &other).ended().await;
    ended.assert(0, "succeeded");
    assert!(!is_live(&cluster, &shared), "{ended}");
    assert!(is_live(&cluster, &other), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_teardown_that_cannot_sign_in_deletes_both_all_the_same() {
    for (refused, unreachable) in [(false, false), (false, true), (true, false)] {
        let cluster = Cluster::with(orka_2_1_0()).await;
        let kubernetes = Kubernetes::start().await;
        hands_over(&cluster, &kubernetes, "run-a").await;
        let mut step = teardown(&cluster, &kubernetes, "run-a");
        if refused {
            kubernetes.forbid("delete secrets");
        }
        if unreachable {
            step = step.flag("--orka-api", "http://127.0.0.1:1");
        } else {
            cluster.write_orka("password", "changed");
        }
        let ended = step.ended().await;
        assert_ne!(ended.code, Some(0), "{ended}");
        ended.assert_says(&["deleted the ConfigMap `orka-vm-name`"]);
        if unreachable {
            ended.assert_says(&["the token of the Secret `orka-token` was not revoked"]);
        } else {
            assert_eq!(cluster.sim.state().live_tokens(), 0, "{ended}");
        }
        if refused {
            assert_eq!(ended.result("leftovers"), "secret/orka-token", "{ended}");
            ended.assert_says(&[
                "`secret/orka-token` may still exist",
                "kubectl --namespace ci delete secret/orka-token",
            ]);
        } else {
            assert!(kubernetes.objects().is_empty(), "{ended}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_teardown_that_is_stopped_in_its_purge_deletes_both_all_the_same() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    hands_over(&cluster, &kubernetes, "run-a").await;
    for path in ["/resources/vm/*", "/resources/vm/list*"] {
        let silent = FaultRule::new("GET", path, FaultAction::Hang);
        cluster.sim.add_fault(silent);
    }
    let mut running = teardown(&cluster, &kubernetes, "run-a").start();
    running.says(Stream::Stderr, "==> purge run").await;
    running.signal(Signal::TERM);
    let ended = running.ended().await;
    ended.assert(143, "cancelled");
    ended.assert_says(&[
        "deleted the Secret `orka-token`",
        "deleted the ConfigMap `orka-vm-name`",
    ]);
    assert!(kubernetes.objects().is_empty(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_has_left_that_is_over_is_taken_over() {
    for how in ["ended", "gone", "another of its name"] {
        let cluster = Cluster::with(orka_2_1_0()).await;
        let kubernetes = Kubernetes::start().await;
        hands_over(&cluster, &kubernetes, "run-a").await;
        let before = token(&kubernetes);
        match how {
            "ended" => kubernetes.add_ended_pipeline_run("run-a", "2026-01-01T10:00:00Z"),
            "gone" => {}
            _ => kubernetes.add_pipeline_run_named("name-of-run-a", "another"),
        }
        let ended = init(&cluster, &kubernetes, "run-b").ended().await;
        ended.assert(0, "succeeded");
        ended.assert_says(&["took over the Secret `orka-token` of a run that is over"]);
        for object in kubernetes.objects().values() {
            let owner = &object["metadata"]["ownerReferences"][0];
            assert_eq!(owner["uid"], "run-b", "{how}");
        }
        let tokens = cluster.sim.state().tokens;
        let is_live = |token: &str| tokens.iter().any(|it| it.token == token && !it.revoked);
        assert!(!is_live(&before), "{how}: {ended}");
        assert!(is_live(&token(&kubernetes)), "{how}: {ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_tells_to_be_over_is_left_alone() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    hands_over(&cluster, &kubernetes, "run-a").await;
    let before = kubernetes.objects();
    kubernetes.forbid("get pipelineruns");
    let ended = init(&cluster, &kubernetes, "run-b").ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&[
        "there is a Secret `orka-token` already",
        "with the verb `get` on `pipelineruns.tekton.dev` in its Role",
        "kubectl --namespace ci delete secret/orka-token",
    ]);
    assert_eq!(kubernetes.objects(), before);
}
