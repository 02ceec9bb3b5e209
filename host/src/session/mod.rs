//! Recorded sessions: what a run asked of its cluster and VMs, and what they answered, for people and for replays.
//!
//! A session is YAML. Secrets are replaced by `***` before anything is written, names of VMs by their number in the run, and
//! what is no text is base64. Bulk bytes are not in it: transfers have names, sizes and digests.

mod record;
#[cfg_attr(
    not(feature = "authoring"),
    allow(dead_code, reason = "what only replays read")
)]
mod values;
mod witness;

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use record::Recorder;
pub use values::FailureRecord;
pub(crate) use values::{
    CopiedRecord, FactsRecord, NodeRecord, VmRecord, deploy_asked, download_asked, exec_asked,
    login_asked, spec_asked, upload_asked, write_asked,
};
pub use witness::{Tidying, Witness};

use crate::failure::Failure;

/// The form of a session; raised when a member changes its meaning.
pub const FORMAT: u32 = 4;

/// From this form on a session has what the plugin itself tidied up. From the third on it says when each call began, and
/// what ended only after the run was stopped; from the fourth on, whether that was between two calls.
#[cfg(feature = "authoring")]
pub(crate) const FORMAT_WITH_TIDYING: u32 = 2;

/// A recorded run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(title = "A recorded session of orka-step"))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Session {
    /// The form of this file.
    // [`FORMAT`] is the newest that is read.
    #[cfg_attr(test, schemars(range(max = FORMAT)))]
    pub session: u32,
    /// Which program recorded it.
    pub recorded_by: String,
    /// When the run began.
    #[cfg_attr(test, schemars(with = "String"))]
    pub began: jiff::Timestamp,
    /// Which plugin ran.
    pub plugin: PluginRecord,
    /// What the run was given.
    pub given: Given,
    /// What the plugin asked for and got, in order.
    pub calls: Vec<Exchange>,
    /// How the run ended.
    pub ended: EndedRecord,
}

/// A plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PluginRecord {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its digest.
    pub digest: String,
}

/// What a run was given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Given {
    /// Parameters, as they were given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
    /// The script given as a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Blob>,
    /// The run's own deadline, in milliseconds.
    pub timeout_ms: u64,
    /// Whether it was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<StoppedRecord>,
    /// Names of secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Files of the workspace by path: contents of those that the plugin read, sizes of the others. None without a
    /// workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<BTreeMap<String, FileRecord>>,
}

/// A signal that stopped a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StoppedRecord {
    /// When, in milliseconds after its start.
    pub after_ms: u64,
    /// Its name.
    pub signal: String,
}

/// A file of the workspace.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum FileRecord {
    /// One that the plugin did not read.
    Size {
        /// Its size in bytes.
        size: u64,
    },
    /// One that it did.
    Contents(Blob),
}

/// Bytes: text where they are text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Blob {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes {
        /// In base64.
        base64: String,
    },
}

impl Blob {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes {
                base64: STANDARD.encode(bytes),
            },
        }
    }

    /// The bytes; none of what is not base64.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Bytes { base64 } => STANDARD.decode(base64).unwrap_or_default(),
        }
    }
}

/// One call and its answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Exchange {
    /// Which, such as `deploy`.
    pub call: String,
    /// What was asked for. A replayed call must ask for the same.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub asked: Value,
    /// When it began, in milliseconds after the start of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Whether it ended after the run was stopped or its deadline had passed. It does so in a replay too, whatever the
    /// times say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_stop: bool,
    /// Whether it had not ended when the run did, so that nothing came back: a stop had cut it off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unended: bool,
    /// What came back.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub answer: Value,
    /// Or why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureRecord>,
    /// What a program wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<OutputRecord>,
    /// Bytes of output that are not kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_left_out: u64,
    /// How a program ended; none if it was running still at the end of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramEnd>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Output of one stream that came without any of the other between.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OutputRecord {
    /// Whether it is standard error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stderr: bool,
    /// What.
    pub text: Blob,
}

/// How a program ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProgramEnd {
    /// So long after the call that started it began, in milliseconds.
    pub after_ms: u64,
    /// Whether the run had been stopped or its deadline had passed by then. It has in a replay too, whatever the times
    /// say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_stop: bool,
    /// With this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u32>,
    /// Or by this signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Or with the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<FailureRecord>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EndedRecord {
    /// The result `outcome`.
    pub outcome: String,
    /// The step's exit code.
    pub exit_code: u8,
    /// Whether the run was stopped, or its deadline passed, before the plugin had ended and while none of its calls was
    /// under way. The next one that it made is not in the session.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub between_calls: bool,
    /// What became of the login's token, as in the report; none without a login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_out: Option<String>,
}

/// Names of VMs and VM configs in the order in which a run chose them. A session has their numbers instead, since each run
/// chooses others.
#[derive(Default)]
pub(crate) struct Names(Vec<String>);

