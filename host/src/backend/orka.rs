//! The real cluster: [`Cluster`] over `orka-client`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use orka_client::{
    Client, ClientConfig, DeployRequest, Error, Generation as ClientGeneration,
    Removal as ClientRemoval, SignOut as ClientSignOut, VersionChoice, VmConfig, VmConfigSpec,
    VmInstance,
};
use secrecy::SecretString;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use super::{Cluster, Deploy, Listed, Remains, Removal, StoredConfig, image};
use crate::bindings::orka::plugin::cluster::{Facts, Generation, Node, SignOut, VmInfo, VmSpec};
use crate::failure::{Class, Failure, Kind};
use crate::ledger::BlackBox;

/// Orka 3's own default, and the smallest number of cores that Orka 2 accepts.
pub(crate) const CPU_CORES_DEFAULT: u32 = 3;

/// The code of an answer that says that the server does not have the call at all.
pub(crate) const NO_SUCH_CALL: &str = "orka.no-such-call";

/// How long to look for what makes a failure clear; listing nodes of a large cluster takes 10 s and more.
const EXPLANATION_TIMEOUT: Duration = Duration::from_secs(15);

/// Pauses before each look for a VM that was just deployed: a list may lag behind.
const LISTED_PAUSES: [Duration; 2] = [Duration::ZERO, Duration::from_secs(1)];

/// How long one such look may take.
const LISTED_TIMEOUT: Duration = Duration::from_secs(5);

const MIB_PER_GIB: f64 = 1024.0;

/// A cluster reached over HTTP. Nothing is sent before [`Cluster::sign_in`].
pub struct OrkaCluster {
    config: ClientConfig,
    client: OnceCell<Client>,
    /// Orka 3: VM configs that are known to be stored, which is the exception there.
    stored: Mutex<BTreeSet<String>>,
    /// Memory of VMs in MiB, as far as the cluster told it when it deployed them.
    memory: Mutex<BTreeMap<String, u32>>,
    black_box: Option<Arc<BlackBox>>,
    /// Whether it is of Orka 2, where somebody has found out before.
    known_orka2: Option<bool>,
}

