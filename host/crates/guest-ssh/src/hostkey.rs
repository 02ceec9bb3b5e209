//! Whether the machine that answers is the one we mean: `known_hosts`, pinned fingerprints, or first use.

use std::borrow::Cow;
use std::fmt;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};
use sha1::Sha1;

use crate::Error;
use crate::ready::Target;

/// Which host keys are accepted.
#[derive(Clone, Debug)]
pub enum HostKeyPolicy {
    /// Keys and authorities from an OpenSSH `known_hosts` file. A host it does not name is refused.
    KnownHosts(KnownHosts),
    /// Any of these keys, whatever the address: for images that keep one host key.
    Pinned(Vec<Fingerprint>),
    /// Whatever key comes first; later sessions of the same [`Connection`](crate::Connection) must show the same.
    AcceptAndRecord,
}

/// A key's SHA-256 fingerprint, written `SHA256:…` as `ssh-keygen -l` does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(russh::keys::ssh_key::Fingerprint);

impl Fingerprint {
    /// Reads `SHA256:` and unpadded base64.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidHostKeys`] for anything else, `MD5:` included.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refused = || Error::InvalidHostKeys {
            reason: format!("`{}` is no SHA-256 fingerprint", text.escape_default()),
        };
        let fingerprint: russh::keys::ssh_key::Fingerprint = text
            .trim()
            .trim_end_matches('=')
            .parse()
            .map_err(|_| refused())?;
        if fingerprint.is_sha256() {
            Ok(Self(fingerprint))
        } else {
            Err(refused())
        }
    }

    fn of(key: &PublicKey) -> Self {
        Self(key.fingerprint(HashAlg::Sha256))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The lines of a `known_hosts` file: plain, `[host]:port`, wildcard, negated and hashed names, `@cert-authority`
/// and `@revoked` (`sshd(8)`, "SSH_KNOWN_HOSTS FILE FORMAT").
#[derive(Clone, Debug)]
pub struct KnownHosts {
    entries: Vec<Entry>,
}

impl KnownHosts {
    /// Reads the text of a `known_hosts` file. Blank lines and comments are passed over.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidHostKeys`] naming the first line that is not understood: a key that is silently left out would
    /// show as an unknown host.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut entries = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = line.parse().map_err(|problem| Error::InvalidHostKeys {
                reason: format!("line {}: {problem}", number + 1),
            })?;
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    fn matching(&self, target: &Target) -> impl Iterator<Item = &Entry> {
        let name = known_hosts_name(target);
        self.entries
            .iter()
            .filter(move |entry| names_host(entry.host_patterns(), &name))
    }

    fn keys(&self, target: &Target, marker: Option<Marker>) -> Vec<&PublicKey> {
        self.matching(target)
            .filter(|entry| entry.marker() == marker.as_ref())
            .map(Entry::public_key)
            .collect()
    }

    fn is_revoked(&self, target: &Target, key: &PublicKey) -> bool {
        self.keys(target, Some(Marker::Revoked))
            .iter()
            .any(|revoked| revoked.key_data() == key.key_data())
    }
}

/// `host` on port 22, `[host]:port` elsewhere; lower case as OpenSSH looks it up.
fn known_hosts_name(target: &Target) -> String {
    let host = target.host.to_ascii_lowercase();
    if target.port == 22 {
        host
    } else {
        format!("[{host}]:{}", target.port)
    }
}

fn names_host(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => Hmac::<Sha1>::new_from_slice(salt)
            .is_ok_and(|mac| mac.chain_update(name).verify_slice(hash).is_ok()),
        HostPatterns::Patterns(patterns) => {
            let mut named = false;
            for pattern in patterns {
                match pattern.strip_prefix('!') {
                    Some(negated) if matches_wildcard(negated, name) => return false,
                    Some(_) => {}
                    None => named |= matches_wildcard(pattern, name),
                }
            }
            named
        }
    }
}

