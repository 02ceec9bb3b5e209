//! Messages of Apple's tools that say little, and what they mean in a build over SSH.

/// A message, or a part of it, and its meaning.
const MEANINGS: &[(&str, &str)] = &[
    (
        "errSecInternalComponent",
        "`codesign` could not use the key: its keychain is locked in this login, or the key does not let `codesign` at \
         it; use `recipes::unlock_keychain` or `recipes::with_identity` before the build",
    ),
    (
        "User interaction is not allowed",
        "the keychain wants to ask for a password, and a login by SSH has no window for that; use \
         `recipes::unlock_keychain` or `recipes::with_identity` before the build",
    ),
    (
        "errSecInteractionNotAllowed",
        "the keychain wants to ask for a password, and a login by SSH has no window for that; use \
         `recipes::unlock_keychain` or `recipes::with_identity` before the build",
    ),
    (
        "unable to build chain to self-signed root",
        "the certificate's issuer is missing in the VM: install Apple's intermediate certificate (WWDR, or Developer ID) \
         in the image, or put it into the PKCS #12 file",
    ),
    (
        "no identity found",
        "no certificate with its private key is in a keychain on the search list; use `recipes::with_identity`",
    ),
    (
        "MAC verification failed during PKCS12 import",
        "the passphrase of the PKCS #12 file is wrong, or the file was made by OpenSSL 3 without `-legacy`, which macOS \
         cannot read",
    ),
    (
        "brew: command not found",
        "Homebrew is not in the `PATH` of a plain SSH command; use the shell `login`, or `recipes::homebrew`",
    ),
    (
        "Could not find the WindowServer",
        "the program needs a session with windows; use `recipes::console_user`, on an image that logs a user in at start",
    ),
    (
        "_RegisterApplication(), FAILED TO establish the default connection to the WindowServer",
        "the program needs a session with windows; use `recipes::console_user`, on an image that logs a user in at start",
    ),
    (
        "Unable to boot device due to insufficient system resources",
        "too many simulators run in this VM: give it more memory, or run fewer tests side by side",
    ),
];

/// What a message of Apple's tools means in a build over SSH, if it is one of those that say little.
///
/// For captured output of `codesign`, `xcodebuild`, `security` and the like, to be put in a hint or a line of the log.
pub fn explain(output: &str) -> Option<&'static str> {
    MEANINGS
        .iter()
        .find(|(message, _)| output.contains(message))
        .map(|(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_inside_longer_output_is_recognised() {
        let output = "Signing Identity: \"Apple Distribution\"\nApp.app: errSecInternalComponent\nCommand CodeSign failed";
        assert!(explain(output).is_some_and(|text| text.contains("keychain is locked")));
    }

    #[test]
    fn ordinary_output_has_no_explanation() {
        assert_eq!(explain("** BUILD FAILED **"), None);
        assert_eq!(explain(""), None);
    }
}
