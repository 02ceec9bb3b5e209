//! `--hand-over kubernetes`: the Secret and the ConfigMap of the older Tasks, for steps that are not ours.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end::{Cluster, Ended, Kubernetes, Refusal, Step, documents, hash, repository};
use orka_sim::{FaultAction, FaultRule};
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
        init(&cluster, &kubernetes, "run-a")
            .ended()
            .await
            .assert(0, "succeeded");
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
    for right in ["create secrets", "create configmaps"] {
        let cluster = Cluster::start().await;
        let kubernetes = Kubernetes::start().await;
        kubernetes.forbid(right);
        let ended = init(&cluster, &kubernetes, "run-a").ended().await;
        assert_untouched(&cluster, &ended);
        let (verb, resource) = right.split_once(' ').unwrap();
        ended.assert_says(&[
            &format!("cannot {verb} resource \"{resource}\""),
            &format!("with the verb `{verb}` on `{resource}`"),
            "tekton/overlays/hand-over",
        ]);
        assert!(
            kubernetes.objects().is_empty(),
            "{:?}",
            kubernetes.objects()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_with_the_same_names_is_refused_and_the_first_is_left_alone() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    init(&cluster, &kubernetes, "run-a")
        .ended()
        .await
        .assert(0, "succeeded");
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
    init(&cluster, &kubernetes, "run-a")
        .ended()
        .await
        .assert(0, "succeeded");
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
    init(&cluster, &kubernetes, "run-a")
        .ended()
        .await
        .assert(0, "succeeded");
    assert_eq!(kubernetes.objects().len(), 2);
}

/// VMs cost money: they go, whatever becomes of the Secret; and what stays of that is no success.
#[tokio::test(flavor = "multi_thread")]
async fn teardown_purges_also_where_it_may_not_delete_the_secret() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    init(&cluster, &kubernetes, "run-a")
        .ended()
        .await
        .assert(0, "succeeded");
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
    let ended = init(&cluster, &kubernetes, "run-a")
        .without("--run-uid")
        .ended()
        .await;
    assert_untouched(&cluster, &ended);
    ended.assert_says(&["`--hand-over kubernetes` needs the run's UID"]);
    let bad = init(&cluster, &kubernetes, "run-a").flag("--token-secret", "../secrets/x");
    let ended = bad.ended().await;
    assert_untouched(&cluster, &ended);
    ended.assert_says(&["`orka-token-secret` is `../secrets/x`, which is no name of a Secret"]);
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
        teardown(&cluster, &kubernetes, "run-a"),
    ] {
        step.ended().await.assert(0, "succeeded");
    }
    let path = repository().join("tekton/overlays/hand-over/role.yaml");
    let role = documents(&std::fs::read_to_string(path).unwrap()).remove(0);
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items.map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for resource in texts(&rule["resources"]) {
            let names = texts(&rule["resourceNames"]);
            let things = match names.as_slice() {
                [] => vec![resource],
                names => names
                    .iter()
                    .map(|name| format!("{resource}/{name}"))
                    .collect(),
            };
            for verb in texts(&rule["verbs"]) {
                granted.extend(things.iter().map(|thing| format!("{verb} {thing}")));
            }
        }
    }
    assert_eq!(kubernetes.rights(), granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_may_not_purge_the_run_reaches_neither_token_nor_objects() {
    let mut config = Cluster::orka2();
    config.api_version = "2.1.0".to_owned();
    let cluster = Cluster::with(config).await;
    let kubernetes = Kubernetes::start().await;
    init(&cluster, &kubernetes, "run-a")
        .ended()
        .await
        .assert(0, "succeeded");
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
