//! Keychains for code signing.
//!
//! `security` reads commands from standard input (`-i`), which is how passwords reach it without being in anybody's
//! arguments. It tells failures of such commands as lines on standard error only, so the state is looked at afterwards
//! instead of believed.

use super::{Meaning, run_script};
use crate::secrets::Secret;
use crate::ssh::Connection;
use crate::{Error, random};

/// Functions that both scripts share. `quoted` escapes for the command line parser of `security -i`, which knows double
/// quotes and backslashes; a line break would end the command.
const COMMON: &str = r#"command -v security >/dev/null 2>&1 || exit 80
break_='
'
quoted() {
  case $1 in *"$break_"*) exit 83 ;; esac
  printf '"%s"' "$(printf %s "$1" | sed 's/["\\]/\\&/g')"
}
list() { security "$@" -d user | sed 's/^[[:space:]]*"//; s/"[[:space:]]*$//'; }
"#;

/// Argument: the keychain; empty means the default one. Secret: `ORKA_KEYCHAIN_PASSWORD`. Says the keychain's path.
const UNLOCK: &str = r#"keychain=$1
if [ -z "$keychain" ]; then
  keychain=$(list default-keychain) && [ -n "$keychain" ] || exit 82
fi
[ -e "$keychain" ] || exit 81
path=$(quoted "$keychain") && password=$(quoted "$ORKA_KEYCHAIN_PASSWORD") || exit 83
said=$(printf '%s\n' "unlock-keychain -p $password $path" "set-keychain-settings $path" \
  "set-key-partition-list -S apple-tool:,apple:,codesign: -s -k $password $path" | security -i 2>&1 >/dev/null)
printf '%s\n' "$said" >&2
security show-keychain-info "$keychain" >/dev/null || exit 84
case $said in *set-key-partition-list*) exit 85 ;; esac
printf '%s\n' "$keychain""#;

/// Arguments: a name for the keychain, the certificate's file or nothing. Secrets: `ORKA_CERTIFICATE` (base64) where
/// there is no file, `ORKA_CERTIFICATE_PASSPHRASE`. The keychain's own password is made here and forgotten. Says the
/// keychain's path, then the identities.
const IMPORT: &str = r#"umask 077
scratch=$(mktemp -d "${TMPDIR:-/tmp}/orka-step-identity.XXXXXX") || exit 86
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
certificate=$2
if [ -z "$certificate" ]; then
  certificate=$scratch/identity.p12
  printf %s "$ORKA_CERTIFICATE" | base64 -d >"$certificate" 2>/dev/null ||
    printf %s "$ORKA_CERTIFICATE" | base64 -D >"$certificate" 2>/dev/null || exit 83
fi
[ -s "$certificate" ] || exit 83
keychain=$HOME/Library/Keychains/$1
mkdir -p "$HOME/Library/Keychains" || exit 86
password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
path=$(quoted "$keychain") && file=$(quoted "$certificate") &&
  passphrase=$(quoted "${ORKA_CERTIFICATE_PASSPHRASE-}") || exit 83
undo() { security delete-keychain "$keychain" >/dev/null 2>&1; exit "$1"; }
said=$(printf '%s\n' "create-keychain -p $password $path" "set-keychain-settings $path" \
  "unlock-keychain -p $password $path" \
  "import $file -k $path -f pkcs12 -P $passphrase -T /usr/bin/codesign -T /usr/bin/productbuild -T /usr/bin/security" \
  "set-key-partition-list -S apple-tool:,apple:,codesign: -s -k $password $path" | security -i 2>&1 >/dev/null)
printf '%s\n' "$said" >&2
security show-keychain-info "$keychain" >/dev/null || undo 86
case $said in
*import:*) undo 87 ;;
*set-key-partition-list*) undo 85 ;;
esac
list list-keychains >"$scratch/list" || undo 86
set -- "$keychain"
while IFS= read -r line; do [ "$line" = "$keychain" ] || set -- "$@" "$line"; done <"$scratch/list"
security list-keychains -d user -s "$@" || undo 86
security find-identity -v -p codesigning "$keychain" >"$scratch/identities" || undo 88
grep '^ *[0-9][0-9]*) ' "$scratch/identities" >"$scratch/valid" || undo 88
printf '%s\n' "$keychain"
cat "$scratch/valid""#;