/// OpenSSH's `match_pattern`: `*` for any run, `?` for one character, nothing else special.
fn matches_wildcard(pattern: &str, name: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase().into_bytes();
    let name = name.as_bytes();
    // Two positions and one place to come back to: linear in practice, no recursion for a hostile pattern to deepen.
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[read] => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    (at, read) = (star_at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// The policy for one target, and what it saw.
pub(crate) struct Verifier {
    target: Target,
    policy: HostKeyPolicy,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    accepted: Option<Fingerprint>,
    refusal: Option<Error>,
}

impl Verifier {
    pub(crate) fn new(target: &Target, policy: &HostKeyPolicy) -> Self {
        Self {
            target: target.clone(),
            policy: policy.clone(),
            seen: Mutex::default(),
        }
    }

    /// The key that was accepted, once one was.
    pub(crate) fn accepted(&self) -> Option<Fingerprint> {
        self.seen().accepted
    }

    /// Why the last key was refused, once.
    pub(crate) fn take_refusal(&self) -> Option<Error> {
        self.seen().refusal.take()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Judges what the server showed; the reason for a refusal is kept for [`Self::take_refusal`].
    pub(crate) fn accepts(&self, shown: &PublicKeyOrCertificate) -> bool {
        let got = Fingerprint::of(&shown.public_key());
        let verdict = self.judge(shown, got);
        let mut seen = self.seen();
        match verdict {
            Ok(()) => {
                seen.accepted = Some(got);
                seen.refusal = None;
                true
            }
            Err(refusal) => {
                seen.refusal = Some(refusal);
                false
            }
        }
    }

    fn judge(&self, shown: &PublicKeyOrCertificate, got: Fingerprint) -> Result<(), Error> {
        // One connection, one machine: whatever the policy, a later session must show the key of the first.
        if let Some(first) = self.accepted() {
            return self.one_of(&[first], got);
        }
        match &self.policy {
            HostKeyPolicy::AcceptAndRecord => Ok(()),
            HostKeyPolicy::Pinned(pins) => self.one_of(pins, got),
            HostKeyPolicy::KnownHosts(known) => match shown.certificate() {
                Some(certificate) => self.judge_certificate(known, certificate, got),
                None => self.judge_key(known, &shown.public_key(), got),
            },
        }
    }

    fn one_of(&self, expected: &[Fingerprint], got: Fingerprint) -> Result<(), Error> {
        if expected.contains(&got) {
            return Ok(());
        }
        Err(self.mismatch(expected.iter().map(ToString::to_string).collect(), got))
    }

    fn mismatch(&self, expected: Vec<String>, got: Fingerprint) -> Error {
        Error::HostKeyMismatch {
            address: self.target.to_string(),
            expected,
            got: got.to_string(),
        }
    }

    fn judge_key(
        &self,
        known: &KnownHosts,
        key: &PublicKey,
        got: Fingerprint,
    ) -> Result<(), Error> {
        if known.is_revoked(&self.target, key) {
            return Err(self.revoked(got));
        }
        let keys = known.keys(&self.target, None);
        if keys.is_empty() {
            return Err(Error::HostKeyUnknown {
                address: self.target.to_string(),
                got: got.to_string(),
            });
        }
        if keys.iter().any(|known| known.key_data() == key.key_data()) {
            return Ok(());
        }
        Err(self.mismatch(
            keys.into_iter()
                .map(|key| Fingerprint::of(key).to_string())
                .collect(),
            got,
        ))
    }

    /// The checks of `ssh(1)`, "CERTIFICATES": signature, authority, validity, kind, principal, and no unknown
    /// critical option.
    fn judge_certificate(
        &self,
        known: &KnownHosts,
        certificate: &Certificate,
        got: Fingerprint,
    ) -> Result<(), Error> {
        let invalid = |reason: &str| Error::HostCertificateInvalid {
            address: self.target.to_string(),
            got: got.to_string(),
            reason: reason.to_owned(),
        };
        let authority = PublicKey::new(certificate.signature_key().clone(), "");
        let subject = PublicKey::new(certificate.public_key().clone(), "");
        if known.is_revoked(&self.target, &authority) || known.is_revoked(&self.target, &subject) {
            return Err(self.revoked(got));
        }
        let authorities = known.keys(&self.target, Some(Marker::CertAuthority));
        let prints: Vec<_> = authorities
            .iter()
            .map(|key| key.fingerprint(HashAlg::Sha256))
            .collect();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        if certificate.validate_at(now, &prints).is_err() {
            return Err(invalid(
                "it is expired, not yet valid, or signed by another authority",
            ));
        }
        if certificate.cert_type() != CertType::Host {
            return Err(invalid("it is a user certificate"));
        }
        if !certificate.critical_options().is_empty() {
            return Err(invalid("it has critical options that are not understood"));
        }
        let host = self.target.host.to_ascii_lowercase();
        let principals = certificate.valid_principals();
        if !principals.is_empty()
            && !principals
                .iter()
                .any(|principal| matches_wildcard(principal, &host))
        {
            return Err(invalid("it names other hosts"));
        }
        Ok(())
    }

    fn revoked(&self, got: Fingerprint) -> Error {
        Error::HostKeyRevoked {
            address: self.target.to_string(),
            got: got.to_string(),
        }
    }

    /// Key algorithms to ask for, most wanted first: a server with several keys should show the one that is known.
    pub(crate) fn key_preference(&self, family: usize) -> Cow<'static, [Algorithm]> {
        match &self.policy {
            HostKeyPolicy::Pinned(_) => Cow::Owned(key_family(family)),
            HostKeyPolicy::AcceptAndRecord => Cow::Owned(all_families()),
            HostKeyPolicy::KnownHosts(known) => {
                let keys = known.keys(&self.target, None);
                let is_known = |algorithm: &Algorithm| {
                    keys.iter()
                        .any(|key| same_family(&key.algorithm(), algorithm))
                };
                let (mut order, rest): (Vec<_>, Vec<_>) =
                    all_families().into_iter().partition(is_known);
                order.extend(rest);
                Cow::Owned(order)
            }
        }
    }

    /// Certificates are asked for only where an authority is known, or a server that has one would always show it.
    pub(crate) fn certificate_preference(&self) -> Cow<'static, [Algorithm]> {
        match &self.policy {
            HostKeyPolicy::KnownHosts(known)
                if !known
                    .keys(&self.target, Some(Marker::CertAuthority))
                    .is_empty() =>
            {
                Cow::Owned(all_families())
            }
            _ => Cow::Borrowed(&[]),
        }
    }

    /// How many kinds of key are worth asking for in turn. A fingerprint does not say of which kind its key is, so a
    /// server with several keys is asked for each kind before a pin is called wrong.
    pub(crate) fn families(&self) -> usize {
        if matches!(self.policy, HostKeyPolicy::Pinned(_)) {
            KEY_FAMILIES
        } else {
            1
        }
    }
}

const KEY_FAMILIES: usize = 3;

/// Ed25519, then ECDSA, then RSA with SHA-2.
fn key_family(index: usize) -> Vec<Algorithm> {
    match index {
        0 => vec![Algorithm::Ed25519],
        1 => [
            EcdsaCurve::NistP256,
            EcdsaCurve::NistP384,
            EcdsaCurve::NistP521,
        ]
        .map(|curve| Algorithm::Ecdsa { curve })
        .to_vec(),
        _ => [HashAlg::Sha512, HashAlg::Sha256]
            .map(|hash| Algorithm::Rsa { hash: Some(hash) })
            .to_vec(),
    }
}

fn all_families() -> Vec<Algorithm> {
    (0..KEY_FAMILIES).flat_map(key_family).collect()
}

fn same_family(one: &Algorithm, other: &Algorithm) -> bool {
    match (one, other) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        (one, other) => one == other,
    }
}
