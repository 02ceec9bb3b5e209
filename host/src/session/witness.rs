//! Who is told what a plugin does that its backends alone cannot tell: they see the host tidy up in the same way.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::failure::Failure;

/// A call by which a plugin tidies up after itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tidying<'a> {
    /// Everything of a VM config, by its name.
    Purge(&'a str),
    /// One VM, by its name.
    Delete(&'a str),
    /// Everything of the pipeline run.
    PurgeRun,
    /// The end of the login.
    SignOut,
}

impl Tidying<'_> {
    /// What a session calls it.
    pub(crate) fn call(self) -> &'static str {
        match self {
            Self::Purge(_) => "purge",
            Self::Delete(_) => "delete",
            Self::PurgeRun => "purge-run",
            Self::SignOut => "sign-out",
        }
    }

    /// The name it is about.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Purge(name) | Self::Delete(name) => Some(name),
            Self::PurgeRun | Self::SignOut => None,
        }
    }

    pub(crate) fn asked(self) -> Value {
        self.name()
            .map_or(Value::Null, |name| json!({ "name": name }))
    }
}

/// A recorder, or a replay.
#[async_trait]
pub trait Witness: Send + Sync {
    /// The plugin read a file of the workspace.
    fn read(&self, path: &str, contents: &[u8]);

    /// The plugin is about to tidy up: the call's number, for [`Witness::tidied`], or the failure with which it is to end
    /// without doing its work.
    async fn tidies(&self, what: Tidying<'_>) -> Result<usize, Failure>;

    /// It did.
    fn tidied(&self, number: usize, failure: Option<&Failure>);

    /// The plugin's part is over; what follows is the host's.
    fn plugin_ended(&self);
}