/// Argument: the keychain. Deleting takes it off the search list too.
const REMOVE: &str = r#"[ -e "$1" ] || exit 0
security delete-keychain "$1""#;

const MEANINGS: &[Meaning] = &[
    Meaning {
        status: 80,
        code: "recipe.not-macos",
        message: "the VM has no `security`, so it is not macOS",
        hint: "leave signing out on other guests",
    },
    Meaning {
        status: 81,
        code: "recipe.no-keychain",
        message: "there is no such keychain in the VM",
        hint: "name it by its full path, such as `/Users/admin/Library/Keychains/login.keychain-db`",
    },
    Meaning {
        status: 82,
        code: "recipe.no-default-keychain",
        message: "the login user has no default keychain",
        hint: "name a keychain, or use `recipes::with_identity`, which makes one of its own",
    },
    Meaning {
        status: 83,
        code: "recipe.secret-unusable",
        message: "a password holds a line break, or the certificate is empty or no base64",
        hint: "make the Secret without a final line break (`printf`, not `echo`), and the certificate by `base64 < identity.p12`",
    },
    Meaning {
        status: 84,
        code: "recipe.keychain-locked",
        message: "the keychain stayed locked",
        hint: "its password is probably wrong; the login keychain has the account's own",
    },
    Meaning {
        status: 85,
        code: "recipe.keychain-partition",
        message: "`codesign` could not be let at the keys of the keychain",
        hint: "see that it holds a private key; without this step signing ends in `errSecInternalComponent`",
    },
    Meaning {
        status: 86,
        code: "recipe.keychain-create",
        message: "the keychain could not be made and put on the search list",
        hint: "see that the login user's home directory can be written",
    },
    Meaning {
        status: 87,
        code: "recipe.certificate-refused",
        message: "the certificate was not taken",
        hint: "its passphrase is probably wrong; a PKCS #12 file made by OpenSSL 3 needs `-legacy` to be read by macOS",
    },
    Meaning {
        status: 88,
        code: "recipe.no-signing-identity",
        message: "what was imported cannot sign",
        hint: "it needs certificate and private key, in date, and its issuer (Apple's WWDR or Developer ID certificate) in the VM",
    },
];

/// Where a signing certificate with its private key comes from, as PKCS #12.
#[derive(Clone, Copy, Debug)]
pub enum Certificate<'a> {
    /// A secret of the run that holds the file in base64.
    Base64(&'a Secret),
    /// A file in the VM, by absolute path.
    File(&'a str),
}

/// A certificate that can sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SHA-1 of the certificate in hexadecimal, which `codesign --sign` takes.
    pub hash: String,
    /// Its name, such as `Apple Distribution: Company (TEAMID)`.
    pub name: String,
}

/// A keychain of the run's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKeychain {
    /// Its path in the VM, for `codesign --keychain` and `OTHER_CODE_SIGN_FLAGS`.
    pub path: String,
    /// What it can sign with; at least one.
    pub identities: Vec<Identity>,
}

/// Unlocks a keychain of the image for this VM's life and lets `codesign` at its keys; returns its path.
///
/// `None` means the user's default keychain. It is locked again with the VM's end; a VM that is kept keeps it open.
///
/// # Errors
///
/// [`Error::Other`] with `recipe.not-macos`, `recipe.no-keychain`, `recipe.no-default-keychain`,
/// `recipe.secret-unusable`, `recipe.keychain-locked` or `recipe.keychain-partition`; those of `connection.exec`. Grant:
/// `ssh.exec` and the secret.
pub fn unlock_keychain(
    connection: &Connection,
    keychain: Option<&str>,
    password: &Secret,
    env: &[(String, String)],
) -> Result<String, Error> {
    let secrets = vec![("ORKA_KEYCHAIN_PASSWORD".to_owned(), password)];
    let script = format!("{COMMON}{UNLOCK}");
    let said = run_script(
        connection,
        &script,
        &[keychain.unwrap_or_default()],
        env,
        secrets,
    )?;
    let path = said.output("unlocking the keychain", MEANINGS)?;
    Ok(path.trim_end().to_owned())
}

