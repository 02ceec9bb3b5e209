//! The conversation that proves who we are to a VM.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use russh::client::{AuthResult, Handle, Handler, KeyboardInteractiveAuthResponse};
use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode as _;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};
use secrecy::{ExposeSecret, SecretString};

use crate::identity::Identity;

/// How many questions a keyboard-interactive server may ask. PAM asks once or twice; more is a loop.
const INTERACTIVE_ROUNDS_MAX: usize = 8;

/// A login name and the ways to prove it, tried in this order.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The login name in the VM.
    pub username: String,
    /// Ways to prove it; those the server does not accept are passed over.
    pub methods: Vec<AuthMethod>,
}

/// One way to prove a login name.
#[derive(Clone)]
pub enum AuthMethod {
    /// A password; also answers a `keyboard-interactive` server that asks for hidden input.
    Password(SecretString),
    /// A private key, and its certificate where it has one.
    PrivateKey(Identity),
}

impl fmt::Debug for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password(_) => f.write_str("Password([redacted])"),
            Self::PrivateKey(identity) => identity.fmt(f),
        }
    }
}

/// One request that can be made of the server; a method may have two.
#[derive(Clone, Copy)]
enum Offer<'a> {
    Certificate(&'a Identity, &'a Arc<Certificate>),
    Key(&'a Identity),
    Password(&'a SecretString),
    Interactive(&'a SecretString),
}

impl<'a> Offer<'a> {
    fn all(methods: &'a [AuthMethod]) -> Vec<Self> {
        let of = |method: &'a AuthMethod| match method {
            AuthMethod::PrivateKey(identity) => {
                let certificate = identity.certificate.as_ref();
                vec![
                    certificate.map(|certificate| Self::Certificate(identity, certificate)),
                    Some(Self::Key(identity)),
                ]
            }
            AuthMethod::Password(password) => {
                vec![
                    Some(Self::Password(password)),
                    Some(Self::Interactive(password)),
                ]
            }
        };
        methods.iter().flat_map(of).flatten().collect()
    }

    fn method(self) -> MethodKind {
        match self {
            Self::Certificate(..) | Self::Key(_) => MethodKind::PublicKey,
            Self::Password(_) => MethodKind::Password,
            Self::Interactive(_) => MethodKind::KeyboardInteractive,
        }
    }

    fn label(self) -> String {
        match self {
            Self::Certificate(identity, _) => {
                format!(
                    "publickey ({})",
                    identity.describe_certificate().unwrap_or_default()
                )
            }
            Self::Key(identity) => format!("publickey ({})", identity.describe()),
            Self::Password(_) => "password".to_owned(),
            Self::Interactive(_) => "keyboard-interactive".to_owned(),
        }
    }
}

/// What became of the credentials so far. Kept over several connections: a server that allows few tries on one
/// (`MaxAuthTries` in `sshd_config(5)`) is offered the rest on the next.
#[derive(Default)]
pub(crate) struct Spent {
    declined: HashSet<usize>,
    tried: Vec<String>,
    under_way: Option<usize>,
}

impl Spent {
    /// The server hung up for too many tries: what it was just offered is declined too. True if that is news.
    pub(crate) fn count_the_last(&mut self) -> bool {
        self.under_way
            .take()
            .is_some_and(|offer| self.declined.insert(offer))
    }

    fn note(&mut self, entry: String) {
        // Proven again on a further connection, it is still one way that was tried.
        if !self.tried.contains(&entry) {
            self.tried.push(entry);
        }
    }

    /// Everything that was tried, and at the end what was not, which the server does not accept.
    pub(crate) fn into_tried(self, credentials: &Credentials) -> Vec<String> {
        let mut tried = self.tried;
        for method in &credentials.methods {
            let labels: Vec<String> = Offer::all(std::slice::from_ref(method))
                .into_iter()
                .map(Offer::label)
                .collect();
            let is_tried =
                |label: &String| tried.iter().any(|entry| entry.starts_with(label.as_str()));
            if !labels.iter().any(is_tried) {
                let shown = match method {
                    AuthMethod::Password(_) => labels.first(),
                    AuthMethod::PrivateKey(_) => labels.last(),
                };
                tried.extend(shown.map(|label| format!("not {label}")));
            }
        }
        tried
    }
}

/// How an authentication conversation ended without success.
#[derive(Debug)]
pub(crate) struct Declined {
    /// Methods the server said it accepts, when it last said so.
    pub(crate) accepts: Vec<String>,
    /// The connection ended with it; whether that was the answer, the session's end tells.
    pub(crate) cut: bool,
    /// Something is left that this server accepts and was not offered.
    pub(crate) more: bool,
}

/// The connection ended in the middle of a conversation.
struct Cut;

/// How one request was answered.
enum Answer {
    /// We are in.
    In,
    /// It is proven, and more is asked for.
    Partly,
    /// It is not taken, sometimes with a reason.
    Declined(Option<String>),
}

/// Proves `credentials` on a fresh connection.
pub(crate) async fn authenticate<H: Handler>(
    handle: &mut Handle<H>,
    credentials: &Credentials,
    spent: &mut Spent,
) -> Result<(), Declined> {
    let mut conversation = Conversation {
        handle,
        user: &credentials.username,
        accepts: MethodSet::empty(),
    };
    let offers = Offer::all(&credentials.methods);
    let cut = match conversation.hold(&offers, spent).await {
        Ok(true) => return Ok(()),
        Ok(false) => false,
        Err(Cut) => true,
    };
    let more = offers.iter().enumerate().any(|(number, offer)| {
        !spent.declined.contains(&number)
            && spent.under_way != Some(number)
            && conversation.accepts.contains(&offer.method())
    });
    let accepts = conversation
        .accepts
        .iter()
        .map(|method| <&str>::from(method).to_owned())
        .collect();
    Err(Declined { accepts, cut, more })
}

struct Conversation<'a, H: Handler> {
    handle: &'a mut Handle<H>,
    user: &'a str,
    accepts: MethodSet,
}

