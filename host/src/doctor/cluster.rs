//! What the cluster says: one visit, from the first unauthenticated question to signing out.

use std::time::Duration;

use orka_client::{
    Client, ClientConfig, Credentials, Error, Generation, Image, RetryPolicy, SignOut,
    VersionChoice, validate,
};
use tokio::time::{sleep, timeout};

use super::check::{Check, Checks, Stage, Subject};
use super::local::{Plan, describe};
use super::{capacity, image};
use crate::backend::orka::{Stage as CallStage, failure, sign_in_failure};
use crate::console::{Console, seconds};
use crate::failure::{Class, Failure, Kind};
use crate::state::Stop;

/// A run goes on asking for a while in case the API is being replaced; a doctor is to say how it is now.
const RETRY: RetryPolicy = RetryPolicy {
    attempts_max: 2,
    wait_first: Duration::from_millis(500),
    wait_max: Duration::from_secs(2),
};

/// After so long a person is told what is being waited for.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Signing out must not hold up a process that was told to stop.
const SIGN_OUT_TIMEOUT: Duration = Duration::from_secs(10);

/// What follows from the answer of the endpoint.
const BEHIND_ENDPOINT: [Subject; 5] = [
    Subject::Credentials,
    Subject::Namespace,
    Subject::Image,
    Subject::Capacity,
    Subject::SignOut,
];

/// What follows from being signed in.
const BEHIND_SIGN_IN: [Subject; 3] = [Subject::Namespace, Subject::Image, Subject::Capacity];

/// Asks the cluster everything that can be asked.
pub(super) async fn examine(mut plan: Plan, console: &Console, stop: &Stop, checks: &mut Checks) {
    let supposed = plan.namespace.clone();
    let supposed_orka2 =
        matches!(&plan.client, Some(config) if config.version == VersionChoice::V2);
    let Some(config) = client_config(&plan) else {
        plan.judge(supposed, supposed_orka2, console, checks).await;
        checks.skip(&BEHIND_ENDPOINT, "no endpoint is known to ask");
        return;
    };
    let connected = tokio::select! {
        connected = aloud(console, "the endpoint", Client::connect(config)) => connected,
        () = stop.stopped() => return,
    };
    let client = match connected {
        Ok(client) => client,
        Err(error) => {
            let failure = failure(error, CallStage::SignIn);
            checks.add(Check::failed(
                Subject::Endpoint,
                Stage::SignIn,
                vec![failure],
            ));
            checks.skip(
                &BEHIND_ENDPOINT,
                "the endpoint does not answer as it should",
            );
            plan.judge(supposed, supposed_orka2, console, checks).await;
            return;
        }
    };
    let is_orka3 = client.generation() == Generation::Orka3;
    let namespace = is_orka3.then(|| client.namespace().to_owned());
    plan.judge(namespace, !is_orka3, console, checks).await;
    checks.add(endpoint(&client));
    let mut visit = Visit {
        client,
        plan,
        console,
        checks,
        sees_namespace: false,
    };
    // Not cut off by a signal: a token whose answer is lost could not be given back. The client's own limit holds.
    visit.sign_in().await;
    tokio::select! {
        () = visit.look() => {}
        () = stop.stopped() => {}
    }
    visit.sign_out().await;
}

fn client_config(plan: &Plan) -> Option<ClientConfig> {
    plan.client.clone().map(|config| ClientConfig {
        credentials: plan.credentials.clone().unwrap_or_default(),
        retry: RETRY,
        ..config
    })
}

fn endpoint(client: &Client) -> Check {
    let version = match (client.generation(), client.api_version()) {
        (_, Some(version)) => format!(", version {version}"),
        (Generation::Orka3, None) => ", which does not tell its version".to_owned(),
        (Generation::Orka2, None) => ", of unknown version".to_owned(),
    };
    Check::ok(
        Subject::Endpoint,
        format!(
            "{} answers at `{}`{version}",
            client.generation(),
            client.endpoint()
        ),
    )
}

struct Visit<'a> {
    client: Client,
    plan: Plan,
    console: &'a Console,
    checks: &'a mut Checks,
    /// Whether the namespace's nodes may be listed; always true on Orka 2, which has none.
    sees_namespace: bool,
}

