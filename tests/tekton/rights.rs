//! The Roles: each has what is asked for, and nothing besides.

use std::collections::BTreeSet;

use end_to_end::{Cluster, Kubernetes, Step, granted, name, repository, uid};
use orka_sim::{Seed, SeedKind};
use serde_json::Value;

use super::definitions::{manifest, manifests_of};

/// The CronJob's container as it is shipped.
fn container() -> Value {
    let cron_job = manifest("tekton/reaper/cronjob.yaml", "CronJob");
    cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0].clone()
}

/// The CronJob's command, against this cluster and this API.
fn reaper(cluster: &Cluster, kubernetes: &Kubernetes) -> Step {
    let container = container();
    let arguments = container["args"].as_array().unwrap().iter();
    let mut arguments = arguments.map(|argument| argument.as_str().unwrap());
    assert_eq!(arguments.next(), Some("reap"));
    let mounted = "--orka-credentials=/etc/orka-step/orka";
    let mut step = cluster.reap();
    let mut is_mounted = false;
    for argument in arguments {
        is_mounted |= argument == mounted;
        if argument != mounted {
            step = step.argument(argument);
        }
    }
    assert!(is_mounted, "{container}");
    let credentials = kubernetes.credentials();
    step.flag("--kubernetes-api", kubernetes.url())
        .flag("--kubernetes-credentials", credentials.to_str().unwrap())
}

/// A VM, and a VM config that has none, of a run that is over and whose pods are gone.
fn seed(cluster: &Cluster, kubernetes: &Kubernetes, prefix: &str) {
    let hours = std::time::Duration::from_secs(2 * 3600);
    let of_run = |number| name(prefix, &uid("over"), &uid("pod"), number);
    cluster.sim.seed([
        Seed::vm(of_run(1), hours),
        Seed::vm(of_run(2), hours).of_kind(SeedKind::ConfigOnly),
    ]);
    let two_hours_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(120);
    kubernetes.add_ended_pipeline_run(&uid("over"), &two_hours_ago.to_string());
    kubernetes.add_pod("ci", &uid("another"), &uid("another run"), "Running");
    kubernetes.add_pod("kube-system", &uid("system"), "", "Running");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reaper_asks_for_what_its_role_has_and_nothing_besides() {
    let role = manifest("tekton/reaper/rbac.yaml", "ClusterRole");
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    seed(&cluster, &kubernetes, "tekton");
    let ended = reaper(&cluster, &kubernetes).ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(cluster.names().is_empty(), "{ended}");
    assert_eq!(kubernetes.rights(), granted(&role));
}

/// The files of the overlay for one namespace.
const OVERLAY: &str = "tekton/overlays/reaper-namespaced";

/// The ConfigMap of its namespace.
const CONFIG: &str = "tekton/overlays/namespace/config.yaml";

/// The command of the overlay's CronJob in the namespace `ci`, without what the ConfigMap sets.
fn reaper_of_one_namespace(cluster: &Cluster, kubernetes: &Kubernetes) -> Step {
    let patch = manifest(&format!("{OVERLAY}/patch-own-namespace.yaml"), "CronJob");
    let patched = &patch["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(patched["name"], container()["name"]);
    assert!(patched.get("args").is_none());
    let mut step = reaper(cluster, kubernetes);
    for variable in patched["env"].as_array().unwrap() {
        let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
        assert_eq!(field, "metadata.namespace");
        step = step.environment(variable["name"].as_str().unwrap(), "ci");
    }
    step
}

/// It leaves the VMs of other namespaces, which it does not see live: theirs have another prefix.
#[tokio::test(flavor = "multi_thread")]
async fn the_reaper_of_one_namespace_asks_for_what_its_role_has_and_nothing_besides() {
    let role = manifest(&format!("{OVERLAY}/role.yaml"), "Role");
    let config = manifest(CONFIG, "ConfigMap");
    let read = &container()["envFrom"][0]["configMapRef"]["name"];
    assert_eq!(config["metadata"]["name"], *read);
    // The line that is to be filled in.
    let config = std::fs::read_to_string(repository().join(CONFIG)).unwrap();
    let (_, line) = config.split_once("\n  # ORKA_VM_PREFIX: ").unwrap();
    let prefix = line.trim_end();
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    seed(&cluster, &kubernetes, prefix);
    let of_another = name("tekton", &uid("elsewhere"), &uid("its pod"), 1);
    let hours = std::time::Duration::from_secs(2 * 3600);
    cluster.sim.seed([Seed::vm(&of_another, hours)]);
    let ended = reaper_of_one_namespace(&cluster, &kubernetes)
        .environment("ORKA_VM_PREFIX", prefix)
        .ended()
        .await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(cluster.names(), BTreeSet::from([of_another]), "{ended}");
    assert_eq!(kubernetes.rights(), granted(&role));
}

/// As where the ConfigMap of `overlays/namespace` was applied as it is, which has no prefix.
#[tokio::test(flavor = "multi_thread")]
async fn the_reaper_of_one_namespace_deletes_nothing_with_the_prefix_of_all() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    seed(&cluster, &kubernetes, "tekton");
    let before = cluster.names();
    let ended = reaper_of_one_namespace(&cluster, &kubernetes).ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&[
        "`--pod-namespace` needs another `--vm-prefix` than `tekton`",
        "`ORKA_VM_PREFIX`",
        "`orka-tekton-config`",
    ]);
    assert_eq!(cluster.names(), before);
}

/// Without the right to list runs, it deletes nothing and says which right that is.
#[tokio::test(flavor = "multi_thread")]
async fn the_reaper_deletes_nothing_where_a_right_is_missing() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    seed(&cluster, &kubernetes, "tekton");
    let before = cluster.names();
    kubernetes.forbid("list pipelineruns");
    let ended = reaper(&cluster, &kubernetes).ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&["cannot list resource \"pipelineruns\""]);
    assert_eq!(cluster.names(), before);
}

/// A new Role needs a test like those above.
#[test]
fn every_role_is_one_that_a_test_knows() {
    let roles: BTreeSet<String> = ["Role", "ClusterRole"]
        .into_iter()
        .flat_map(manifests_of)
        .collect();
    let known = [
        "tekton/overlays/hand-over/role.yaml",
        "tekton/overlays/reaper-namespaced/role.yaml",
        "tekton/reaper/rbac.yaml",
    ];
    assert_eq!(roles, known.map(str::to_owned).into());
}
