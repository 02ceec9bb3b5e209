//! `orka-step migrate`, on what people have.

use end_to_end::{Definition, Ended, Step, repository};
use serde_json::{Value, json};

/// A Pipeline as the older Tasks' own samples have it, and as their readers changed it.
const OLD: &str = r#"
apiVersion: tekton.dev/v1beta1
kind: Pipeline
metadata:
  name: parallel
spec:
  workspaces: [{name: shared-data}]
  tasks:
    - name: setup
      taskRef: {name: orka-init}
      params:
        - {name: base-image, value: 90GBigSurSSH.img}
        - {name: orka-tekton-runner-image, value: "ghcr.io/macstadium/orka-tekton-runner:latest"}
    - name: ruby
      retries: 1
      taskRef: {name: orka-deploy}
      params:
        - {name: copy-build, value: "false"}
        - name: script
          value: |
            #!/usr/bin/env ruby
            puts "Hello macOS"
      workspaces: [{name: orka, workspace: shared-data}]
  finally:
    - name: cleanup
      taskRef: {name: orka-teardown}
---
apiVersion: tekton.dev/v1beta1
kind: PipelineRun
metadata:
  name: run-parallel
spec:
  serviceAccountName: orka-svc
  pipelineRef: {name: parallel}
  workspaces: [{name: shared-data, emptyDir: {}}]
"#;

async fn migrate(yaml: &str, json: bool) -> Ended {
    let step = Step::new(&["migrate"]);
    let file = step.scratch_file("old.yaml", yaml.as_bytes());
    let step = step.argument(file);
    if json {
        step.argument("--json").ended().await
    } else {
        step.ended().await
    }
}

#[tokio::test]
async fn an_old_pipeline_works_as_it_is_and_what_differs_is_told() {
    let ended = migrate(OLD, false).await;
    assert_eq!(ended.code, Some(0), "{ended}");
    for said in [
        "task `setup` (orka-init)",
        "the parameter `orka-tekton-runner-image` has no effect",
        "the service account `orka-svc`",
        "`tekton.dev/v1beta1` is deprecated",
        "1 file, 3 uses of the Orka Tasks: 0 to change",
    ] {
        assert!(ended.stdout.contains(said), "{said}\n{ended}");
    }
}

#[tokio::test]
async fn what_has_to_be_changed_is_in_the_exit_code_and_in_json() {
    let yaml = OLD.replace("copy-build", "ssh-username");
    let ended = migrate(&yaml, true).await;
    assert_eq!(ended.code, Some(1), "{ended}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (report["schema"].as_i64(), report["exitCode"].as_i64()),
        (Some(1), Some(1))
    );
    assert_eq!(
        (report["uses"].as_i64(), report["change"].as_i64()),
        (Some(3), Some(1))
    );
    let places = report["places"].as_array().unwrap();
    let place = places.iter().find(|place| place["task"] == "ruby").unwrap();
    assert_eq!(place["uses"], "orka-deploy");
    assert_eq!(place["findings"][0]["code"], "param.gone");
    assert_eq!(place["findings"][0]["weight"], "change");
}

#[tokio::test]
async fn a_file_that_is_no_manifest_is_an_error() {
    let ended = migrate("a: [", false).await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&["is not YAML"]);
}

/// What `migrate` knows of parameters is what the Tasks have.
#[tokio::test]
async fn every_parameter_of_the_tasks_is_known() {
    for name in ["orka-full", "orka-init", "orka-deploy", "orka-teardown"] {
        let params: Vec<Value> = Definition::task(name)
            .defaults()
            .into_iter()
            .map(|(name, default)| json!({"name": name, "value": default.unwrap_or_default()}))
            .collect();
        let run = json!({"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"name": "x"},
            "spec": {"taskRef": {"name": name}, "params": params}});
        // JSON is YAML.
        let ended = migrate(&run.to_string(), true).await;
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(report["uses"], 1, "{ended}");
        for place in report["places"].as_array().unwrap() {
            assert_eq!(place["findings"], json!([]), "{name}");
        }
    }
}

#[tokio::test]
async fn our_own_samples_need_no_change() {
    let step = Step::new(&["migrate"]);
    let mut step = step.argument("--json");
    for task in ["orka-full", "orka-deploy"] {
        let samples = repository().join(format!("tekton/task/{task}/0.3/samples"));
        for entry in std::fs::read_dir(samples).unwrap() {
            step = step.argument(entry.unwrap().path().to_str().unwrap());
        }
    }
    let ended = step.ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert!(report["uses"].as_i64().unwrap() >= 15, "{report:#}");
    assert!(!ended.stdout.contains("param.unknown"), "{ended}");
}
