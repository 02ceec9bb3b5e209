//! The ledger's file: one JSON object a line, appended and never changed.
//!
//! ```text
//! {"at":"2026-01-02T03:04:05Z","head":{"version":1,"program":"orka-step 0.1.0","prefix":"tekton","run":"…","pod":"…","task":"…"}}
//! {"at":"…","name":"tekton-…-…-1","thing":"vm-config","state":"intent"}
//! {"at":"…","name":"tekton-…-…-1","thing":"vm-config","state":"created","instance":"84ac9cf673e7a"}
//! {"at":"…","name":"tekton-…-…-1","thing":"vm-config","state":"kept","instance":"84ac9cf673e7a","kept":{"expires":"…",…}}
//! {"at":"…","name":"tekton-…-…-1","thing":"vm-config","state":"released"}
//! ```
//!
//! A process that is killed leaves a last line that is torn. What such a line would have said never mattered: an
//! `intent` that is not on disk has had no request, everything else only spares a look.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use cap_std::fs::Dir;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{State, Thing};
use crate::host_folder;

/// The form of the file; raised when a reader of before would get it wrong.
const VERSION: u32 = 1;

/// No run writes more; a larger file is somebody else's.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Whose ledger it is: written by each process that opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Head {
    /// The form of the file.
    version: u32,
    /// What wrote it.
    program: String,
    /// What its names begin with.
    pub prefix: String,
    /// The run's hash.
    pub run: String,
    /// The pod's hash.
    pub pod: String,
    /// The hash of the TaskRun's UID, where the run was told one. No two pods of one TaskRun are at work at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

impl Head {
    /// The head of this program's ledger.
    pub fn new(prefix: &str, run: &str, pod: &str, task: Option<&str>) -> Self {
        Self {
            version: VERSION,
            program: concat!("orka-step ", env!("CARGO_PKG_VERSION")).to_owned(),
            prefix: prefix.to_owned(),
            run: run.to_owned(),
            pod: pod.to_owned(),
            task: task.map(ToOwned::to_owned),
        }
    }
}

/// A VM that is kept on purpose after its run.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kept {
    /// Until when, as RFC 3339.
    pub expires: String,
    /// Why, in the policy's words.
    pub reason: String,
    /// Host name or IP address.
    pub address: String,
    /// TCP port of its SSH server.
    pub ssh_port: u16,
    /// The command that logs in, as far as the host knows the user.
    pub login: String,
}

impl Kept {
    /// Until when; the end of time if it cannot be read, since nothing in doubt is deleted.
    pub fn expires_at(&self) -> Timestamp {
        self.expires.parse().unwrap_or(Timestamp::MAX)
    }
}

/// One step in the life of a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) thing: Thing,
    pub(super) state: State,
    /// The VM it is about, by Orka's id, or by the name where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) kept: Option<Kept>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum What {
    Head { head: Head },
    Step(Step),
}

#[derive(Serialize, Deserialize)]
struct Line {
    at: String,
    #[serde(flatten)]
    what: What,
}

/// One line with its line break.
pub(super) fn line(what: What) -> io::Result<Vec<u8>> {
    let at = Timestamp::now().to_string();
    let mut bytes = serde_json::to_vec(&Line { at, what })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Notes in another process's ledger that what it left is others' to remove.
///
/// # Errors
///
/// What the file system said.
pub fn append_handed_over<'a>(
    file: &mut impl io::Write,
    heads: &[Head],
    entries: impl Iterator<Item = &'a Entry>,
) -> io::Result<()> {
    let entries = entries.map(|entry| (entry.name.as_str(), entry.thing));
    append(file, heads.last(), entries, State::HandedOver)
}

/// Notes in another process's ledger that what it left is gone.
///
/// # Errors
///
/// What the file system said.
pub fn append_released(file: &mut impl io::Write, head: &Head, names: &[String]) -> io::Result<()> {
    // What bears a name no longer matters to anybody.
    let entries = names.iter().map(|name| (name.as_str(), Thing::Vm));
    append(file, Some(head), entries, State::Released)
}

fn append<'a>(
    file: &mut impl io::Write,
    head: Option<&Head>,
    entries: impl Iterator<Item = (&'a str, Thing)>,
    state: State,
) -> io::Result<()> {
    // On a line of its own, whatever the last one is.
    let mut bytes = vec![b'\n'];
    // After half a line only a head says that it never mattered.
    if let Some(head) = head {
        bytes.extend(line(What::Head { head: head.clone() })?);
    }
    for (name, thing) in entries {
        bytes.extend(line(What::Step(Step {
            name: name.to_owned(),
            thing,
            state,
            instance: None,
            kept: None,
        }))?);
    }
    file.write_all(&bytes)
}

