//! `orka-step migrate`: what will differ for Pipelines and runs that use the older Tasks.
//!
//! Reads files and nothing else. What the older Tasks took is in [`rules`]; this file finds where they are used.

mod rules;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::console::Console;
use crate::failure::Failure;
use crate::outcome;
use crate::report;
use rules::{OldTask, Use};

/// Nothing has to be changed.
pub const EXIT_READY: u8 = 0;
/// Something has to be changed first.
pub const EXIT_CHANGES: u8 = 1;

/// A manifest with all samples is far smaller.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// It works as it is, in another way than before.
    Differs,
    /// It may work or not: somebody has to look.
    Check,
    /// It does not work as it is.
    Change,
}

impl Weight {
    fn word(self) -> &'static str {
        match self {
            Self::Differs => "differs",
            Self::Check => "check",
            Self::Change => "change",
        }
    }
}

/// One thing that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// Stable and dotted.
    pub code: &'static str,
    /// What is so.
    pub message: String,
    /// What to do, where there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What is to be said of one document, or of one use of a Task in it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    file: PathBuf,
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uses: Option<&'static str>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    schema: u32,
    exit_code: u8,
    files: usize,
    uses: usize,
    change: usize,
    check: usize,
    differs: usize,
    places: &'a [Place],
}

/// Reads the files, prints what will differ, and gives the exit code.
pub async fn migrate(files: &[PathBuf], as_json: bool, console: &Console) -> u8 {
    let mut places = Vec::new();
    for file in files {
        match of_file(file) {
            Ok(found) => places.extend(found),
            Err(failure) => {
                report::print_failure(console, &failure);
                return outcome::of_class(failure.class).1;
            }
        }
    }
    let count = |weight| {
        let findings = places.iter().flat_map(|place: &Place| &place.findings);
        findings.filter(|it| it.weight == weight).count()
    };
    let report = Report {
        schema: 1,
        exit_code: if count(Weight::Change) > 0 {
            EXIT_CHANGES
        } else {
            EXIT_READY
        },
        files: files.len(),
        uses: places.iter().filter(|place| place.uses.is_some()).count(),
        change: count(Weight::Change),
        check: count(Weight::Check),
        differs: count(Weight::Differs),
        places: &places,
    };
    let text = if as_json {
        match serde_json::to_string_pretty(&report) {
            Ok(json) => json + "\n",
            Err(error) => {
                let failure = Failure::internal("the report cannot be written").with_source(error);
                report::print_failure(console, &failure);
                return outcome::of_class(failure.class).1;
            }
        }
    } else {
        described(&report)
    };
    console.data(&text).await;
    report.exit_code
}

fn described(report: &Report<'_>) -> String {
    let mut text = String::new();
    for place in report.places {
        if place.findings.is_empty() && place.uses.is_none() {
            continue;
        }
        let task = match (&place.task, place.uses) {
            (Some(task), Some(uses)) => format!(", task `{task}` ({uses})"),
            (None, Some(uses)) => format!(" ({uses})"),
            _ => String::new(),
        };
        text += &format!(
            "{}: {} `{}`{task}\n",
            place.file.display(),
            place.kind,
            place.name
        );
        if place.findings.is_empty() {
            text += "  same     works as it is\n";
        }
        for finding in &place.findings {
            text += &format!("  {:<8} {}\n", finding.weight.word(), finding.message);
            if let Some(hint) = &finding.hint {
                text += &format!("           -> {hint}\n");
            }
        }
    }
    let plural = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {many}"),
    };
    text += &format!(
        "{}, {} of the Orka Tasks: {} to change, {} to check, {} that differ\n",
        plural(report.files, "file", "files"),
        plural(report.uses, "use", "uses"),
        report.change,
        report.check,
        report.differs
    );
    text
}

fn of_file(path: &Path) -> Result<Vec<Place>, Failure> {
    let shown = path.display();
    let trouble = |what: &str| Failure::config(format!("`{shown}` {what}"));
    let size = std::fs::metadata(path)
        .map_err(|error| trouble("cannot be read").with_source(error))?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(trouble("is larger than 16 MiB"));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| trouble("cannot be read").with_source(error))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|error| {
        trouble("is not YAML")
            .with_source(error)
            .with_hint("give manifests as `kubectl get … -o yaml` prints them; templates have to be rendered first")
    })?;
    let mut places = Vec::new();
    for document in documents {
        of_document(path, &document, &mut places);
    }
    Ok(places)
}