impl OrkaCluster {
    /// A cluster that is not connected yet.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            client: OnceCell::new(),
            stored: Mutex::default(),
            memory: Mutex::default(),
            black_box: None,
            known_orka2: None,
        }
    }

    /// The same; commands for people are right also while there is no connection.
    #[must_use]
    pub fn known_as(mut self, orka2: Option<bool>) -> Self {
        self.known_orka2 = orka2;
        self
    }

    /// The same; tokens from logins are noted where a crash of this process does not lose them.
    #[must_use]
    pub fn noting_tokens(mut self, black_box: Option<Arc<BlackBox>>) -> Self {
        self.black_box = black_box;
        self
    }

    fn memory(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orka 3: the stored configs. An account without rights to them has made none.
    async fn configs_beside(&self, client: &Client) -> Result<Vec<VmConfig>, Failure> {
        match client.configs().await {
            Ok(configs) => {
                let names = configs.iter().map(|config| config.name.clone());
                self.stored().extend(names);
                Ok(configs)
            }
            Err(Error::Forbidden { .. } | Error::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(later(error)),
        }
    }

    /// A client, signed in or not.
    async fn connected(&self) -> Result<&Client, Failure> {
        self.client
            .get_or_try_init(|| Client::connect(self.config.clone()))
            .await
            .map_err(|error| failure(error, Stage::SignIn))
    }

    fn client(&self) -> Result<&Client, Failure> {
        self.client.get().ok_or_else(|| {
            Failure::new(
                Kind::Conflict,
                Class::Plugin,
                "run.not-signed-in",
                "this run has not signed in",
            )
        })
    }
}

#[async_trait]
impl Cluster for OrkaCluster {
    async fn sign_in(&self) -> Result<Facts, Failure> {
        let client = self.connected().await?;
        client
            .sign_in()
            .await
            .map_err(|error| sign_in_failure(error, self.config.version))?;
        let is_orka3 = client.generation() == ClientGeneration::Orka3;
        if let Some(black_box) = &self.black_box {
            black_box.note_orka2(!is_orka3);
            let is_own = client.token_is_from_login();
            if let Some(token) = client.held_token().await.filter(|_| is_own) {
                black_box.note_token(&token);
            }
        }
        Ok(Facts {
            generation: if is_orka3 {
                Generation::Orka3
            } else {
                Generation::Orka2
            },
            api_version: client.api_version().map(ToString::to_string),
            namespace: is_orka3.then(|| client.namespace().to_owned()),
        })
    }

    async fn images(&self) -> Result<Vec<String>, Failure> {
        let images = self.client()?.images().await.map_err(later)?;
        Ok(images.into_iter().map(|image| image.name).collect())
    }

    async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        let nodes = self.client()?.nodes().await.map_err(later)?;
        Ok(nodes
            .into_iter()
            .map(|node| Node {
                name: node.name,
                ready: node.is_ready,
                cpu_available: node.available_cpu,
                cpu_total: node.allocatable_cpu,
                tags: node.tags,
            })
            .collect())
    }

    async fn create_config(&self, name: &str, shape: &VmSpec) -> Result<(), Failure> {
        let client = self.client()?;
        let spec = config_spec(name, shape)?;
        if self.stores_configs() {
            match client.create_config(&spec).await {
                Ok(_) => Ok(()),
                Err(error) => Err(explained(client, later(error), shape).await),
            }
        } else {
            // Orka 3 deploys from an image alone; what it would refuse is refused here, before anything exists.
            orka_client::validate::deploy(client.generation(), &DeployRequest::from(&spec))
                .map_err(later)
        }
    }

    async fn store_config(&self, name: &str, shape: &VmSpec) -> Result<(), Failure> {
        if self.stores_configs() {
            return self.create_config(name, shape).await;
        }
        let client = self.client()?;
        let spec = config_spec(name, shape)?;
        // Before the request: if its reply is lost, the config has to be looked for all the same.
        self.stored().insert(name.to_owned());
        match client.create_config(&spec).await {
            Ok(_) => Ok(()),
            Err(error) => Err(explained(client, later(error), shape).await),
        }
    }

    fn expect_config(&self, name: &str) {
        self.stored().insert(name.to_owned());
    }

    async fn stored_configs(&self) -> Result<Vec<(String, StoredConfig)>, Failure> {
        let client = self.client()?;
        let configs = client.configs().await.map_err(later)?;
        if !self.stores_configs() {
            self.stored()
                .extend(configs.iter().map(|config| config.name.clone()));
        }
        Ok(configs
            .into_iter()
            .map(|config| (config.name.clone(), stored_config(config)))
            .collect())
    }

    fn stores_configs(&self) -> bool {
        self.client
            .get()
            .is_some_and(|client| client.generation() == ClientGeneration::Orka2)
    }

    async fn deploy(&self, deploy: &Deploy) -> Result<VmInfo, Failure> {
        let client = self.client()?;
        let from_config = !self.stores_configs() && self.stored().contains(&deploy.config);
        let mut request = deploy_request(deploy, self.stores_configs() || from_config)?;
        if from_config {
            request.config = Some(deploy.config.clone());
        }
        if tells_owner(client) {
            add_owner(&mut request, &deploy.owner);
        }
        let vm = client.deploy(&request).await.map_err(later)?;
        if !is_listed(client, &deploy.name, vm.id.as_deref()).await {
            return Err(vanished(&deploy.name, vm.id));
        }
        if let Some(memory) = vm.memory_mib {
            self.memory().insert(deploy.name.clone(), memory);
        }
        for warning in &vm.warnings {
            tracing::warn!(vm = vm.name, "{warning}");
        }
        Ok(VmInfo {
            name: deploy.name.clone(),
            id: vm.id,
            node: vm.node,
            address: vm.address,
            ssh_port: vm.ssh_port,
            screen_share_port: vm.screen_share_port,
            vnc_port: vm.vnc_port,
        })
    }

    async fn explain(&self, failure: Failure, spec: &VmSpec) -> Failure {
        match self.client() {
            Ok(client) => explained(client, failure, spec).await,
            Err(_) => failure,
        }
    }

    async fn exists(&self, vm: &VmInfo) -> Result<bool, Failure> {
        let instances = self.client()?.vm(&vm.name).await.map_err(later)?;
        Ok(instances
            .iter()
            .any(|instance| instance.is_deployed() && (vm.id.is_none() || instance.id == vm.id)))
    }

    async fn config(&self, name: &str) -> Result<Option<StoredConfig>, Failure> {
        let config = self.client()?.config(name).await.map_err(later)?;
        Ok(config.map(stored_config))
    }

    async fn instances(&self, name: &str) -> Result<Vec<String>, Failure> {
        let instances = self.client()?.vm(name).await.map_err(later)?;
        Ok(instances
            .into_iter()
            .filter(orka_client::VmInstance::is_deployed)
            .map(|instance| instance.id.unwrap_or(instance.name))
            .collect())
    }

    async fn delete(&self, name: &str, id: Option<&str>) -> Result<(), Failure> {
        self.client()?
            .delete_instance(name, id)
            .await
            .map(drop)
            .map_err(later)
    }

    async fn remove(&self, name: &str) -> Result<Removal, Failure> {
        let client = self.client()?;
        // An Orka 3 run makes few VM configs, and may have no rights to look for any.
        let is_stored = self.stores_configs() || self.stored().contains(name);
        let removal = if is_stored {
            client.purge(name).await
        } else {
            client.delete_instance(name, None).await
        };
        Ok(match removal.map_err(later)? {
            ClientRemoval::Removed => Removal::Removed,
            ClientRemoval::AlreadyGone => Removal::AlreadyGone,
        })
    }

    async fn remains(&self, name: &str) -> Result<Remains, Failure> {
        let client = self.client()?;
        let instances = client.vm(name).await.map_err(later)?;
        let vms = instances
            .iter()
            .filter(|instance| instance.is_deployed())
            .count();
        let is_stored = self.stores_configs() || self.stored().contains(name);
        let config = vms == 0 && is_stored && client.config(name).await.map_err(later)?.is_some();
        Ok(Remains {
            vms: u32::try_from(vms).unwrap_or(u32::MAX),
            config,
        })
    }

    async fn sign_out(&self) -> Result<SignOut, Failure> {
        let client = self.client()?;
        client
            .sign_out()
            .await
            .map(|outcome| sign_out(client, outcome))
            .map_err(later)
    }

    async fn token(&self) -> Result<SecretString, Failure> {
        self.client()?.token().await.map_err(later)
    }

    fn token_is_from_login(&self) -> bool {
        self.client().is_ok_and(Client::token_is_from_login)
    }

    async fn held_token(&self) -> Option<SecretString> {
        self.client().ok()?.held_token().await
    }

    async fn revoke(&self, token: SecretString) -> Result<SignOut, Failure> {
        // Also where nothing else was to be done: for this nobody has to sign in.
        let client = self.connected().await?;
        client
            .revoke(token)
            .await
            .map(|outcome| sign_out(client, outcome))
            .map_err(later)
    }

    async fn list(&self) -> Result<Vec<Listed>, Failure> {
        let client = self.client()?;
        let mut listed: Vec<Listed> = client
            .vms()
            .await
            .map_err(later)?
            .into_iter()
            .map(listed_vm)
            .collect();
        let configs = if self.stores_configs() {
            // The list of VMs may leave out a config whose deployment failed.
            client.configs().await.map_err(later)?
        } else {
            self.configs_beside(client).await?
        };
        listed.extend(configs.into_iter().map(|config| Listed {
            name: config.name,
            is_config: true,
            ..Listed::default()
        }));
        Ok(listed)
    }

    fn memory_told(&self, name: &str) -> Option<u32> {
        self.memory().get(name).copied()
    }

    fn removal_command(&self, name: &str) -> String {
        let is_known = self.client.get().is_none() && self.known_orka2 == Some(true);
        if self.stores_configs() || is_known {
            format!("orka vm purge -v {name}")
        } else if self.stored().contains(name) {
            format!("orka3 vm-config delete {name}")
        } else {
            format!("orka3 vm delete {name}")
        }
    }
}

