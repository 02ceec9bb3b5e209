//! Who we are to a VM: login name, passwords and keys, and the conversation that proves it.

use std::fmt;
use std::sync::Arc;

use russh::client::{AuthResult, Handle, Handler, KeyboardInteractiveAuthResponse};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};
use secrecy::{ExposeSecret, SecretString};

use crate::{Error, short_scalar};

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
    /// A private key.
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

/// A private key, ready to sign with.
#[derive(Clone)]
pub struct Identity {
    key: Arc<PrivateKey>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.describe())
    }
}

impl Identity {
    /// Reads a private key: OpenSSH's own format, PKCS#8, PKCS#1 or SEC1 PEM, or PuTTY's; plain or encrypted.
    ///
    /// A passphrase for a key that needs none is ignored.
    ///
    /// # Errors
    ///
    /// [`Error::PublicKeyGiven`], [`Error::PassphraseNeeded`], [`Error::WrongPassphrase`], or
    /// [`Error::InvalidKey`] for everything else.
    pub fn parse(text: &SecretString, passphrase: Option<&SecretString>) -> Result<Self, Error> {
        // Secret stores and editors add carriage returns and blank lines, and some lose the last newline.
        let text: secrecy::SecretBox<String> = secrecy::SecretBox::new(Box::new(
            text.expose_secret().trim().replace('\r', "") + "\n",
        ));
        let text = text.expose_secret();
        refuse_what_is_no_private_key(text)?;
        let encrypted = is_encrypted(text);
        // An empty passphrase is how a file for "none" looks.
        let passphrase = passphrase
            .map(|secret| secret.expose_secret())
            .filter(|secret| !secret.is_empty());
        if encrypted && passphrase.is_none() {
            return Err(Error::PassphraseNeeded);
        }
        match russh::keys::decode_secret_key(text, passphrase) {
            Ok(key) => Ok(Self { key: Arc::new(key) }),
            Err(russh::keys::Error::KeyIsEncrypted) if passphrase.is_none() => {
                Err(Error::PassphraseNeeded)
            }
            // The check numbers came out right, so the passphrase is: what follows them is at fault.
            Err(russh::keys::Error::SshKey(russh::keys::ssh_key::Error::Encoding(_)))
                if encrypted =>
            {
                let reason = "its private number is in a form that is read only without encryption"
                    .to_owned();
                Err(Error::InvalidKey { reason })
            }
            Err(_) if encrypted => Err(Error::WrongPassphrase),
            Err(problem) => match short_scalar::widen(text).map(|key| PrivateKey::from_bytes(&key))
            {
                Some(Ok(key)) => Ok(Self { key: Arc::new(key) }),
                _ => Err(Error::InvalidKey {
                    reason: problem.to_string(),
                }),
            },
        }
    }

    /// Type and fingerprint of the public half, as `ssh-keygen -l` prints them.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "{} {}",
            self.key.algorithm(),
            self.key.public_key().fingerprint(HashAlg::Sha256)
        )
    }
}

fn refuse_what_is_no_private_key(text: &str) -> Result<(), Error> {
    let first = text.lines().next().unwrap_or_default();
    let public = [
        "ssh-",
        "ecdsa-sha2-",
        "sk-ssh-",
        "sk-ecdsa-",
        "-----BEGIN PUBLIC KEY",
        "-----BEGIN RSA PUBLIC KEY",
    ];
    if public.iter().any(|start| first.starts_with(start)) || first.contains("SSH2 PUBLIC KEY") {
        return Err(Error::PublicKeyGiven);
    }
    if text.trim().is_empty() {
        return Err(Error::InvalidKey {
            reason: "it is empty".to_owned(),
        });
    }
    if first.starts_with("-----BEGIN CERTIFICATE") {
        return Err(Error::InvalidKey {
            reason: "it is a certificate".to_owned(),
        });
    }
    if !text.contains("PRIVATE KEY-----") && !text.starts_with("PuTTY-User-Key-File-") {
        return Err(Error::InvalidKey {
            reason: "it has no `BEGIN … PRIVATE KEY` line".to_owned(),
        });
    }
    Ok(())
}

