//! The handle a test holds.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::config::{ConfigError, GuestKind, SimConfig};
use crate::deploy::take_down;
use crate::fault::FaultRule;
use crate::guest::{GuestError, SshdSite, kill_processes_of};
use crate::seed::Seed;
use crate::server;
use crate::snapshot::State;
use crate::tls::{TlsError, TlsSite};

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration describes no possible cluster.
    #[error("the cluster's configuration is wrong")]
    Config(#[from] ConfigError),
    /// The port of the API could not be opened.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where it was tried.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The directory for the homes of VMs could not be made.
    #[error("cannot make a directory for the homes of VMs")]
    Homes(#[source] io::Error),
    /// The certificate for https could not be made.
    #[error("cannot serve https")]
    Tls(#[from] TlsError),
    /// Guests of the wanted kind cannot run here.
    #[error("guests of the wanted kind cannot run here")]
    Guest(#[from] GuestError),
}

/// A running cluster. Dropping it stops the API and every guest without waiting; [`Sim::shutdown`] waits.
#[derive(Debug)]
pub struct Sim {
    cluster: Arc<Cluster>,
    address: SocketAddr,
    power: CancellationToken,
    server: Option<JoinHandle<()>>,
    guest_key: Option<PathBuf>,
    guest_user: String,
    /// PEM, where the API speaks https.
    authority: Option<String>,
    /// Removed with everything in it when the simulator goes.
    scratch: Option<TempDir>,
}

impl Sim {
    /// Opens the API and returns once it accepts connections.
    ///
    /// With [`GuestKind::Sshd`] and no authorized key a key pair is made; see [`Sim::guest_key`].
    ///
    /// # Errors
    ///
    /// [`StartError`] if the configuration is wrong, the port is taken, or guests of the wanted kind cannot run here.
    pub async fn start(mut config: SimConfig) -> Result<Self, StartError> {
        config.check()?;
        let scratch = tempfile::Builder::new()
            .prefix("orka-sim-")
            .tempdir()
            .map_err(StartError::Homes)?;
        let homes = config
            .home_root
            .clone()
            .unwrap_or_else(|| scratch.path().join("vms"));
        tokio::fs::create_dir_all(&homes)
            .await
            .map_err(StartError::Homes)?;
        let mut guest_key = None;
        let mut guest_user = config.guest_user.clone();
        if let GuestKind::Sshd(settings) = &config.guests {
            SshdSite::find(settings)?;
            guest_user = SshdSite::user()?;
            if config.authorized_keys.is_empty() {
                let file = scratch.path().join("id_ed25519");
                config
                    .authorized_keys
                    .push(SshdSite::make_key(&file).await?);
                guest_key = Some(file);
            }
        }
        let wanted = SocketAddr::new(config.bind, config.port);
        let refused = |source| StartError::Listen {
            address: wanted,
            source,
        };
        let listener = TcpListener::bind(wanted).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let tls = config.tls.map(TlsSite::make).transpose()?;
        let authority = tls.as_ref().map(|site| site.authority.clone());
        let acceptor = tls.map(|site| site.acceptor);
        let cluster = Arc::new(Cluster::new(config, homes));
        let power = cluster.power.clone();
        let server = tokio::spawn(server::serve(
            Arc::clone(&cluster),
            listener,
            acceptor,
            power.clone(),
        ));
        Ok(Self {
            cluster,
            address,
            power,
            server: Some(server),
            guest_key,
            guest_user,
            authority,
            scratch: Some(scratch),
        })
    }

    /// The base URL of the API, without a slash at the end.
    pub fn url(&self) -> String {
        let host = match self.address.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        let scheme = if self.authority.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", SocketAddr::new(host, self.address.port()))
    }

    /// A copy of the present state of the cluster, with all requests so far.
    pub fn state(&self) -> State {
        self.cluster.snapshot()
    }

    /// Time since the start of the simulator, on the clock of its records.
    pub fn elapsed(&self) -> std::time::Duration {
        self.cluster.elapsed()
    }

    /// The configuration the cluster was started with.
    pub fn config(&self) -> &SimConfig {
        &self.cluster.config
    }

    /// Puts VMs and configurations onto the cluster as if they had been deployed some time ago, whatever room there is.
    pub fn seed(&self, seeds: impl IntoIterator<Item = Seed>) {
        for seed in seeds {
            self.cluster.seed(seed);
        }
    }

    /// Adds a fault; it counts requests from now on.
    pub fn add_fault(&self, rule: FaultRule) {
        self.cluster.lock().faults.add(rule);
    }

    /// Removes all faults. Guests that misbehave already go on doing so.
    pub fn clear_faults(&self) {
        self.cluster.lock().faults.clear();
    }

    /// Lets nothing pass any more between the VMs of now and those who are or will be logged in, and closes nothing, as a
    /// link that has died does. Gives the number of VMs; real `sshd` guests are left alone and not counted.
    pub fn freeze_ssh(&self) -> usize {
        let inner = self.cluster.lock();
        let guests = inner.vms.iter().filter_map(|vm| vm.guest.as_ref());
        guests.filter(|guest| guest.freeze()).count()
    }

    /// Ends the connections of now of all VMs; later ones are served. Gives the number of VMs; real `sshd` guests are
    /// left alone and not counted.
    pub fn cut_ssh(&self) -> usize {
        let inner = self.cluster.lock();
        let guests = inner.vms.iter().filter_map(|vm| vm.guest.as_ref());
        guests.filter(|guest| guest.cut()).count()
    }

    /// Lets nothing pass any more on the connections of now, and closes none; later ones are served. Gives the number of VMs;
    /// real `sshd` guests are left alone and not counted.
    pub fn stall_ssh(&self) -> usize {
        let inner = self.cluster.lock();
        let guests = inner.vms.iter().filter_map(|vm| vm.guest.as_ref());
        guests.filter(|guest| guest.stall()).count()
    }

    /// Ends the SSH servers of all VMs with their sessions and starts them anew; what was started in the VMs goes on. Gives
    /// the number of VMs; only real `sshd` guests can do that, others are left alone and not counted.
    pub fn restart_ssh(&self) -> usize {
        let inner = self.cluster.lock();
        let guests = inner.vms.iter().filter_map(|vm| vm.guest.as_ref());
        guests.filter(|guest| guest.restart()).count()
    }

    /// Closes the API's port and every connection to it for this long: connections are refused, as while a service is
    /// started anew. What was being worked on goes on.
    pub fn refuse_connections_for(&self, length: std::time::Duration) {
        self.cluster.outages.send_replace(length);
    }

    /// The home directory of the newest VM of this name.
    pub fn vm_home(&self, name: &str) -> Option<PathBuf> {
        let inner = self.cluster.lock();
        inner
            .vms
            .iter()
            .rev()
            .find(|vm| vm.spec.name == name)
            .map(|vm| vm.home.clone())
    }

    /// The user that logs in to VMs: `guest_user`, or with real `sshd` guests the user this process runs as.
    pub fn guest_user(&self) -> &str {
        &self.guest_user
    }

    /// The certificate of the authority behind an https API, PEM; absent where the API speaks http.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The private key made for `sshd` guests, where no key was given.
    pub fn guest_key(&self) -> Option<&std::path::Path> {
        self.guest_key.as_deref()
    }

    /// Ends the API and every guest, and removes all temporary files.
    pub async fn shutdown(mut self) {
        self.power.cancel();
        if let Some(server) = self.server.take()
            && let Err(error) = server.await
        {
            tracing::error!(%error, "the API ended badly");
        }
        take_down(&self.cluster, |_| true).await;
        if let Some(scratch) = self.scratch.take()
            && let Err(error) = scratch.close()
        {
            tracing::warn!(%error, "temporary files stay");
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.power.cancel();
        // Guests stop when they are dropped; the server's tasks may hold the cluster a moment longer.
        let vms = std::mem::take(&mut self.cluster.lock().vms);
        for vm in vms {
            drop(vm.guest);
            kill_processes_of(&vm.home);
        }
    }
}
