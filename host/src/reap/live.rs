//! Who is alive: pods, and pipeline runs or task runs that have not ended.
//!
//! A wrong answer here ends a build that runs. So everything that is not plainly a whole list of what was asked for is
//! refused, and nothing is deleted then: a list that is cut off, that says there is more, that holds something else
//! than UIDs, or that names no pod at all.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::identity::hash_of;
use crate::results::{KEPT_UNTIL, KEPT_VM};

/// Labels by which Tekton tells, since v0.63, whose a pod is.
const RUN_LABELS: [&str; 2] = ["tekton.dev/pipelineRunUID", "tekton.dev/taskRunUID"];

/// How `kubectl` gives what is wanted.
const HOW: &str = "give the output of `kubectl get pods --all-namespaces -o json`, or one pod a line: its namespace and \
                   its UID";

/// What helps where the list may be of fewer namespaces than builds run in.
const OF_WHICH: &str = "give the output of `kubectl get pods --all-namespaces -o json`; where builds with this prefix run in \
                        certain namespaces and in no other, name each with `--pod-namespace`";

/// Who is alive, by the hashes that names bear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Pods that may still run something.
    pub pods: BTreeSet<String>,
    /// Runs that have a live pod, or have not ended.
    pub runs: BTreeSet<String>,
    /// When the last known pod of a run, or the run itself, ended.
    pub ended: BTreeMap<String, Timestamp>,
    /// Pods that were told of at all, ended ones included.
    pub told: usize,
    /// The namespaces of those, as far as they were told.
    pub namespaces: BTreeSet<String>,
    /// What pods and task runs say they keep on purpose, by name.
    pub kept: BTreeMap<String, KeptBy>,
    /// Whether runs are told of, and not pods alone.
    pub knows_runs: bool,
    /// Whether this was certainly read after the cluster was listed, so that no thing can be newer than it.
    pub is_newer_than_listing: bool,
}

/// That something is kept on purpose, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBy {
    until: Timestamp,
    /// Hashes of the pods and runs that say it.
    by: BTreeSet<String>,
}

impl Live {
    /// Until when a thing is kept on purpose, by the word of its own pod or of a task run of its own run. Nobody else's
    /// word counts.
    pub fn kept_until(&self, name: &str, run_hash: &str, pod_hash: &str) -> Option<Timestamp> {
        let kept = self.kept.get(name)?;
        let vouched = kept.by.contains(run_hash) || kept.by.contains(pod_hash);
        vouched.then_some(kept.until)
    }

    /// Whether it shows that it is of all these namespaces; of all that there are, where none is named.
    ///
    /// A list of one namespace looks like a whole one to whoever reads it, and every build of another is missing from it.
    /// One of all namespaces has pods of several, since Kubernetes runs its own in some.
    ///
    /// # Errors
    ///
    /// A list that may be of fewer. `may_be_empty` lets one of the named have no pod.
    pub(super) fn is_of(&self, named: &[String], may_be_empty: bool) -> Result<(), Failure> {
        let missing = named.iter().find(|it| !self.namespaces.contains(*it));
        let mut told = self.namespaces.iter();
        let what = match (missing, told.next(), told.next()) {
            // Whether that is believed is the caller's to say.
            _ if self.told == 0 => return Ok(()),
            (None, None, _) => "does not say of which namespaces it tells".to_owned(),
            (None, Some(only), None) if named.is_empty() => {
                format!("tells of pods of the namespace `{only}` alone")
            }
            (Some(missing), Some(_), _) if !may_be_empty => {
                format!("tells of no pod of the namespace `{missing}`")
            }
            // Bare UIDs of namespaces that were named are taken at their word.
            _ => return Ok(()),
        };
        Err(unusable(&what).with_hint(OF_WHICH))
    }

