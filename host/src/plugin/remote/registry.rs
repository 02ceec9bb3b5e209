//! A registry, by the OCI distribution specification: manifests and blobs of one repository, and logging in.
//!
//! Our own code, since the library for it (`oci-client` 0.18) can neither bound a manifest's size nor keep redirects and
//! passwords on https, and what is needed of the specification is small.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_auth::parser::ChallengeParser;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::layout::{
    self, CONFIG, CONFIG_BYTES_MAX, Component, Descriptor, MANIFEST_BYTES_MAX, MANIFESTS_TAKEN,
};
use super::web::{Answer, Call, Web};
use super::{OciRef, Repository, is_loopback};
use crate::config::{Login, RegistryLogins};
use crate::failure::{Class, Failure, Kind};
use crate::mask::Masker;
use crate::plugin::{PLUGIN_BYTES_MAX, check_names};

/// Docker Hub is reached under another name than it is called by.
const DOCKER_HUB: [&str; 2] = ["docker.io", "index.docker.io"];
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// A token is a few kilobytes.
const TOKEN_BYTES_MAX: u64 = 256 * 1024;

/// What is done with a repository, as registries call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    #[cfg(feature = "authoring")]
    Push,
}

/// One repository, and who asks.
pub(crate) struct Registry<'a> {
    web: &'a Web,
    repository: &'a Repository,
    access: Access,
    base: Url,
    logins: &'a RegistryLogins,
    login: Option<Login>,
    masker: &'a Masker,
    authorization: Mutex<Option<HeaderValue>>,
    /// What failures begin with.
    what: String,
}

