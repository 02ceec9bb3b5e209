//! What is recorded about ahead-of-time code, and how it is written behind the code.
//!
//! A file is the engine's own ELF image, then the record as JSON, then a MAC of the record (a mere checksum where there is
//! no key), then the record's length, then [`MAGIC`]. Tools that read ELF overlook what follows the image.

use std::fmt;
use std::hash::{Hash as _, Hasher};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::cache::CacheKey;
use super::native::Refusal;
use crate::engine::{Engine, target};

/// The last bytes of a file of ours.
const MAGIC: [u8; 8] = *b"orkaAOT1";

/// Bytes of an HMAC with SHA-256.
const MAC_BYTES: usize = 32;

/// What follows the record's JSON.
const TAIL_BYTES: usize = MAC_BYTES + size_of::<u32>() + MAGIC.len();

/// Told apart from any other use of the same key.
const MAC_PURPOSE: &[u8] = b"orka-step ahead-of-time code 1\0";

/// What identifies an engine whose code runs in another: wasmtime's version and configuration, target and processor
/// features, as `sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineId(String);

impl EngineId {
    /// The engine's.
    pub fn of(engine: &Engine) -> Self {
        let mut hasher = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self(format!("sha256:{}", hex::encode(hasher.0.finalize())))
    }
}

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Rust's own hashers have 64 bits and may change with the compiler.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest
            .iter()
            .take(8)
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

/// What is known of a file's code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Record {
    /// `sha256:…` of the `.wasm` it was made from.
    pub(super) plugin: String,
    /// `sha256:…` of the code.
    pub(super) code: String,
    /// The engine that made it.
    pub(super) engine: EngineId,
    /// Version of this program, for messages.
    pub(super) host: String,
    /// The target, for messages.
    pub(super) target: String,
}

/// A file of ours, taken apart. Nothing in it is to be believed yet.
pub(super) struct Sealed<'a> {
    pub(super) code: &'a [u8],
    pub(super) record: Record,
    record_bytes: &'a [u8],
    mac: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// Takes a file apart.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let rest = bytes.strip_suffix(&MAGIC).ok_or(Refusal::NoRecord)?;
        let (rest, length) = rest.split_last_chunk::<4>().ok_or(Refusal::NoRecord)?;
        let (rest, mac) = rest
            .split_last_chunk::<MAC_BYTES>()
            .ok_or(Refusal::NoRecord)?;
        let length = u32::from_le_bytes(*length) as usize;
        let start = rest.len().checked_sub(length).ok_or(Refusal::NoRecord)?;
        let (code, record_bytes) = rest.split_at(start);
        let record = serde_json::from_slice(record_bytes).map_err(|_| Refusal::NoRecord)?;
        Ok(Self {
            code,
            record,
            record_bytes,
            mac,
        })
    }

    /// Whether the record was made by someone who has the key; without one, whether it is undamaged.
    pub(super) fn is_authentic(&self, key: Option<&CacheKey>) -> bool {
        authenticator(key, self.record_bytes)
            .verify_slice(self.mac)
            .is_ok()
    }

    /// Whether the code is what was recorded.
    pub(super) fn is_unchanged(&self) -> bool {
        self.record.code == digest(self.code)
    }
}

/// The code of the component with this digest, its record behind it; without a key it is good beside a program only.
pub(super) fn seal(
    mut code: Vec<u8>,
    component: &str,
    engine: &EngineId,
    key: Option<&CacheKey>,
) -> Vec<u8> {
    let record = Record {
        plugin: component.to_owned(),
        code: digest(&code),
        engine: engine.clone(),
        host: env!("CARGO_PKG_VERSION").to_owned(),
        target: target().to_owned(),
    };
    // Five texts always make JSON.
    let record = serde_json::to_vec(&record).unwrap_or_default();
    let mac = authenticator(key, &record).finalize().into_bytes();
    code.reserve_exact(record.len() + TAIL_BYTES);
    code.extend_from_slice(&record);
    code.extend_from_slice(&mac);
    code.extend_from_slice(&u32::try_from(record.len()).unwrap_or(0).to_le_bytes());
    code.extend_from_slice(&MAGIC);
    code
}

fn authenticator(key: Option<&CacheKey>, record: &[u8]) -> Hmac<Sha256> {
    // A key of any length makes an HMAC; what stands in for an error is never reached.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.map_or(&[], CacheKey::bytes))
        .unwrap_or_else(|_| Hmac::new(&Default::default()));
    mac.update(MAC_PURPOSE);
    mac.update(record);
    mac
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
