//! Signing in and out, and what the API thinks of the token in between.

use secrecy::SecretString;

use super::Client;
use crate::config::Generation;
use crate::error::Error;
use crate::lenient::{self, Object};
use crate::token::Lease;
use crate::version::ApiVersion;
use crate::vm::{SignOut, TokenState};
use crate::{v2, v3};

impl Client {
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
        if !self.has_token_of_its_own() {
            tokens.forget().await;
            return Ok(SignOut::KeptShared);
        }
        self.revoked(&lease).await?;
        tokens.forget().await;
        Ok(SignOut::Revoked)
    }

    /// The token in use, for somebody who has to have it; obtains one if there is none.
    ///
    /// # Errors
    ///
    /// Those of signing in.
    pub async fn token(&self) -> Result<SecretString, Error> {
        let lease = self.0.tokens.current(&self.0.transport).await?;
        Ok(lease.token)
    }

    /// The token in use, if there is one.
    pub async fn held_token(&self) -> Option<SecretString> {
        Some(self.0.tokens.held().await?.token)
    }

    /// Whether tokens come from logins of this client, and none was given.
    pub fn token_is_from_login(&self) -> bool {
        self.0.tokens.come_from_login()
    }

    /// As [`Client::sign_out`], for a token that another client got by a login and passed on. Where this client has its own
    /// from does not matter, and it stays signed in.
    ///
    /// # Errors
    ///
    /// Those of `DELETE /token`.
    pub async fn revoke(&self, token: SecretString) -> Result<SignOut, Error> {
        if self.generation() == Generation::Orka3 {
            return Ok(SignOut::NothingToRevoke);
        }
        if !self.gives_each_login_a_token() {
            return Ok(SignOut::KeptShared);
        }
        let lease = Lease { token, number: 0 };
        self.revoked(&lease).await.map(|()| SignOut::Revoked)
    }

    /// Whether the token in use is no other login's.
    fn has_token_of_its_own(&self) -> bool {
        self.token_is_from_login() && self.gives_each_login_a_token()
    }

    /// Whether a login gives a token that no other login of the user has.
    fn gives_each_login_a_token(&self) -> bool {
        self.api_version()
            .is_some_and(ApiVersion::has_token_per_login)
    }

    async fn revoked(&self, lease: &Lease) -> Result<(), Error> {
        let call = v2::revoke(&self.0.transport);
        match self
            .with_token(&call, lease, |reply| v2::judge(&call, reply))
            .await
        {
            // A token that is refused already is as good as revoked.
            Ok(_) | Err(Error::Unauthorized(_)) => Ok(()),
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
