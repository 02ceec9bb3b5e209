//! One P-256 key in 256 has a private number that begins with a zero byte. OpenSSH writes such a number shorter, and the
//! SSH library (`ssh-key` 0.7.0-rc.11) does not read it. Here it gets its zeros back.
//!
//! Layout: OpenSSH's `PROTOCOL.key`. Encrypted keys are left alone: their number is out of reach.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Length of a P-256 private number when none of its bytes is left out.
const SCALAR_BYTES: usize = 32;

/// Ciphers of "none" work in blocks of this size.
const BLOCK: usize = 8;

/// The key with its private number at full length, or [`None`] if that is not what is wrong with it.
pub(crate) fn widen(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let body = text.split_once(BEGIN)?.1.split_once(END)?.0;
    let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    let blob = Zeroizing::new(STANDARD.decode(body.as_str()).ok()?);
    let mut fields = Fields(blob.strip_prefix(MAGIC)?);
    let (cipher, kdf, kdf_options) = (fields.string()?, fields.string()?, fields.string()?);
    if cipher != b"none" || fields.number()? != 1 {
        return None;
    }
    let public = fields.string()?;
    let private = widen_private(fields.string()?)?;

    let mut widened = Zeroizing::new(MAGIC.to_vec());
    for field in [cipher, kdf, kdf_options] {
        push_string(&mut widened, field);
    }
    widened.extend_from_slice(&1_u32.to_be_bytes());
    push_string(&mut widened, public);
    push_string(&mut widened, &private);
    Some(widened)
}

fn widen_private(private: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (checks, rest) = private.split_at_checked(8)?;
    let mut fields = Fields(rest);
    let (kind, curve, point) = (fields.string()?, fields.string()?, fields.string()?);
    let (scalar, comment) = (fields.string()?, fields.string()?);
    if kind != b"ecdsa-sha2-nistp256" || scalar.len() >= SCALAR_BYTES {
        return None;
    }
    let mut full = Zeroizing::new([0; SCALAR_BYTES]);
    full[SCALAR_BYTES - scalar.len()..].copy_from_slice(scalar);

    let mut widened = Zeroizing::new(checks.to_vec());
    for field in [kind, curve, point, full.as_slice(), comment] {
        push_string(&mut widened, field);
    }
    for pad in (1..).take(widened.len().next_multiple_of(BLOCK) - widened.len()) {
        widened.push(pad);
    }
    Some(widened)
}

fn push_string(to: &mut Vec<u8>, field: &[u8]) {
    to.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(field);
}

/// SSH's strings and numbers, one after the other (RFC 4251, 5).
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}
