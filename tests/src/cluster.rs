//! A simulated cluster and the credentials for it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use orka_sim::{Generation, GuestKind, Sim, SimConfig, SshdSettings, VmRecord};
use tempfile::TempDir;

use crate::Step;

/// The newest release in which each login has a token of its own, so that none may be left over.
const API_VERSION: &str = "2.1.0";

/// An image that every simulated cluster has.
const IMAGE: &str = "Sonoma.orkasi";

/// A simulated cluster and directories with credentials for it and its VMs.
pub struct Cluster {
    /// The cluster.
    pub sim: Sim,
    credentials: TempDir,
}

impl Cluster {
    /// What a cluster of Orka 2.1.0 is made of: two small Apple silicon nodes and an Intel one.
    pub fn orka2() -> SimConfig {
        SimConfig {
            generation: Generation::Two,
            api_version: API_VERSION.to_owned(),
            ..SimConfig::default()
        }
    }

    /// What a cluster of Orka 3 is made of.
    pub fn orka3() -> SimConfig {
        SimConfig {
            generation: Generation::Three,
            ..SimConfig::default()
        }
    }

    /// A healthy cluster of Orka 2.1.0.
    pub async fn start() -> Self {
        Self::with(Self::orka2()).await
    }

    /// A healthy cluster whose VMs are real OpenSSH servers, logged into by key.
    pub async fn with_openssh() -> Self {
        Self::with(SimConfig {
            guests: GuestKind::Sshd(SshdSettings::default()),
            ..Self::orka2()
        })
        .await
    }

    /// A cluster made of this.
    pub async fn with(config: SimConfig) -> Self {
        let sim = Sim::start(config)
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        let cluster = Self {
            sim,
            credentials: tempfile::tempdir().unwrap(),
        };
        cluster.write_credentials();
        cluster
    }

    fn write_credentials(&self) {
        let config = self.sim.config();
        std::fs::create_dir(self.orka_credentials()).unwrap();
        std::fs::create_dir(self.ssh_credentials()).unwrap();
        if config.generation == Generation::Three {
            self.write_orka("token", &config.sa_tokens[0].token);
        } else {
            self.write_orka("email", &config.users[0].email);
            self.write_orka("password", &config.users[0].password);
        }
        self.write_ssh("username", self.sim.guest_user());
        match self.sim.guest_key() {
            Some(key) => self.write_ssh("ssh-privatekey", &std::fs::read_to_string(key).unwrap()),
            None => self.write_ssh("password", &config.guest_password),
        }
    }

    /// The directory for `--orka-credentials`.
    pub fn orka_credentials(&self) -> PathBuf {
        self.credentials.path().join("orka")
    }

    /// The directory for `--ssh-credentials`.
    pub fn ssh_credentials(&self) -> PathBuf {
        self.credentials.path().join("ssh")
    }

    /// Replaces a file of the Orka credentials.
    pub fn write_orka(&self, file: &str, text: &str) {
        std::fs::write(self.orka_credentials().join(file), text).unwrap();
    }

    /// Replaces a file of the SSH credentials.
    pub fn write_ssh(&self, file: &str, text: &str) {
        std::fs::write(self.ssh_credentials().join(file), text).unwrap();
    }

    /// `orka-step run` against this cluster, with a workspace, a results directory and a report of its own.
    pub fn run(&self) -> Step {
        Step::new(&["run"])
            .flag("--orka-api", self.sim.url())
            .flag("--orka-credentials", path(&self.orka_credentials()))
            .flag("--ssh-credentials", path(&self.ssh_credentials()))
            .with_directories()
    }

    /// `orka-step doctor` against this cluster.
    pub fn doctor(&self) -> Step {
        Step::new(&["doctor"])
            .flag("--orka-api", self.sim.url())
            .flag("--orka-credentials", path(&self.orka_credentials()))
            .flag("--ssh-credentials", path(&self.ssh_credentials()))
            .with_directories()
            .param("base-image", IMAGE)
            .param("script", "true")
    }

    /// `orka-step reap` against this cluster.
    pub fn reap(&self) -> Step {
        Step::new(&["reap"])
            .flag("--orka-api", self.sim.url())
            .flag("--orka-credentials", path(&self.orka_credentials()))
    }

    /// The same with the bundled plugin `build` and this script.
    pub fn build(&self, script: &str) -> Step {
        self.run()
            .param("base-image", IMAGE)
            .param("script", script)
    }

    /// The same with an odd guest, which is granted all that it asks for.
    pub fn guest(&self, name: &str) -> Step {
        self.run()
            .flag("--plugin", path(&crate::guest(name)))
            .granted("[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n")
    }

    /// Every name on the cluster: of VMs, of VM configs, and of VMs that still wait for a node.
    pub fn names(&self) -> BTreeSet<String> {
        let state = self.sim.state();
        let vms = state.vms.into_iter().map(|vm| vm.name);
        let configs = state.configs.into_iter().map(|config| config.name);
        vms.chain(configs).chain(state.waiting).collect()
    }

    /// The one VM of the cluster.
    ///
    /// # Panics
    ///
    /// If there is another number of them.
    pub fn only_vm(&self) -> VmRecord {
        let mut vms = self.sim.state().vms;
        assert_eq!(vms.len(), 1, "{vms:?}");
        vms.remove(0)
    }

    /// Fails unless VMs were deployed and none of them, no VM config and no token is left.
    pub fn assert_purged(&self) {
        let deployed = self
            .sim
            .state()
            .deletions
            .iter()
            .filter(|it| it.kind == "vm")
            .count();
        assert!(
            deployed > 0,
            "no VM was ever deployed: {:#?}",
            self.sim.state().requests
        );
        self.assert_nothing_left();
    }

    /// Fails unless no VM, no VM config and, where tokens are not shared, no token is left.
    pub fn assert_nothing_left(&self) {
        let state = self.sim.state();
        assert!(
            state.is_clean(),
            "left: {:?} {:?}",
            state.vms,
            state.configs
        );
        if self.sim.config().api_version == API_VERSION {
            assert_eq!(state.live_tokens(), 0, "a token still works");
        }
    }

    /// Fails if anything was requested at all.
    pub fn assert_untouched(&self) {
        let requests = self.sim.state().requests;
        assert!(requests.is_empty(), "{requests:#?}");
    }
}

/// A path as an argument.
fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
