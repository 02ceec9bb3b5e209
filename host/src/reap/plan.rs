//! What is deleted and what is left alone, with the reason for each.
//!
//! The rules compute and touch nothing. Doubt always means hands off: a leak costs half a Mac, a reaper that ends a
//! build that runs costs the trust in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::inventory::{Inventory, Item};
use super::live::Live;
use super::name::Name;

/// Whose things are wanted.
#[derive(Clone, Debug)]
pub enum Selection {
    /// Everything of these runs, by their hashes. The caller knows that they are over.
    Runs(BTreeSet<String>),
    /// Everything of runs that are over, by what is known of who is alive.
    Finished {
        /// Who is alive.
        live: Live,
        /// What is younger than this is left, and what belongs to a run whose last pod ended less than this ago.
        grace: Duration,
    },
}

/// What is known beside the cluster's list.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Whose things are wanted.
    pub selection: Selection,
    /// Until when things are kept on purpose, by name: what ledgers say. Metadata on the cluster counts as well, and
    /// what pods and task runs say.
    pub kept: BTreeMap<String, Timestamp>,
    /// Whether things of the named runs are deleted although they are kept.
    pub include_kept: bool,
    /// When earlier passes saw a name first, for things whose age the cluster does not tell.
    pub first_seen: BTreeMap<String, Timestamp>,
    /// The present.
    pub now: Timestamp,
}

/// Why something is deleted or left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Deleted: it belongs to a run that was named.
    RunNamed,
    /// Deleted: its pod is gone, nothing of its run is alive, and it is old enough.
    PodGone,
    /// Deleted: it was kept on purpose, and that time has passed.
    KeepExpired(Timestamp),
    /// Left: it is kept on purpose.
    Kept(Timestamp),
    /// Left: the pod that made it is alive.
    PodLive,
    /// Left: its run is alive in another pod, or has not ended.
    RunLive,
    /// Left: its run's last pod ended this short a time ago; another may follow.
    RunRecent(Duration),
    /// Left: it is this young.
    Young(Duration),
    /// Left: nobody tells how old it is.
    AgeUnknown,
    /// Left: it was made by a run that was told no pod UID, so that no list of pods says whether it lives.
    Podless,
    /// Left: it is of a run that was not named.
    OtherRun,
    /// Left: it was a VM config alone when it was listed, and a VM has been deployed from it since.
    InUse,
}

impl Reason {
    /// Whether it is a reason to delete.
    pub fn deletes(&self) -> bool {
        matches!(self, Self::RunNamed | Self::PodGone | Self::KeepExpired(_))
    }

    /// Its name in the JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RunNamed => "run-named",
            Self::PodGone => "pod-gone",
            Self::KeepExpired(_) => "keep-expired",
            Self::Kept(_) => "kept",
            Self::PodLive => "pod-live",
            Self::RunLive => "run-live",
            Self::RunRecent(_) => "run-recent",
            Self::Young(_) => "young",
            Self::AgeUnknown => "age-unknown",
            Self::Podless => "podless",
            Self::OtherRun => "other-run",
            Self::InUse => "in-use",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RunNamed => f.write_str("its run was named"),
            Self::PodGone => f.write_str("its pod is gone, and nothing of its run is alive"),
            Self::KeepExpired(until) => write!(f, "it was kept on purpose until {until}"),
            Self::Kept(until) => write!(f, "it is kept on purpose until {until}"),
            Self::PodLive => f.write_str("its pod is alive"),
            Self::RunLive => f.write_str("its run is alive"),
            Self::RunRecent(ago) => {
                write!(f, "the last pod of its run ended only {} ago", rough(*ago))
            }
            Self::Young(age) => write!(f, "it is only {} old", rough(*age)),
            Self::AgeUnknown => f.write_str(
                "nobody tells how old it is; `--state FILE` goes by when it was first seen",
            ),
            Self::Podless => f.write_str(
                "its run was told no pod UID, so that no pod can vouch for it; `--run` deletes it",
            ),
            Self::OtherRun => f.write_str("it is of another run"),
            Self::InUse => f.write_str("a VM was deployed from it since it was listed"),
        }
    }
}

