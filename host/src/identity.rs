//! Who a run is, and the names that follow from it.
//!
//! A name says by itself which run and which pod made the thing, so that whoever lists the cluster later can tell whose
//! it is without any other record.

use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest as _, Sha256};

use crate::failure::{Class, Failure, Kind};
use crate::ledger::Head;
use crate::plugin::Plugin;
use crate::reap::name::Name;

/// Hex digits of each hash: 32 bits tell the runs of one cluster apart and keep names short.
const HASH_DIGITS: usize = 8;

/// 2.x allows names of 38 characters; the hashes, the hyphens and a counter of up to three digits take 21 of them.
const PREFIX_LENGTH_MAX: usize = 16;

/// The longest name that Orka 2 takes; Orka 3 takes 63 characters.
const NAME_LENGTH_MAX: usize = 38;

/// The prefix that the Tasks we replace used, too.
pub const DEFAULT_PREFIX: &str = "tekton";

/// What the pod hash of a run begins with that was told no pod UID, and no hash of a UID does.
///
/// Nobody who knows the live pods knows whether such a run lives, so a reaper must see it from the name.
pub const PODLESS: &str = "00";

/// How every Task of a run comes to know which run it is of.
pub const HOW_TO_TELL_RUN: &str = "give every Task of the run the same `--run-uid` (`ORKA_RUN_UID`): `$(context.pipelineRun.uid)`, or the label \
     `tekton.dev/pipelineRunUID` of the pod";

/// Makes the names of everything that a run creates on the cluster.
#[derive(Debug)]
pub struct Identity {
    prefix: String,
    run_is_told: bool,
    run_hash: String,
    pod_hash: String,
    task_hash: Option<String>,
    made: AtomicU32,
}

