//! Whether the machine that answers is the one we mean: `known_hosts`, pinned fingerprints, or first use.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Whatever key the machine shows first; from then on the same ([`HostKeyMemory`]).
    FirstUse,
    /// Hosts that the file names must show its keys; others are trusted on first use. OpenSSH's `accept-new`.
    FirstUseUnlessKnown(KnownHosts),
    /// Any key at any time. Whoever holds the network can then listen in and take the machine's place.
    AcceptAny,
}

impl HostKeyPolicy {
    fn known(&self) -> Option<&KnownHosts> {
        match self {
            Self::KnownHosts(known) | Self::FirstUseUnlessKnown(known) => Some(known),
            Self::Pinned(_) | Self::FirstUse | Self::AcceptAny => None,
        }
    }
}

/// Why a host key was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKeyTrust {
    /// `known_hosts` has it.
    KnownHosts,
    /// An authority in `known_hosts` signed it.
    Authority,
    /// Its fingerprint was given.
    Pinned,
    /// It was the first that this machine showed.
    FirstUse,
    /// It was not checked.
    Unchecked,
}

impl HostKeyTrust {
    /// The word for reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KnownHosts => "known-hosts",
            Self::Authority => "authority",
            Self::Pinned => "pinned",
            Self::FirstUse => "first-use",
            Self::Unchecked => "unchecked",
        }
    }
}

impl fmt::Display for HostKeyTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KnownHosts => "found in `known_hosts`",
            Self::Authority => "signed by an authority in `known_hosts`",
            Self::Pinned => "as pinned",
            Self::FirstUse => "trusted on first use",
            Self::Unchecked => "not checked",
        })
    }
}

/// A host key that was accepted, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostKey {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Why it was accepted.
    pub trust: HostKeyTrust,
}

/// What one machine has shown. Clones share it: give the same to every connection with the same machine, and it must show
/// the same key each time. A key is remembered once a login succeeded.
#[derive(Clone, Debug, Default)]
pub struct HostKeyMemory(Arc<Mutex<Option<HostKey>>>);

impl HostKeyMemory {
    /// The key, once there was one.
    #[must_use]
    pub fn recall(&self) -> Option<HostKey> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, key: HostKey) -> HostKey {
        *self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(key)
    }
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

/// The policy for one target, and what it is known to have shown.
pub(crate) struct Verifier {
    target: Target,
    policy: HostKeyPolicy,
    memory: HostKeyMemory,
}

impl Verifier {
    pub(crate) fn new(target: &Target, policy: &HostKeyPolicy, memory: HostKeyMemory) -> Self {
        Self {
            target: target.clone(),
            policy: policy.clone(),
            memory,
        }
    }

    /// Holds the machine to this key from now on. Two sessions that were opened at the same time must agree.
    pub(crate) fn remember(&self, key: HostKey) -> Result<(), Error> {
        if matches!(self.policy, HostKeyPolicy::AcceptAny) {
            return Ok(());
        }
        let kept = self.memory.keep(key);
        self.one_of(&[kept.fingerprint], key.fingerprint)
    }

    /// Judges what the server showed.
    pub(crate) fn judge(&self, shown: &PublicKeyOrCertificate) -> Result<HostKey, Error> {
        let got = Fingerprint::of(&shown.public_key());
        let accepted = |trust| HostKey {
            fingerprint: got,
            trust,
        };
        if matches!(self.policy, HostKeyPolicy::AcceptAny) {
            return Ok(accepted(HostKeyTrust::Unchecked));
        }
        // One machine, one key: whatever the policy, a later session must show the key of the first.
        if let Some(first) = self.memory.recall() {
            self.one_of(&[first.fingerprint], got)?;
            return Ok(first);
        }
        let trust = match &self.policy {
            HostKeyPolicy::Pinned(pins) => {
                self.one_of(pins, got)?;
                HostKeyTrust::Pinned
            }
            HostKeyPolicy::KnownHosts(known) => self.judge_known(known, shown, got)?,
            HostKeyPolicy::FirstUseUnlessKnown(known) => {
                match self.judge_known(known, shown, got) {
                    // A host that an authority vouches for must not get by without its certificate.
                    Err(Error::HostKeyUnknown { .. })
                        if known
                            .keys(&self.target, Some(Marker::CertAuthority))
                            .is_empty() =>
                    {
                        HostKeyTrust::FirstUse
                    }
                    verdict => verdict?,
                }
            }
            HostKeyPolicy::FirstUse | HostKeyPolicy::AcceptAny => HostKeyTrust::FirstUse,
        };
        Ok(accepted(trust))
    }

    fn judge_known(
        &self,
        known: &KnownHosts,
        shown: &PublicKeyOrCertificate,
        got: Fingerprint,
    ) -> Result<HostKeyTrust, Error> {
        match shown.certificate() {
            Some(certificate) => {
                self.judge_certificate(known, certificate, got)?;
                Ok(HostKeyTrust::Authority)
            }
            None => {
                self.judge_key(known, &shown.public_key(), got)?;
                Ok(HostKeyTrust::KnownHosts)
            }
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
            HostKeyPolicy::FirstUse | HostKeyPolicy::AcceptAny => Cow::Owned(all_families()),
            HostKeyPolicy::KnownHosts(known) | HostKeyPolicy::FirstUseUnlessKnown(known) => {
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
        match self.policy.known() {
            Some(known)
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
