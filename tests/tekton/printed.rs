//! The Task that `orka-step plugin task` prints, as Tekton starts its step.

use end_to_end::{Cluster, Definition, Namespace, Schemas, Step, guest, refusals};

use super::{AWKWARD, AWKWARD_VALUE, assert_outcome};

async fn printed(command: &[&str]) -> Definition {
    let mut step = Step::new(&["plugin", "task"]);
    for word in command {
        step = step.argument(*word);
    }
    let ended = step.flag("--image", "orka-step:0.1.0").ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    let task = Definition::parse(&ended.stdout);
    let mut problems = Schemas::read().problems(task.document());
    problems.extend(refusals(task.document()));
    assert!(problems.is_empty(), "{problems:#?}");
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn a_printed_task_builds_and_alters_nothing_on_its_way() {
    let cluster = Cluster::start().await;
    let task = printed(&["build"]).await;
    let ended = Namespace::of(&cluster)
        .run(&task)
        .empty_dir("orka")
        .param("base-image", "Sonoma.orkasi")
        .param("env", &format!("A={AWKWARD_VALUE}"))
        .param("script", AWKWARD)
        .ended()
        .await;
    assert_outcome(&ended, 0, "succeeded");
    assert_eq!(ended.file("script-as-it-came").unwrap(), AWKWARD.as_bytes());
    assert_eq!(ended.file("a").unwrap(), AWKWARD_VALUE.as_bytes());
    for result in task.document()["spec"]["results"].as_array().unwrap() {
        let name = result["name"].as_str().unwrap();
        assert!(!name.is_empty() && result["description"].is_string());
    }
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_printed_task_for_a_foreign_plugin_does_what_the_workspace_grants_says() {
    let cluster = Cluster::start().await;
    let plugin = guest("several").to_str().unwrap().to_owned();
    let task = printed(&[&plugin, "--plugin-path", &plugin]).await;
    let namespace = Namespace::of(&cluster);
    // The Task requires the workspace: without it the plugin would not start.
    let grants = tempfile::tempdir().unwrap();
    let run = async |text: &str| {
        std::fs::write(grants.path().join("grants.yaml"), text).unwrap();
        let pod = namespace.run(&task).empty_dir("orka");
        pod.workspace("grants", grants.path()).ended().await
    };
    assert_outcome(&run("grants: []\n").await, 212, "denied");
    cluster.assert_untouched();
    let granted = "grants:\n- plugin: several\n  capabilities: ['*']\n";
    assert_outcome(&run(granted).await, 0, "succeeded");
    cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_printed_task_asks_the_guards_of_its_workspace() {
    let cluster = Cluster::start().await;
    let task = printed(&["build"]).await;
    let guards = tempfile::tempdir().unwrap();
    let rules = [
        ("guards", "allowed-vms=rules.txt\n"),
        ("rules.txt", "image Sonoma.orkasi\n"),
    ];
    for (file, text) in rules {
        std::fs::write(guards.path().join(file), text).unwrap();
    }
    let namespace = Namespace::of(&cluster);
    for (image, code, outcome) in [
        ("Sonoma.orkasi", 0, "succeeded"),
        ("Ventura.orkasi", 212, "denied"),
    ] {
        let ended = namespace
            .run(&task)
            .empty_dir("orka")
            .workspace("guards", guards.path())
            .param("base-image", image)
            .param("script", "true")
            .ended()
            .await;
        assert_outcome(&ended, code, outcome);
    }
    cluster.assert_purged();
}