/// How a registry wants to be asked.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl<'a> Registry<'a> {
    /// Sends nothing yet.
    ///
    /// # Errors
    ///
    /// A login that cannot be used.
    pub(crate) fn new(
        web: &'a Web,
        repository: &'a Repository,
        access: Access,
        logins: &'a RegistryLogins,
        masker: &'a Masker,
    ) -> Result<Self, Failure> {
        let registry = repository.registry.as_str();
        let host = if DOCKER_HUB.contains(&registry) {
            DOCKER_HUB_HOST
        } else {
            registry
        };
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/v2/{}/", repository.name))
                .map_err(|error| Failure::internal("a registry's URL is none").with_source(error))
        };
        let secure = parse("https")?;
        // As container engines have it: a registry on this machine has no certificate.
        let base = if is_loopback(&secure) {
            parse("http")?
        } else {
            secure
        };
        let verb = match access {
            Access::Pull => "fetch",
            #[cfg(feature = "authoring")]
            Access::Push => "push",
        };
        Ok(Self {
            web,
            repository,
            access,
            base,
            logins,
            login: logins.of(registry, &repository.name)?,
            masker,
            authorization: Mutex::new(None),
            what: format!("cannot {verb} plugin `{repository}`"),
        })
    }

    /// The component that a manifest stands for, once its configuration has shown that it fits.
    ///
    /// # Errors
    ///
    /// What is not there, is no component, does not fit this host, or is not what its digest says.
    pub(crate) async fn component(&self, reference: &OciRef) -> Result<Bytes, Failure> {
        let shown = reference.to_string();
        let body = self.manifest(&reference.digest).await?;
        let manifest = layout::manifest(&body, &shown)?;
        let layer = layout::component_of(&manifest, &shown)?;
        if manifest.config.media_type == CONFIG {
            let body = self.blob(&manifest.config, CONFIG_BYTES_MAX).await?;
            check_fit(&body, &shown)?;
        }
        self.blob(layer, PLUGIN_BYTES_MAX).await
    }

    /// A manifest by its digest.
    async fn manifest(&self, digest: &str) -> Result<Bytes, Failure> {
        let mut call = self.get(&format!("manifests/{digest}"), MANIFEST_BYTES_MAX)?;
        call.headers
            .insert(ACCEPT, HeaderValue::from_static(MANIFESTS_TAKEN));
        let answer = self.send(call).await?;
        self.verified(answer, "manifest", digest)
    }

    /// A blob, whole and as its digest says.
    async fn blob(&self, blob: &Descriptor, bytes_max: u64) -> Result<Bytes, Failure> {
        let answer = self
            .send(self.get(&format!("blobs/{}", blob.digest), bytes_max)?)
            .await?;
        self.verified(answer, "blob", &blob.digest)
    }

    fn verified(&self, answer: Answer, kind: &str, digest: &str) -> Result<Bytes, Failure> {
        match answer.status {
            200 => verified(answer.body, digest, &self.what),
            404 => Err(Failure::plugin_rejected(
                "plugin.not-found",
                format!("{}: the registry has no {kind} `{digest}`", self.what),
            )
            .with_hint("the digest is that of a manifest, as `orka-step plugin push` prints it; registries also hide what one may not read")),
            _ => Err(answer.unexpected(&self.what)),
        }
    }

    pub(crate) fn get(&self, path: &str, bytes_max: u64) -> Result<Call, Failure> {
        Ok(Call::get(self.url(path)?, bytes_max, self.what.clone()))
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        self.base
            .join(&format!("./{path}"))
            .map_err(|error| Failure::internal("a registry's URL is none").with_source(error))
    }

    #[cfg(feature = "authoring")]
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// The answer to a call, made again with a login if the registry asks for one.
    ///
    /// # Errors
    ///
    /// As [`Web::call`]; a login that is missing or declined.
    pub(crate) async fn send(&self, mut call: Call) -> Result<Answer, Failure> {
        let is_ours = call.url.origin() == self.base.origin();
        call.authorization = self.authorization().filter(|_| is_ours);
        let answer = self.web.call(&call).await?;
        let answer = match answer.status {
            401 if is_ours && call.authorization.is_none() => {
                let authorization = self.authorize(&answer.headers).await?;
                *self
                    .authorization
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(authorization);
                call.authorization = self.authorization();
                self.web.call(&call).await?
            }
            _ => answer,
        };
        match answer.status {
            401 | 403 => Err(self.declined()),
            _ => Ok(answer),
        }
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn authorize(&self, headers: &HeaderMap) -> Result<HeaderValue, Failure> {
        let challenges = challenges(headers);
        // A token opens this repository alone, the password all that its owner has.
        if let Some(bearer) = challenges
            .iter()
            .find(|one| matches!(one, Challenge::Bearer { .. }))
        {
            let token = self.token(bearer).await?;
            self.masker.add(token.expose_secret());
            return header("Bearer", &token);
        }
        match &self.login {
            Some(login) if challenges.contains(&Challenge::Basic) => self.basic(login),
            _ => Err(self.declined()),
        }
    }

    fn basic(&self, login: &Login) -> Result<HeaderValue, Failure> {
        let pair = format!("{}:{}", login.username, login.password.expose_secret());
        let encoded = SecretString::from(STANDARD.encode(pair));
        self.masker.add(encoded.expose_secret());
        header("Basic", &encoded)
    }

    /// Asks whoever the registry trusts for a token, anonymously where there is no login.
    async fn token(&self, challenge: &Challenge) -> Result<SecretString, Failure> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let Challenge::Bearer {
            realm,
            service,
            scope,
        } = challenge
        else {
            return Err(self.declined());
        };
        let what = format!("{}: no token for `{}`", self.what, self.repository.registry);
        let mut url = Url::parse(realm).map_err(|error| {
            super::web::unavailable(format!(
                "{}: the registry names no URL for tokens",
                self.what
            ))
            .with_source(error)
        })?;
        if url.scheme() != "https" && !(self.base.scheme() == "http" && is_loopback(&url)) {
            return Err(Failure::plugin_rejected(
                "plugin.redirected",
                format!(
                    "{}: the registry hands out tokens at `{}`, which is not https",
                    self.what,
                    url.host_str().unwrap_or_default()
                ),
            )
            .with_hint("a login must not travel in the clear"));
        }
        let actions = match self.access {
            Access::Pull => "pull",
            #[cfg(feature = "authoring")]
            Access::Push => "pull,push",
        };
        let scope = match (self.access, scope) {
            (Access::Pull, Some(scope)) => scope.clone(),
            _ => format!("repository:{}:{actions}", self.repository.name),
        };
        url.query_pairs_mut()
            .extend_pairs(service.iter().map(|service| ("service", service)))
            .append_pair("scope", &scope);
        let mut call = Call::get(url, TOKEN_BYTES_MAX, what.clone());
        call.authorization = self
            .login
            .as_ref()
            .map(|login| self.basic(login))
            .transpose()?;
        let answer = self.web.call(&call).await?;
        match answer.status {
            200 => {}
            400 | 401 | 403 => return Err(self.declined()),
            _ => return Err(answer.unexpected(&what)),
        }
        let token: Option<Token> = serde_json::from_slice(&answer.body).ok();
        token
            .and_then(|token| token.token.or(token.access_token))
            .map(SecretString::from)
            .ok_or_else(|| super::web::unavailable(format!("{what}: the answer holds none")))
    }

    /// What to do about a login that is missing or not enough.
    fn declined(&self) -> Failure {
        let registry = &self.repository.registry;
        let failure = |message| {
            Failure::new(
                Kind::Unauthenticated,
                Class::Config,
                "plugin.unauthorized",
                message,
            )
        };
        match &self.login {
            Some(login) => failure(format!(
                "{}: `{registry}` declines `{}`",
                self.what, login.username
            ))
            .with_hint(format!(
                "check that the login in `{}` is still valid and may read that repository",
                login.path.display()
            )),
            None => failure(format!("{}: `{registry}` asks for a login", self.what))
                .with_hint(self.logins.how_to_add(registry)),
        }
    }
}