/// A time span as people read it: `42 s`, `17 min`, `3 h 05 min`, `2 d 4 h`.
pub fn rough(span: Duration) -> String {
    let minutes = span.as_secs() / 60;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{} s", span.as_secs()),
        (0, minutes) => format!("{minutes} min"),
        (hours @ 0..48, minutes) => format!("{hours} h {minutes:02} min"),
        (hours, _) => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// What is to become of one name of ours.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What there is.
    pub item: Item,
    /// How old it is; none where nobody tells.
    pub age: Option<Duration>,
    /// Until when it is kept on purpose, passed or not.
    pub kept_until: Option<Timestamp>,
    /// What becomes of it, and why.
    pub reason: Reason,
}

/// What is to become of everything that the cluster lists.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What is ours, by name.
    pub entries: Vec<Entry>,
    /// Names that are not ours. Nothing is ever done about them.
    pub foreign: Vec<String>,
}

impl Plan {
    /// The names to delete.
    pub fn to_delete(&self) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .filter(|entry| entry.reason.deletes())
            .map(|entry| entry.item.name.as_str())
    }

    /// Those of them that are VM configs alone, by what is known of who is alive.
    pub fn configs_to_delete(&self) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .filter(|entry| entry.reason.deletes() && entry.item.vms == 0)
            .map(|entry| entry.item.name.as_str())
    }
}

/// Decides about everything that the cluster lists.
pub fn plan(inventory: Inventory, rules: &Rules) -> Plan {
    let live_runs = match &rules.selection {
        Selection::Runs(_) => BTreeSet::new(),
        Selection::Finished { live, .. } => live_runs(&inventory, live),
    };
    let entries = inventory.ours.into_values().map(|item| {
        let by_pods = match &rules.selection {
            Selection::Runs(_) => None,
            Selection::Finished { live, .. } => {
                live.kept_until(&item.name, &item.run_hash, &item.pod_hash)
            }
        };
        let by_ledgers = rules.kept.get(&item.name).copied();
        let kept_until = item.kept_until.max(by_ledgers).max(by_pods);
        let reason = match &rules.selection {
            Selection::Runs(hashes) => of_named_run(&item, kept_until, hashes, rules),
            Selection::Finished { live, grace } => {
                of_finished_run(&item, kept_until, live, &live_runs, *grace, rules)
            }
        };
        Entry {
            age: item.created_at.map(|made| since(made, rules.now)),
            kept_until,
            reason,
            item,
        }
    });
    Plan {
        entries: entries.collect(),
        foreign: inventory.foreign,
    }
}

/// Runs that are alive by what the list of pods says, and by the pods that names tell of: a live pod vouches for all of
/// its run, since Tasks of a run share VM configs and hand VMs on.
fn live_runs(inventory: &Inventory, live: &Live) -> BTreeSet<String> {
    let vouched = inventory
        .ours
        .values()
        .filter(|item| live.pods.contains(&item.pod_hash))
        .map(|item| item.run_hash.clone());
    live.runs.iter().cloned().chain(vouched).collect()
}

fn of_named_run(
    item: &Item,
    kept_until: Option<Timestamp>,
    hashes: &BTreeSet<String>,
    rules: &Rules,
) -> Reason {
    if !hashes.contains(&item.run_hash) {
        return Reason::OtherRun;
    }
    match kept_until {
        Some(until) if until > rules.now && !rules.include_kept => Reason::Kept(until),
        _ => Reason::RunNamed,
    }
}

