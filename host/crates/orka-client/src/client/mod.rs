//! The client: one vocabulary, two generations behind it.

mod exchange;
mod identity;

use std::sync::Arc;

use crate::config::{ClientConfig, Generation};
use crate::detect::detect;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::http::{Call, Transport};
use crate::spec::{DeployRequest, VmConfigSpec};
use crate::token::Tokens;
use crate::version::ApiVersion;
use crate::vm::{ClusterInfo, DeployedVm, Image, Node, Removal, VmConfig, VmInstance};
use crate::{v2, v3, validate};

/// A client of one Orka cluster, as one user or service account. Cheap to clone; clones share the token.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    config: ClientConfig,
    transport: Transport,
    generation: Generation,
    version: Option<ApiVersion>,
    tokens: Tokens,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", self.endpoint())
            .field("generation", &self.generation())
            .field("version", &self.api_version())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Finds out which generation answers at the endpoint, without credentials and without signing in.
    ///
    /// Orka 3 is preferred where both answer, unless only a login was given.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`], [`Error::NotOrka`] with the outcome of both probes, or [`Error::Invalid`] for a CA
    /// file or namespace that cannot be used.
    ///
    /// Orka 3 API, `GET /api/v1/cluster-info`; Orka 2 API, `GET /health-check`.
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        let mut transport = Transport::new(&config).await?;
        let (generation, version) = detect(&mut transport, &config).await?;
        if generation == Generation::Orka3 {
            validate::namespace(&config.namespace)?;
        }
        let tokens = Tokens::new(generation, &config.credentials, config.retry);
        Ok(Self(Arc::new(Inner {
            config,
            transport,
            generation,
            version,
            tokens,
        })))
    }

    /// The generation that answers.
    pub fn generation(&self) -> Generation {
        self.0.generation
    }

    /// The cluster's version as it was on connecting; none on Orka 3, or if it could not be read.
    pub fn api_version(&self) -> Option<&ApiVersion> {
        self.0.version.as_ref()
    }

    /// The endpoint in use: the one given, or its https form if it redirects there.
    pub fn endpoint(&self) -> &Endpoint {
        self.0.transport.endpoint()
    }

    /// The namespace of VMs; means nothing on Orka 2.
    pub fn namespace(&self) -> &str {
        &self.0.config.namespace
    }

    /// Makes a VM config.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] before anything is sent, or from the API; [`Error::Conflict`] if the name is taken.
    ///
    /// Orka 2 API, `POST /resources/vm/create`. Orka 3 API, `POST /api/v1/namespaces/orka-default/vmconfigs`.
    pub async fn create_config(&self, spec: &VmConfigSpec) -> Result<VmConfig, Error> {
        validate::vm_config(self.generation(), spec)?;
        let limit = self.0.config.timeouts.call;
        match self.generation() {
            Generation::Orka2 => {
                let call = Call::create(&v2::vm_path("create"), v2::create_body(spec), limit);
                self.request(&call, |reply| v2::judge(&call, reply)).await?;
            }
            Generation::Orka3 => {
                let call = Call::create(
                    &v3::shared_path(&["vmconfigs"]),
                    v3::config_body(spec),
                    limit,
                );
                self.request(&call, |reply| v3::judge(&call, reply)).await?;
            }
        }
        Ok(VmConfig {
            name: spec.name.clone(),
            image: Some(spec.image.clone()),
            cpu: Some(spec.cpu),
            vcpu: spec.vcpu,
            memory_gib: spec.memory_gib.filter(|gib| *gib > 0.0),
            owner: None,
            tag: spec.tag.clone().filter(|tag| !tag.trim().is_empty()),
        })
    }

    /// All VM configs that this user can see.
    ///
    /// # Errors
    ///
    /// Those of reaching the API.
    ///
    /// Orka 2 API, `GET /resources/vm/configs`. Orka 3 API, `GET /api/v1/namespaces/orka-default/vmconfigs`.
    pub async fn configs(&self) -> Result<Vec<VmConfig>, Error> {
        match self.generation() {
            Generation::Orka2 => {
                let call = self.get(&v2::vm_path("configs"));
                self.request(&call, |reply| v2::judge(&call, reply))
                    .await
                    .map(|answer| v2::configs(&answer))
            }
            Generation::Orka3 => {
                let call = self.get(&v3::shared_path(&["vmconfigs"]));
                self.request(&call, |reply| v3::items(&call, reply))
                    .await
                    .map(|items| v3::configs(&items))
            }
        }
    }

    /// The VM config of that name, if there is one.
    ///
    /// Also finds one whose deploy failed, which Orka 2's list of VMs may leave out.
    ///
    /// # Errors
    ///
    /// Those of reaching the API.
    ///
    /// Orka 2 API, `GET /resources/vm/configs/{name}`. Orka 3 API,
    /// `GET /api/v1/namespaces/orka-default/vmconfigs/{name}`.
    pub async fn config(&self, name: &str) -> Result<Option<VmConfig>, Error> {
        let found = match self.generation() {
            Generation::Orka2 => {
                let call = self.get(&["resources", "vm", "configs", name]);
                let answer = self.request(&call, |reply| v2::judge(&call, reply)).await;
                answer.map(|answer| {
                    v2::configs(&answer)
                        .into_iter()
                        .find(|config| config.name == name)
                })
            }
            Generation::Orka3 => {
                let call = self.get(&v3::shared_path(&["vmconfigs", name]));
                self.request(&call, |reply| v3::object(&call, reply))
                    .await
                    .map(|answer| v3::config(&answer))
            }
        };
        absent_is_none(found)
    }

    /// Deploys a VM and waits until Orka reports it deployed; macOS may still be booting.
    ///
    /// Never repeated by itself once it may have been sent.
    ///
    /// # Errors
    ///
    /// [`Error::NoCapacity`] if no node has room. [`Error::UnusableVm`] if a VM was deployed that nobody can reach.
    /// Whenever [`Error::may_have_happened`] is true the VM may exist or appear later: delete it by its name.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not cancel the deploy; delete the VM by its name.
    ///
    /// Orka 2 API, `POST /resources/vm/deploy`. Orka 3 API, `POST /api/v1/namespaces/{namespace}/vms`.
    pub async fn deploy(&self, request: &DeployRequest) -> Result<DeployedVm, Error> {
        validate::deploy(self.generation(), request)?;
        let limit = request.limit.unwrap_or(self.0.config.timeouts.deploy);
        let addresses = &self.0.config.node_addresses;
        match self.generation() {
            Generation::Orka2 => {
                let call = Call::create(&v2::vm_path("deploy"), v2::deploy_body(request)?, limit);
                let answer = self.request(&call, |reply| v2::judge(&call, reply)).await?;
                v2::deployed(request, &answer, addresses)
            }
            Generation::Orka3 => {
                let body = v3::deploy_body(request, limit, self.0.config.metadata_member);
                let call = Call::create(&v3::path(self.namespace(), &["vms"]), body, limit);
                let answer = self
                    .request(&call, |reply| v3::object(&call, reply))
                    .await?;
                v3::deployed(&request.name, &answer, addresses)
            }
        }
    }

    /// What exists of that name; empty if nothing does.
    ///
    /// On Orka 2 there may be several VMs of one name, or a VM config without one
    /// ([`VmState::NotDeployed`](crate::VmState::NotDeployed)); a config whose deploy failed may be missing here, see [`Client::config`].
    ///
    /// # Errors
    ///
    /// Those of reaching the API.
    ///
    /// Orka 2 API, `GET /resources/vm/status/{name}`. Orka 3 API, `GET /api/v1/namespaces/{namespace}/vms/{name}`.
    pub async fn vm(&self, name: &str) -> Result<Vec<VmInstance>, Error> {
        let addresses = &self.0.config.node_addresses;
        let found = match self.generation() {
            Generation::Orka2 => {
                let call = self.get(&["resources", "vm", "status", name]);
                self.request(&call, |reply| v2::judge(&call, reply))
                    .await
                    .map(|answer| v2::vms(&answer, addresses))
            }
            Generation::Orka3 => {
                let call = self.get(&v3::path(self.namespace(), &["vms", name]));
                let answer = self.request(&call, |reply| v3::object(&call, reply)).await;
                answer.map(|answer| v3::vm(&answer, addresses).into_iter().collect())
            }
        };
        absent_is_none(found.map(Some)).map(Option::unwrap_or_default)
    }

    /// All VMs that this user can see: on Orka 2 the user's own, with VM configs that have no VM
    /// ([`VmState::NotDeployed`](crate::VmState::NotDeployed)); on Orka 3 everybody's in the namespace.
    ///
    /// # Errors
    ///
    /// Those of reaching the API.
    ///
    /// Orka 2 API, `GET /resources/vm/list`. Orka 3 API, `GET /api/v1/namespaces/{namespace}/vms`.
    pub async fn vms(&self) -> Result<Vec<VmInstance>, Error> {
        let addresses = &self.0.config.node_addresses;
        match self.generation() {
            Generation::Orka2 => {
                let call = self.get(&v2::vm_path("list"));
                self.request(&call, |reply| v2::judge(&call, reply))
                    .await
                    .map(|answer| v2::vms(&answer, addresses))
            }
            Generation::Orka3 => {
                let call = self.get(&v3::path(self.namespace(), &["vms"]));
                self.request(&call, |reply| v3::items(&call, reply))
                    .await
                    .map(|items| v3::vms(&items, addresses))
            }
        }
    }

    /// Deletes a VM and keeps its VM config.
    ///
    /// With an id, on Orka 2, that one instance; it is the only way for a VM in an error state. Without one, every VM
    /// of that name. Orka 3 knows no ids.
    ///
    /// # Errors
    ///
    /// Those of reaching the API; that there is nothing of that name is no error.
    ///
    /// Orka 2 API, `DELETE /resources/vm/delete`. Orka 3 API, `DELETE /api/v1/namespaces/{namespace}/vms/{name}`.
    pub async fn delete_instance(&self, name: &str, id: Option<&str>) -> Result<Removal, Error> {
        match self.generation() {
            Generation::Orka2 => {
                let call = v2::removal(&self.0.transport, "delete", id.unwrap_or(name));
                removal(self.request(&call, |reply| v2::judge(&call, reply)).await)
            }
            Generation::Orka3 => {
                self.remove_orka3(&v3::path(self.namespace(), &["vms", name]))
                    .await
            }
        }
    }

    /// Removes every VM of that name and the VM config of that name.
    ///
    /// # Errors
    ///
    /// Those of reaching the API; that there is nothing of that name is no error.
    ///
    /// Orka 2 API, `DELETE /resources/vm/purge`. Orka 3 API, `DELETE …/vms/{name}`, then
    /// `DELETE …/orka-default/vmconfigs/{name}`.
    pub async fn purge(&self, name: &str) -> Result<Removal, Error> {
        match self.generation() {
            Generation::Orka2 => self.purge_orka2(name).await,
            Generation::Orka3 => {
                let vm = self
                    .remove_orka3(&v3::path(self.namespace(), &["vms", name]))
                    .await?;
                match self.delete_config(name).await {
                    Ok(Removal::Removed) => Ok(Removal::Removed),
                    Ok(Removal::AlreadyGone) => Ok(vm),
                    // An account of another namespace may have no rights to configs; then it made none either.
                    Err(error @ Error::Forbidden { .. }) => match self.config(name).await {
                        Ok(None) | Err(Error::Forbidden { .. }) => Ok(vm),
                        _ => Err(error),
                    },
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Deletes an Orka 3 VM config; on Orka 2 it is the same as [`Client::purge`], the only way there.
    ///
    /// # Errors
    ///
    /// Those of reaching the API; that there is nothing of that name is no error.
    ///
    /// Orka 3 API, `DELETE /api/v1/namespaces/orka-default/vmconfigs/{name}`.
    pub async fn delete_config(&self, name: &str) -> Result<Removal, Error> {
        match self.generation() {
            Generation::Orka2 => self.purge_orka2(name).await,
            Generation::Orka3 => {
                self.remove_orka3(&v3::shared_path(&["vmconfigs", name]))
                    .await
            }
        }
    }

    /// The nodes that this user can see. Over 10 s on a large cluster.
    ///
    /// # Errors
    ///
    /// Those of reaching the API.
    ///
    /// Orka 2 API, `GET /resources/node/list`. Orka 3 API, `GET /api/v1/namespaces/{namespace}/nodes`.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        match self.generation() {
            Generation::Orka2 => {
                let call = self.get(&["resources", "node", "list"]);
                self.request(&call, |reply| v2::judge(&call, reply))
                    .await
                    .map(|answer| v2::nodes(&answer))
            }
            Generation::Orka3 => {
                let call = self.get(&v3::path(self.namespace(), &["nodes"]));
                self.request(&call, |reply| v3::items(&call, reply))
                    .await
                    .map(|items| v3::nodes(&items))
            }
        }
    }

    /// The images in the cluster's own storage; OCI images are in no list.
    ///
    /// # Errors
    ///
    /// Those of reaching the API.
    ///
    /// Orka 2 API, `GET /resources/image/list`. Orka 3 API, `GET /api/v1/namespaces/orka-default/images`.
    pub async fn images(&self) -> Result<Vec<Image>, Error> {
        match self.generation() {
            Generation::Orka2 => {
                let call = self.get(&["resources", "image", "list"]);
                self.request(&call, |reply| v2::judge(&call, reply))
                    .await
                    .map(|answer| v2::images(&answer))
            }
            Generation::Orka3 => {
                let call = self.get(&v3::shared_path(&["images"]));
                self.request(&call, |reply| v3::items(&call, reply))
                    .await
                    .map(|items| v3::images(&items))
            }
        }
    }

    /// What the cluster says about itself, without credentials: also a test of whether it answers at all.
    ///
    /// # Errors
    ///
    /// Those of reaching the API.
    ///
    /// Orka 2 API, `GET /health-check`. Orka 3 API, `GET /api/v1/cluster-info`.
    pub async fn cluster_info(&self) -> Result<ClusterInfo, Error> {
        match self.generation() {
            Generation::Orka2 => {
                let call = self.get(&["health-check"]);
                let answer = self
                    .anonymously(&call, |reply| v2::judge(&call, reply))
                    .await?;
                let version = v2::version(&answer);
                Ok(ClusterInfo {
                    generation: Generation::Orka2,
                    version,
                    api_domain: None,
                    gpu_passthrough: None,
                })
            }
            Generation::Orka3 => {
                let call = self.get(&["api", "v1", "cluster-info"]);
                self.anonymously(&call, |reply| v3::object(&call, reply))
                    .await
                    .map(|answer| v3::cluster_info(&answer))
            }
        }
    }

    fn get<S: AsRef<str>>(&self, path: &[S]) -> Call {
        Call::get(path, self.0.config.timeouts.call)
    }

    async fn purge_orka2(&self, name: &str) -> Result<Removal, Error> {
        let call = v2::removal(&self.0.transport, "purge", name);
        removal(self.request(&call, |reply| v2::judge(&call, reply)).await)
    }

    async fn remove_orka3(&self, path: &[String]) -> Result<Removal, Error> {
        let call = Call::remove(path, None, self.0.config.timeouts.call);
        removal(self.request(&call, |reply| v3::judge(&call, reply)).await)
    }
}

fn absent_is_none<T>(found: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match found {
        Err(Error::NotFound(reply)) if !is_about_namespace(&reply.messages) => Ok(None),
        other => other,
    }
}

fn removal<T>(outcome: Result<T, Error>) -> Result<Removal, Error> {
    match outcome {
        Ok(_) => Ok(Removal::Removed),
        Err(Error::NotFound(reply)) if !is_about_namespace(&reply.messages) => {
            Ok(Removal::AlreadyGone)
        }
        Err(error) => Err(error),
    }
}

/// A namespace that does not exist is a mistake in the configuration: the VM may live on in another.
fn is_about_namespace(messages: &[String]) -> bool {
    messages
        .iter()
        .any(|message| message.starts_with("namespaces \""))
}
