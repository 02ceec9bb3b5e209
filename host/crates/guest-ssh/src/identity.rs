//! Private keys and the certificates that go with them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Certificate, HashAlg, PrivateKey};
use secrecy::{ExposeSecret, SecretString};

use crate::{Error, short_scalar};

/// A private key, ready to sign with.
#[derive(Clone)]
pub struct Identity {
    pub(crate) key: Arc<PrivateKey>,
    pub(crate) certificate: Option<Arc<Certificate>>,
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
            Ok(key) => Ok(Self::of(key)),
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
                Some(Ok(key)) => Ok(Self::of(key)),
                _ => Err(Error::InvalidKey {
                    reason: problem.to_string(),
                }),
            },
        }
    }

    fn of(key: PrivateKey) -> Self {
        Self {
            key: Arc::new(key),
            certificate: None,
        }
    }

    /// Adds a user certificate, as `ssh-keygen -s` writes it into `<key>-cert.pub`. It is offered before the bare key.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidCertificate`] for text that is none, for a host's, for another key's, and for one whose time is
    /// over: no server would take it.
    pub fn with_certificate(mut self, text: &str) -> Result<Self, Error> {
        let refused = |reason: String| Error::InvalidCertificate { reason };
        let certificate = Certificate::from_openssh(text.trim())
            .map_err(|problem| refused(format!("it cannot be read: {problem}")))?;
        if certificate.cert_type() != CertType::User {
            return Err(refused("it is a host certificate".to_owned()));
        }
        if certificate.public_key() != self.key.public_key().key_data() {
            return Err(refused("it certifies another key".to_owned()));
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        if certificate.valid_before() <= now {
            let ago = Duration::from_secs(now - certificate.valid_before());
            return Err(refused(format!("it expired {} ago", coarse(ago))));
        }
        self.certificate = Some(Arc::new(certificate));
        Ok(self)
    }

    /// What the certificate says of itself, if there is one: its ID and the names it is for.
    #[must_use]
    pub fn describe_certificate(&self) -> Option<String> {
        let certificate = self.certificate.as_ref()?;
        let id = crate::quote::printable(certificate.key_id().as_bytes());
        let names = match certificate.valid_principals() {
            [] => "any user".to_owned(),
            names => crate::quote::printable(names.join(", ").as_bytes()),
        };
        Some(format!("certificate `{id}` for {names}"))
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

fn coarse(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
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
            vec!["-t", "ecdsa", "-b", "521"],
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

    /// A certificate for `public`, by a new authority.
    fn certify(public: &str, arguments: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let (authority, _) = keygen(&["-t", "ed25519", "-N", ""]);
        let ca = dir.path().join("ca");
        std::fs::write(&ca, authority).unwrap();
        std::fs::set_permissions(&ca, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(dir.path().join("id.pub"), public).unwrap();
        let output = std::process::Command::new("ssh-keygen")
            .args(["-q", "-s"])
            .arg(&ca)
            .args(["-I", "build-7"])
            .args(arguments)
            .arg(dir.path().join("id.pub"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::read_to_string(dir.path().join("id-cert.pub")).unwrap()
    }

    #[test]
    fn a_certificate_must_be_a_users_for_this_key_and_not_be_over() {
        let (private, public) = keygen(&["-t", "ed25519", "-N", ""]);
        let (_, other) = keygen(&["-t", "ed25519", "-N", ""]);
        let identity = Identity::parse(&secret(&private), None).unwrap();
        let good = certify(&public, &["-n", "admin", "-V", "+1h"]);
        let certified = identity.clone().with_certificate(&good).unwrap();
        assert_eq!(
            certified.describe_certificate().unwrap(),
            "certificate `build-7` for admin"
        );
        for (text, reason) in [
            (certify(&public, &["-h", "-n", "host"]), "host certificate"),
            (certify(&other, &["-n", "admin"]), "another key"),
            (
                certify(&public, &["-n", "admin", "-V", "20200101:20200102"]),
                "expired",
            ),
            (public, "cannot be read"),
        ] {
            let problem = identity.clone().with_certificate(&text).unwrap_err();
            assert!(problem.to_string().contains(reason), "{problem}");
        }
    }
}