impl Identity {
    /// From the pipeline run's or task run's UID and the pod's UID. An absent UID is replaced by a random one.
    ///
    /// # Errors
    ///
    /// A prefix that Orka's name rules do not allow: `[a-z][a-z0-9-]*`, at most 16 characters, not ending in `-`.
    pub fn new(
        prefix: &str,
        run_uid: Option<&str>,
        pod_uid: Option<&str>,
    ) -> Result<Self, Failure> {
        let starts_well = prefix.starts_with(|first: char| first.is_ascii_lowercase());
        let allowed =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        if !starts_well
            || !prefix.chars().all(allowed)
            || prefix.ends_with('-')
            || prefix.len() > PREFIX_LENGTH_MAX
        {
            return Err(Failure::config(format!("`--vm-prefix {prefix}` (`ORKA_VM_PREFIX`) cannot begin a VM name")).with_hint(format!(
                "use lower-case letters, digits and `-`, beginning with a letter, at most {PREFIX_LENGTH_MAX} characters"
            )));
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            run_is_told: given(run_uid).is_some(),
            run_hash: given(run_uid).map_or_else(random_hash, hash_of),
            pod_hash: given(pod_uid).map_or_else(podless_hash, hash_of),
            task_hash: None,
            made: AtomicU32::new(0),
        })
    }

    /// Goes on as the process that wrote this head, whose hashes are random where it was told no UIDs.
    pub fn resume(&mut self, head: &Head) {
        self.run_hash.clone_from(&head.run);
        self.pod_hash.clone_from(&head.pod);
    }

    /// Whether the run has a UID that its other Tasks are told as well, without which they cannot find what it shares.
    pub fn run_is_told(&self) -> bool {
        self.run_is_told
    }

    /// Lets a plugin start: a bundled one that works on what other Tasks of the run made needs to know which run that is.
    /// Another may be all of its Tasks in one.
    ///
    /// # Errors
    ///
    /// A bundled one asks for `cluster.adopt` or `cluster.purge-run`, and the run was told no UID.
    pub fn admit_plugin(&self, plugin: &Plugin) -> Result<(), Failure> {
        match plugin.works_on_others() {
            Some(capability) => self.require_run(&format!(
                "plugin `{}` works on what other Tasks of a run made (`{capability}`)",
                plugin.manifest.name
            )),
            None => Ok(()),
        }
    }

    /// Lets what concerns other Tasks of the run go on; `what` begins the sentence that says why it does not.
    ///
    /// # Errors
    ///
    /// The run was told no UID.
    pub fn require_run(&self, what: &str) -> Result<(), Failure> {
        if self.run_is_told {
            return Ok(());
        }
        Err(
            Failure::config(format!("{what}, and `--run-uid` does not say which run"))
                .with_hint(HOW_TO_TELL_RUN),
        )
    }

    /// How to find what a run without a UID has made, which nobody else can compute; none for a run that was told one.
    pub fn how_to_find(&self) -> Option<String> {
        if self.run_is_told {
            return None;
        }
        Some(format!(
            "this run was told no UID (`--run-uid`): what it makes is named `{}…`, and should it be killed outright, \
             `{}` deletes that",
            self.run_prefix(),
            how_to_reap(&self.prefix, &self.run_hash)
        ))
    }

    /// The same in a TaskRun of this UID, which stays the same when it is tried again with another pod.
    #[must_use]
    pub fn in_task(mut self, task_uid: Option<&str>) -> Self {
        self.task_hash = task_uid
            .filter(|uid| !uid.is_empty())
            .map(|uid| hex::encode(Sha256::digest(uid)));
        self
    }

    /// The next name.
    ///
    /// # Errors
    ///
    /// Its number would make it longer than Orka 2 allows.
    pub fn next(&self) -> Result<String, Failure> {
        let name = self.next_name();
        if name.len() <= NAME_LENGTH_MAX {
            return Ok(name);
        }
        Err(Failure::new(
            Kind::NoCapacity,
            Class::Plugin,
            "run.names-exhausted",
            format!(
                "this run has made as many VMs and VM configs as there are names of {NAME_LENGTH_MAX} characters"
            ),
        ))
    }

    /// Goes on after names that an earlier process of the same pod has made.
    pub fn skip(&self, name: &str) {
        let number = name
            .strip_prefix(&format!("{}{}-", self.run_prefix(), self.pod_hash))
            .and_then(|number| number.parse().ok());
        if let Some(number) = number {
            self.made.fetch_max(number, Ordering::Relaxed);
        }
    }

    /// What stands in the place of the pod's hash in the names of VM configs that Tasks of the run share: it follows from
    /// the run's common word for them, so that each Task can tell them without being told.
    pub fn channel_hash(channel: &str) -> String {
        hash_of(&format!("shared VM config {channel}"))
    }

    /// The name of the `number`th VM config that is shared under this word.
    pub fn shared_name(&self, channel: &str, number: u32) -> String {
        format!(
            "{}{}-{number}",
            self.run_prefix(),
            Self::channel_hash(channel)
        )
    }

    /// What the names of all that the pipeline run makes begin with, whichever Task makes it.
    pub fn run_prefix(&self) -> String {
        format!("{}-{}-", self.prefix, self.run_hash)
    }

    /// What names begin with before the hashes.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What identifies the TaskRun, where it is known.
    pub fn task_hash(&self) -> Option<&str> {
        self.task_hash.as_deref()
    }

    /// Whether a name is of this pipeline run: `<prefix>-<run hash>-<8 hex digits>-<n>`, and nothing else.
    pub fn is_of_run(&self, name: &str) -> bool {
        Name::parse(&self.prefix, name).is_some_and(|name| name.run_hash == self.run_hash)
    }

    /// The next name: `<prefix>-<run hash>-<pod hash>-<n>`.
    pub fn next_name(&self) -> String {
        let n = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{}-{}-{}-{n}", self.prefix, self.run_hash, self.pod_hash)
    }

    /// What the ledger says of whose it is.
    pub fn head(&self) -> Head {
        Head::new(
            &self.prefix,
            &self.run_hash,
            &self.pod_hash,
            self.task_hash.as_deref(),
        )
    }

    /// What identifies the run in names, shared by all Tasks of a pipeline run.
    pub fn run_hash(&self) -> &str {
        &self.run_hash
    }

    /// What identifies the pod in names.
    pub fn pod_hash(&self) -> &str {
        &self.pod_hash
    }
}

/// What stands for a run's or a pod's UID in names: the first eight hex digits of its SHA-256 that do not begin with
/// [`PODLESS`].
pub fn hash_of(uid: &str) -> String {
    let digest = hex::encode(Sha256::digest(uid));
    let starts = (0..digest.len()).step_by(HASH_DIGITS);
    let mut hashes = starts.map(|start| &digest[start..start + HASH_DIGITS]);
    // All eight of them beginning so has odds of 1 in 2^64.
    let hash = hashes.find(|hash| !hash.starts_with(PODLESS));
    hash.unwrap_or("ffffffff").to_owned()
}

fn given(uid: Option<&str>) -> Option<&str> {
    uid.filter(|uid| !uid.is_empty())
}

fn random_hash() -> String {
    hex::encode(rand::random::<[u8; HASH_DIGITS / 2]>())
}

fn podless_hash() -> String {
    let random = hex::encode(rand::random::<[u8; HASH_DIGITS / 2]>());
    format!("{PODLESS}{}", &random[PODLESS.len()..])
}