/// What a ledger says of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// What bears it.
    pub thing: Thing,
    /// How far it is.
    pub state: State,
    /// When it was entered: no request that makes it is older. None if the time cannot be read.
    pub entered_at: Option<Timestamp>,
    /// Whether it was there once, whatever was asked for after that.
    pub was_created: bool,
    /// VMs known under the name.
    pub instances: BTreeSet<String>,
    /// Those of them that are kept on purpose.
    pub kept: BTreeMap<String, Kept>,
}

impl Entry {
    /// Whether its writer still had to remove something of it, or may have.
    pub fn is_open(&self) -> bool {
        match self.state {
            State::Intent => true,
            // What is kept stays until a reaper finds that its time has passed; what is beside it under the name does not.
            State::Created | State::Kept if !self.kept.is_empty() => {
                !self.instances.iter().all(|vm| self.kept.contains_key(vm))
            }
            State::Created => true,
            State::Released | State::Kept | State::HandedOver => false,
        }
    }

    /// Until when something of it is kept on purpose, passed or not; none if nothing is.
    pub fn kept_until(&self) -> Option<Timestamp> {
        self.kept.values().map(Kept::expires_at).max()
    }
}

/// A ledger's file, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The processes that wrote it, in order.
    pub heads: Vec<Head>,
    /// What it says, in the order in which names were entered.
    pub entries: Vec<Entry>,
    /// Lines that say nothing this program understands, torn ones not counted.
    pub unreadable: u32,
}

impl Record {
    /// Understands a ledger's text.
    pub fn parse(text: &str) -> Self {
        let mut record = Self::default();
        let mut torn = false;
        for text in text.lines().filter(|line| !line.trim().is_empty()) {
            let Ok(line) = serde_json::from_str::<Line>(text) else {
                // Half a line is no JSON; what is some says what this program does not know.
                match serde_json::from_str::<serde::de::IgnoredAny>(text) {
                    Ok(_) => record.unreadable += 1,
                    Err(_) => torn = true,
                }
                continue;
            };
            match line.what {
                What::Step(step) => {
                    // A line that the next process or nothing follows is one that a process was killed over.
                    record.unreadable += u32::from(std::mem::take(&mut torn));
                    record.take(&line.at, step);
                }
                What::Head { head } => {
                    torn = false;
                    if head.version > VERSION {
                        record.unreadable += 1;
                    }
                    record.heads.push(head);
                }
            }
        }
        record
    }

    fn take(&mut self, at: &str, step: Step) {
        let at: Option<Timestamp> = at.parse().ok();
        let position = self
            .entries
            .iter()
            .position(|entry| entry.name == step.name);
        let position = position.unwrap_or_else(|| {
            self.entries.push(Entry {
                name: step.name.clone(),
                thing: step.thing,
                state: step.state,
                entered_at: at,
                was_created: false,
                instances: BTreeSet::new(),
                kept: BTreeMap::new(),
            });
            self.entries.len() - 1
        });
        let entry = &mut self.entries[position];
        match (step.state, &step.instance) {
            (State::Intent, _) => entry.entered_at = at.or(entry.entered_at),
            (State::Created | State::Kept, _) => entry.was_created = true,
            (State::Released, None) => entry.was_created = false,
            (State::Released | State::HandedOver, _) => {}
        }
        match (step.state, step.instance) {
            (State::Released, None) => {
                entry.instances.clear();
                entry.kept.clear();
            }
            (State::Released, Some(instance)) => {
                entry.instances.remove(&instance);
                entry.kept.remove(&instance);
                // One VM is gone; its name goes on.
                return;
            }
            (State::Kept, instance) => {
                let instance = instance.unwrap_or_else(|| step.name.clone());
                if let Some(kept) = step.kept {
                    entry.kept.insert(instance.clone(), kept);
                }
                entry.instances.insert(instance);
            }
            (State::HandedOver, Some(instance)) => {
                // That VM is another's to remove; what else is under the name is not.
                entry.instances.remove(&instance);
                if !entry.instances.is_empty() {
                    return;
                }
            }
            (_, Some(instance)) => {
                entry.instances.insert(instance);
            }
            (_, None) => {}
        }
        entry.state = step.state;
    }

    /// The hash of the TaskRun that wrote it, if all of it is by one that is known.
    pub fn task(&self) -> Option<&str> {
        let first = self.heads.first()?.task.as_deref()?;
        let same = |head: &Head| head.task.as_deref() == Some(first);
        self.heads.iter().all(same).then_some(first)
    }
}

/// Reads one ledger.
///
/// # Errors
///
/// What the file system said; a file that is none or too large.
pub fn read(directory: &Dir, name: &Path) -> io::Result<Record> {
    // Whoever shares the volume may have put anything there: what is no regular file could block or never end.
    let metadata = directory.symlink_metadata(name)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    directory
        .open(name)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(Record::parse(&String::from_utf8_lossy(&bytes)))
}

