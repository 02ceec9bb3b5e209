//! What is recorded about ahead-of-time code, and how it is written behind the code.
//!
//! A file is the engine's own ELF image, then the record as JSON, then a MAC of the record (a mere checksum where there is
//! no key), then the record's length, then [`MAGIC`]. Tools that read ELF overlook what follows the image.

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{EngineId, target};

/// The last bytes of a file of ours.
const MAGIC: [u8; 8] = *b"orkaAOT1";

/// Bytes of an HMAC with SHA-256.
const MAC_BYTES: usize = 32;

/// What follows the record's JSON.
const TAIL_BYTES: usize = MAC_BYTES + size_of::<u32>() + MAGIC.len();

/// Told apart from any other use of the same key.
const MAC_PURPOSE: &[u8] = b"orka-step ahead-of-time code 1\0";

/// What is known of a file's code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Record {
    /// `sha256:…` of the `.wasm` it was made from.
    pub plugin: String,
    /// `sha256:…` of the code.
    pub code: String,
    /// The engine that made it.
    pub engine: EngineId,
    /// Version of this program, for messages.
    pub host: String,
    /// The target, for messages.
    pub target: String,
}

/// A file of ours, taken apart. Nothing in it is to be believed yet.
pub struct Sealed<'a> {
    /// The code.
    pub code: &'a [u8],
    /// What its record says.
    pub record: Record,
    record_bytes: &'a [u8],
    mac: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// Takes a file apart; `None` if it is no file of ours, or not the whole of one.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_suffix(&MAGIC)?;
        let (rest, length) = rest.split_last_chunk::<4>()?;
        let (rest, mac) = rest.split_last_chunk::<MAC_BYTES>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let start = rest.len().checked_sub(length)?;
        let (code, record_bytes) = rest.split_at(start);
        let record = serde_json::from_slice(record_bytes).ok()?;
        Some(Self {
            code,
            record,
            record_bytes,
            mac,
        })
    }

    /// Whether the record was made by someone who has the key; without one, whether it is undamaged.
    pub fn is_authentic(&self, key: Option<&[u8]>) -> bool {
        authenticator(key, self.record_bytes)
            .verify_slice(self.mac)
            .is_ok()
    }

    /// Whether the code is what was recorded.
    pub fn is_unchanged(&self) -> bool {
        self.record.code == digest(self.code)
    }
}

/// The code of the component with this digest, its record behind it; without a key it is good beside a program only.
pub fn seal(mut code: Vec<u8>, component: &str, engine: &EngineId, key: Option<&[u8]>) -> Vec<u8> {
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

fn authenticator(key: Option<&[u8]>, record: &[u8]) -> Hmac<Sha256> {
    // A key of any length makes an HMAC; what stands in for an error is never reached.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.unwrap_or_default())
        .unwrap_or_else(|_| Hmac::new(&Default::default()));
    mac.update(MAC_PURPOSE);
    mac.update(record);
    mac
}

/// `sha256:…`, as components and code are named.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