/// Makes a keychain of the run's own, imports a certificate with its key, and puts it first on the search list.
///
/// Nothing is left if any part of it fails. [`remove_keychain`] takes it away again.
///
/// # Errors
///
/// [`Error::Other`] with `recipe.not-macos`, `recipe.secret-unusable`, `recipe.keychain-create`,
/// `recipe.certificate-refused`, `recipe.keychain-partition` or `recipe.no-signing-identity`; those of
/// `connection.exec`. Grant: `ssh.exec` and the secrets.
pub fn import_identity(
    connection: &Connection,
    certificate: Certificate<'_>,
    passphrase: Option<&Secret>,
    env: &[(String, String)],
) -> Result<SigningKeychain, Error> {
    let unique: String = random::bytes(8)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let name = format!("orka-step-{unique}.keychain-db");
    let mut secrets = Vec::new();
    let file = match certificate {
        Certificate::File(path) => path,
        Certificate::Base64(secret) => {
            secrets.push(("ORKA_CERTIFICATE".to_owned(), secret));
            ""
        }
    };
    secrets.extend(
        passphrase.map(|passphrase| ("ORKA_CERTIFICATE_PASSPHRASE".to_owned(), passphrase)),
    );
    let script = format!("{COMMON}{IMPORT}");
    let said = run_script(connection, &script, &[&name, file], env, secrets)?;
    let output = said.output("importing the signing certificate", MEANINGS)?;
    let mut lines = output.lines();
    Ok(SigningKeychain {
        path: lines.next().unwrap_or_default().to_owned(),
        identities: lines.filter_map(identity).collect(),
    })
}

/// Deletes a keychain of [`import_identity`], keys included. One that is gone already counts as deleted.
///
/// # Errors
///
/// [`Error::Other`] with `recipe.failed`; those of `connection.exec`. Grant: `ssh.exec`.
pub fn remove_keychain(
    connection: &Connection,
    keychain: &SigningKeychain,
    env: &[(String, String)],
) -> Result<(), Error> {
    let said = run_script(connection, REMOVE, &[&keychain.path], env, Vec::new())?;
    said.output("removing the keychain", MEANINGS)?;
    Ok(())
}

/// Does `work` with a certificate imported, and removes its keychain afterwards, whatever `work` returned.
///
/// # Errors
///
/// Those of [`import_identity`]; then whatever `work` returns; then those of [`remove_keychain`].
pub fn with_identity<T>(
    connection: &Connection,
    certificate: Certificate<'_>,
    passphrase: Option<&Secret>,
    env: &[(String, String)],
    work: impl FnOnce(&SigningKeychain) -> Result<T, Error>,
) -> Result<T, Error> {
    let keychain = import_identity(connection, certificate, passphrase, env)?;
    let done = work(&keychain);
    let removed = remove_keychain(connection, &keychain, env);
    done.and_then(|value| removed.map(|()| value))
}

/// A line of `security find-identity`: `  1) <40 hex digits> "name"`.
fn identity(line: &str) -> Option<Identity> {
    let (_, rest) = line.split_once(") ")?;
    let (hash, name) = rest.trim().split_once(' ')?;
    let name = name.trim().strip_prefix('"')?.strip_suffix('"')?;
    Some(Identity {
        hash: hash.to_owned(),
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_with_parentheses_in_their_names() {
        let line = r#"  1) 0123456789ABCDEF0123456789ABCDEF01234567 "Apple Distribution: Company, Inc. (TEAM123456)""#;
        let expected = Identity {
            hash: "0123456789ABCDEF0123456789ABCDEF01234567".to_owned(),
            name: "Apple Distribution: Company, Inc. (TEAM123456)".to_owned(),
        };
        assert_eq!(identity(line), Some(expected));
        assert_eq!(identity("     1 valid identities found"), None);
    }
}