/// The ledgers of one run's folder, by file name, with what kept those from being read that cannot be.
///
/// # Errors
///
/// A folder that cannot be listed.
pub fn read_folder(folder: &Dir) -> io::Result<Vec<(PathBuf, io::Result<Record>)>> {
    let mut found = Vec::new();
    for entry in folder.entries()? {
        let name = PathBuf::from(entry?.file_name());
        let is_ledger = name
            .to_str()
            .is_some_and(|name| name.starts_with(FILE_PREFIX) && name.ends_with(FILE_SUFFIX));
        if is_ledger {
            let record = read(folder, &name);
            found.push((name, record));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

/// Until when things are kept on purpose, passed or not, by name: what the ledgers of a workspace say, those of these runs
/// or of all.
///
/// # Errors
///
/// A workspace or a ledger that cannot be read, or a line that this program does not understand: it may say that something
/// is kept. A workspace without ledgers says nothing.
pub fn kept(
    workspace: &Dir,
    of_runs: Option<&BTreeSet<String>>,
) -> io::Result<BTreeMap<String, Timestamp>> {
    let mut kept = BTreeMap::new();
    let runs = match workspace.read_dir(host_folder::NAME) {
        Ok(runs) => runs,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(kept),
        Err(error) => return Err(error),
    };
    for run in runs {
        let run = run?;
        let hash = run.file_name();
        let is_asked = |runs: &BTreeSet<String>| hash.to_str().is_some_and(|it| runs.contains(it));
        if !run.file_type()?.is_dir() || !of_runs.is_none_or(is_asked) {
            continue;
        }
        for (name, record) in read_folder(&run.open_dir()?)? {
            for entry in understood(&hash, &name, record)?.entries {
                if let Some(until) = entry.kept_until() {
                    let latest = kept.entry(entry.name).or_insert(until);
                    *latest = until.max(*latest);
                }
            }
        }
    }
    Ok(kept)
}

/// A ledger that hides nothing.
fn understood(run: &OsStr, name: &Path, record: io::Result<Record>) -> io::Result<Record> {
    let trouble = |what: &str| {
        let path = Path::new(host_folder::NAME).join(run).join(name);
        io::Error::other(format!("the ledger `{}` {what}", path.display()))
    };
    match record {
        Err(error) => Err(trouble(&format!("cannot be read: {error}"))),
        Ok(record) if record.unreadable > 0 => Err(trouble(
            "has lines that this program does not understand, and they may say that a VM is kept",
        )),
        Ok(record) => Ok(record),
    }
}

const FILE_PREFIX: &str = "ledger-";
const FILE_SUFFIX: &str = ".jsonl";

/// The file of a pod's ledger in its run's folder.
pub fn file_name(pod_hash: &str) -> String {
    format!("{FILE_PREFIX}{pod_hash}{FILE_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"{"at":"2026-01-02T03:04:05Z","head":{"version":1,"program":"p","prefix":"tekton","run":"r","pod":"p","task":"t"}}"#;

    fn step(name: &str, rest: &str) -> String {
        format!(r#"{{"at":"2026-01-02T03:04:05Z","name":"{name}","thing":"vm",{rest}}}"#)
    }

    #[test]
    fn the_last_word_on_a_name_counts() {
        let text = [
            HEAD.to_owned(),
            step("a", r#""state":"intent""#),
            step("b", r#""state":"intent""#),
            step("a", r#""state":"created","instance":"a""#),
            step("b", r#""state":"released""#),
        ]
        .join("\n");
        let record = Record::parse(&text);
        assert_eq!((record.unreadable, record.task()), (0, Some("t")));
        let [a, b] = &record.entries[..] else {
            panic!("{record:?}");
        };
        assert_eq!((a.state, b.state), (State::Created, State::Released));
        assert_eq!(a.instances, BTreeSet::from(["a".to_owned()]));
    }

    #[test]
    fn a_torn_line_is_one_that_nothing_or_another_process_follows() {
        let intent = step("a", r#""state":"intent""#);
        let torn = &intent[..intent.len() / 2];
        for (text, unreadable) in [
            (format!("{HEAD}\n{intent}\n{torn}"), 0),
            (format!("{HEAD}\n{intent}\n{torn}\n{HEAD}\n{intent}"), 0),
            (format!("{HEAD}\n{torn}\n{intent}"), 1),
            (format!("{HEAD}\n{torn}\n{torn}\n{HEAD}\n{intent}"), 0),
            (format!("{HEAD}\n{torn}\n{torn}\n{intent}\n{HEAD}"), 1),
        ] {
            let record = Record::parse(&text);
            assert_eq!(record.unreadable, unreadable, "{text}");
            assert_eq!(record.entries.len(), 1, "{text}");
        }
    }

    #[test]
    fn what_a_later_program_writes_is_not_guessed_at() {
        let later = HEAD.replace(r#""version":1"#, r#""version":2"#);
        assert_eq!(Record::parse(&later).unreadable, 1);
        let unknown = step("a", r#""state":"parked""#);
        let intent = step("a", r#""state":"intent""#);
        assert_eq!(
            Record::parse(&format!("{HEAD}\n{unknown}\n{intent}")).unreadable,
            1
        );
    }

    #[test]
    fn a_ledger_without_one_task_throughout_has_none() {
        let other = HEAD.replace(r#""task":"t""#, r#""task":"u""#);
        let without = HEAD.replace(r#","task":"t""#, "");
        for text in [
            without.clone(),
            format!("{HEAD}\n{other}"),
            format!("{HEAD}\n{without}"),
            String::new(),
        ] {
            assert_eq!(Record::parse(&text).task(), None, "{text}");
        }
    }

    #[test]
    fn what_is_kept_is_found_in_every_run_of_a_workspace_until_it_is_released() {
        let directory = tempfile::tempdir().unwrap();
        let workspace =
            Dir::open_ambient_dir(directory.path(), cap_std::ambient_authority()).unwrap();
        assert!(kept(&workspace, None).unwrap().is_empty());
        let keep = |name: &str, expires: &str| {
            step(
                name,
                &format!(
                    r#""state":"kept","instance":"{name}","kept":{{"expires":"{expires}","reason":"look","address":"10.0.0.1","ssh-port":8822,"login":"ssh"}}"#
                ),
            )
        };
        for (run, pod, lines) in [
            (
                "r1",
                "p1",
                vec![
                    keep("a", "2030-01-01T00:00:00Z"),
                    keep("gone", "2030-01-01T00:00:00Z"),
                    step("gone", r#""state":"released""#),
                ],
            ),
            ("r1", "p2", vec![keep("a", "2031-01-01T00:00:00Z")]),
            ("r2", "p3", vec![keep("b", "no time")]),
        ] {
            let folder = host_folder::of_run(&workspace, run).unwrap();
            folder.write(file_name(pod), lines.join("\n")).unwrap();
        }
        let of_one = kept(&workspace, Some(&BTreeSet::from(["r2".to_owned()]))).unwrap();
        assert_eq!(of_one.keys().collect::<Vec<_>>(), ["b"]);
        let kept = kept(&workspace, None).unwrap();
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(kept["a"].to_string(), "2031-01-01T00:00:00Z");
        assert_eq!(kept["b"], Timestamp::MAX, "doubt is no leave to delete");
    }

    #[test]
    fn nothing_but_a_regular_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(directory.path(), cap_std::ambient_authority()).unwrap();
        dir.create_dir(file_name("directory")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", directory.path().join(file_name("link"))).unwrap();
        dir.write(file_name("good"), HEAD).unwrap();
        let found = read_folder(&dir).unwrap();
        assert_eq!(found.len(), 3);
        let mut read = found.iter().filter(|(_, record)| record.is_ok());
        assert_eq!(read.next().unwrap().0, PathBuf::from(file_name("good")));
        assert!(read.next().is_none());
    }

    /// What it does not say may be what is kept.
    #[test]
    fn a_ledger_that_hides_something_is_no_leave_to_delete() {
        let intent = step("a", r#""state":"intent""#);
        let torn = &intent[..intent.len() / 2];
        let parked = step("a", r#""state":"parked""#);
        for (text, is_whole) in [
            (format!("{HEAD}\n{intent}\n"), true),
            // Whoever is at work writes the rest of it after us; whoever was killed had made nothing yet.
            (format!("{HEAD}\n{intent}\n{torn}"), true),
            (format!("{HEAD}\n{torn}\n{HEAD}\n{intent}"), true),
            (format!("{HEAD}\n{torn}\n{intent}\n"), false),
            (format!("{HEAD}\n{parked}\n{intent}\n"), false),
            (HEAD.replace(r#""version":1"#, r#""version":2"#), false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let workspace =
                Dir::open_ambient_dir(directory.path(), cap_std::ambient_authority()).unwrap();
            let folder = host_folder::of_run(&workspace, "r1").unwrap();
            folder.write(file_name("p1"), &text).unwrap();
            for (of_runs, is_asked) in [
                (None, true),
                (Some(BTreeSet::from(["r1".to_owned()])), true),
                (Some(BTreeSet::from(["r2".to_owned()])), false),
            ] {
                let kept = kept(&workspace, of_runs.as_ref());
                assert_eq!(kept.is_ok(), is_whole || !is_asked, "{text}: {kept:?}");
            }
            folder.remove_file(file_name("p1")).unwrap();
            folder.create_dir(file_name("p1")).unwrap();
            assert!(kept(&workspace, None).is_err());
        }
    }
}