    /// Reads lines of namespaces and UIDs, or JSON as `kubectl` writes it, several documents in a row included.
    ///
    /// # Errors
    ///
    /// Anything that is not certainly whole.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let mut live = Self::default();
        if text.trim_start().starts_with('{') {
            live.knows_runs = true;
            let documents = serde_json::Deserializer::from_str(text).into_iter::<List>();
            for document in documents {
                let list = document.map_err(|error| {
                    unusable("is cut off or is no list of pods in JSON").with_source(error)
                })?;
                if list.metadata.has_more() {
                    return Err(unusable(
                        "says that it is only a part of the whole (`metadata.continue`)",
                    ));
                }
                live.add(list)?;
            }
        } else {
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                live.add_line(line)?;
            }
        }
        Ok(live)
    }

    /// Adds the pod of a line: its UID, and before it the namespace where that is told.
    fn add_line(&mut self, line: &str) -> Result<(), Failure> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (namespace, uid) = match words[..] {
            [uid] => (None, uid),
            [namespace, uid] => (Some(namespace), uid),
            _ => (None, ""),
        };
        if !is_uid(uid) || !namespace.is_none_or(is_namespace) {
            return Err(unusable(&format!(
                "has the line `{}`, which is no UID",
                crate::lines::printable(line.trim().as_bytes())
            )));
        }
        self.told += 1;
        self.namespaces.extend(namespace.map(str::to_owned));
        self.pods.insert(hash_of(uid));
        Ok(())
    }

    /// Adds one list, or one page of one.
    ///
    /// # Errors
    ///
    /// A list without items, or an item that cannot be read.
    pub(super) fn add(&mut self, list: List) -> Result<(), Failure> {
        let of_all = list
            .kind
            .as_deref()
            .and_then(|kind| kind.strip_suffix("List"))
            .unwrap_or_default()
            .to_owned();
        let Some(items) = list.items else {
            return Err(unusable("has no `items`: it is no list"));
        };
        for item in items {
            let kind = item.kind.as_deref().unwrap_or(&of_all);
            match kind {
                "Pod" => self.add_pod(&item)?,
                "PipelineRun" | "TaskRun" => self.add_run(&item)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn add_run(&mut self, run: &Item) -> Result<(), Failure> {
        let uid = run.uid()?;
        match &run.status.completion_time {
            None => {
                self.runs.insert(hash_of(uid));
            }
            // Tekton deletes the pods of a run that is cancelled or out of time: then nothing else tells that it has ended. One
            // whose time cannot be read has ended all the same, nobody knows when.
            Some(time) => self.has_ended(uid, time.parse().unwrap_or(Timestamp::MIN)),
        }
        let results = run.status.results.iter();
        let by = run.runs().chain([uid]).map(hash_of).collect();
        self.add_kept(results.map(|it| (it.name.as_str(), &it.value)), by);
        Ok(())
    }

    /// Takes up the results by which a step tells that it keeps VMs.
    fn add_kept<'a>(
        &mut self,
        results: impl Iterator<Item = (&'a str, &'a Value)>,
        by: BTreeSet<String>,
    ) {
        let texts: BTreeMap<&str, &str> = results
            .filter_map(|(name, value)| Some((name, value.as_str()?)))
            .collect();
        let until = texts
            .get(KEPT_UNTIL)
            .and_then(|text| text.trim().parse().ok());
        let (Some(names), Some(until)) = (texts.get(KEPT_VM), until) else {
            return;
        };
        for name in names.split_whitespace() {
            let kept = self.kept.entry(name.to_owned()).or_insert_with(|| KeptBy {
                until,
                by: BTreeSet::new(),
            });
            kept.until = kept.until.max(until);
            kept.by.extend(by.iter().cloned());
        }
    }

    /// Something of a run ended at this time, or nobody knows when.
    fn has_ended(&mut self, run: &str, at: Timestamp) {
        let known = self.ended.entry(hash_of(run)).or_insert(Timestamp::MIN);
        *known = at.max(*known);
    }

    fn add_pod(&mut self, pod: &Item) -> Result<(), Failure> {
        let uid = pod.uid()?;
        self.told += 1;
        let namespace = &pod.metadata.namespace;
        self.namespaces
            .extend((!namespace.is_empty()).then(|| namespace.clone()));
        for message in pod.status.termination_messages() {
            // What is no list of results is the last log line of a program, or nothing.
            let said: Vec<Said> = serde_json::from_str(message).unwrap_or_default();
            let results = said.iter().map(|it| (it.key.as_str(), &it.value));
            self.add_kept(results, BTreeSet::from([hash_of(uid)]));
        }
        let runs = pod.runs();
        if pod.has_ended() {
            let last = pod.status.last_end();
            for run in runs {
                self.has_ended(run, last.unwrap_or(Timestamp::MIN));
            }
        } else {
            self.pods.insert(hash_of(uid));
            self.runs.extend(runs.map(hash_of));
        }
        Ok(())
    }
}

fn unusable(what: &str) -> Failure {
    Failure::config(format!("the list of live pods {what}; nothing was deleted")).with_hint(HOW)
}

/// Eight, four, four, four and twelve hex digits: what the Kubernetes API gives every object.
fn is_uid(text: &str) -> bool {
    let mut groups = text.split('-');
    let hex = |group: &str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fits = [8, 4, 4, 4, 12].iter().all(|length| {
        groups
            .next()
            .is_some_and(|it| it.len() == *length && hex(it))
    });
    fits && groups.next().is_none()
}

/// A label as RFC 1123 has it, which is what Kubernetes calls namespaces.
pub(super) fn is_namespace(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(allowed)
}

/// A list of objects as the Kubernetes API gives it, reduced to what is looked at.
///
/// Kubernetes API, `PodList` of `core/v1` and `ListMeta` of `meta/v1`; Tekton API `tekton.dev/v1`.
#[derive(Debug, Deserialize)]
pub(super) struct List {
    kind: Option<String>,
    #[serde(default)]
    pub(super) metadata: ListMeta,
    items: Option<Vec<Item>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMeta {
    /// The token for the next page; absent or empty on the last one.
    pub(super) r#continue: Option<String>,
    remaining_item_count: Option<u64>,
}

impl ListMeta {
    /// Whether there is a further page.
    pub(super) fn has_more(&self) -> bool {
        self.r#continue
            .as_ref()
            .is_some_and(|token| !token.is_empty())
            || self.remaining_item_count.is_some_and(|count| count > 0)
    }
}

#[derive(Debug, Deserialize)]
struct Item {
    kind: Option<String>,
    metadata: Meta,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    uid: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    owner_references: Vec<Owner>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    completion_time: Option<String>,
    container_statuses: Vec<ContainerStatus>,
    results: Vec<RunResult>,
}

/// A result in the status of a task run or pipeline run.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RunResult {
    name: String,
    value: Value,
}

/// A result in the termination message of a step, which Tekton's entrypoint writes as a JSON array of these.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    key: String,
    value: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    state: ContainerState,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    terminated: Option<Terminated>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Terminated {
    finished_at: Option<Timestamp>,
    message: String,
}

impl Item {
    fn uid(&self) -> Result<&str, Failure> {
        let uid = self.metadata.uid.as_str();
        if is_uid(uid) {
            Ok(uid)
        } else {
            Err(unusable("has an object without a UID"))
        }
    }

    /// The UIDs of the runs that it belongs to.
    fn runs(&self) -> impl Iterator<Item = &str> {
        let labels = RUN_LABELS
            .iter()
            .filter_map(|label| self.metadata.labels.get(*label));
        let owners = self
            .metadata
            .owner_references
            .iter()
            .map(|owner| &owner.uid);
        let uids = labels.chain(owners).map(String::as_str);
        uids.filter(|uid| !uid.is_empty())
    }

    /// Whether every container has ended for good: Kubernetes says so by these two phases alone. A pod on a lost node
    /// is `Unknown` or `Running`, and may run.
    fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

impl Status {
    fn last_end(&self) -> Option<Timestamp> {
        let ends = self.container_statuses.iter();
        ends.filter_map(|container| container.state.terminated.as_ref()?.finished_at)
            .max()
    }

    fn termination_messages(&self) -> impl Iterator<Item = &str> {
        let states = self
            .container_statuses
            .iter()
            .map(|container| &container.state);
        states.filter_map(|state| Some(state.terminated.as_ref()?.message.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const A: &str = "8d3f4f6e-0a4b-4c7e-9d2a-7f1e2d3c4b5a";
    const B: &str = "0b7c9f11-6f5e-4e0f-8a3e-1c2d3e4f5a6b";
    const RUN: &str = "11111111-2222-3333-4444-555555555555";

    fn pod(uid: &str, phase: &str, labels: Value) -> Value {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"uid": uid, "name": "x", "labels": labels},
            "spec": {"containers": []}, "status": {"phase": phase, "containerStatuses": [
                {"name": "step", "state": {"terminated": {"exitCode": 137, "finishedAt": "2026-01-01T10:00:00Z"}}}]}})
    }

    fn list(items: &[Value]) -> String {
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
            .to_string()
    }

    #[test]
    fn a_list_shows_of_which_namespaces_it_is_or_is_refused() {
        let placed = |uid: &str, namespace: &str| {
            let mut pod = pod(uid, "Running", json!({}));
            pod["metadata"]["namespace"] = json!(namespace);
            pod
        };
        let one = list(&[placed(A, "ci")]);
        let two = list(&[placed(A, "ci"), placed(B, "kube-system")]);
        let none = list(&[pod(A, "Running", json!({}))]);
        for (text, named, may_be_empty, is_believed) in [
            (two.clone(), &[][..], false, true),
            (one.clone(), &[], false, false),
            (one.clone(), &[], true, false),
            (none.clone(), &[], false, false),
            (format!("{A}\n{B}"), &[], false, false),
            (format!("ci {A}\nci {B}"), &[], false, false),
            (format!("ci {A}\nios {B}"), &[], false, true),
            (one.clone(), &["ci"], false, true),
            (two, &["ci"], false, true),
            (format!("{A}\n{B}"), &["ci"], false, true),
            (one.clone(), &["ci", "ios"], false, false),
            (one.clone(), &["ci", "ios"], true, true),
            (one, &["ios"], false, false),
            (list(&[]), &[], false, true),
        ] {
            let named: Vec<String> = named.iter().map(|it: &&str| (*it).to_owned()).collect();
            let believed = Live::parse(&text).unwrap().is_of(&named, may_be_empty);
            assert_eq!(
                believed.is_ok(),
                is_believed,
                "{text} {named:?}: {believed:?}"
            );
        }
    }

    #[test]
    fn lines_of_uids_are_live_pods_and_say_nothing_of_runs() {
        let live = Live::parse(&format!("{A}\n\n  {B}  \r\n")).unwrap();
        assert_eq!(live.pods, BTreeSet::from([hash_of(A), hash_of(B)]));
        assert!(live.runs.is_empty() && !live.knows_runs);
        assert_eq!(live.told, 2);
    }

    #[test]
    fn pods_that_have_ended_are_not_live_and_all_others_are() {
        for (phase, is_live) in [
            ("Pending", true),
            ("Running", true),
            ("Unknown", true),
            ("", true),
            ("Odd", true),
            ("Succeeded", false),
            ("Failed", false),
        ] {
            let run = json!({"tekton.dev/pipelineRunUID": RUN});
            let live = Live::parse(&list(&[pod(A, phase, run)])).unwrap();
            assert_eq!(live.pods.contains(&hash_of(A)), is_live, "{phase}");
            assert_eq!(live.runs.contains(&hash_of(RUN)), is_live, "{phase}");
            assert_eq!(live.ended.contains_key(&hash_of(RUN)), !is_live, "{phase}");
            assert_eq!(live.told, 1);
        }
    }

    #[test]
    fn a_pod_vouches_for_its_pipeline_run_its_task_run_and_its_owner() {
        let mut vouching = pod(
            A,
            "Running",
            json!({"tekton.dev/pipelineRunUID": RUN, "tekton.dev/taskRunUID": B}),
        );
        let owner = "99999999-2222-3333-4444-555555555555";
        vouching["metadata"]["ownerReferences"] = json!([{"kind": "TaskRun", "uid": owner}]);
        let live = Live::parse(&list(&[vouching])).unwrap();
        assert_eq!(
            live.runs,
            BTreeSet::from([hash_of(RUN), hash_of(B), hash_of(owner)])
        );
    }

    #[test]
    fn the_last_pod_of_a_run_tells_when_it_ended() {
        let run = json!({"tekton.dev/pipelineRunUID": RUN});
        let mut later = pod(B, "Failed", run.clone());
        later["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] =
            json!("2026-01-01T11:30:00Z");
        let live = Live::parse(&list(&[later, pod(A, "Succeeded", run)])).unwrap();
        assert_eq!(
            live.ended[&hash_of(RUN)],
            "2026-01-01T11:30:00Z".parse().unwrap()
        );
    }

    #[test]
    fn runs_that_have_not_ended_are_live_without_any_pod() {
        let run = |uid: &str, status: Value| json!({"kind": "PipelineRun", "metadata": {"uid": uid}, "status": status});
        let live = Live::parse(&list(&[
            run(A, json!({"conditions": []})),
            run(B, json!({"completionTime": "2026-01-01T10:00:00Z"})),
        ]))
        .unwrap();
        assert_eq!(live.runs, BTreeSet::from([hash_of(A)]));
        assert_eq!(live.told, 0, "runs are no pods");
    }

    #[test]
    fn a_step_that_has_ended_tells_what_it_keeps_and_vouches_for_its_own_alone() {
        let until: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let said = json!([
            {"key": "outcome", "value": "build-failed", "type": 1},
            {"key": "kept-vm", "value": "tekton-a-b-1 tekton-a-b-2", "type": 1},
            {"key": "kept-until", "value": "2026-01-01T12:00:00Z", "type": 1},
        ]);
        let mut keeping = pod(A, "Failed", json!({"tekton.dev/pipelineRunUID": RUN}));
        keeping["status"]["containerStatuses"][0]["state"]["terminated"]["message"] =
            json!(said.to_string());
        let live = Live::parse(&list(&[keeping])).unwrap();
        for name in ["tekton-a-b-1", "tekton-a-b-2"] {
            assert_eq!(live.kept_until(name, "run", &hash_of(A)), Some(until));
            assert_eq!(live.kept_until(name, &hash_of(RUN), &hash_of(B)), None);
        }
        assert_eq!(live.kept_until("tekton-a-b-3", "run", &hash_of(A)), None);
    }

    #[test]
    fn a_task_run_tells_what_its_run_keeps_after_its_pod_is_gone() {
        let owners = json!([{"kind": "PipelineRun", "uid": RUN}]);
        let run = json!({"kind": "TaskRun", "metadata": {"uid": B, "ownerReferences": owners}, "status": {
        "completionTime": "2026-01-01T10:00:00Z",
        "results": [
            {"name": "images", "type": "array", "value": ["a", "b"]},
            {"name": "kept-vm", "type": "string", "value": "tekton-a-b-1"},
            {"name": "kept-until", "type": "string", "value": "2026-01-01T12:00:00Z"},
        ]}});
        let live = Live::parse(&list(&[run])).unwrap();
        for hash in [hash_of(RUN), hash_of(B)] {
            assert!(live.kept_until("tekton-a-b-1", &hash, "pod").is_some());
        }
        assert!(
            live.kept_until("tekton-a-b-1", &hash_of(A), "pod")
                .is_none()
        );
    }

    #[test]
    fn a_termination_message_of_another_kind_tells_nothing_and_harms_nothing() {
        for message in [
            "",
            "killed",
            "[]",
            "[{\"key\": \"kept-vm\"}]",
            "[{\"key\": \"kept-vm\", \"value\": \"a\"}, {\"key\": \"kept-until\", \"value\": \"soon\"}]",
            "[{\"key\": \"kept-vm\", \"value\": {\"a\": 1}}, 7]",
            "{",
        ] {
            let mut odd = pod(A, "Failed", json!({}));
            odd["status"]["containerStatuses"][0]["state"]["terminated"]["message"] =
                json!(message);
            let live = Live::parse(&list(&[odd])).unwrap();
            assert!(live.kept.is_empty() && live.told == 1, "{message}");
        }
    }

    #[test]
    fn a_list_straight_from_the_api_and_two_lists_in_a_row_are_read() {
        let mut plain = pod(A, "Running", json!({}));
        plain.as_object_mut().unwrap().remove("kind");
        let text =
            json!({"kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": [plain]})
                .to_string();
        let both = format!("{text}\n{}", list(&[pod(B, "Running", json!({}))]));
        assert_eq!(
            Live::parse(&both).unwrap().pods,
            BTreeSet::from([hash_of(A), hash_of(B)])
        );
    }

    #[test]
    fn whatever_is_not_certainly_whole_is_refused() {
        let whole = list(&[pod(A, "Running", json!({})), pod(B, "Running", json!({}))]);
        for cut in 1..whole.len() {
            assert!(Live::parse(&whole[..cut]).is_err(), "{}", &whole[..cut]);
        }
        let page =
            json!({"kind": "PodList", "metadata": {"continue": "abc"}, "items": []}).to_string();
        let counted =
            json!({"kind": "PodList", "metadata": {"remainingItemCount": 3}, "items": []})
                .to_string();
        for text in [
            page.as_str(),
            &counted,
            r#"{"kind": "Pod", "metadata": {"uid": "x"}}"#,
            r#"{"kind": "Status", "status": "Failure", "message": "Unauthorized", "code": 401}"#,
            r#"{"kind": "PodList", "items": [{"metadata": {}}]}"#,
            r#"{"kind": "PodList", "items": [{}]}"#,
            r#"{"kind": "PodList", "items": {}}"#,
            "pod/build-1\n",
            "error: You must be logged in to the server (Unauthorized)",
            "8d3f4f6e-0a4b-4c7e-9d2a-7f1e2d3c4b5\n",
            "8d3f4f6e-0a4b-4c7e-9d2a-7f1e2d3c4b5a-\n",
            "8d3f4f6e0a4b4c7e9d2a7f1e2d3c4b5a\n",
            "NAME UID\n",
            "CI 8d3f4f6e-0a4b-4c7e-9d2a-7f1e2d3c4b5a\n",
            "ci 8d3f4f6e-0a4b-4c7e-9d2a-7f1e2d3c4b5a Running\n",
            "[]",
            "null",
        ] {
            let failure = Live::parse(text).unwrap_err();
            assert!(
                failure.message.contains("nothing was deleted"),
                "{text}: {failure}"
            );
        }
    }

    #[test]
    fn an_empty_list_is_read_and_tells_of_no_pod() {
        for text in ["", "\n\n", &list(&[])] {
            assert_eq!(Live::parse(text).unwrap().told, 0, "{text:?}");
        }
    }
}