fn stored_config(config: VmConfig) -> StoredConfig {
    StoredConfig {
        image: config.image,
        cpu_cores: config.cpu,
        // Whole ones: what a config was made with is never read back as more.
        memory_mib: config
            .memory_gib
            .map(|gib| (gib * MIB_PER_GIB).floor() as u32),
    }
}

fn listed_vm(vm: VmInstance) -> Listed {
    Listed {
        is_config: !vm.is_deployed(),
        state: vm.is_deployed().then(|| vm.state.to_string()),
        name: vm.name,
        node: vm.node,
        created_at: vm.created_at,
        metadata: vm.metadata,
    }
}

/// Whether the cluster lists a VM whose deployment it has just confirmed; clusters were seen that do one without the
/// other, and a build would wait for SSH in vain. An answer that cannot be had is taken for yes.
async fn is_listed(client: &Client, name: &str, id: Option<&str>) -> bool {
    let is_it = |instance: &VmInstance| {
        let other = id.zip(instance.id.as_deref()).is_some_and(|(a, b)| a != b);
        instance.is_deployed() && !other
    };
    for pause in LISTED_PAUSES {
        sleep(pause).await;
        match timeout(LISTED_TIMEOUT, client.vm(name)).await {
            Ok(Ok(instances)) if instances.iter().any(is_it) => {
                return true;
            }
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return true,
        }
    }
    false
}

