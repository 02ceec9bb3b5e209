//! Guards of the platform team: bound by whoever starts a run, or part of the Task.

use std::path::Path;

use end_to_end::{Cluster, Definition, Namespace, Pod, documents, repository};
use serde_json::Value;

use super::assert_outcome;

const SAMPLE: &str = "tekton/task/orka-full/0.3/samples/guards.yaml";

fn read(path: &str) -> Vec<Value> {
    documents(&std::fs::read_to_string(repository().join(path)).unwrap())
}

/// The data of a ConfigMap.
fn data(config_map: &Value) -> Vec<(&str, &str)> {
    let data = config_map["data"].as_object().unwrap();
    data.iter()
        .map(|(key, text)| (key.as_str(), text.as_str().unwrap()))
        .collect()
}

fn unbound(namespace: &Namespace, task: &Definition) -> Pod {
    namespace
        .run(task)
        .empty_dir("orka")
        .param("cpu-count", "12")
        .param("script", "true")
}

/// What the rules of sample and overlay allow, change and deny.
async fn assert_guarded(cluster: &Cluster, pod: impl Fn() -> Pod) {
    let ended = pod().param("base-image", "Ventura.orkasi").ended().await;
    assert_outcome(&ended, 212, "denied");
    ended.assert_says(&["guard `allowed-vms` denied image `Ventura.orkasi`"]);
    cluster.assert_nothing_left();
    let ended = pod().param("base-image", "Sonoma.orkasi").ended().await;
    assert_outcome(&ended, 0, "succeeded");
    ended.assert_says(&["cpu-cores from 12 to 8"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_binds_guards_that_hold_the_build_to_their_rules() {
    let cluster = Cluster::start().await;
    let sample = read(SAMPLE);
    let bound = &sample[1]["spec"]["workspaces"][1];
    assert_eq!(bound["configMap"]["name"], sample[0]["metadata"]["name"]);
    let directory = tempfile::tempdir().unwrap();
    for (key, text) in data(&sample[0]) {
        std::fs::write(directory.path().join(key), text).unwrap();
    }
    let namespace = Namespace::of(&cluster);
    let task = Definition::task("orka-full");
    let pod = || unbound(&namespace, &task).workspace("guards", directory.path());
    assert_guarded(&cluster, pod).await;
    // What is to be asked and is not there is no consent.
    std::fs::remove_file(directory.path().join("guards")).unwrap();
    let ended = pod().param("base-image", "Sonoma.orkasi").ended().await;
    assert_outcome(&ended, 211, "infra-failed");
    ended.assert_says(&["cannot read the list of guards"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overlay_asks_guards_in_every_build_and_takes_no_other_list() {
    let cluster = Cluster::start().await;
    let rules = read("tekton/overlays/guards/rules.yaml");
    let patch = read("tekton/overlays/guards/patch-ask-guards.yaml");
    let namespace = Namespace::of(&cluster).config_map("orka-guards", &data(&rules[0]));
    let task = Definition::task("orka-full").patched(&patch[0]);
    assert_guarded(&cluster, || unbound(&namespace, &task)).await;
    let requests = cluster.sim.state().requests.len();
    let ended = unbound(&namespace, &task)
        .workspace("guards", Path::new("/nowhere"))
        .param("base-image", "Ventura.orkasi")
        .ended()
        .await;
    assert_outcome(&ended, 211, "infra-failed");
    ended.assert_says(&["--guards"]);
    assert_eq!(cluster.sim.state().requests.len(), requests);
}

/// A plugin is chosen by whoever starts the run; a guard of the same name beside it judges nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_plugins_brings_no_guard() {
    let cluster = Cluster::start().await;
    let sample = read(SAMPLE);
    let guards = tempfile::tempdir().unwrap();
    for (key, text) in data(&sample[0]) {
        std::fs::write(guards.path().join(key), text).unwrap();
    }
    let plugins = tempfile::tempdir().unwrap();
    let odd = end_to_end::guest("odd-guard");
    std::fs::copy(odd, plugins.path().join("allowed-vms.wasm")).unwrap();
    let ended = unbound(&Namespace::of(&cluster), &Definition::task("orka-full"))
        .workspace("guards", guards.path())
        .workspace("plugin", plugins.path())
        .param("base-image", "Ventura.orkasi")
        .ended()
        .await;
    assert_outcome(&ended, 212, "denied");
    ended.assert_says(&["guard `allowed-vms` denied image"]);
}