impl<H: Handler> Conversation<'_, H> {
    /// True when we are in, false when nothing is left to try.
    async fn hold(&mut self, offers: &[Offer<'_>], spent: &mut Spent) -> Result<bool, Cut> {
        spent.under_way = None;
        // The `none` request costs one round trip, counts as no failure, and tells what the server accepts (RFC 4252,
        // 5.2).
        let first = self.handle.authenticate_none(self.user).await;
        if let Answer::In = self.note(first)? {
            return Ok(true);
        }
        let mut pending: Vec<usize> = (0..offers.len())
            .filter(|number| !spent.declined.contains(number))
            .collect();
        // Not simply in order: after a partial success the server may ask for a method that was passed over before.
        while let Some(next) = pending
            .iter()
            .position(|&number| self.accepts.contains(&offers[number].method()))
        {
            let number = pending.remove(next);
            spent.under_way = Some(number);
            let label = offers[number].label();
            match self.attempt(offers[number]).await {
                Ok(Answer::In) => return Ok(true),
                Ok(Answer::Partly) => spent.note(format!("{label} (accepted, and not enough)")),
                Ok(Answer::Declined(reason)) => {
                    spent.declined.insert(number);
                    let reason = reason
                        .map(|reason| format!(" ({reason})"))
                        .unwrap_or_default();
                    spent.note(label + &reason);
                }
                Err(Cut) => {
                    spent.note(label);
                    return Err(Cut);
                }
            }
            spent.under_way = None;
        }
        Ok(false)
    }

    async fn attempt(&mut self, offer: Offer<'_>) -> Result<Answer, Cut> {
        match offer {
            Offer::Key(identity) => {
                let hash = self.rsa_hash(identity).await;
                let key = PrivateKeyWithHashAlg::new(Arc::clone(&identity.key), hash);
                let reply = self.handle.authenticate_publickey(self.user, key).await;
                self.note(reply)
            }
            Offer::Certificate(identity, certificate) => {
                let hash = self.rsa_hash(identity).await;
                let reply = self
                    .handle
                    .authenticate_certificate_with(
                        self.user,
                        Certificate::clone(certificate),
                        hash,
                        &mut CertificateSigner(&identity.key),
                    )
                    .await;
                match reply {
                    Err(SigningFailed(Some(reason))) => Ok(Answer::Declined(Some(reason))),
                    Err(SigningFailed(None)) => Err(Cut),
                    Ok(reply) => self.note(Ok(reply)),
                }
            }
            Offer::Password(password) => {
                let reply = self
                    .handle
                    .authenticate_password(self.user, password.expose_secret())
                    .await;
                self.note(reply)
            }
            Offer::Interactive(password) => self.answer_questions(password).await,
        }
    }

    /// SHA-2 for RSA keys, the strongest the server names; never SHA-1, which servers refuse since OpenSSH 8.8.
    async fn rsa_hash(&self, identity: &Identity) -> Option<HashAlg> {
        if !matches!(identity.key.algorithm(), Algorithm::Rsa { .. }) {
            return None;
        }
        let named = self
            .handle
            .best_supported_rsa_hash()
            .await
            .ok()
            .flatten()
            .flatten();
        Some(named.unwrap_or(HashAlg::Sha512))
    }

    async fn answer_questions(&mut self, password: &SecretString) -> Result<Answer, Cut> {
        let mut reply = self
            .handle
            .authenticate_keyboard_interactive_start(self.user, None)
            .await;
        let mut is_given = false;
        for _ in 0..INTERACTIVE_ROUNDS_MAX {
            let prompts = match reply {
                Ok(KeyboardInteractiveAuthResponse::Success) => return Ok(Answer::In),
                Ok(KeyboardInteractiveAuthResponse::Failure {
                    remaining_methods,
                    partial_success,
                }) => {
                    return self.note(Ok(AuthResult::Failure {
                        remaining_methods,
                        partial_success,
                    }));
                }
                Ok(KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. }) => prompts,
                Err(_) => return Err(Cut),
            };
            // A second hidden question is for something else: a one-time code, or a new password.
            let mut hidden = prompts.iter().filter(|prompt| !prompt.echo);
            if let Some(beyond) = hidden.nth(usize::from(!is_given)) {
                let question = crate::quote::printable(beyond.prompt.trim().as_bytes());
                return Ok(Answer::Declined(Some(format!("it also asks `{question}`"))));
            }
            // Only hidden input is a password; a visible question is not one we have an answer to.
            let answers = prompts
                .iter()
                .map(|prompt| {
                    if prompt.echo {
                        return String::new();
                    }
                    is_given = true;
                    password.expose_secret().to_owned()
                })
                .collect();
            reply = self
                .handle
                .authenticate_keyboard_interactive_respond(answers)
                .await;
        }
        Ok(Answer::Declined(Some("it asks without end".to_owned())))
    }

    /// Keeps what the server accepts.
    fn note(&mut self, reply: Result<AuthResult, russh::Error>) -> Result<Answer, Cut> {
        match reply {
            Ok(AuthResult::Success) => Ok(Answer::In),
            // The library ends the session when no method is left, and reports a cut connection the same way.
            Ok(AuthResult::Failure {
                ref remaining_methods,
                ..
            }) if remaining_methods.is_empty() => Err(Cut),
            Ok(AuthResult::Failure {
                remaining_methods,
                partial_success,
            }) => {
                self.accepts = remaining_methods;
                Ok(if partial_success {
                    Answer::Partly
                } else {
                    Answer::Declined(None)
                })
            }
            Err(_) => Err(Cut),
        }
    }
}