fn vanished(name: &str, id: Option<String>) -> Failure {
    let mut failure = Failure::new(
        Kind::Unavailable,
        Class::Orka,
        "orka.unusable-vm",
        format!("Orka confirmed the deployment of `{name}`, but does not list it"),
    )
    .with_hint(
        "try again, or let `deploy-attempts` do so; an administrator can look into the node's log",
    )
    .retryable(true);
    failure.may_have_happened = true;
    failure.made = id;
    failure
}

/// Adds what the cluster has to a failure about what was asked of it. The look takes its time only once something has
/// failed, and its own failure changes nothing.
async fn explained(client: &Client, mut failure: Failure, spec: &VmSpec) -> Failure {
    if image::is_about(&failure, &spec.image) {
        // The image is a parameter, and nothing was deployed.
        failure.class = Class::Config;
    }
    let look = async {
        match failure.class {
            Class::NoCapacity => what_is_free(client, spec).await,
            _ if image::is_about(&failure, &spec.image) => similar_images(client, spec).await,
            _ => None,
        }
    };
    match timeout(EXPLANATION_TIMEOUT, look).await {
        Ok(Some(hint)) => failure.with_hint(hint),
        _ => failure,
    }
}

async fn what_is_free(client: &Client, spec: &VmSpec) -> Option<String> {
    let nodes = client.nodes().await.ok()?;
    let ready: Vec<_> = nodes.iter().filter(|node| node.is_ready).collect();
    let most = ready.iter().filter_map(|node| node.available_cpu).max()?;
    Some(format!(
        "{} CPU cores were asked for; {} of {} nodes are ready and the freest has {most} cores (Apple silicon nodes run \
         two VMs at most); wait with `capacity-wait`, or ask for less",
        spec.cpu_cores.unwrap_or(CPU_CORES_DEFAULT),
        ready.len(),
        nodes.len()
    ))
}

async fn similar_images(client: &Client, spec: &VmSpec) -> Option<String> {
    let images = client.images().await.ok()?;
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    image::similar(&spec.image, &names)
}

fn sign_out(client: &Client, outcome: ClientSignOut) -> SignOut {
    match outcome {
        ClientSignOut::Revoked => SignOut::Revoked,
        ClientSignOut::KeptShared => SignOut::Kept(why_kept(client)),
        ClientSignOut::NothingToRevoke => SignOut::NotApplicable,
        ClientSignOut::NeverSignedIn => {
            SignOut::Kept("it was given, not obtained by this run".to_owned())
        }
    }
}

