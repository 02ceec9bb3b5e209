//! What a run owes, where a crash of its process does not lose it: in a file in memory that another process holds.
//!
//! A workspace keeps the ledger for pods that come later; this is for the process beside this one, which is there at once and
//! also where there is no workspace. See [`crate::supervisor`].

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::sync::{Mutex, PoisonError};

use plugin_manifest::Manifest;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::record::{self, Head, Record, What};

/// The writer's end. What cannot be written is told in the log and holds up nothing: the run is no worse off than one that
/// nobody supervises.
#[derive(Debug)]
pub struct BlackBox(Mutex<File>);

/// A line that the ledger's own form has no place for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Note {
    /// The process answers to signals from here on.
    Listening,
    /// When the run began, as RFC 3339; the manifest's name and version, and the component's digest.
    Began {
        at: String,
        plugin: String,
        version: String,
        digest: String,
    },
    /// A predecessor's.
    Inherited(String),
    /// A token from a login, to be given back.
    Token(String),
    /// Whether the cluster stores VM configs, as Orka 2 does.
    Orka2(bool),
    /// The older Tasks' hand-over is claimed, under these names.
    Claimed(String),
    /// It is others' now, with its token.
    Published,
    /// Everything of the run is being purged.
    Purging,
    /// That is done.
    Purged,
}

/// What a process left that has crashed.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The ledger.
    pub record: Record,
    /// Names that predecessors of the run had made.
    pub inherited: BTreeSet<String>,
    /// Tokens from logins, but for one that others have.
    pub tokens: Vec<SecretString>,
    /// When the run began.
    pub began: Option<jiff::Timestamp>,
    /// Name, version and digest of the plugin.
    pub plugin: Option<(String, String, String)>,
    /// Whether the cluster is of Orka 2, where that was known.
    pub orka2: Option<bool>,
    /// The names of the older hand-over, claimed and not yet others'.
    pub claimed: Option<String>,
    /// Whether everything of the run was being purged.
    pub was_purging: bool,
    /// How many processes have said that they listen.
    listening: usize,
}

impl BlackBox {
    /// Writes to the end of this file.
    pub fn new(file: File) -> Self {
        Self(Mutex::new(file))
    }

    /// Notes whose names follow.
    pub(super) fn begin(&self, head: &Head) {
        match record::line(What::Head { head: head.clone() }) {
            Ok(line) => self.append(&line),
            Err(error) => untold(&error),
        }
    }

    /// Notes a token that has to be given back.
    pub fn note_token(&self, token: &SecretString) {
        self.note(&Note::Token(token.expose_secret().to_owned()));
    }

    /// Notes that this process answers to signals from here on.
    pub fn note_listening(&self) {
        self.note(&Note::Listening);
    }

    /// Notes that the run has begun, and with which plugin.
    pub fn note_began(&self, manifest: &Manifest, digest: &str) {
        self.note(&Note::Began {
            at: jiff::Timestamp::now().to_string(),
            plugin: manifest.name.clone(),
            version: manifest.version.to_string(),
            digest: digest.to_owned(),
        });
    }

    /// Notes that a name is a predecessor's.
    pub(super) fn note_inherited(&self, name: &str) {
        self.note(&Note::Inherited(name.to_owned()));
    }

    /// Notes which of Orka's APIs the cluster has.
    pub fn note_orka2(&self, is_orka2: bool) {
        self.note(&Note::Orka2(is_orka2));
    }

    /// Notes that names in Kubernetes are the run's.
    pub fn note_claimed(&self, shown: String) {
        self.note(&Note::Claimed(shown));
    }

    /// Notes that they are others', who have the token.
    pub fn note_published(&self) {
        self.note(&Note::Published);
    }

    /// Notes that a purge of the whole run begins.
    pub fn note_purging(&self) {
        self.note(&Note::Purging);
    }

    /// Notes that it is done.
    pub fn note_purged(&self) {
        self.note(&Note::Purged);
    }

    fn note(&self, note: &Note) {
        match serde_json::to_vec(note) {
            Ok(mut line) => {
                line.push(b'\n');
                self.append(&line);
            }
            Err(error) => untold(&error.into()),
        }
    }

    /// Whole lines, in one write each: a crash tears none of them.
    pub(super) fn append(&self, lines: &[u8]) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(lines) {
            untold(&error);
        }
    }
}

fn untold(error: &io::Error) {
    tracing::warn!(%error, "a crash of this process would leave behind what was just entered");
}