fn is_encrypted(text: &str) -> bool {
    if text.contains("BEGIN OPENSSH PRIVATE KEY") {
        return PrivateKey::from_openssh(text).is_ok_and(|key| key.is_encrypted());
    }
    text.contains("BEGIN ENCRYPTED PRIVATE KEY")
        || text.contains("Proc-Type: 4,ENCRYPTED")
        || (text.starts_with("PuTTY-User-Key-File-") && !text.contains("Encryption: none"))
}

/// How an authentication conversation ended without success.
#[derive(Debug)]
pub(crate) struct Declined {
    /// Methods the server said it accepts, when it last said so.
    pub(crate) accepts: Vec<String>,
    /// What it was offered.
    pub(crate) tried: Vec<String>,
    /// The connection ended with it; whether that was the answer, the session's end tells.
    pub(crate) cut: bool,
}

/// The connection ended in the middle of a conversation.
struct Cut;

/// Proves `credentials` on a fresh connection.
pub(crate) async fn authenticate<H: Handler>(
    handle: &mut Handle<H>,
    credentials: &Credentials,
) -> Result<(), Declined> {
    let mut conversation = Conversation {
        handle,
        user: &credentials.username,
        accepts: MethodSet::empty(),
    };
    let mut tried = Vec::new();
    let cut = match conversation.hold(&credentials.methods, &mut tried).await {
        Ok(true) => return Ok(()),
        Ok(false) => false,
        Err(Cut) => true,
    };
    let accepts = conversation
        .accepts
        .iter()
        .map(|method| <&str>::from(method).to_owned())
        .collect();
    Err(Declined {
        accepts,
        tried,
        cut,
    })
}

fn label(method: &AuthMethod) -> String {
    match method {
        AuthMethod::Password(_) => "password".to_owned(),
        AuthMethod::PrivateKey(identity) => format!("publickey ({})", identity.describe()),
    }
}

struct Conversation<'a, H: Handler> {
    handle: &'a mut Handle<H>,
    user: &'a str,
    accepts: MethodSet,
}