fn why_kept(client: &Client) -> String {
    let shared = "since Orka 2.1.1 all logins of a user share one token, and revoking it would end other builds";
    match client.api_version() {
        Some(_) => shared.to_owned(),
        None => format!("the cluster does not tell its version; {shared}"),
    }
}

fn memory_gib(spec: &VmSpec) -> Option<f64> {
    spec.memory_mib.map(|mib| f64::from(mib) / MIB_PER_GIB)
}

/// Whether VMs are told whose they are. Orka 2 before 2.2.0 knows metadata on Intel only, and a deployment matters more.
fn tells_owner(client: &Client) -> bool {
    match client.generation() {
        ClientGeneration::Orka3 => true,
        ClientGeneration::Orka2 => client
            .api_version()
            .is_some_and(orka_client::ApiVersion::has_metadata_everywhere),
    }
}

/// Adds whose the VM is, beside what the user put there and only where it fits.
fn add_owner(request: &mut DeployRequest, owner: &[(String, String)]) {
    let mut metadata = owner.iter().cloned().collect::<BTreeMap<_, _>>();
    metadata.extend(request.metadata.clone());
    if orka_client::validate::metadata(&metadata).is_ok() {
        request.metadata = metadata;
    }
}

fn config_spec(name: &str, spec: &VmSpec) -> Result<VmConfigSpec, Failure> {
    let mut config = VmConfigSpec {
        name: name.to_owned(),
        image: spec.image.clone(),
        cpu: spec.cpu_cores.unwrap_or(CPU_CORES_DEFAULT),
        vcpu: spec.vcpus,
        memory_gib: memory_gib(spec),
        vnc_console: spec.vnc_console,
        gpu_passthrough: spec.gpu_passthrough,
        system_serial: spec.system_serial.clone(),
        tag: spec.tag.clone(),
        tag_required: Some(spec.tag_required),
        scheduler: spec
            .scheduler
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(later)?,
        ..VmConfigSpec::default()
    };
    for (option, value) in &spec.options {
        allowed(option, &CONFIG_OPTIONS)?;
        config.set_option(option, value).map_err(unknown_option)?;
    }
    Ok(config)
}

fn deploy_request(deploy: &Deploy, from_config: bool) -> Result<DeployRequest, Failure> {
    // A 2.x config holds the shape already; repeating a member there would override it with itself.
    let mut request = if from_config {
        DeployRequest {
            system_serial: deploy.spec.system_serial.clone(),
            gpu_passthrough: deploy.spec.gpu_passthrough,
            ..DeployRequest::new(&deploy.name)
        }
    } else {
        DeployRequest::from(&config_spec(&deploy.name, &deploy.spec)?)
    };
    let options = &deploy.options;
    request.node = options.node.clone().or(request.node);
    request.metadata = options.metadata.iter().cloned().collect();
    for reservation in &options.reserved_ports {
        request
            .reserved_ports
            .push(reservation.parse().map_err(later)?);
    }
    request.limit = options.timeout_ms.map(Duration::from_millis);
    for (option, value) in &options.options {
        allowed(option, &DEPLOY_OPTIONS)?;
        request.set_option(option, value).map_err(unknown_option)?;
    }
    Ok(request)
}

/// Options that a plugin may set by name: those without a member of their own. Anything that decides which VM, how many
/// or how large has one, where it is checked against the grant and the ledger.
const CONFIG_OPTIONS: [&str; 9] = [
    "attached-disk",
    "display-dpi",
    "display-height",
    "display-width",
    "io-boost",
    "iso",
    "legacy-io",
    "net-boost",
    "template",
];
/// As above, for one deployment.
const DEPLOY_OPTIONS: [&str; 10] = [
    "attached-disk",
    "display-dpi",
    "display-height",
    "display-width",
    "iso",
    "gpu-passthrough",
    "iso-install",
    "legacy-io",
    "net-boost",
    "system-serial",
];

