//! The client: one vocabulary, two generations behind it.

use std::sync::Arc;

use tokio::time::sleep;

use crate::config::{ClientConfig, Generation};
use crate::detect::detect;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::http::{Call, Reply, Transport};
use crate::lenient::Object;
use crate::retry::Backoff;
use crate::spec::{DeployRequest, VmConfigSpec};
use crate::token::{Lease, Tokens};
use crate::version::ApiVersion;
use crate::vm::{
    ClusterInfo, DeployedVm, Image, Node, Removal, SignOut, TokenState, VmConfig, VmInstance,
};
use crate::{lenient, v2, v3, validate};

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

    /// Proves the credentials: logs in on Orka 2, lists the namespace's VMs on Orka 3.
    ///
    /// Calls made without it sign in by themselves; making it first shows bad credentials early.
    ///
    /// # Errors
    ///
    /// [`Error::LoginRefused`], [`Error::Unauthorized`], [`Error::Forbidden`] for the namespace.
    ///
    /// Orka 2 API, `POST /token`, `GET /token`. Orka 3 API, `GET /api/v1/namespaces/{namespace}/vms`.
    pub async fn sign_in(&self) -> Result<(), Error> {
        match self.generation() {
            Generation::Orka2 if self.0.tokens.come_from_login() => {
                self.0.tokens.forget_refusal().await;
                self.0.tokens.current(&self.0.transport).await.map(drop)
            }
            Generation::Orka2 => match self.check_token().await? {
                TokenState::Valid { .. } => Ok(()),
                TokenState::Refused { why } => Err(Error::invalid_with_hint(
                    "the given token",
                    why,
                    "give the e-mail address and password of an Orka user, or a fresh token",
                )),
            },
            Generation::Orka3 => {
                let call = self.get(&v3::path(self.namespace(), &["vms"]));
                self.request(&call, |reply| v3::items(&call, reply))
                    .await
                    .map(drop)
            }
        }
    }

    /// Asks whether the token in use is accepted, without renewing it.
    ///
    /// # Errors
    ///
    /// Those of reaching the API; a token that is refused is no error.
    ///
    /// Orka 2 API, `GET /token`. Orka 3 has no such call: lists the namespace's VMs.
    pub async fn check_token(&self) -> Result<TokenState, Error> {
        let lease = self.0.tokens.current(&self.0.transport).await?;
        let outcome = match self.generation() {
            Generation::Orka2 => {
                let call = self.get(&["token"]);
                self.with_token(&call, &lease, |reply| v2::judge(&call, reply))
                    .await
                    .map(|answer| token_state(&answer))
            }
            Generation::Orka3 => {
                let call = self.get(&v3::path(self.namespace(), &["vms"]));
                let listed = self
                    .with_token(&call, &lease, |reply| v3::items(&call, reply))
                    .await;
                listed.map(|_| TokenState::Valid { user: None })
            }
        };
        match outcome {
            Err(Error::Unauthorized(reply)) => Ok(TokenState::Refused {
                why: reply.to_string(),
            }),
            other => other,
        }
    }

    /// Gives the token back where that harms nobody else, and forgets it in any case.
    ///
    /// From Orka 2.1.1 on a user has one token, and revoking it would log out every other build of that user; an
    /// unknown version counts as such. Orka 3 revokes no tokens.
    ///
    /// # Errors
    ///
    /// Those of `DELETE /token`; the token is then kept, so that the call can be repeated.
    pub async fn sign_out(&self) -> Result<SignOut, Error> {
        let tokens = &self.0.tokens;
        let Some(lease) = tokens.held().await else {
            return Ok(SignOut::NeverSignedIn);
        };
        if self.generation() == Generation::Orka3 {
            tokens.forget().await;
            return Ok(SignOut::NothingToRevoke);
        }
        let own = tokens.come_from_login()
            && self
                .api_version()
                .is_some_and(ApiVersion::has_token_per_login);
        if !own {
            tokens.forget().await;
            return Ok(SignOut::KeptShared);
        }
        let call = v2::revoke(&self.0.transport);
        match self
            .with_token(&call, &lease, |reply| v2::judge(&call, reply))
            .await
        {
            // A token that is refused already is as good as revoked.
            Ok(_) | Err(Error::Unauthorized(_)) => {
                tokens.forget().await;
                Ok(SignOut::Revoked)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the given licence key is the cluster's; `None` if none was given or the generation has none.
    ///
    /// # Errors
    ///
    /// Those of reaching the API.
    ///
    /// Orka 2 API, `GET /validate-license-key`.
    pub async fn check_licence_key(&self) -> Result<Option<bool>, Error> {
        let Some(key) = self.0.config.credentials.licence_key() else {
            return Ok(None);
        };
        if self.generation() == Generation::Orka3 {
            return Ok(None);
        }
        let call = v2::licence_check(&self.0.transport, key);
        match self
            .anonymously(&call, |reply| v2::judge(&call, reply))
            .await
        {
            Ok(_) => Ok(Some(true)),
            Err(Error::Unauthorized(_) | Error::Invalid { reply: Some(_), .. }) => Ok(Some(false)),
            Err(error) => Err(error),
        }
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

/// How every call is made.
impl Client {
    /// Makes a call with the token, renewing the token once if the API does not take it.
    async fn request<T>(
        &self,
        call: &Call,
        read: impl Fn(&Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let lease = self.0.tokens.current(&self.0.transport).await?;
        let refused = match self.with_token(call, &lease, &read).await {
            Err(error @ Error::Unauthorized(_)) => error,
            other => return other,
        };
        match self
            .0
            .tokens
            .renewed(lease.number, &self.0.transport)
            .await?
        {
            Some(lease) => self.with_token(call, &lease, &read).await,
            None => Err(refused),
        }
    }

    async fn with_token<T>(
        &self,
        call: &Call,
        lease: &Lease,
        read: impl Fn(&Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.repeating(call, Some(lease), read).await
    }

    async fn anonymously<T>(
        &self,
        call: &Call,
        read: impl Fn(&Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.repeating(call, None, read).await
    }

    /// Makes a call, and makes it again where that is safe and may help.
    async fn repeating<T>(
        &self,
        call: &Call,
        lease: Option<&Lease>,
        read: impl Fn(&Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut backoff = Backoff::new(self.0.config.retry);
        loop {
            let sent = self
                .0
                .transport
                .send(call, lease.map(|lease| &lease.token))
                .await;
            let error = match sent.and_then(|reply| read(&reply)) {
                Err(error) if error.is_worth_repeating(call.effect) => error,
                other => return other,
            };
            let attempt = backoff.attempt();
            let Some(wait) = backoff.next_wait(error.retry_after()) else {
                return Err(error);
            };
            tracing::debug!(call = %call, attempt, wait_ms = wait.as_millis(), error = %error, "orka.repeat");
            sleep(wait).await;
        }
    }
}

/// What `GET /token` says. A release may answer 200 for a token that is worth nothing.
fn token_state(answer: &Object) -> TokenState {
    let revoked = lenient::boolean_of(answer, &["is_token_revoked"]) == Some(true);
    let unknown = lenient::boolean_of(answer, &["authenticated"]) == Some(false);
    match (revoked, unknown) {
        (true, _) => TokenState::Refused {
            why: "the token was revoked".to_owned(),
        },
        (_, true) => TokenState::Refused {
            why: "the token is not known".to_owned(),
        },
        _ => TokenState::Valid {
            user: lenient::text_of(answer, &["email"]),
        },
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
