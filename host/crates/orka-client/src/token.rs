//! The token: where it comes from, who renews it, and that only one of many callers does.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::{Credentials, Generation, RetryPolicy, TOKEN_FILE_AGE_MAX, TokenSource};
use crate::error::{Error, Rejection};
use crate::http::Transport;
use crate::v2;

/// How a client comes by its token.
#[derive(Debug)]
enum Source {
    Given(TokenSource),
    Login {
        email: String,
        password: SecretString,
    },
    Nothing {
        wanted: &'static str,
        hint: &'static str,
    },
}

/// A token in use. Its number tells a caller that was refused whether somebody has renewed it since.
#[derive(Clone)]
pub(crate) struct Lease {
    pub(crate) token: SecretString,
    pub(crate) number: u64,
}

#[derive(Default)]
struct State {
    held: Option<(Lease, Instant)>,
    issued: u64,
    /// The login was refused: asking again with the same password only gets the user locked out.
    refused: Option<Box<Rejection>>,
}

/// Holds the token. The lock is kept while one is obtained, so that concurrent callers wait for it and share it.
pub(crate) struct Tokens {
    source: Source,
    retry: RetryPolicy,
    state: Mutex<State>,
}

impl Tokens {
    pub(crate) fn new(
        generation: Generation,
        credentials: &Credentials,
        retry: RetryPolicy,
    ) -> Self {
        let login = credentials.login().map(|(email, password)| Source::Login {
            email: email.to_owned(),
            password: password.clone(),
        });
        let given = credentials.token().cloned().map(Source::Given);
        let source = match generation {
            Generation::Orka2 => login.or(given).unwrap_or(Source::Nothing {
                wanted: "Orka 2 needs an e-mail address and a password, and none were given",
                hint: "give the e-mail address and password of an Orka user",
            }),
            Generation::Orka3 => given.unwrap_or(Source::Nothing {
                wanted: "Orka 3 needs a service account token, and none was given",
                hint: "make one with `orka3 sa token NAME`; Orka 3 knows no login with e-mail address and password",
            }),
        };
        Self {
            source,
            retry,
            state: Mutex::default(),
        }
    }

    /// Whether the token comes from a login of this client.
    pub(crate) fn come_from_login(&self) -> bool {
        matches!(self.source, Source::Login { .. })
    }

    /// The token in use; obtains one if there is none.
    pub(crate) async fn current(&self, transport: &Transport) -> Result<Lease, Error> {
        let mut state = self.state.lock().await;
        match &state.held {
            Some((lease, since)) if !self.is_stale(*since) => Ok(lease.clone()),
            _ => self.obtain(&mut state, transport).await,
        }
    }

    /// A token other than number `refused_number`, which the API did not accept; `None` if there is none to be had.
    pub(crate) async fn renewed(
        &self,
        refused_number: u64,
        transport: &Transport,
    ) -> Result<Option<Lease>, Error> {
        let mut state = self.state.lock().await;
        let before = match &state.held {
            Some((lease, _)) if lease.number != refused_number => return Ok(Some(lease.clone())),
            held => held.as_ref().map(|(lease, _)| lease.token.clone()),
        };
        match &self.source {
            Source::Login { .. } => self.obtain(&mut state, transport).await.map(Some),
            Source::Given(TokenSource::File(_)) => {
                let lease = self.obtain(&mut state, transport).await?;
                let same = before
                    .is_some_and(|before| before.expose_secret() == lease.token.expose_secret());
                Ok((!same).then_some(lease))
            }
            Source::Given(TokenSource::Static(_)) | Source::Nothing { .. } => Ok(None),
        }
    }

    /// The token in use, if there is one.
    pub(crate) async fn held(&self) -> Option<Lease> {
        self.state
            .lock()
            .await
            .held
            .as_ref()
            .map(|(lease, _)| lease.clone())
    }

    /// Forgets the token and any refusal.
    pub(crate) async fn forget(&self) {
        let mut state = self.state.lock().await;
        state.held = None;
        state.refused = None;
    }

    /// Forgets that the login was refused, so that the next call tries it again.
    pub(crate) async fn forget_refusal(&self) {
        self.state.lock().await.refused = None;
    }

    fn is_stale(&self, since: Instant) -> bool {
        matches!(self.source, Source::Given(TokenSource::File(_)))
            && since.elapsed() >= TOKEN_FILE_AGE_MAX
    }

    async fn obtain(&self, state: &mut State, transport: &Transport) -> Result<Lease, Error> {
        let token = match &self.source {
            Source::Given(TokenSource::Static(token)) => {
                checked(token.expose_secret(), "the given token")?
            }
            Source::Given(TokenSource::File(path)) => read(path).await?,
            Source::Login { email, password } => {
                if let Some(refused) = &state.refused {
                    return Err(Error::LoginRefused(refused.clone()));
                }
                match v2::login(transport, self.retry, email, password).await {
                    Ok(token) => token,
                    Err(error) => {
                        if let Error::LoginRefused(reply) = &error {
                            state.refused = Some(reply.clone());
                        }
                        return Err(error);
                    }
                }
            }
            Source::Nothing { wanted, hint } => {
                return Err(Error::invalid_with_hint(
                    "the set of credentials",
                    *wanted,
                    *hint,
                ));
            }
        };
        state.issued += 1;
        let lease = Lease {
            token,
            number: state.issued,
        };
        state.held = Some((lease.clone(), Instant::now()));
        Ok(lease)
    }
}

async fn read(path: &Path) -> Result<SecretString, Error> {
    let what = format!("the token file `{}`", path.display());
    let bytes = tokio::fs::read(path)
        .await
        .map_err(|why| Error::invalid(&what, why.to_string()))?;
    // Its own failure text would quote the bytes.
    let text = String::from_utf8(bytes).map_err(|_| Error::invalid(&what, "it is no text"))?;
    checked(&text, &what)
}

/// The token without surrounding white space; `echo TOKEN > file` adds a line end.
fn checked(token: &str, what: &str) -> Result<SecretString, Error> {
    let token = token.trim();
    if token.is_empty() {
        return Err(Error::invalid(what, "it is empty"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid(
            what,
            "it holds spaces or characters that no token has",
        ));
    }
    Ok(SecretString::from(token))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::ClientConfig;
    use crate::endpoint::Endpoint;

    #[tokio::test(start_paused = true)]
    async fn q42_a_token_file_is_read_again_after_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "first").unwrap();
        let credentials = Credentials::Token(TokenSource::File(path.clone()));
        let config = ClientConfig::new(Endpoint::parse("http://127.0.0.1:1").unwrap(), credentials);
        let transport = Transport::new(&config).await.unwrap();
        let tokens = Tokens::new(Generation::Orka3, &config.credentials, config.retry);
        let current = async || {
            tokens
                .current(&transport)
                .await
                .unwrap()
                .token
                .expose_secret()
                .to_owned()
        };

        assert_eq!(current().await, "first");
        std::fs::write(&path, "second").unwrap();
        assert_eq!(current().await, "first", "not read for every call");
        tokio::time::advance(TOKEN_FILE_AGE_MAX + Duration::from_secs(1)).await;
        assert_eq!(current().await, "second");
    }
}