fn allowed(option: &str, known: &[&str]) -> Result<(), Failure> {
    let name = option.replace('_', "-").to_ascii_lowercase();
    if known.contains(&name.as_str()) {
        return Ok(());
    }
    let failure = Failure::new(
        Kind::Invalid,
        Class::Config,
        "orka.unknown-option",
        format!("there is no option `{}`", option.escape_default()),
    );
    Err(failure.with_hint(format!("the options are {}", known.join(", "))))
}

fn unknown_option(error: Error) -> Failure {
    let mut failure = later(error);
    failure.code = "orka.unknown-option".into();
    failure
}

/// When an error came: credentials declined at sign-in are the user's to mend, later ones are the cluster's doing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// While connecting and signing in.
    SignIn,
    /// After that.
    Later,
}

fn later(error: Error) -> Failure {
    failure(error, Stage::Later)
}

/// Why signing in failed. Where a generation was named, an answer that is none of its API may be the other's.
pub(crate) fn sign_in_failure(error: Error, version: VersionChoice) -> Failure {
    let named = match version {
        VersionChoice::V2 => "2",
        VersionChoice::V3 => "3",
        VersionChoice::Auto => "",
    };
    let is_none_of_it = matches!(error, Error::UnexpectedReply { .. }) && !named.is_empty();
    let failure = failure(error, Stage::SignIn);
    if !is_none_of_it {
        return failure;
    }
    failure.with_hint(format!(
        "`--orka-version {named}` may be wrong: leave it out, and the endpoint is asked which Orka it is; otherwise look at \
         what any proxy in between answers"
    ))
}

/// The client's error as the host has it.
pub(crate) fn failure(error: Error, stage: Stage) -> Failure {
    let declined = if stage == Stage::SignIn {
        Class::Config
    } else {
        Class::Orka
    };
    let (kind, class, code) = match &error {
        Error::LoginRefused(_) => (Kind::Unauthenticated, declined, "orka.login-declined"),
        Error::Unauthorized(_) => (Kind::Unauthenticated, declined, "orka.token-declined"),
        Error::Forbidden { .. } => (Kind::Denied, declined, "orka.forbidden"),
        Error::Unreachable { .. } => (Kind::Unavailable, Class::Orka, "orka.unreachable"),
        Error::NotFound(_) => (Kind::NotFound, Class::Orka, "orka.not-found"),
        Error::Conflict(_) => (Kind::Conflict, Class::Orka, "orka.conflict"),
        Error::NoCapacity(_) => (Kind::NoCapacity, Class::NoCapacity, "orka.no-capacity"),
        // Refused here or there, the values are the user's to mend.
        Error::Invalid { .. } => (Kind::Invalid, Class::Config, "orka.invalid"),
        Error::TimedOut { .. } => (Kind::TimedOut, Class::Orka, "orka.timed-out"),
        Error::Interrupted { .. } => (Kind::Unavailable, Class::Orka, "orka.interrupted"),
        Error::RateLimited { .. } => (Kind::Unavailable, Class::Orka, "orka.rate-limited"),
        Error::Server { .. } => (Kind::Unavailable, Class::Orka, "orka.server-error"),
        // An older or a simpler server does not have every call.
        Error::UnexpectedReply {
            status: 404 | 405 | 501,
            ..
        } => (Kind::Unavailable, Class::Orka, NO_SUCH_CALL),
        Error::UnexpectedReply { .. } => (Kind::Unavailable, Class::Orka, "orka.unexpected-reply"),
        Error::Redirected { .. } => (Kind::Unavailable, Class::Orka, "orka.redirected"),
        Error::UnusableVm { .. } => (Kind::Unavailable, Class::Orka, "orka.unusable-vm"),
        Error::NotOrka { .. } => (Kind::Unavailable, Class::Orka, "orka.not-orka"),
        _ => (Kind::Other, Class::Orka, "orka.other"),
    };
    let mut failure = Failure::new(kind, class, code, error.to_string());
    failure.hint = error.hint();
    failure.retryable = error.is_retryable();
    failure.retry_after = error.retry_after();
    failure.may_have_happened = error.may_have_happened();
    if let Error::UnusableVm { id, .. } = &error {
        failure.made.clone_from(id);
    }
    failure.with_source(error)
}
