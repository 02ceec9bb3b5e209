//! Deletions in virtual time, on a cluster that answers as it is told.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::time::sleep;

use super::*;
use crate::backend::{Deploy, Listed, StoredConfig};
use crate::bindings::orka::plugin::cluster::{Facts, Node, SignOut, VmInfo, VmSpec};
use crate::mask::Masker;
use crate::outcome::StopSignal;

/// What becomes of one removal.
#[derive(Clone, Debug)]
enum Answer {
    /// Removed after so long.
    After(Duration),
    /// There was nothing.
    Gone,
    /// Accepted, and the cluster goes on listing it.
    Accepted,
    /// Refused.
    Refused(Kind),
    /// "Too many requests", and when to come back.
    Busy(Duration),
    /// Removed, and the answer lost.
    Lost,
}

/// When each removal began, in order, with the names that were worked on then.
#[derive(Debug, Default)]
struct Seen {
    begun: Vec<(String, Duration)>,
    at_once: usize,
    at_once_max: usize,
    listed: BTreeMap<String, u32>,
}

struct Scripted {
    answers: Mutex<BTreeMap<String, VecDeque<Answer>>>,
    seen: Mutex<Seen>,
    started: Instant,
}

impl Scripted {
    fn new<'a>(answers: impl IntoIterator<Item = (&'a str, Vec<Answer>)>) -> Self {
        let answers = answers.into_iter();
        Self {
            answers: Mutex::new(
                answers
                    .map(|(name, all)| (name.to_owned(), all.into()))
                    .collect(),
            ),
            seen: Mutex::default(),
            started: Instant::now(),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When removals of a name began, in seconds.
    fn begun(&self, name: &str) -> Vec<f64> {
        let seen = self.seen();
        let of_name = seen.begun.iter().filter(|(other, _)| other == name);
        of_name.map(|(_, at)| at.as_secs_f64()).collect()
    }

    async fn delete(&self, stop: &Stop, deadline: Duration) -> BTreeMap<String, Fate> {
        let (console, _) = Console::captured(Masker::default());
        let names: Vec<String> = self.answers.lock().unwrap().keys().cloned().collect();
        let execution = Execution {
            cluster: self,
            console: &console,
            stop,
            deadline: self.started + deadline,
            parallel: 2,
            unless_in_use: BTreeSet::from(["in-use".to_owned(), "unused".to_owned()]),
        };
        execution.delete(names).await
    }
}

#[async_trait]
impl Cluster for Scripted {
    async fn remove(&self, name: &str) -> Result<Removal, Failure> {
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            let answers = answers.get_mut(name).unwrap();
            // The last answer is given for ever.
            if answers.len() > 1 {
                answers.pop_front().unwrap()
            } else {
                answers[0].clone()
            }
        };
        {
            let mut seen = self.seen();
            seen.begun.push((name.to_owned(), self.started.elapsed()));
            seen.at_once += 1;
            seen.at_once_max = seen.at_once_max.max(seen.at_once);
        }
        if let Answer::After(time) = &answer {
            sleep(*time).await;
        }
        let mut seen = self.seen();
        seen.at_once -= 1;
        seen.listed.insert(
            name.to_owned(),
            u32::from(matches!(answer, Answer::Accepted)),
        );
        let refused = |kind| Failure::new(kind, Class::Orka, "orka.test", "no");
        match answer {
            Answer::After(_) | Answer::Accepted => Ok(Removal::Removed),
            Answer::Gone => Ok(Removal::AlreadyGone),
            Answer::Refused(kind) => Err(refused(kind)),
            Answer::Lost => Err(refused(Kind::TimedOut)),
            Answer::Busy(pause) => {
                let mut failure = refused(Kind::Unavailable);
                failure.retry_after = Some(pause);
                Err(failure)
            }
        }
    }

    async fn remains(&self, name: &str) -> Result<Remains, Failure> {
        let vms = self.seen().listed.get(name).copied().unwrap_or_default();
        Ok(Remains { vms, config: false })
    }

    async fn sign_in(&self) -> Result<Facts, Failure> {
        unreachable!()
    }
    async fn images(&self) -> Result<Vec<String>, Failure> {
        unreachable!()
    }
    async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        unreachable!()
    }
    async fn create_config(&self, _: &str, _: &VmSpec) -> Result<(), Failure> {
        unreachable!()
    }
    fn stores_configs(&self) -> bool {
        unreachable!()
    }
    async fn deploy(&self, _: &Deploy) -> Result<VmInfo, Failure> {
        unreachable!()
    }
    async fn exists(&self, _: &VmInfo) -> Result<bool, Failure> {
        unreachable!()
    }
    async fn config(&self, _: &str) -> Result<Option<StoredConfig>, Failure> {
        unreachable!()
    }
    async fn instances(&self, _: &str) -> Result<Vec<String>, Failure> {
        unreachable!()
    }
    async fn delete(&self, _: &str, _: Option<&str>) -> Result<(), Failure> {
        unreachable!()
    }
    async fn sign_out(&self) -> Result<SignOut, Failure> {
        unreachable!()
    }
    async fn list(&self) -> Result<Vec<Listed>, Failure> {
        unreachable!()
    }
    fn removal_command(&self, _: &str) -> String {
        unreachable!()
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_slow_one_holds_up_no_other_and_no_more_than_allowed_are_under_way() {
    let quick = vec![Answer::After(SECOND)];
    let cluster = Scripted::new([
        ("a", vec![Answer::After(7 * SECOND)]),
        ("b", quick.clone()),
        ("c", quick.clone()),
        ("d", quick.clone()),
        ("e", quick),
    ]);
    let fates = cluster.delete(&Stop::default(), MINUTE).await;
    assert!(
        fates.values().all(|fate| matches!(fate, Fate::Deleted)),
        "{fates:?}"
    );
    assert_eq!(cluster.begun("e"), [3.0]);
    assert_eq!(cluster.seen().at_once_max, 2);
    assert_eq!(cluster.started.elapsed(), 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_with_longer_pauses_and_what_cannot_pass_is_not() {
    let cluster = Scripted::new([
        ("denied", vec![Answer::Refused(Kind::Denied)]),
        ("sick", vec![Answer::Refused(Kind::Unavailable)]),
        (
            "stubborn",
            vec![Answer::Accepted, Answer::Accepted, Answer::Gone],
        ),
    ]);
    let fates = cluster.delete(&Stop::default(), MINUTE).await;
    assert_eq!(cluster.begun("denied"), [0.0]);
    assert_eq!(
        cluster.begun("sick"),
        [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 30.5, 45.5]
    );
    assert_eq!(cluster.begun("stubborn"), [0.0, 0.5, 1.5]);
    let Fate::Remains(denied) = &fates["denied"] else {
        panic!("{fates:?}")
    };
    assert_eq!(denied.kind, Kind::Denied);
    let Fate::Remains(sick) = &fates["sick"] else {
        panic!("{fates:?}")
    };
    assert_eq!(
        sick.code, "orka.test",
        "the reason is Orka's, not the clock's"
    );
    assert!(matches!(fates["stubborn"], Fate::Deleted), "{fates:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_when_to_come_back_is_believed_up_to_a_limit() {
    let cluster = Scripted::new([
        ("a", vec![Answer::Busy(4 * SECOND), Answer::Gone]),
        ("b", vec![Answer::Busy(60 * MINUTE), Answer::Gone]),
    ]);
    cluster.delete(&Stop::default(), MINUTE).await;
    assert_eq!(cluster.begun("a"), [0.0, 4.0]);
    assert_eq!(cluster.begun("b"), [0.0, 15.0]);
}

#[tokio::test(start_paused = true)]
async fn gone_at_once_is_somebody_elses_work_and_gone_after_a_lost_answer_is_ours() {
    let cluster = Scripted::new([
        ("others", vec![Answer::Gone]),
        ("ours", vec![Answer::Lost, Answer::Gone]),
    ]);
    let fates = cluster.delete(&Stop::default(), MINUTE).await;
    assert!(matches!(fates["others"], Fate::AlreadyGone), "{fates:?}");
    assert!(matches!(fates["ours"], Fate::Deleted), "{fates:?}");
}

/// On Orka 2 it would go with the config.
#[tokio::test(start_paused = true)]
async fn a_config_from_which_a_vm_was_deployed_meanwhile_is_left() {
    let removed = vec![Answer::After(SECOND)];
    let cluster = Scripted::new([
        ("in-use", removed.clone()),
        ("unused", removed.clone()),
        ("other", removed),
    ]);
    for used in ["in-use", "other"] {
        cluster.seen().listed.insert(used.to_owned(), 1);
    }
    let fates = cluster.delete(&Stop::default(), MINUTE).await;
    assert!(matches!(fates["in-use"], Fate::InUse), "{fates:?}");
    assert!(cluster.begun("in-use").is_empty());
    assert!(matches!(fates["unused"], Fate::Deleted), "{fates:?}");
    assert!(matches!(fates["other"], Fate::Deleted), "{fates:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_signal_what_is_under_way_may_end_and_nothing_new_begins() {
    let slow = vec![Answer::After(5 * SECOND)];
    let cluster = Scripted::new([("a", slow.clone()), ("b", slow.clone()), ("c", slow)]);
    let stop = Stop::default();
    let signal = async {
        sleep(SECOND).await;
        stop.stop(StopSignal::Terminate);
    };
    let (fates, ()) = tokio::join!(cluster.delete(&stop, MINUTE), signal);
    assert!(matches!(fates["a"], Fate::Deleted), "{fates:?}");
    assert!(matches!(fates["b"], Fate::Deleted), "{fates:?}");
    let Fate::Remains(left) = &fates["c"] else {
        panic!("{fates:?}")
    };
    assert!(left.message.contains("signal"), "{left}");
    assert!(cluster.begun("c").is_empty());
    assert_eq!(cluster.started.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_at_once_and_everything_open_is_told() {
    let slow = vec![Answer::After(7 * SECOND)];
    let cluster = Scripted::new([("a", slow.clone()), ("b", slow.clone()), ("c", slow)]);
    let stop = Stop::default();
    let signals = async {
        sleep(SECOND).await;
        stop.stop(StopSignal::Terminate);
        sleep(SECOND).await;
        stop.stop(StopSignal::Terminate);
    };
    let (fates, ()) = tokio::join!(cluster.delete(&stop, MINUTE), signals);
    assert_eq!(fates.len(), 3);
    assert!(
        fates.values().all(|fate| matches!(fate, Fate::Remains(_))),
        "{fates:?}"
    );
    assert_eq!(cluster.started.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_answered_has_its_own_limit_and_the_pass_has_the_deadline() {
    let cluster = Scripted::new([("a", vec![Answer::After(60 * MINUTE)])]);
    let fates = cluster.delete(&Stop::default(), 20 * SECOND).await;
    assert_eq!(cluster.begun("a"), [0.0, 8.5, 17.5]);
    let Fate::Remains(left) = &fates["a"] else {
        panic!("{fates:?}")
    };
    assert_eq!(left.code, "orka.timed-out");
    assert_eq!(cluster.started.elapsed(), 20 * SECOND);
}