impl Visit<'_> {
    async fn sign_in(&mut self) {
        let Some(credentials) = self.plan.credentials.as_ref().map(describe) else {
            self.checks
                .skip(&BEHIND_SIGN_IN, "there are no credentials to ask with");
            return;
        };
        let signed_in = aloud(self.console, "the login", self.client.sign_in()).await;
        let is_orka3 = self.client.generation() == Generation::Orka3;
        let accepted = Check::ok(Subject::Credentials, format!("{credentials}: accepted"));
        match signed_in {
            Ok(()) => {
                self.sees_namespace = true;
                self.checks.add(accepted);
                self.checks.add(namespace_ok(&self.client));
            }
            // The token is good, and the namespace is not for it, or not there.
            Err(error @ (Error::Forbidden { .. } | Error::NotFound(_))) if is_orka3 => {
                self.checks.add(accepted);
                self.checks.add(self.namespace_refused(error));
            }
            Err(error) => {
                let version = self.plan.client.as_ref().map(|config| config.version);
                let failure = sign_in_failure(error, version.unwrap_or_default());
                self.checks.add(Check::failed(
                    Subject::Credentials,
                    Stage::SignIn,
                    vec![failure],
                ));
                self.checks.skip(&BEHIND_SIGN_IN, "nobody is signed in");
            }
        }
    }

    fn namespace_refused(&self, error: Error) -> Check {
        let is_unknown = matches!(error, Error::NotFound(_));
        let mut failure = failure(error, CallStage::SignIn);
        if is_unknown {
            failure.hint = Some(format!(
                "check the spelling of `--orka-namespace {}`; every cluster has `{}`",
                self.client.namespace(),
                orka_client::DEFAULT_NAMESPACE
            ));
        }
        Check::failed(Subject::Namespace, Stage::SignIn, vec![failure])
    }

    async fn look(&mut self) {
        let images = self.look_for_images().await;
        self.look_for_room(&images).await;
    }

    /// Gives the images of the cluster where they had to be listed.
    async fn look_for_images(&mut self) -> Vec<Image> {
        if self.checks.has(Subject::Image) {
            return Vec::new();
        }
        let generation = self.client.generation();
        let wanted = self.plan.images.clone();
        let mut offered = None;
        let mut checks = Vec::new();
        for image in &wanted {
            if let Some(check) = image::without_list(image, generation) {
                checks.push(check);
                continue;
            }
            if offered.is_none() {
                let list = self.client.images();
                offered = Some(self.listed("the list of images", list).await);
            }
            checks.extend(offered.as_ref().map(|offered| match offered {
                Ok(offered) => image::look_for(image, offered),
                Err(failure) => {
                    let text = format!("whether there is an image `{image}` could not be checked");
                    Check::warned(Subject::Image, text, failure)
                }
            }));
        }
        let none = "no image is named: give `-p base-image=NAME` or `--image NAME`";
        let check = Check::together(checks);
        let check = check.unwrap_or_else(|| Check::skipped(Subject::Image, none));
        self.checks.add(check);
        offered.and_then(Result::ok).unwrap_or_default()
    }

    async fn look_for_room(&mut self, images: &[Image]) {
        if self.checks.has(Subject::Capacity) {
            return;
        }
        if self.client.generation() == Generation::Orka2
            && let Err(error) = validate::orka2_cpus(self.plan.demand.cpu, None)
        {
            let failure = failure(error, CallStage::Later);
            self.checks.add(Check::failed(
                Subject::Capacity,
                Stage::Deploy,
                vec![failure],
            ));
            return;
        }
        if !self.sees_namespace {
            let reason = "the namespace's nodes may not be listed";
            self.checks.add(Check::skipped(Subject::Capacity, reason));
            return;
        }
        let check = self.room(images).await;
        self.checks.add(check);
    }

    async fn room(&self, images: &[Image]) -> Check {
        let survey = async {
            let nodes = self.client.nodes().await?;
            // Those of others count as well where they can be seen; where not, cores alone decide.
            let vms = self.client.vms().await.unwrap_or_default();
            Ok((nodes, vms))
        };
        match self.listed("the list of nodes", survey).await {
            Ok((nodes, vms)) => {
                let mut demand = self.plan.demand.clone();
                demand.on_apple_silicon = self
                    .plan
                    .images
                    .first()
                    .is_some_and(|image| is_for_apple_silicon(image, images));
                capacity::judge(&nodes, &vms, &demand)
            }
            Err(failure) => Check::warned(
                Subject::Capacity,
                "whether a node has room could not be checked",
                &failure,
            ),
        }
    }

    /// Waits for a list, but not for ever. What goes wrong is no reason for a run not to start: it makes no lists.
    async fn listed<T>(
        &self,
        what: &str,
        list: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        let limit = self.plan.list_timeout;
        match timeout(limit, aloud(self.console, what, list)).await {
            Ok(listed) => listed.map_err(|error| failure(error, CallStage::Later)),
            Err(_) => Err(Failure::new(
                Kind::TimedOut,
                Class::Orka,
                "orka.timed-out",
                format!("{what} did not come within {}", seconds(limit)),
            )
            .with_hint(
                "on a large cluster it takes over 10 s; wait longer with `--list-timeout 2m`",
            )),
        }
    }

    async fn sign_out(&mut self) {
        if self.plan.credentials.is_none() {
            self.checks
                .skip(&[Subject::SignOut], "nobody was signed in");
            return;
        }
        let given = matches!(self.plan.credentials, Some(Credentials::Token(_)));
        let check = match timeout(SIGN_OUT_TIMEOUT, self.client.sign_out()).await {
            Ok(Ok(SignOut::Revoked)) => {
                Check::ok(Subject::SignOut, "the token of this check was revoked")
            }
            Ok(Ok(SignOut::KeptShared)) if given => Check::ok(
                Subject::SignOut,
                "nothing to revoke: the token was given, not obtained by this check",
            ),
            Ok(Ok(SignOut::KeptShared)) => Check::ok(
                Subject::SignOut,
                "the token was kept: since Orka 2.1.1 all logins of a user share it, and revoking it would end other \
                 builds",
            ),
            Ok(Ok(SignOut::NothingToRevoke)) => Check::ok(
                Subject::SignOut,
                "nothing to revoke: Orka 3 revokes no tokens",
            ),
            Ok(Ok(SignOut::NeverSignedIn)) => {
                Check::skipped(Subject::SignOut, "nobody was signed in")
            }
            Ok(Err(error)) => Check::warned(
                Subject::SignOut,
                "the token of this check could not be revoked and stays valid",
                &failure(error, CallStage::Later),
            ),
            Err(_) => Check::warn(
                Subject::SignOut,
                format!(
                    "the token of this check was not revoked within {} and may stay valid",
                    seconds(SIGN_OUT_TIMEOUT)
                ),
                "tokens of Orka 2 do not expire by themselves; it ends when it is revoked or its user is deleted",
            ),
        };
        self.checks.add(check);
    }
}

fn namespace_ok(client: &Client) -> Check {
    match client.generation() {
        Generation::Orka2 => Check::skipped(Subject::Namespace, "Orka 2 has no namespaces"),
        Generation::Orka3 => Check::ok(
            Subject::Namespace,
            format!(
                "VMs of `{}` can be listed; whether they can be deployed shows only in a run",
                client.namespace()
            ),
        ),
    }
}

/// By the list where it says so, otherwise by the name: `.orkasi` and OCI images are for Apple silicon.
fn is_for_apple_silicon(image: &str, images: &[Image]) -> bool {
    images
        .iter()
        .find(|candidate| candidate.name == image)
        .and_then(|found| found.architecture.as_deref())
        .map_or_else(
            || image.ends_with(".orkasi") || crate::backend::image::is_oci_reference(image),
            |architecture| architecture == "arm64",
        )
}

/// Awaits something, and says so once it takes long.
async fn aloud<T>(console: &Console, what: &str, future: impl Future<Output = T>) -> T {
    tokio::pin!(future);
    tokio::select! {
        output = &mut future => return output,
        () = sleep(SILENCE_MAX) => console.info(&format!("waiting for {what}")),
    }
    future.await
}
