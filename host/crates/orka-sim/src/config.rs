//! What a simulated cluster is made of, decided before it starts.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fault::FaultRule;
use crate::switches::Switches;
use crate::tls::Tls;

/// Which of the two REST APIs the cluster serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// Orka 1.x/2.x alone.
    Two,
    /// Orka 3.1 and later: the 2.x paths are gone.
    Three,
    /// Orka 3.0.x: the 3.x API, and the deprecated 2.x one beside it.
    #[default]
    Both,
}

impl Generation {
    /// Whether the 2.x API is served.
    pub fn serves_two(self) -> bool {
        self != Self::Three
    }

    /// Whether the 3.x API is served.
    pub fn serves_three(self) -> bool {
        self != Self::Two
    }
}

/// A user of the 2.x API.
#[derive(Clone, Debug)]
pub struct User {
    /// E-mail address, the login name.
    pub email: String,
    /// At least 6 characters on a real cluster.
    pub password: String,
}

/// A bearer token of the 3.x API, of a service account or of a person.
#[derive(Clone, Debug)]
pub struct SaToken {
    /// The string sent as `Authorization: Bearer …`.
    pub token: String,
    /// The name of the service account, or the e-mail address of a person.
    pub account: String,
    /// Namespaces in which the account may work.
    pub namespaces: Vec<String>,
    /// Life from the start of the simulator; `None` is a token without expiry.
    pub lifetime: Option<Duration>,
    /// Administrators may also create namespaces and service accounts, and see every namespace.
    pub admin: bool,
}

/// The processor of a node or an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// Apple silicon: at most two VMs a node.
    AppleSilicon,
    /// Intel.
    Intel,
}

impl Architecture {
    /// The word Orka 3.x uses in `type`.
    pub fn orka3_type(self) -> &'static str {
        match self {
            Self::AppleSilicon => "arm64",
            Self::Intel => "amd64",
        }
    }
}

/// One physical Mac.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Name of the node, such as `mini-arm-1`.
    pub name: String,
    /// Processor.
    pub architecture: Architecture,
    /// Cores that VMs can have.
    pub cpu: u32,
    /// Memory in GiB.
    pub memory_gib: f64,
    /// How many VMs fit whatever their size; 2 on Apple silicon.
    pub slots: u32,
    /// Tags for `tag` of a configuration or deploy request.
    pub tags: Vec<String>,
    /// The 3.x namespace the node belongs to.
    pub namespace: String,
    /// `false` reports the node as not ready and keeps VMs off it.
    pub ready: bool,
}

impl NodeSpec {
    /// An 8-core Apple silicon mini with 16 GiB and two slots.
    pub fn apple_silicon(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            architecture: Architecture::AppleSilicon,
            cpu: 8,
            memory_gib: 16.0,
            slots: 2,
            tags: Vec::new(),
            namespace: "orka-default".to_owned(),
            ready: true,
        }
    }

    /// A 24-core Intel Mac Pro with 64 GiB and 15 slots (the size of the SSH port range 8822–8836).
    pub fn intel(name: impl Into<String>) -> Self {
        Self {
            architecture: Architecture::Intel,
            cpu: 24,
            memory_gib: 64.0,
            slots: 15,
            ..Self::apple_silicon(name)
        }
    }
}

/// One VM image of the cluster.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// Name, suffix included, or an OCI reference.
    pub name: String,
    /// Processor it boots on.
    pub architecture: Architecture,
    /// Size in GB as shown in lists.
    pub size_gb: u32,
}

impl ImageSpec {
    /// An image whose processor follows from its name: `.img` is Intel, everything else Apple silicon.
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        let architecture = architecture_of(&name);
        Self {
            name,
            architecture,
            size_gb: 90,
        }
    }
}

/// The processor an image name stands for where no list says so.
pub(crate) fn architecture_of(image: &str) -> Architecture {
    let intel = [".img", ".app", ".iso"]
        .iter()
        .any(|suffix| image.to_ascii_lowercase().ends_with(suffix));
    if intel {
        Architecture::Intel
    } else {
        Architecture::AppleSilicon
    }
}

/// Settings of guests that are real OpenSSH servers.
#[derive(Clone, Debug, Default)]
pub struct SshdSettings {
    /// The program; found in `/usr/sbin` or `PATH` when absent.
    pub program: Option<PathBuf>,
}

/// What answers on the SSH port of a VM.
#[derive(Clone, Debug, Default)]
pub enum GuestKind {
    /// An SSH server in this process that runs the local shell.
    #[default]
    Embedded,
    /// A real `sshd` for each VM. It logs in the user this process runs as, by public key.
    Sshd(SshdSettings),
    /// Nothing: connections are refused.
    None,
}