/// Signs for a certificate. The library would sign for an RSA one with SHA-1's name, which servers refuse.
struct CertificateSigner<'a>(&'a PrivateKey);

/// Why there is no signature; nothing where the connection ended.
struct SigningFailed(Option<String>);

impl From<russh::SendError> for SigningFailed {
    fn from(_: russh::SendError) -> Self {
        Self(None)
    }
}

impl russh::Signer for CertificateSigner<'_> {
    type Error = SigningFailed;

    async fn auth_sign(
        &mut self,
        _key: &russh::keys::agent::AgentIdentity,
        hash: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, SigningFailed> {
        let signature = match self.0.key_data() {
            KeypairData::Rsa(pair) => (pair, hash).try_sign(&data),
            pair => pair.try_sign(&data),
        };
        let failed = |problem: &dyn fmt::Display| SigningFailed(Some(problem.to_string()));
        let signature: russh::keys::ssh_key::Signature =
            signature.map_err(|problem| failed(&problem))?;
        // The request is followed by its signature as one string (RFC 4252, 7).
        Vec::try_from(signature)
            .map_err(|problem: russh::keys::ssh_key::Error| failed(&problem))?
            .encode(&mut data)
            .map_err(|problem| failed(&problem))?;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&path)
            .status()
            .expect("`ssh-keygen` is needed: install the package `openssh-client`");
        assert!(made.success());
        let private = std::fs::read_to_string(&path).unwrap();
        let identity = Identity::parse(&secret(&private), None).unwrap();
        let credentials = Credentials {
            username: "admin".to_owned(),
            methods: vec![
                AuthMethod::Password(secret("hunter2")),
                AuthMethod::PrivateKey(identity),
            ],
        };
        let text = format!("{credentials:?}");
        assert!(
            !text.contains("hunter2") && !text.contains("OPENSSH"),
            "{text}"
        );
        assert!(text.contains("SHA256:"), "{text}");
    }
}