fn of_document(file: &Path, document: &Value, places: &mut Vec<Place>) {
    if let Some(items) = document["items"].as_array() {
        items
            .iter()
            .for_each(|item| of_document(file, item, places));
        return;
    }
    let kind = document["kind"].as_str().unwrap_or_default();
    let spec = &document["spec"];
    let place = |task: Option<&str>, uses: Option<OldTask>, findings: Vec<Finding>| Place {
        file: file.to_owned(),
        kind: kind.to_owned(),
        name: name_of(document),
        task: task.map(str::to_owned),
        uses: uses.map(OldTask::name),
        findings,
    };
    let mut found: Vec<Place> = Vec::new();
    match kind {
        "TaskRun" => {
            if let Some(used) = Use::of(spec) {
                let findings = used.findings();
                found.push(place(None, Some(used.task), findings));
            }
        }
        "Pipeline" | "PipelineRun" => {
            let pipeline = if kind == "Pipeline" {
                spec
            } else {
                &spec["pipelineSpec"]
            };
            let tasks = ["tasks", "finally"].map(|list| pipeline[list].as_array());
            let tasks: Vec<&Value> = tasks.into_iter().flatten().flatten().collect();
            let uses: Vec<Use<'_>> = tasks.iter().filter_map(|task| Use::of(task)).collect();
            for used in &uses {
                let mut findings = used.findings();
                findings.extend(used.findings_among(&uses));
                found.push(place(used.name(), Some(used.task), findings));
            }
        }
        _ => {}
    }
    // A run of a Pipeline in another file has nothing of ours but what belongs to runs.
    let is_run = matches!(kind, "TaskRun" | "PipelineRun");
    let mut findings = Vec::new();
    if is_run && (!found.is_empty() || spec.get("pipelineRef").is_some()) {
        findings.extend(rules::of_run(kind, spec));
    }
    if !found.is_empty() || kind == "Task" {
        findings.extend(rules::of_hand_over(document));
    }
    if !found.is_empty() {
        findings.extend(rules::of_version(document));
    }
    if !findings.is_empty() {
        places.push(place(None, None, findings));
    }
    places.append(&mut found);
}