/// Everything about a simulated cluster. The default is a small healthy one; see [`SimConfig::default`].
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Which APIs are served.
    pub generation: Generation,
    /// `api_version` of the 2.x API; decides the token model at 2.1.1. Empty: the member is left out.
    pub api_version: String,
    /// Users of the 2.x API.
    pub users: Vec<User>,
    /// The licence key for administrative 2.x calls.
    pub licence_key: String,
    /// Bearer tokens of the 3.x API.
    pub sa_tokens: Vec<SaToken>,
    /// 3.x namespaces; `orka-default` is always there.
    pub namespaces: Vec<String>,
    /// Nodes, in the order they are filled.
    pub nodes: Vec<NodeSpec>,
    /// Images of the cluster.
    pub images: Vec<ImageSpec>,
    /// What answers on SSH ports.
    pub guests: GuestKind,
    /// From the end of a deploy until SSH answers; before that, connections are refused.
    pub boot_delay: Duration,
    /// How long each deploy request takes.
    pub deploy_delay: Duration,
    /// Added to the first deploy of an image on a node.
    pub image_pull_delay: Duration,
    /// The address the API listens on, and VMs with [`crate::PortNumbers::Kernel`].
    pub bind: IpAddr,
    /// Port of the API; 0 lets the kernel choose.
    pub port: u16,
    /// Choices where real behaviour is not known.
    pub switches: Switches,
    /// Faults from the start.
    pub faults: Vec<FaultRule>,
    /// User inside VMs with embedded guests.
    pub guest_user: String,
    /// Password of that user.
    pub guest_password: String,
    /// Public keys in OpenSSH format that log in to VMs.
    pub authorized_keys: Vec<String>,
    /// Names of environment variables a guest takes from its SSH client; a final `*` stands for any ending.
    pub accept_env: Vec<String>,
    /// https with a certificate of this kind; absent for plain http.
    pub tls: Option<Tls>,
    /// Where VM homes are made; a temporary directory when absent.
    pub home_root: Option<PathBuf>,
    /// Programs that guests find before the system's, such as stand-ins for what only macOS has.
    pub guest_programs: Option<PathBuf>,
}

impl Default for SimConfig {
    /// Both APIs at version 2.4.0, one user, a service account token for `orka-default` and an administrator's token, two Apple silicon nodes with two slots each and one Intel node, no delays,
    /// embedded guests with `admin`/`admin`.
    fn default() -> Self {
        Self {
            generation: Generation::Both,
            api_version: "2.4.0".to_owned(),
            users: vec![User {
                email: "ci@example.com".to_owned(),
                password: "correct-horse".to_owned(),
            }],
            licence_key: "orka-license-0123456789abcdef".to_owned(),
            sa_tokens: vec![
                SaToken {
                    token: "sim-sa-token-ci".to_owned(),
                    account: "sa-ci".to_owned(),
                    namespaces: vec!["orka-default".to_owned()],
                    lifetime: Some(Duration::from_secs(8760 * 3600)),
                    admin: false,
                },
                SaToken {
                    token: "sim-admin-token".to_owned(),
                    account: "admin@example.com".to_owned(),
                    namespaces: vec!["orka-default".to_owned(), "orka-test".to_owned()],
                    // People's tokens live an hour.
                    lifetime: Some(Duration::from_secs(3600)),
                    admin: true,
                },
            ],
            namespaces: vec!["orka-default".to_owned(), "orka-test".to_owned()],
            nodes: vec![
                NodeSpec::apple_silicon("mini-arm-1"),
                NodeSpec::apple_silicon("mini-arm-2"),
                NodeSpec::intel("macpro-1"),
            ],
            images: [
                "Monterey.orkasi",
                "Ventura.orkasi",
                "Sonoma.orkasi",
                "Sequoia.orkasi",
                "Mojave.img",
                "Catalina.img",
                "catalina-ssh-30G.img",
            ]
            .into_iter()
            .map(ImageSpec::named)
            .collect(),
            guests: GuestKind::default(),
            boot_delay: Duration::ZERO,
            deploy_delay: Duration::ZERO,
            image_pull_delay: Duration::ZERO,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            switches: Switches::default(),
            faults: Vec::new(),
            guest_user: "admin".to_owned(),
            guest_password: "admin".to_owned(),
            authorized_keys: Vec::new(),
            accept_env: vec!["LANG".to_owned(), "LC_*".to_owned()],
            tls: None,
            home_root: None,
            guest_programs: None,
        }
    }
}

impl SimConfig {
    /// Reports what would make the cluster unusable.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the first problem found.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::DuplicateNode(pair[0].to_owned()));
        }
        for key in &self.authorized_keys {
            russh::keys::PublicKey::from_openssh(key)
                .map_err(|source| ConfigError::AuthorizedKey(Box::new(source)))?;
        }
        Ok(())
    }
}

/// A configuration that no cluster can have.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Two nodes share a name.
    #[error("two nodes are named `{0}`")]
    DuplicateNode(String),
    /// A line of `authorized_keys` is no public key.
    #[error("an authorized key is not in OpenSSH format")]
    AuthorizedKey(#[source] Box<russh::keys::ssh_key::Error>),
}
