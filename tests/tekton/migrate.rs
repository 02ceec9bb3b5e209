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
    migrate_bytes(yaml.as_bytes(), json).await
}

async fn migrate_bytes(bytes: &[u8], json: bool) -> Ended {
    let step = Step::new(&["migrate"]);
    let file = step.scratch_file("old.yaml", bytes);
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
async fn a_file_that_is_no_manifest_is_an_error_that_says_what_it_is() {
    let wide: Vec<u8> = "kind: Pipeline\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let wide = [&[0xff, 0xfe], wide.as_slice()].concat();
    let large = vec![b'#'; 17 << 20];
    for (bytes, said) in [
        (&b"a: ["[..], &["is not YAML"][..]),
        (
            b"kind: Pipeline\nspec:\n\ttasks: []\n",
            &["is not YAML", "line 3 is indented with a tab"],
        ),
        (
            b"kind: Pipeline\nname: caf\xe9\n",
            &["is not UTF-8 text (line 2)"],
        ),
        (&wide, &["is not UTF-8 text", "UTF-16"]),
        (
            b"kind: Pipeline\nspec:\n  {{- if .Values.on }}\n  tasks: []\n  {{- end }}\n",
            &["is a template", "line 3", "helm template"],
        ),
        (
            b"kind: Pipeline\nspec:\n  x: {{ .Values.x }}\n",
            &["is a template", "line 3"],
        ),
        (b"a: &a [*a, *a]\n", &["is not YAML"]),
        (b"%PDF-1.4\n\x00\x01\x02", &["is not YAML"]),
        (&large, &["is larger than 16 MiB"]),
    ] {
        let ended = migrate_bytes(bytes, false).await;
        assert_eq!(ended.code, Some(211), "{ended}");
        ended.assert_says(said);
        ended.assert_says(&["old.yaml"]);
    }
    let ended = Step::new(&["migrate", "/"]).ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&["is a directory"]);
}

/// References inside references, each a line long, would fill any memory.
#[tokio::test]
async fn a_file_that_grows_when_it_is_read_is_refused() {
    let mut yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let inner = format!("*a{},", level - 1).repeat(9);
        yaml += &format!("a{level}: &a{level} [{inner}]\n");
    }
    let ended = migrate(&yaml, false).await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&["is not YAML"]);
}

#[tokio::test]
async fn a_file_without_a_use_is_named_and_one_that_cannot_be_read_hides_no_other() {
    let step = Step::new(&["migrate"]);
    let file = |name: &str, yaml: &str| step.scratch_file(name, yaml.as_bytes());
    let idle = file("idle.yaml", "kind: ConfigMap\nmetadata: {name: x}\n");
    let files = [idle.clone(), file("old.yaml", OLD)];
    let ended = Step::new(&["migrate", &files[0], &files[1]]).ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(
        ended
            .stdout
            .contains(&format!("nothing in {idle} uses the older Tasks\n")),
        "{ended}"
    );
    let ended = Step::new(&["migrate", "--json", &files[0]]).ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(ended.summary()["withoutUse"], json!([idle]));
    let broken = file("broken.yaml", "a: [");
    let ended = Step::new(&["migrate", "--json", &broken, &files[0], &files[1]])
        .ended()
        .await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&["broken.yaml"]);
    let report = ended.summary();
    assert_eq!(
        (&report["unread"], &report["withoutUse"]),
        (&json!([broken]), &json!([idle]))
    );
    assert_eq!(
        (&report["uses"], &report["exitCode"]),
        (&json!(3), &json!(211))
    );
    assert_eq!(
        (&report["files"], &report["filesRead"]),
        (&json!(3), &json!(2))
    );
    let ended = Step::new(&["migrate", &broken, &files[1]]).ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    let last = ended.stdout.lines().last().unwrap();
    assert!(
        last.starts_with("1 of 2 files read, 3 uses of the Orka Tasks: 0 to change, "),
        "{ended}"
    );
    assert!(
        last.ends_with("; exit code 211, since not everything was read"),
        "{ended}"
    );
    // What has to be changed is said all the same.
    let refused = OLD.replacen("value: \"false\"", "value: \"False\"", 1);
    let changes = file("changes.yaml", &refused);
    let ended = Step::new(&["migrate", &broken, &changes]).ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    assert!(
        ended.stdout.contains(
            "`orka-deploy` refuses it: parameter `copy-build` has to be `true` or `false`"
        ),
        "{ended}"
    );
    let last = ended.stdout.lines().last().unwrap();
    assert!(last.contains(": 1 to change, "), "{ended}");
    assert!(
        last.ends_with("and there is something to change"),
        "{ended}"
    );
}

#[tokio::test]
async fn a_step_that_reads_the_older_hand_over_is_named() {
    let reader = "    - name: notify
      taskSpec:
        steps:
          - name: ask
            image: x
            script: kubectl get secret orka-token
  finally:";
    let yaml = OLD.replacen("  finally:", reader, 1);
    let ended = migrate(&yaml, false).await;
    assert_eq!(ended.code, Some(1), "{ended}");
    for said in [
        "Pipeline `parallel`, task `notify`\n",
        "change   step `ask` has, in its script, the name of the Secret `orka-token`",
        "`hand-over: kubernetes`",
        "`kubectl apply -k tekton/overlays/hand-over`",
    ] {
        assert!(ended.stdout.contains(said), "{said}\n{ended}");
    }
}

/// What `migrate` knows of parameters and steps is what the Tasks have.
#[tokio::test]
async fn every_parameter_and_step_of_the_tasks_is_known() {
    for name in ["orka-full", "orka-init", "orka-deploy", "orka-teardown"] {
        let params: Vec<Value> = Definition::task(name)
            .defaults()
            .into_iter()
            .map(
                |(name, default)| json!({"name": name, "value": default.unwrap_or("x".to_owned())}),
            )
            .collect();
        let steps = Definition::task(name).document()["spec"]["steps"].clone();
        let steps: Vec<Value> = (steps.as_array().unwrap().iter())
            .map(|step| json!({"name": step["name"], "computeResources": {}}))
            .collect();
        let run = json!({"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"name": "x"},
            "spec": {"taskRef": {"name": name}, "params": params, "stepSpecs": steps}});
        // JSON is YAML.
        let ended = migrate(&run.to_string(), true).await;
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(report["uses"], 1, "{ended}");
        let places = report["places"].as_array().unwrap();
        let findings = places
            .iter()
            .flat_map(|place| place["findings"].as_array().unwrap());
        let unknown: Vec<&Value> = findings
            .filter(|it| it["code"] != "task-run.alone")
            .collect();
        assert!(unknown.is_empty(), "{name}: {unknown:#?}");
    }
}

#[tokio::test]
async fn our_own_samples_need_no_change() {
    let step = Step::new(&["migrate"]);
    let mut step = step.argument("--json");
    for of in [
        "task/orka-full/0.3",
        "task/orka-deploy/0.3",
        "task/orka-init/0.3",
        "task/orka-teardown/0.3",
        "stepaction/orka-step/0.1",
    ] {
        let samples = repository().join(format!("tekton/{of}/samples"));
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