fn of_finished_run(
    item: &Item,
    kept_until: Option<Timestamp>,
    live: &Live,
    live_runs: &BTreeSet<String>,
    grace: Duration,
    rules: &Rules,
) -> Reason {
    if live.pods.contains(&item.pod_hash) {
        return Reason::PodLive;
    }
    if live_runs.contains(&item.run_hash) {
        return Reason::RunLive;
    }
    match kept_until {
        Some(until) if until > rules.now => return Reason::Kept(until),
        Some(until) => return Reason::KeepExpired(until),
        None => {}
    }
    let is_podless = Name {
        run_hash: &item.run_hash,
        pod_hash: &item.pod_hash,
        number: 1,
    }
    .is_podless();
    if is_podless {
        return Reason::Podless;
    }
    if let Some(ended) = live.ended.get(&item.run_hash) {
        let ago = since(*ended, rules.now);
        if ago < grace {
            return Reason::RunRecent(ago);
        }
    }
    // A VM config alone has no age. The end of its run or of the run's last pod stands for it, where that is known and was read
    // after the config was listed: whoever could still use it would have been seen, or is a pod that may follow for the grace alone.
    let has_ended = live
        .ended
        .get(&item.run_hash)
        .is_some_and(|ended| *ended > Timestamp::MIN);
    if item.vms == 0 && has_ended && live.is_newer_than_listing {
        return Reason::PodGone;
    }
    let since_when = if item.vms == 0 { None } else { item.created_at };
    match since_when.or_else(|| rules.first_seen.get(&item.name).copied()) {
        None => Reason::AgeUnknown,
        Some(made) if since(made, rules.now) < grace => Reason::Young(since(made, rules.now)),
        Some(_) => Reason::PodGone,
    }
}