impl Recovered {
    /// Reads what was written, from the start of the file.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn read(file: &mut File) -> io::Result<Self> {
        file.rewind()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    fn parse(text: &str) -> Self {
        let mut recovered = Self::default();
        let mut ledger = String::new();
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(note) => recovered.take(note),
                Err(_) => {
                    ledger.push_str(line);
                    ledger.push('\n');
                }
            }
        }
        recovered.record = Record::parse(&ledger);
        recovered
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Listening => self.listening += 1,
            Note::Began {
                at,
                plugin,
                version,
                digest,
            } => {
                self.began = at.parse().ok();
                self.plugin = Some((plugin, version, digest));
            }
            Note::Inherited(name) => {
                self.inherited.insert(name);
            }
            Note::Token(token) => self.tokens.push(token.into()),
            Note::Orka2(is_orka2) => self.orka2 = Some(is_orka2),
            Note::Claimed(shown) => self.claimed = Some(shown),
            Note::Published => {
                self.claimed = None;
                self.tokens.clear();
            }
            Note::Purging => self.was_purging = true,
            Note::Purged => self.was_purging = false,
        }
    }

    /// Whose names are in it; none if the run had not come to where anything is made.
    pub fn head(&self) -> Option<&Head> {
        self.record.heads.last()
    }

    /// Whether the `number`th process that writes here answers to signals.
    pub fn is_listening(&self, number: usize) -> bool {
        self.listening >= number
    }

    /// Names under which something may be left.
    pub fn open(&self) -> impl Iterator<Item = &str> {
        let open = self.record.entries.iter().filter(|entry| entry.is_open());
        open.map(|entry| entry.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Ledger, State, Thing};
    use super::*;

    fn memory() -> File {
        rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC)
            .unwrap()
            .into()
    }

    #[test]
    fn what_was_owed_when_the_process_ended_is_read_by_another() {
        let mut file = memory();
        let own = Arc::new(BlackBox::new(file.try_clone().unwrap()));
        let head = Head::new("tekton", "11111111", "22222222", None);
        let ledger = Ledger::in_memory().mirrored(own.clone(), &head);
        own.note_token(&"secret-token".to_owned().into());
        ledger.owe(Thing::Vm, "a").unwrap();
        ledger.owe(Thing::Vm, "b").unwrap();
        ledger.released("b");
        let recovered = Recovered::read(&mut file).unwrap();
        assert_eq!(recovered.head(), Some(&head));
        assert_eq!(recovered.record.unreadable, 0);
        let states = recovered.record.entries.iter();
        let states: Vec<_> = states.map(|it| (it.name.as_str(), it.state)).collect();
        assert_eq!(states, [("a", State::Intent), ("b", State::Released)]);
        let tokens = recovered.tokens.iter().map(ExposeSecret::expose_secret);
        assert_eq!(tokens.collect::<Vec<_>>(), ["secret-token"]);

        let successor = Ledger::in_memory();
        successor.claim(&recovered);
        let owed = successor.owed();
        assert_eq!(owed.len(), 1);
        assert!(owed[0].name == "a" && !owed[0].inherited && owed[0].in_doubt() == 1);
        assert_eq!(recovered.open().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn nothing_is_recovered_of_a_process_that_entered_nothing() {
        let recovered = Recovered::read(&mut memory()).unwrap();
        assert!(recovered.head().is_none() && recovered.record.entries.is_empty());
    }

    #[test]
    fn a_token_that_others_have_is_none_to_give_back_and_a_predecessors_name_stays_one() {
        let mut file = memory();
        let own = Arc::new(BlackBox::new(file.try_clone().unwrap()));
        own.note_listening();
        own.note_token(&"shared".to_owned().into());
        own.note_claimed("Secret `a`".to_owned());
        let head = Head::new("tekton", "11111111", "22222222", None);
        let ledger = Ledger::in_memory().mirrored(own.clone(), &head);
        ledger.owe(Thing::Vm, "before").unwrap();
        let entry = Recovered::read(&mut file).unwrap().record.entries.remove(0);
        let before = Recovered::read(&mut file).unwrap();
        assert!(before.claimed.is_some() && before.tokens.len() == 1);
        assert!(before.is_listening(1) && !before.is_listening(2));
        own.note_published();
        let ledger = Ledger::in_memory().mirrored(own, &head);
        ledger.inherit(&entry, false).unwrap();
        let after = Recovered::read(&mut file).unwrap();
        assert!(after.claimed.is_none() && after.tokens.is_empty());
        let successor = Ledger::in_memory();
        successor.claim(&after);
        assert!(successor.owed()[0].inherited);
    }
}
