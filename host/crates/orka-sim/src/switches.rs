//! What is not known about real clusters, or differs between releases, as values a test can choose.

use serde::{Deserialize, Serialize};

/// How many tokens a user of Orka 1.x/2.x has at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenModel {
    /// One per user from version 2.1.1 on, any number before.
    #[default]
    ByVersion,
    /// Each `POST /token` makes a further one.
    Many,
    /// One per user; `POST /token` answers the same string again.
    OneSame,
    /// One per user; `POST /token` replaces it, which ends the sessions of others.
    OneRotating,
}

/// How `io_boost` and its like are written in 2.x answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BooleanStyle {
    /// JSON booleans on Intel, `"N/A"` on Apple silicon.
    #[default]
    ByArchitecture,
    /// JSON booleans always.
    Boolean,
    /// `"true"` and `"false"`.
    Text,
    /// `"N/A"` always.
    NotApplicable,
}

/// How ports are written in 2.x answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortStyle {
    /// Decimal strings.
    #[default]
    Text,
    /// JSON numbers.
    Number,
    /// `"N/A"`.
    NotApplicable,
    /// The member is left out.
    Missing,
}

/// Where the SSH ports of virtual machines come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortNumbers {
    /// Free ports of 127.0.0.1 chosen by the kernel, so that simulators in parallel never collide.
    #[default]
    Kernel,
    /// As on a cluster: from 8822 upward on each node, lowest free first, each node on a loopback address of its own
    /// (127.0.0.2, 127.0.0.3, …). Two such simulators on one machine compete for the same ports.
    Cluster,
}

/// What a 3.x cluster without room does with a deploy request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FullCluster {
    /// An error at once.
    #[default]
    Refuse,
    /// The VM stays `Pending` until room appears or the request's `timeout` passes.
    Wait,
}

/// The answer to a successful `DELETE` of a 3.x VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeleteReply {
    /// `200` with an empty body.
    #[default]
    OkEmpty,
    /// `200` with a JSON object.
    OkJson,
    /// `202` with an empty body.
    Accepted,
    /// `204`.
    NoContent,
}

/// How VMs of a 3.x cluster are addressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// The node's address and ports from the node's ranges.
    #[default]
    Nat,
    /// An address of the VM's own. `ssh` is the port that really answers (22 on a cluster, where this machine's
    /// simulator has a free one), `screenshare` 5900, `vnc` 6000.
    Bridge,
}

/// Status codes of 2.x failures whose code is not known. `200` means `200` with `errors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct V2Statuses {
    /// A member is missing or breaks a rule.
    pub validation: u16,
    /// A configuration of that name exists.
    pub duplicate: u16,
    /// No such configuration on deploy.
    pub unknown_config: u16,
    /// No such image on deploy.
    pub unknown_image: u16,
    /// No node has room.
    pub capacity: u16,
    /// `delete` of a name with nothing deployed.
    pub delete_nothing: u16,
    /// `purge` of a name that does not exist.
    pub purge_nothing: u16,
    /// Wrong e-mail or password.
    pub login_refused: u16,
    /// More than 100 KB of parameters.
    pub too_large: u16,
}

impl Default for V2Statuses {
    fn default() -> Self {
        Self {
            validation: 400,
            duplicate: 409,
            unknown_config: 404,
            unknown_image: 404,
            capacity: 500,
            delete_nothing: 500,
            purge_nothing: 500,
            login_refused: 401,
            too_large: 413,
        }
    }
}

/// Every choice the simulator makes where real behaviour is unknown or depends on the release.
///
/// The defaults are the best guess for a healthy cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Switches {
    /// How many tokens a 2.x user has.
    pub token_model: TokenModel,
    /// `GET /token` with a bad token answers `200` and `authenticated: false` instead of `401`.
    pub token_check_always_ok: bool,
    /// Status codes of 2.x failures.
    pub v2_statuses: V2Statuses,
    /// `purge` of a configuration that is not deployed fails.
    pub purge_undeployed_fails: bool,
    /// `purge` of an unknown name answers `200`.
    pub purge_unknown_succeeds: bool,
    /// `create` refuses a body without `vcpu_count`.
    pub require_vcpu_count: bool,
    /// `create` refuses a body without `orka_image`.
    pub require_orka_image: bool,
    /// How booleans are written in 2.x answers.
    pub boolean_style: BooleanStyle,
    /// How ports are written in 2.x answers.
    pub port_style: PortStyle,
    /// `creationTimestamp` instead of `creation_timestamp`.
    pub camel_case_timestamp: bool,
    /// Lists do not tell when a VM was made; no release is known to do so.
    pub hide_timestamps: bool,
    /// Failed 2.x deploys carry the deploy members with empty values, as older servers do.
    pub zeroed_error_members: bool,
    /// The text of a 2.x capacity failure.
    pub v2_capacity_text: String,
    /// `vm/list` leaves out configurations whose deployment failed.
    pub list_hides_failed: bool,
    /// Where SSH ports come from.
    pub port_numbers: PortNumbers,
    /// A 3.x deploy answers `201` instead of `200`.
    pub deploy_created: bool,
    /// The answer to a 3.x delete.
    pub delete_reply: DeleteReply,
    /// What a full 3.x cluster does.
    pub full_cluster: FullCluster,
    /// A 3.x VM whose deploy request timed out is removed instead of kept.
    pub remove_after_timeout: bool,
    /// Status code of 3.x validation failures.
    pub v3_validation_status: u16,
    /// Status code of 3.x capacity failures.
    pub v3_capacity_status: u16,
    /// Milliseconds of one minute of a 3.x deploy request's `timeout`.
    pub minute_ms: u64,
    /// The text of a 3.x failure for want of a free VM slot; `{node}` is replaced. Empty: the usual text.
    pub v3_slots_text: String,
    /// 3.x deploys also take `customVMMetadata`.
    pub accept_custom_vm_metadata: bool,
    /// How 3.x VMs are addressed.
    pub network_mode: NetworkMode,
    /// Only the images of the cluster's own list exist; other OCI references fail to pull.
    pub strict_oci_images: bool,
    /// 3.x: the administrator has enabled GPU passthrough, which only Intel nodes have.
    pub gpu_passthrough: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            token_model: TokenModel::default(),
            token_check_always_ok: false,
            v2_statuses: V2Statuses::default(),
            purge_undeployed_fails: false,
            purge_unknown_succeeds: false,
            require_vcpu_count: false,
            require_orka_image: false,
            boolean_style: BooleanStyle::default(),
            port_style: PortStyle::default(),
            camel_case_timestamp: false,
            hide_timestamps: false,
            zeroed_error_members: false,
            v2_capacity_text: "No available nodes with sufficient CPU.".to_owned(),
            list_hides_failed: false,
            port_numbers: PortNumbers::default(),
            deploy_created: false,
            delete_reply: DeleteReply::default(),
            full_cluster: FullCluster::default(),
            remove_after_timeout: false,
            v3_validation_status: 400,
            v3_capacity_status: 500,
            minute_ms: 60_000,
            v3_slots_text: String::new(),
            accept_custom_vm_metadata: false,
            network_mode: NetworkMode::default(),
            strict_oci_images: false,
            gpu_passthrough: false,
        }
    }
}