impl<H: Handler> Conversation<'_, H> {
    /// True when we are in, false when nothing is left to try.
    async fn hold(&mut self, methods: &[AuthMethod], tried: &mut Vec<String>) -> Result<bool, Cut> {
        // The `none` request costs one round trip, counts as no failure, and tells what the server accepts (RFC 4252,
        // 5.2).
        let first = self.handle.authenticate_none(self.user).await;
        if self.note(first)? {
            return Ok(true);
        }
        let mut pending: Vec<&AuthMethod> = methods.iter().collect();
        // Not simply in order: after a partial success the server may ask for a method that was passed over before.
        while let Some(next) = pending
            .iter()
            .position(|method| self.accepts_method(method))
        {
            let (label, outcome) = self.attempt(pending.remove(next)).await;
            tried.push(label);
            if outcome? {
                return Ok(true);
            }
        }
        tried.extend(
            pending
                .into_iter()
                .map(|method| format!("not {}", label(method))),
        );
        Ok(false)
    }

    fn accepts_method(&self, method: &AuthMethod) -> bool {
        match method {
            AuthMethod::PrivateKey(_) => self.accepts.contains(&MethodKind::PublicKey),
            AuthMethod::Password(_) => {
                self.accepts.contains(&MethodKind::Password)
                    || self.accepts.contains(&MethodKind::KeyboardInteractive)
            }
        }
    }

    async fn attempt(&mut self, method: &AuthMethod) -> (String, Result<bool, Cut>) {
        match method {
            AuthMethod::PrivateKey(identity) => {
                let key = PrivateKeyWithHashAlg::new(
                    Arc::clone(&identity.key),
                    self.rsa_hash(identity).await,
                );
                let reply = self.handle.authenticate_publickey(self.user, key).await;
                (label(method), self.note(reply))
            }
            AuthMethod::Password(password) => self.attempt_password(password).await,
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

    async fn attempt_password(&mut self, password: &SecretString) -> (String, Result<bool, Cut>) {
        let mut label = String::new();
        if self.accepts.contains(&MethodKind::Password) {
            label.push_str("password");
            let reply = self
                .handle
                .authenticate_password(self.user, password.expose_secret())
                .await;
            match self.note(reply) {
                Ok(false) => {}
                decided => return (label, decided),
            }
        }
        if self.accepts.contains(&MethodKind::KeyboardInteractive) {
            label.push_str(if label.is_empty() { "" } else { " and " });
            label.push_str("keyboard-interactive");
            let outcome = self.answer_questions(password).await;
            return (label, outcome);
        }
        (label, Ok(false))
    }

    async fn answer_questions(&mut self, password: &SecretString) -> Result<bool, Cut> {
        let mut reply = self
            .handle
            .authenticate_keyboard_interactive_start(self.user, None)
            .await;
        for _ in 0..INTERACTIVE_ROUNDS_MAX {
            let prompts = match reply {
                Ok(KeyboardInteractiveAuthResponse::Success) => return Ok(true),
                Ok(KeyboardInteractiveAuthResponse::Failure {
                    ref remaining_methods,
                    ..
                }) if remaining_methods.is_empty() => {
                    return Err(Cut);
                }
                Ok(KeyboardInteractiveAuthResponse::Failure {
                    remaining_methods, ..
                }) => {
                    self.accepts = remaining_methods;
                    return Ok(false);
                }
                Ok(KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. }) => prompts,
                Err(_) => return Err(Cut),
            };
            // Only hidden input is a password; a visible question is not one we have an answer to.
            let answers = prompts
                .iter()
                .map(|prompt| {
                    if prompt.echo {
                        String::new()
                    } else {
                        password.expose_secret().to_owned()
                    }
                })
                .collect();
            reply = self
                .handle
                .authenticate_keyboard_interactive_respond(answers)
                .await;
        }
        Ok(false)
    }

    /// Keeps what the server accepts; true when we are in.
    fn note(&mut self, reply: Result<AuthResult, russh::Error>) -> Result<bool, Cut> {
        match reply {
            Ok(AuthResult::Success) => Ok(true),
            // The library ends the session when no method is left, and reports a cut connection the same way.
            Ok(AuthResult::Failure {
                ref remaining_methods,
                ..
            }) if remaining_methods.is_empty() => Err(Cut),
            Ok(AuthResult::Failure {
                remaining_methods, ..
            }) => {
                self.accepts = remaining_methods;
                Ok(false)
            }
            Err(_) => Err(Cut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keygen(arguments: &[&str]) -> (String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let output = std::process::Command::new("ssh-keygen")
            .args(["-q", "-f"])
            .arg(&path)
            .args(arguments)
            .output()
            .expect("`ssh-keygen` is needed: install the package `openssh-client`");
        assert!(output.status.success(), "{output:?}");
        let read = |path| std::fs::read_to_string(path).unwrap();
        (read(path.clone()), read(path.with_extension("pub")))
    }

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    #[test]
    fn reads_every_key_type_in_openssh_and_pem_form() {
        for kind in [
            vec!["-t", "ed25519"],
            vec!["-t", "ecdsa", "-b", "256"],
            vec!["-t", "ecdsa", "-b", "384"],
            vec!["-t", "rsa", "-b", "2048"],
        ] {
            for form in [&[][..], &["-m", "PEM"], &["-m", "PKCS8"]] {
                if kind[1] == "ed25519" && !form.is_empty() {
                    continue; // ssh-keygen writes ed25519 in OpenSSH form only.
                }
                let arguments = [kind.as_slice(), form, &["-N", ""]].concat();
                let (private, public) = keygen(&arguments);
                let identity = Identity::parse(&secret(&private), None)
                    .unwrap_or_else(|e| panic!("{arguments:?}: {e}"));
                let expected = russh::keys::PublicKey::from_openssh(&public)
                    .unwrap()
                    .fingerprint(HashAlg::Sha256);
                assert!(
                    identity.describe().ends_with(&expected.to_string()),
                    "{arguments:?}"
                );
            }
        }
    }

    /// Made by `ssh-keygen -t ecdsa` for this test and used nowhere else: its private number has 31 bytes.
    const SHORT_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAaAAAABNlY2RzYS
1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQTA49jlFI89iY7pSWykUVawl+aRhTiI
2sszHGydeFu8qYh2/lA9p6iZburfnAXqyD226apxSV1gxzZ+thz2EoEqAAAAoKicy1eonM
tXAAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBMDj2OUUjz2JjulJ
bKRRVrCX5pGFOIjayzMcbJ14W7ypiHb+UD2nqJlu6t+cBerIPbbpqnFJXWDHNn62HPYSgS
oAAAAfZ1XN+KPwQo8j2PrWrkZ51ymM6Hemn1PZq7D9+xSMlwAAAAVzaG9ydAECAwQ=
-----END OPENSSH PRIVATE KEY-----";

    #[test]
    fn reads_a_key_whose_private_number_is_short() {
        let identity = Identity::parse(&secret(SHORT_KEY), None).unwrap();
        let expected = "ecdsa-sha2-nistp256 SHA256:urrPWyKy+r3sb16/TAogGSG/2T71YSSOLpx2wnCC2PI";
        assert_eq!(identity.describe(), expected);
        // It signs as the key it is, and not as one with the number shifted.
        let signature = identity
            .key
            .sign("test", HashAlg::Sha256, b"message")
            .unwrap();
        identity
            .key
            .public_key()
            .verify("test", b"message", &signature)
            .unwrap();
    }

    #[test]
    fn reads_keys_with_windows_line_ends_and_no_last_newline() {
        let (private, _) = keygen(&["-t", "ed25519", "-N", ""]);
        assert!(Identity::parse(&secret(&private.replace('\n', "\r\n")), None).is_ok());
        assert!(Identity::parse(&secret(private.trim_end()), None).is_ok());
    }

    #[test]
    fn tells_a_missing_passphrase_from_a_wrong_one() {
        for form in [&[][..], &["-m", "PKCS8"], &["-m", "PEM"]] {
            let kind = ["-t", "rsa", "-b", "2048", "-N", "open sesame"];
            let (private, _) = keygen(&[&kind[..], form].concat());
            let key = secret(&private);
            assert!(
                matches!(Identity::parse(&key, None), Err(Error::PassphraseNeeded)),
                "{form:?}"
            );
            assert!(
                matches!(
                    Identity::parse(&key, Some(&secret(""))),
                    Err(Error::PassphraseNeeded)
                ),
                "{form:?}"
            );
            assert!(
                matches!(
                    Identity::parse(&key, Some(&secret("x"))),
                    Err(Error::WrongPassphrase)
                ),
                "{form:?}"
            );
            let opened = Identity::parse(&key, Some(&secret("open sesame")));
            assert!(opened.is_ok(), "{form:?}: {opened:?}");
        }
    }

    #[test]
    fn says_what_was_given_instead_of_a_private_key() {
        let (_, public) = keygen(&["-t", "ed25519", "-N", ""]);
        assert!(matches!(
            Identity::parse(&secret(&public), None),
            Err(Error::PublicKeyGiven)
        ));
        for text in [
            "",
            "\n",
            "hunter2",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        ] {
            assert!(
                matches!(
                    Identity::parse(&secret(text), None),
                    Err(Error::InvalidKey { .. })
                ),
                "{text:?}"
            );
        }
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let (private, _) = keygen(&["-t", "ed25519", "-N", ""]);
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