/// The time from `then` to `now`; none has passed where a clock is behind.
fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::Listed;
    use crate::identity::{Identity, hash_of};

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        "2026-01-02T12:00:00Z".parse().unwrap()
    }

    fn ago(hours: i64) -> Timestamp {
        now() - jiff::SignedDuration::from_hours(hours)
    }

    fn name(run: &str, pod: &str) -> String {
        Identity::new("tekton", Some(run), Some(pod))
            .unwrap()
            .next_name()
    }

    fn vm(run: &str, pod: &str, hours: Option<i64>) -> Listed {
        Listed {
            name: name(run, pod),
            created_at: hours.map(|hours| ago(hours).to_string()),
            ..Listed::default()
        }
    }

    fn config(run: &str, pod: &str) -> Listed {
        Listed {
            is_config: true,
            ..vm(run, pod, None)
        }
    }

    fn live(pods: &[&str], runs: &[&str]) -> Live {
        Live {
            pods: pods.iter().map(|uid| hash_of(uid)).collect(),
            runs: runs.iter().map(|uid| hash_of(uid)).collect(),
            knows_runs: true,
            is_newer_than_listing: true,
            told: pods.len(),
            ..Live::default()
        }
    }

    fn rules(selection: Selection) -> Rules {
        Rules {
            selection,
            kept: BTreeMap::new(),
            include_kept: false,
            first_seen: BTreeMap::new(),
            now: now(),
        }
    }

    fn finished(live: Live) -> Rules {
        rules(Selection::Finished { live, grace: HOUR })
    }

    fn named(runs: &[&str]) -> Rules {
        rules(Selection::Runs(
            runs.iter().map(|uid| hash_of(uid)).collect(),
        ))
    }

    fn reason(listed: Listed, rules: &Rules) -> Reason {
        let inventory = Inventory::new("tekton", vec![listed]);
        let mut plan = plan(inventory, rules);
        plan.entries.remove(0).reason
    }

    #[test]
    fn an_old_vm_without_a_live_pod_goes_and_nothing_else_does() {
        let rules = finished(live(&["alive", "build"], &["running"]));
        for (listed, expected) in [
            (vm("run", "gone", Some(2)), Reason::PodGone),
            (vm("run", "alive", Some(200)), Reason::PodLive),
            (vm("running", "gone", Some(200)), Reason::RunLive),
            (vm("run", "gone", Some(0)), Reason::Young(Duration::ZERO)),
            (vm("run", "gone", Some(-5)), Reason::Young(Duration::ZERO)),
            (vm("run", "gone", None), Reason::AgeUnknown),
            (config("run", "gone"), Reason::AgeUnknown),
            (config("run", "alive"), Reason::PodLive),
            (config("running", "gone"), Reason::RunLive),
        ] {
            assert_eq!(reason(listed.clone(), &rules), expected, "{listed:?}");
        }
    }

    /// The Tasks of a pipeline run share a VM config and hand VMs on: what an ended pod made is used by a live one.
    #[test]
    fn a_live_pod_vouches_for_everything_of_its_run_also_where_runs_are_not_told_of() {
        let mut live = live(&["build"], &[]);
        live.knows_runs = false;
        let listed = vec![
            vm("run", "build", Some(5)),
            vm("run", "init", Some(5)),
            vm("other", "init", Some(5)),
        ];
        let plan = plan(Inventory::new("tekton", listed), &finished(live));
        let reasons: BTreeMap<_, _> = plan
            .entries
            .into_iter()
            .map(|entry| (entry.item.name, entry.reason))
            .collect();
        assert_eq!(reasons[&name("run", "build")], Reason::PodLive);
        assert_eq!(reasons[&name("run", "init")], Reason::RunLive);
        assert_eq!(reasons[&name("other", "init")], Reason::PodGone);
    }

    #[test]
    fn between_two_tasks_of_a_run_nothing_of_it_goes() {
        let mut live = live(&[], &[]);
        let minutes_ago = now() - jiff::SignedDuration::from_mins(10);
        live.ended.insert(hash_of("run"), minutes_ago);
        live.ended.insert(hash_of("done"), ago(2));
        let rules = finished(live);
        let recent = Reason::RunRecent(Duration::from_secs(600));
        assert_eq!(reason(vm("run", "init", Some(9)), &rules), recent);
        assert_eq!(reason(config("run", "init"), &rules), recent);
        assert_eq!(reason(vm("done", "init", Some(9)), &rules), Reason::PodGone);
        assert_eq!(reason(config("done", "init"), &rules), Reason::PodGone);
    }

    #[test]
    fn a_config_has_no_age_so_it_stays_where_a_newer_pod_could_use_it() {
        for (ended, is_newer, expected) in [
            (None, false, Reason::AgeUnknown),
            (None, true, Reason::AgeUnknown),
            // An evicted pod does not tell when it ended.
            (Some(Timestamp::MIN), true, Reason::AgeUnknown),
            (Some(ago(2)), false, Reason::AgeUnknown),
            (Some(ago(0)), true, Reason::RunRecent(Duration::ZERO)),
            (Some(ago(2)), true, Reason::PodGone),
        ] {
            let mut live = live(&[], &[]);
            live.ended
                .extend(ended.map(|ended| (hash_of("run"), ended)));
            live.is_newer_than_listing = is_newer;
            assert_eq!(reason(config("run", "gone"), &finished(live)), expected);
        }
    }

    #[test]
    fn what_has_no_age_goes_by_when_it_was_first_seen() {
        for thing in [vm("run", "gone", None), config("run", "gone")] {
            let mut live = live(&[], &[]);
            live.is_newer_than_listing = false;
            let mut rules = finished(live);
            rules.first_seen.insert(name("run", "gone"), ago(3));
            assert_eq!(reason(thing.clone(), &rules), Reason::PodGone);
            rules.first_seen.insert(name("run", "gone"), ago(0));
            assert_eq!(reason(thing, &rules), Reason::Young(Duration::ZERO));
        }
    }

    #[test]
    fn what_is_kept_stays_until_its_time_has_passed() {
        let mut rules = finished(live(&[], &[]));
        rules.kept.insert(name("run", "gone"), ago(-1));
        assert_eq!(
            reason(vm("run", "gone", Some(9)), &rules),
            Reason::Kept(ago(-1))
        );
        rules.kept.insert(name("run", "gone"), ago(1));
        for listed in [vm("run", "gone", Some(9)), vm("run", "gone", None)] {
            assert_eq!(reason(listed, &rules), Reason::KeepExpired(ago(1)));
        }
        let mut by_metadata = vm("run", "gone", Some(9));
        by_metadata.metadata.insert(
            super::super::inventory::KEPT_UNTIL.to_owned(),
            ago(-2).to_string(),
        );
        assert_eq!(
            reason(by_metadata, &rules),
            Reason::Kept(ago(-2)),
            "the later of ledger and metadata"
        );
    }

    #[test]
    fn a_kept_vm_of_a_live_run_stays_although_its_time_has_passed() {
        let mut rules = finished(live(&[], &["run"]));
        rules.kept.insert(name("run", "gone"), ago(1));
        assert_eq!(reason(vm("run", "gone", Some(9)), &rules), Reason::RunLive);
    }

    #[test]
    fn a_run_without_a_pod_uid_is_left_to_whoever_knows_that_it_is_over() {
        let podless = Identity::new("tekton", Some("run"), None)
            .unwrap()
            .next_name();
        let listed = Listed {
            name: podless,
            created_at: Some(ago(900).to_string()),
            ..Listed::default()
        };
        assert_eq!(
            reason(listed.clone(), &finished(live(&[], &[]))),
            Reason::Podless
        );
        assert_eq!(reason(listed, &named(&["run"])), Reason::RunNamed);
    }

    #[test]
    fn a_named_run_goes_whole_whatever_its_age_and_no_other_does() {
        let rules = named(&["run", "second"]);
        for listed in [
            vm("run", "a", Some(0)),
            vm("run", "b", None),
            config("run", "c"),
            vm("second", "a", Some(100)),
        ] {
            assert_eq!(reason(listed, &rules), Reason::RunNamed);
        }
        assert_eq!(
            reason(vm("other", "a", Some(100)), &rules),
            Reason::OtherRun
        );
    }

    #[test]
    fn a_kept_thing_of_a_named_run_goes_only_when_asked_for_or_expired() {
        let mut rules = named(&["run"]);
        rules.kept.insert(name("run", "a"), ago(-1));
        assert_eq!(
            reason(vm("run", "a", Some(1)), &rules),
            Reason::Kept(ago(-1))
        );
        rules.include_kept = true;
        assert_eq!(reason(vm("run", "a", Some(1)), &rules), Reason::RunNamed);
        rules.include_kept = false;
        rules.now = ago(-2);
        assert_eq!(reason(vm("run", "a", Some(1)), &rules), Reason::RunNamed);
    }

    #[test]
    fn spans_read_well() {
        for (seconds, text) in [
            (42, "42 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (11_100, "3 h 05 min"),
            (187_200, "2 d 4 h"),
        ] {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
    }

    fn any_name() -> impl Strategy<Value = String> {
        prop_oneof![
            "tekton-[a-f0-9]{8}-[a-f0-9]{8}-[1-9]",
            "(tekton|tekton-ci|Tekton)?-?[a-fA-F0-9]{7,9}-[a-f0-9]{7,9}(-[0-9]{1,2})?",
            "\\PC{0,20}",
        ]
    }

    proptest! {
        /// Whatever is listed and whatever is known, nothing goes that does not parse, that lives, or that is of a run
        /// that was not named.
        #[test]
        fn a_plan_never_deletes_what_it_cannot_prove(
            names in proptest::collection::vec((any_name(), any::<bool>(), 0_i64..5), 0..20),
            alive in proptest::collection::vec(any::<proptest::sample::Index>(), 0..5),
            by_run in any::<bool>(),
        ) {
            let listed: Vec<Listed> = names
                .iter()
                .map(|(name, is_config, hours)| Listed {
                    name: name.clone(),
                    is_config: *is_config,
                    created_at: Some(ago(*hours).to_string()),
                    ..Listed::default()
                })
                .collect();
            let ours: Vec<Name<'_>> = names.iter().filter_map(|(name, ..)| Name::parse("tekton", name)).collect();
            let chosen: Vec<Name<'_>> =
                if ours.is_empty() { Vec::new() } else { alive.iter().map(|at| *at.get(&ours)).collect() };
            let selection = if by_run {
                Selection::Runs(chosen.iter().map(|name| name.run_hash.to_owned()).collect())
            } else {
                let pods = chosen.iter().map(|name| name.pod_hash.to_owned()).collect();
                let live = Live { pods, knows_runs: true, is_newer_than_listing: true, ..Live::default() };
                Selection::Finished { live, grace: HOUR }
            };
            let plan = plan(Inventory::new("tekton", listed), &rules(selection));
            for name in plan.to_delete() {
                let read = Name::parse("tekton", name);
                prop_assert!(read.is_some(), "{name}");
                let read = read.unwrap();
                if by_run {
                    prop_assert!(chosen.iter().any(|it| it.run_hash == read.run_hash));
                } else {
                    prop_assert!(chosen.iter().all(|it| it.run_hash != read.run_hash && it.pod_hash != read.pod_hash));
                }
            }
        }
    }
}