/// The bytes, if they are what the digest says.
///
/// # Errors
///
/// They are not.
pub(super) fn verified(bytes: Bytes, digest: &str, what: &str) -> Result<Bytes, Failure> {
    let found = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    if found == digest {
        return Ok(bytes);
    }
    Err(Failure::plugin_rejected(
        "plugin.digest",
        format!("{what}: what is served is not what was asked for: its digest is `{found}`, not `{digest}`"),
    )
    .with_hint("find out who changed it before you change the digest"))
}

/// Refuses what does not fit this host before it is downloaded; what its own bytes say is checked all the same.
fn check_fit(body: &[u8], shown: &str) -> Result<(), Failure> {
    let config: layout::Config = serde_json::from_slice(body).map_err(|error| {
        Failure::plugin_rejected(
            "plugin.other-artifact",
            format!("cannot load plugin `{shown}`: its configuration cannot be read"),
        )
        .with_source(error)
    })?;
    let Component {
        imports, exports, ..
    } = config.component.unwrap_or_default();
    check_names(imports.as_deref(), exports.as_deref(), shown)
}

fn header(scheme: &str, secret: &SecretString) -> Result<HeaderValue, Failure> {
    let text = SecretString::from(format!("{scheme} {}", secret.expose_secret()));
    let mut value = HeaderValue::from_str(text.expose_secret()).map_err(|_| {
        Failure::config("a registry's token holds characters that no header can carry")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// What is understood of `WWW-Authenticate`.
fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let texts = headers
        .get_all(WWW_AUTHENTICATE)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    let parsed = texts.flat_map(|text| ChallengeParser::new(text).map_while(Result::ok));
    parsed
        .filter_map(|challenge| {
            let member = |name: &str| {
                let found = challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            match challenge.scheme.to_ascii_lowercase().as_str() {
                "basic" => Some(Challenge::Basic),
                "bearer" => Some(Challenge::Bearer {
                    realm: member("realm")?,
                    service: member("service"),
                    scope: member("scope"),
                }),
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let read = |texts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(text));
            }
            challenges(&headers)
        };
        assert_eq!(
            read(&[r#"Basic realm="Registry Realm""#]),
            [Challenge::Basic]
        );
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#;
        let bearer = Challenge::Bearer {
            realm: "https://auth.docker.io/token".to_owned(),
            service: Some("registry.docker.io".to_owned()),
            scope: Some("repository:a/b:pull".to_owned()),
        };
        assert_eq!(read(&[hub]), [bearer]);
        assert_eq!(
            read(&["Negotiate", r#"BASIC realm="x""#]),
            [Challenge::Basic]
        );
        assert_eq!(read(&["Bearer service=\"no realm\""]), []);
        assert_eq!(read(&[", ,"]), []);
        assert_eq!(read(&[]), []);
    }

    #[test]
    fn what_does_not_fit_is_told_as_of_a_file() {
        let fit = |imports: &str| {
            check_fit(
                format!(r#"{{"component":{{"imports":{imports}}}}}"#).as_bytes(),
                "oci://r/x",
            )
        };
        assert!(fit("[]").is_ok());
        assert!(fit("null").is_ok());
        assert!(fit(r#"["orka:plugin/cluster@0.1.0","wasi:io/poll@0.2.6"]"#).is_ok());
        let foreign = fit(r#"["acme:tool/work@1.0.0"]"#).unwrap_err();
        assert_eq!(foreign.code, "plugin.foreign-import");
        assert_eq!(
            foreign.message,
            "plugin `oci://r/x` imports `acme:tool/work@1.0.0`, which is not part of the contract"
        );
        let newer = fit(r#"["orka:plugin/cluster@0.2.0"]"#).unwrap_err();
        assert_eq!(newer.code, "plugin.contract-version");
        assert_eq!(
            check_fit(b"no", "x").unwrap_err().code,
            "plugin.other-artifact"
        );
    }
}