fn name_of(document: &Value) -> String {
    let metadata = &document["metadata"];
    let name = metadata["name"].as_str().map(str::to_owned);
    let generated = || Some(format!("{}…", metadata["generateName"].as_str()?));
    name.or_else(generated).unwrap_or_else(|| "?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(yaml: &str) -> Vec<(Weight, &'static str)> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.yaml");
        std::fs::write(&file, yaml).unwrap();
        let places = of_file(&file).unwrap();
        let findings = places.into_iter().flat_map(|place| place.findings);
        findings.map(|it| (it.weight, it.code)).collect()
    }

    fn task_run(params: &str) -> String {
        format!(
            "apiVersion: tekton.dev/v1\nkind: TaskRun\nmetadata: {{name: x}}\nspec:\n  taskRef: {{name: orka-full}}\n  \
             params: [{params}]\n  workspaces: [{{name: orka, emptyDir: {{}}}}]\n"
        )
    }

    #[test]
    fn what_stays_the_same_gives_no_finding() {
        assert_eq!(
            codes(&task_run(
                "{name: base-image, value: x}, {name: script, value: 'echo $(HOME)'}, {name: cpu-count, value: '6'}"
            )),
            []
        );
    }

    #[test]
    fn what_differs_and_what_has_to_be_changed_are_told_apart() {
        for (param, weight, code) in [
            ("docker-image", Weight::Differs, "param.no-effect"),
            ("orka-api-url", Weight::Change, "param.gone"),
            ("ssh-secret-key", Weight::Change, "param.gone"),
            ("system-serial", Weight::Check, "param.intel"),
            ("basimage", Weight::Check, "param.unknown"),
        ] {
            let found = codes(&task_run(&format!("{{name: {param}, value: x}}")));
            assert_eq!(found, [(weight, code)], "{param}");
        }
        assert_eq!(
            codes(&task_run("{name: gpu-passthrough, value: 'false'}")),
            []
        );
    }

    #[test]
    fn a_pipeline_whose_init_has_other_credentials_needs_them_elsewhere_too() {
        let yaml = "
apiVersion: tekton.dev/v1beta1
kind: Pipeline
metadata: {name: p}
spec:
  tasks:
    - name: setup
      taskRef: {name: orka-init}
      params: [{name: base-image, value: x}, {name: orka-creds-secret, value: mine}]
    - name: build
      taskRef: {name: orka-deploy}
      params: [{name: script, value: 'true'}]
  finally:
    - name: clean
      taskRef: {name: orka-teardown}
";
        let found = codes(yaml);
        let elsewhere = found
            .iter()
            .filter(|(_, code)| *code == "credentials.elsewhere");
        assert_eq!(elsewhere.count(), 2, "{found:?}");
        assert!(found.contains(&(Weight::Differs, "version.v1beta1")));
    }

    #[test]
    fn what_reads_the_old_hand_over_has_to_be_changed() {
        let yaml = "
apiVersion: tekton.dev/v1
kind: Pipeline
metadata: {name: p}
spec:
  tasks:
    - name: setup
      taskRef: {name: orka-init}
      params: [{name: base-image, value: x}]
    - name: mine
      taskSpec:
        steps:
          - image: x
            env: [{name: T, valueFrom: {secretKeyRef: {name: orka-token, key: token}}}]
";
        assert!(codes(yaml).contains(&(Weight::Change, "hand-over.read")));
    }

    #[test]
    fn the_old_hand_over_is_asked_for_by_both_its_ends() {
        let yaml = "
apiVersion: tekton.dev/v1
kind: Pipeline
metadata: {name: p}
spec:
  tasks:
    - name: setup
      taskRef: {name: orka-init}
      params: [{name: base-image, value: x}, {name: hand-over, value: kubernetes}, {name: orka-token-secret, value: t}]
    - name: mine
      taskSpec:
        steps:
          - image: x
            env: [{name: T, valueFrom: {configMapKeyRef: {name: orka-vm-name, key: vm-name}}}]
  finally:
    - name: cleanup
      taskRef: {name: orka-teardown}
      params: [HAND_OVER]
";
        let told = "{name: hand-over, value: kubernetes}";
        let named = format!("{told}, {{name: orka-token-secret, value: t}}");
        assert_eq!(
            codes(&yaml.replace("HAND_OVER", &named)),
            [(Weight::Check, "hand-over.role")]
        );
        for others in [
            told.to_owned(),
            format!("{named}, {{name: orka-token-secret-key, value: k}}"),
            format!("{named}, {{name: orka-vm-name-config, value: c}}"),
            format!("{named}, {{name: orka-vm-name-config-key, value: k}}"),
        ] {
            let found = codes(&yaml.replace("HAND_OVER", &others));
            assert!(
                found.contains(&(Weight::Change, "hand-over.names")),
                "{others}: {found:?}"
            );
        }
        // One of several is enough: each may be for another `orka-init`.
        let two = format!(
            "{told}]\n    - name: other\n      taskRef: {{name: orka-teardown}}\n      params: [{named}"
        );
        assert_eq!(
            codes(&yaml.replace("HAND_OVER", &two)),
            [(Weight::Check, "hand-over.role")]
        );
        let untold = codes(&yaml.replace("HAND_OVER", ""));
        assert!(
            untold.contains(&(Weight::Change, "hand-over.teardown")),
            "{untold:?}"
        );
    }

    #[test]
    fn runs_are_looked_at_for_their_user_their_account_and_their_time() {
        let yaml = "
apiVersion: tekton.dev/v1
kind: PipelineRun
metadata: {generateName: r-}
spec:
  pipelineRef: {name: p}
  taskRunTemplate: {serviceAccountName: orka-svc}
  timeouts: {pipeline: 30m}
  workspaces: [{name: x, persistentVolumeClaim: {claimName: y}}]
";
        assert_eq!(
            codes(yaml),
            [
                (Weight::Differs, "run.service-account"),
                (Weight::Check, "run.fs-group"),
                (Weight::Check, "run.timeout")
            ]
        );
    }

    #[test]
    fn what_is_not_yaml_is_an_error_and_other_kinds_are_passed_over() {
        assert_eq!(
            codes("kind: ConfigMap\n---\nkind: List\nitems: []\n---\n"),
            []
        );
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.yaml");
        std::fs::write(&file, "a: [").unwrap();
        assert!(of_file(&file).is_err());
        assert!(of_file(&directory.path().join("none")).is_err());
    }
}
