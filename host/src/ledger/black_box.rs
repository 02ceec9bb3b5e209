//! What a run owes, where a crash of its process does not lose it: in a file in memory that another process holds.
//!
//! A workspace keeps the ledger for pods that come later; this is for the process beside this one, which is there at once and
//! also where there is no workspace. See [`crate::supervisor`].

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::sync::{Mutex, PoisonError};

use plugin_manifest::Manifest;
use secrecy::{ExposeSecret as _, SecretString};
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
    /// A token from a login, to be given back.
    Token(String),
    /// The manifest's name and version, and the component's digest.
    Plugin {
        name: String,
        version: String,
        digest: String,
    },
}

/// What a process left that has crashed.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Whose names are in it; none if nothing was entered.
    pub head: Option<Head>,
    /// The ledger.
    pub record: Record,
    /// Tokens from logins.
    pub tokens: Vec<SecretString>,
    /// Name, version and digest of the plugin.
    pub plugin: Option<(String, String, String)>,
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

    /// Notes which plugin runs.
    pub fn note_plugin(&self, manifest: &Manifest, digest: &str) {
        self.note(&Note::Plugin {
            name: manifest.name.clone(),
            version: manifest.version.to_string(),
            digest: digest.to_owned(),
        });
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
                Ok(Note::Token(token)) => recovered.tokens.push(token.into()),
                Ok(Note::Plugin {
                    name,
                    version,
                    digest,
                }) => recovered.plugin = Some((name, version, digest)),
                Err(_) => {
                    ledger.push_str(line);
                    ledger.push('\n');
                }
            }
        }
        recovered.record = Record::parse(&ledger);
        recovered.head = recovered.record.heads.last().cloned();
        recovered
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
        assert_eq!(recovered.head, Some(head));
        assert_eq!(recovered.record.unreadable, 0);
        let states = recovered.record.entries.iter();
        let states: Vec<_> = states.map(|it| (it.name.as_str(), it.state)).collect();
        assert_eq!(states, [("a", State::Intent), ("b", State::Released)]);
        let tokens = recovered.tokens.iter().map(ExposeSecret::expose_secret);
        assert_eq!(tokens.collect::<Vec<_>>(), ["secret-token"]);

        let successor = Ledger::in_memory();
        successor.claim(&recovered.record);
        let owed = successor.owed();
        assert_eq!(owed.len(), 1);
        assert!(owed[0].name == "a" && !owed[0].inherited && owed[0].in_doubt() == 1);
    }

    #[test]
    fn nothing_is_recovered_of_a_process_that_entered_nothing() {
        let recovered = Recovered::read(&mut memory()).unwrap();
        assert!(recovered.head.is_none() && recovered.record.entries.is_empty());
    }
}
