//! Names and tokens the cluster makes up.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;

/// A VM id of Orka 1.x/2.x: 13 hexadecimal digits.
pub(crate) fn vm_id() -> String {
    let number: u64 = rand::rng().random::<u64>() & 0x000f_ffff_ffff_ffff;
    format!("{number:013x}")
}

/// Five characters of `[a-z0-9]`, the tail of generated names in Orka 3.x.
pub(crate) fn suffix() -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..5)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

/// A token in the form of a JWT signed with HS256; the signature is random, since only this process checks it.
pub(crate) fn jwt(email: &str, issued_at: i64) -> String {
    let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let payload =
        URL_SAFE_NO_PAD.encode(serde_json::json!({ "email": email, "iat": issued_at }).to_string());
    let signature = URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>());
    format!("{header}.{payload}.{signature}")
}

/// A point in time as both APIs write it: `2020-07-28T11:09:25Z`.
pub(crate) fn timestamp(at: std::time::SystemTime) -> String {
    let seconds = at
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .map(|time| time.to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_ids_have_thirteen_hexadecimal_digits() {
        for _ in 0..200 {
            let id = vm_id();
            assert_eq!(id.len(), 13);
            assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
    }

    #[test]
    fn time_stamps_are_whole_seconds_in_utc() {
        let at = std::time::UNIX_EPOCH + Duration::from_millis(1_595_934_565_900);
        assert_eq!(timestamp(at), "2020-07-28T11:09:25Z");
    }

    #[test]
    fn tokens_have_the_three_parts_of_a_jwt() {
        let token = jwt("ci@example.com", 1);
        assert_eq!(token.split('.').count(), 3);
        assert!(token.starts_with("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."));
    }
}
