//! What a plugin may ask for.

use std::fmt;
use std::str::FromStr;

use crate::suggest::{did_you_mean, nearest};

/// A power of the host that a plugin can ask for.
///
/// Asking is one key of two: the operator's grants are the other, and what holds is the intersection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// `cluster.read`: see facts about the cluster and its VM configs.
    ClusterRead,
    /// `cluster.deploy`: make VM configs and VMs, and delete those.
    ClusterDeploy,
    /// `ssh.exec`: run commands on VMs of this run.
    SshExec,
    /// `ssh.transfer`: copy files between the workspace and VMs of this run.
    SshTransfer,
    /// `workspace.read`: list, hash and read files of the workspace.
    WorkspaceRead,
    /// `workspace.write`: create, change and remove files of the workspace.
    WorkspaceWrite,
    /// `handoff.read`: read what an earlier Task of the pipeline left for this one.
    HandoffRead,
    /// `handoff.write`: leave something for a later Task of the pipeline.
    HandoffWrite,
    /// `cluster.keep`: leave a VM running, on purpose and for a time, after the run.
    ClusterKeep,
    /// `cluster.hand-over`: leave VM configs and VMs to other Tasks of the pipeline run.
    ClusterHandOver,
    /// `cluster.adopt`: deploy from a VM config that another Task of the pipeline run made.
    ClusterAdopt,
    /// `cluster.purge-run`: delete everything that the pipeline run made, whichever Task made it.
    ClusterPurgeRun,
}

impl Capability {
    /// Every capability, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::ClusterRead,
        Self::ClusterDeploy,
        Self::SshExec,
        Self::SshTransfer,
        Self::WorkspaceRead,
        Self::WorkspaceWrite,
        Self::HandoffRead,
        Self::HandoffWrite,
        Self::ClusterKeep,
        Self::ClusterHandOver,
        Self::ClusterAdopt,
        Self::ClusterPurgeRun,
    ];

    /// The name used in manifests and grants, such as `cluster.read`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterRead => "cluster.read",
            Self::ClusterDeploy => "cluster.deploy",
            Self::SshExec => "ssh.exec",
            Self::SshTransfer => "ssh.transfer",
            Self::WorkspaceRead => "workspace.read",
            Self::WorkspaceWrite => "workspace.write",
            Self::HandoffRead => "handoff.read",
            Self::HandoffWrite => "handoff.write",
            Self::ClusterKeep => "cluster.keep",
            Self::ClusterHandOver => "cluster.hand-over",
            Self::ClusterAdopt => "cluster.adopt",
            Self::ClusterPurgeRun => "cluster.purge-run",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Capability {
    type Err = UnknownCapability;

    fn from_str(name: &str) -> Result<Self, UnknownCapability> {
        let found = Self::ALL
            .into_iter()
            .find(|capability| capability.as_str() == name);
        found.ok_or_else(|| UnknownCapability {
            name: name.to_owned(),
        })
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Capability {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Capability".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names = Self::ALL.map(Self::as_str);
        schemars::json_schema!({
            "description": "A power of the host that a plugin can ask for.",
            "type": "string",
            "enum": names,
        })
    }
}

/// A name that is no capability. Its `Display` lists the valid ones and suggests the nearest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{name}` is no capability, expected one of {}{}",
    valid_names(),
    did_you_mean(nearest(name, names()))
)]
pub struct UnknownCapability {
    /// The name that was given.
    pub name: String,
}

fn names() -> impl Iterator<Item = &'static str> {
    Capability::ALL.into_iter().map(Capability::as_str)
}

fn valid_names() -> String {
    names()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::Capability;

    #[test]
    fn every_name_parses_back_to_its_capability() {
        for capability in Capability::ALL {
            assert_eq!(capability.to_string().parse(), Ok(capability));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_valid_ones_and_the_nearest() {
        let message = "cluster.deplyo"
            .parse::<Capability>()
            .unwrap_err()
            .to_string();
        assert!(
            message
                .starts_with("`cluster.deplyo` is no capability, expected one of `cluster.read`, "),
            "{message}"
        );
        assert!(
            message.ends_with("`cluster.purge-run`; did you mean `cluster.deploy`?"),
            "{message}"
        );
        let far = "network".parse::<Capability>().unwrap_err().to_string();
        assert!(far.ends_with("`cluster.purge-run`"), "{far}");
    }
}