impl Names {
    pub(crate) fn add(&mut self, name: &str) {
        if !self.0.iter().any(|known| known == name) {
            self.0.push(name.to_owned());
        }
    }

    pub(crate) fn cleaned(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // Backwards, since `…-1` begins `…-10`.
        for (position, name) in self.0.iter().enumerate().rev() {
            text = text.replace(name, &format!("vm-{}", position + 1));
        }
        text
    }

    #[cfg(feature = "authoring")]
    pub(crate) fn clean(&self, value: &mut Value) {
        each_text(value, &|text| self.cleaned(text));
    }
}

/// Puts every text within a value through `change`.
fn each_text(value: &mut Value, change: &dyn Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, change)),
        Value::Object(members) => members
            .values_mut()
            .for_each(|item| each_text(item, change)),
        _ => {}
    }
}

impl Exchange {
    /// The call and what was asked for in one line, for differences.
    pub fn line(&self) -> String {
        match &self.asked {
            Value::Null => self.call.clone(),
            asked => format!("{} {asked}", self.call),
        }
    }
}

impl Session {
    /// Reads a session.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or is no session of a form that this program knows.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct FormatAlone {
            session: u32,
        }
        let shown = path.display();
        let wrong = |error: yaml_serde::Error| {
            Failure::config(format!("`{shown}` is no recorded session")).with_source(error)
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::config(format!("cannot read the session `{shown}`")).with_source(error)
        })?;
        // First and alone: a newer form may have members that this program would call unknown.
        let FormatAlone { session } = yaml_serde::from_str(&text).map_err(wrong)?;
        if session > FORMAT {
            return Err(Failure::config(format!(
                "the session `{shown}` has form {session}; this program knows {FORMAT}"
            ))
            .with_hint("use the program that recorded it, or a newer one"));
        }
        yaml_serde::from_str(&text).map_err(wrong)
    }

    /// As YAML whose texts are texts also to readers of YAML 1.1, which make times of what looks like one.
    fn text(&self) -> Result<String, Failure> {
        // Lines as they are: what a program wrote is easier to read so.
        let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
        serde_saphyr::to_string_with_options(self, options)
            .map_err(|error| Failure::internal("the session cannot be written").with_source(error))
    }

    /// Writes the session, readable by its owner alone: what a build says may be nobody else's business.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;

        let cannot = |error: std::io::Error| {
            Failure::files(
                "files.record",
                format!("cannot write the session `{}`", path.display()),
            )
            .with_source(error)
        };
        let text = self.text()?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(cannot)?;
        file.write_all(text.as_bytes())
            .and_then(|()| std::fs::rename(&temporary, path))
            .map_err(cannot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_it_was_and_no_text_looks_like_anything_else() {
        let texts = [
            "2026-11-28T05:24:50.421536246Z",
            "2026-11-28",
            "on",
            "y",
            "~",
            "0x1F",
            "12:30:45",
            "1_000",
            "1e3",
            "=",
            "<<",
            "",
            " leading, and trailing ",
            "a: b # c",
            "- a\n- b\n",
            "\n\n two\n   three\n\n",
            "one\r\ntwo\u{7f}\u{1b}[0m\ttab\u{85}\u{2028}\u{feff}",
            &"long words ".repeat(40),
        ];
        let params = texts.iter().enumerate();
        let session = Session {
            session: FORMAT,
            recorded_by: "a test".to_owned(),
            began: "2026-11-28T05:24:50.421536246Z".parse().unwrap(),
            plugin: PluginRecord {
                name: "a".to_owned(),
                version: "1.0".to_owned(),
                digest: String::new(),
            },
            given: Given {
                params: params
                    .map(|(number, text)| (format!("p{number}"), (*text).to_owned()))
                    .collect(),
                script: Some(Blob::of(b"#!/bin/sh\nset -e\nmake\n")),
                timeout_ms: 1,
                stopped: None,
                secrets: vec!["no".to_owned()],
                workspace: None,
            },
            calls: Vec::new(),
            ended: EndedRecord {
                outcome: "succeeded".to_owned(),
                exit_code: 0,
                between_calls: false,
                sign_out: None,
            },
        };
        let text = session.text().unwrap();
        let read: Session = yaml_serde::from_str(&text).unwrap();
        let value = |session: &Session| serde_json::to_value(session).unwrap();
        assert_eq!(value(&read), value(&session), "{text}");
        for (member, first) in [("began", '2'), ("p1", '2'), ("p2", 'o'), ("p6", '1')] {
            let lines = text.lines().map(str::trim_start);
            let mut values = lines.filter_map(|line| line.strip_prefix(&format!("{member}: ")));
            let quoted = [format!("'{first}"), format!("\"{first}")];
            assert!(
                values.any(|value| quoted.iter().any(|begin| value.starts_with(begin))),
                "{member}: {text}"
            );
        }
        assert!(
            text.contains("- \"no\"") || text.contains("- 'no'"),
            "{text}"
        );
        assert!(
            text.contains("script: |\n    #!/bin/sh\n    set -e\n"),
            "{text}"
        );
    }
}