/// The command that deletes what is left of a run, also of one that was told no UID.
pub fn how_to_reap(prefix: &str, run_hash: &str) -> String {
    let prefix = match prefix {
        DEFAULT_PREFIX => String::new(),
        prefix => format!(" --vm-prefix {prefix}"),
    };
    format!("orka-step reap{prefix} --run-hash {run_hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_for_the_same_run_and_pod_and_fit_both_apis() {
        let identity = Identity::new("tekton", Some("run-uid"), Some("pod-uid")).unwrap();
        let again = Identity::new("tekton", Some("run-uid"), Some("pod-uid")).unwrap();
        let name = identity.next_name();
        assert_eq!(name, again.next_name());
        assert!(name.len() <= 38, "{name}");
        assert!(name.ends_with("-1"));
        assert!(identity.next_name().ends_with("-2"));
    }

    #[test]
    fn the_longest_prefix_and_the_largest_number_fit_and_one_more_is_told() {
        let identity = Identity::new("abcdefghijklmnop", Some("run"), Some("pod")).unwrap();
        let first = identity.next().unwrap();
        identity.skip(&format!("{}998", first.strip_suffix('1').unwrap()));
        let last = identity.next().unwrap();
        assert!(
            last.ends_with("-999") && last.len() == NAME_LENGTH_MAX,
            "{last}"
        );
        // What both of Orka's APIs take: a letter first, a letter or digit last, nothing but those and hyphens between.
        assert!(last.starts_with(|first: char| first.is_ascii_lowercase()));
        assert_eq!(identity.next().unwrap_err().code, "run.names-exhausted");
    }

    #[test]
    fn only_whole_names_of_the_run_are_of_the_run() {
        let identity = Identity::new("tekton", Some("run"), Some("pod")).unwrap();
        let name = identity.next_name();
        assert!(identity.is_of_run(&name));
        let sibling = Identity::new("tekton", Some("run"), Some("other")).unwrap();
        assert!(identity.is_of_run(&sibling.next_name()));
        let foreign = Identity::new("tekton", Some("other"), Some("pod")).unwrap();
        for other in [
            foreign.next_name(),
            format!("{name}-1"),
            format!("{name}x"),
            format!("x{name}"),
            identity.run_prefix(),
            name.replace("-1", "-01"),
            String::new(),
        ] {
            assert!(!identity.is_of_run(&other), "{other}");
        }
    }

    #[test]
    fn absent_and_empty_uids_are_random() {
        let one = Identity::new("tekton", None, Some("")).unwrap();
        let other = Identity::new("tekton", None, Some("")).unwrap();
        assert_ne!(one.next_name(), other.next_name());
    }

    #[test]
    fn a_run_without_a_uid_says_what_finds_it_and_one_with_a_uid_needs_not() {
        let told = Identity::new("tekton", Some("run"), None).unwrap();
        assert_eq!(told.how_to_find(), None);
        assert!(told.require_run("x").is_ok());
        for (prefix, command) in [
            ("tekton", "`orka-step reap --run-hash "),
            ("ci", "`orka-step reap --vm-prefix ci --run-hash "),
        ] {
            let untold = Identity::new(prefix, None, Some("pod")).unwrap();
            let said = untold.how_to_find().unwrap();
            assert!(said.contains(&untold.run_prefix()), "{said}");
            assert!(
                said.contains(&format!("{command}{}`", untold.run_hash())),
                "{said}"
            );
            let failure = untold.require_run("x").unwrap_err();
            assert_eq!(failure.class, Class::Config);
        }
    }

    #[test]
    fn a_pod_without_a_uid_can_be_told_from_every_pod_with_one() {
        let podless = Identity::new("tekton", Some("run"), None).unwrap();
        assert!(podless.pod_hash().starts_with(PODLESS));
        let uids = (0..2000).map(|n| format!("uid-{n}"));
        let (plain, moved): (Vec<_>, Vec<_>) =
            uids.partition(|uid| hex::encode(Sha256::digest(uid)).starts_with(&hash_of(uid)));
        assert!(!plain.is_empty() && !moved.is_empty());
        for uid in plain.iter().chain(&moved) {
            assert!(!hash_of(uid).starts_with(PODLESS), "{uid}");
        }
    }

    #[test]
    fn a_prefix_that_orka_would_refuse_is_refused_here() {
        for prefix in [
            "",
            "Tekton",
            "1abc",
            "a_b",
            "a-",
            "a-very-long-prefix-indeed",
        ] {
            assert!(Identity::new(prefix, None, None).is_err(), "{prefix}");
        }
    }
}
