//! Plugins that are not here yet: references by URL and to registries, and fetching them.
//!
//! A reference names what it stands for by a digest, so whoever serves the bytes is trusted with nothing but serving them.
//! They are kept in memory alone (a step's root may be read-only) and checked before anything reads them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use url::{Host, Url};

use super::PluginRef;
use crate::failure::Failure;

#[cfg(not(feature = "registry"))]
mod absent;
#[cfg(feature = "registry")]
mod fetch;
#[cfg(feature = "registry")]
pub(crate) mod layout;
#[cfg(feature = "registry")]
pub(crate) mod registry;
#[cfg(feature = "registry")]
pub(crate) mod web;

#[cfg(feature = "registry")]
pub use fetch::{bring, fetch, for_run};

#[cfg(not(feature = "registry"))]
pub use absent::{bring, for_run};

/// What a digest begins with; the only algorithm that is taken.
const SHA256: &str = "sha256:";

/// Bytes of a tag at most (OCI distribution specification, "Pulling manifests").
const TAG_BYTES_MAX: usize = 128;

/// `https://…#sha256:…`: a component by its own digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlRef {
    /// Where it is; without the digest.
    pub url: Url,
    /// `sha256:…` of the component.
    pub digest: String,
}

/// `oci://registry/repository@sha256:…`: an artifact by its manifest's digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciRef {
    /// Where the artifact is kept.
    pub repository: Repository,
    /// `sha256:…` of the manifest.
    pub digest: String,
}

/// A repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// The registry as it is written: a host, with a port if it has one.
    pub registry: String,
    /// The name within the registry.
    pub name: String,
}

/// A plugin that has been fetched, not looked at yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The reference, for messages.
    pub shown: String,
    /// The component.
    pub bytes: Arc<[u8]>,
    /// How long it took: part of the run's own time.
    pub took: Duration,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched")
            .field("shown", &self.shown)
            .field("bytes", &self.bytes.len())
            .field("took", &self.took)
            .finish()
    }
}

impl fmt::Display for UrlRef {
    /// Without the query, which may hold a signature that opens more than this one file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        if url.query().is_some() {
            url.set_query(Some("..."));
        }
        write!(f, "{url}#{}", self.digest)
    }
}

impl fmt::Display for OciRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.digest)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}", self.registry, self.name)
    }
}

/// Whether a reference as it is typed is one to fetch.
pub fn is_remote(text: &str) -> bool {
    ["https://", "http://", "oci://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
}

impl PluginRef {
    /// Reads a reference that [`is_remote`].
    pub(super) fn parse_remote(text: &str) -> Result<Self, Failure> {
        if !cfg!(feature = "registry") {
            return Err(Failure::config(format!(
                "plugin `{text}`: this build does not fetch plugins"
            ))
            .with_hint(
                "bring the file into the pod, by a workspace or a ConfigMap, and give its path",
            ));
        }
        if text.starts_with("oci://") {
            OciRef::parse(text).map(Self::Oci)
        } else {
            UrlRef::parse(text).map(Self::Url)
        }
    }
}

impl UrlRef {
    fn parse(text: &str) -> Result<Self, Failure> {
        let (address, fragment) = match text.split_once('#') {
            Some((address, fragment)) => (address, Some(fragment)),
            None => (text, None),
        };
        let wrong = |what: &str| {
            // A query may be a secret: what is wrong can be said without it.
            let shown = address.split('?').next().unwrap_or_default();
            Failure::config(format!("plugin `{shown}` {what}"))
        };
        let url = Url::parse(address).map_err(|error| wrong("is no URL").with_source(error))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Failure::config("the plugin's URL has a user or password in it")
                .with_hint("a plugin behind a login belongs into a registry: `oci://…` with `--registry-credentials`"));
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            return Err(
                wrong("is neither https nor on this machine").with_hint("give it as `https://…`")
            );
        }
        let digest = fragment.and_then(digest).ok_or_else(|| {
            wrong(match fragment {
                None => "is not pinned by a digest",
                Some(_) => "is pinned by something that is no SHA-256 digest",
            })
            .with_hint(
                "append `#sha256:` and the 64 digits that `sha256sum` prints for the file you mean: what a URL serves may change",
            )
        })?;
        Ok(Self { url, digest })
    }
}

impl OciRef {
    fn parse(text: &str) -> Result<Self, Failure> {
        refuse_login(text, "plugin")?;
        let (name, pin) = match text.rsplit_once('@') {
            Some((name, pin)) => (name, Some(pin)),
            None => (text, None),
        };
        let (repository, tag) = Repository::parse(name, "plugin")?;
        match (pin, tag) {
            // With both, the digest is what counts, here as for container images.
            (Some(pin), _) => match digest(pin) {
                Some(digest) => Ok(Self { repository, digest }),
                None => Err(Failure::config(format!(
                    "plugin `{text}` is pinned by something that is no SHA-256 digest"
                ))
                .with_hint(format!("write it as `{repository}@sha256:` and 64 hexadecimal digits"))),
            },
            (None, Some(tag)) => Err(Failure::config(format!(
                "plugin `{text}` names a tag, which may stand for another plugin tomorrow"
            ))
            .with_hint(format!(
                "give the digest of its manifest instead, `{repository}@sha256:…`: `orka-step plugin push` prints it, and `skopeo inspect --raw docker://{}/{}:{tag} | sha256sum` or `oras resolve` finds it",
                repository.registry, repository.name
            ))),
            (None, None) => Err(Failure::config(format!(
                "plugin `{text}` is not pinned by a digest"
            ))
            .with_hint(format!(
                "write it as `{repository}@sha256:…`, with the digest of the manifest that `orka-step plugin push` printed"
            ))),
        }
    }
}

impl Repository {
    /// Reads `oci://registry/repository[:tag]`; `flag` is who is told about mistakes.
    pub(crate) fn parse(text: &str, flag: &str) -> Result<(Self, Option<String>), Failure> {
        refuse_login(text, flag)?;
        let wrong = |what: &str| {
            Failure::config(format!("`{flag} {text}` {what}"))
                .with_hint("write it as `oci://registry.example.com/team/plugin`")
        };
        let rest = text
            .strip_prefix("oci://")
            .ok_or_else(|| wrong("does not begin with `oci://`"))?;
        let (registry, path) = rest
            .split_once('/')
            .ok_or_else(|| wrong("names no repository"))?;
        let is_host = Url::parse(&format!("https://{registry}")).is_ok_and(|url| {
            url.host().is_some()
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
        });
        if !is_host {
            return Err(wrong("names no registry"));
        }
        let (name, tag) = match path.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (path, None),
        };
        if !name.split('/').all(is_path_component) {
            return Err(wrong(
                "names no repository: that is lower-case letters, digits and `.`, `_`, `-` between them",
            ));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("has no valid tag"));
        }
        let repository = Self {
            registry: registry.to_owned(),
            name: name.to_owned(),
        };
        Ok((repository, tag.map(str::to_owned)))
    }
}

/// What is typed on a command line is seen by all; it is not repeated here either.
fn refuse_login(text: &str, flag: &str) -> Result<(), Failure> {
    let rest = text.strip_prefix("oci://").unwrap_or(text);
    match rest.split_once('/') {
        Some((registry, _)) if registry.contains('@') => Err(Failure::config(format!(
            "`{flag} …` has a user or password in it"
        ))
        .with_hint("logins are given with `--registry-credentials`")),
        _ => Ok(()),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, as the OCI distribution specification has it.
fn is_path_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_in_words =
        text.bytes().next().is_some_and(is_word) && text.bytes().last().is_some_and(is_word);
    let separators: Vec<&str> = text
        .split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit())
        .collect();
    ends_in_words
        && separators.iter().all(|separator| {
            matches!(*separator, "" | "." | "_" | "__")
                || separator.bytes().all(|byte| byte == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let is_first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(is_first)
        && text.bytes().all(is_inner)
}

/// A digest in the form that everything here has it in: lower-case digits.
pub(crate) fn digest(text: &str) -> Option<String> {
    let digits = text.strip_prefix(SHA256)?;
    let is_whole = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_whole.then(|| format!("{SHA256}{}", digits.to_ascii_lowercase()))
}

/// Whether a URL stays on this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(all(test, feature = "registry"))]
mod tests {
    use super::*;

    const DIGITS: &str = "81adc9cca6047d2989b0c3f7337de11e34152b2f2aa16994738f00dca56df575";

    fn parse(text: &str) -> Result<PluginRef, Failure> {
        PluginRef::parse(text, None)
    }

    #[track_caller]
    fn refused(text: &str, message: &str, hint: &str) {
        let failure = parse(text).unwrap_err();
        assert!(
            failure.message.contains(message),
            "{text}: {}",
            failure.message
        );
        let told = failure.hint.unwrap_or_default();
        assert!(told.contains(hint), "{text}: {told}");
    }

    #[test]
    fn a_url_is_taken_with_its_digest_and_only_by_https_or_on_this_machine() {
        for text in [
            "https://example.com/build.wasm",
            "https://example.com:8443/a/b.wasm?x=1",
            "http://127.0.0.1:1234/b",
            "http://localhost/b",
            "http://[::1]:5000/b",
        ] {
            let pinned = format!("{text}#sha256:{DIGITS}");
            let parsed = parse(&pinned).unwrap();
            let shown = pinned.replace("x=1", "...");
            assert_eq!(parsed.to_string(), shown);
        }
        refused("https://example.com/b.wasm", "not pinned", "sha256sum");
        refused("https://example.com/b.wasm#", "no SHA-256", "sha256sum");
        refused(
            "https://example.com/b.wasm#sha256:12",
            "no SHA-256",
            "64 digits",
        );
        refused(
            &format!("http://example.com/b#sha256:{DIGITS}"),
            "neither https",
            "https://",
        );
        refused(
            &format!("https://me:pw@example.com/b#sha256:{DIGITS}"),
            "user or password",
            "registry",
        );
        refused(&format!("https://#sha256:{DIGITS}"), "is no URL", "");
        let secret = parse("https://example.com/b?signature=verysecret").unwrap_err();
        assert!(!secret.message.contains("verysecret"), "{}", secret.message);
    }

    #[test]
    fn an_artifact_is_taken_by_digest_and_a_tag_is_refused_with_the_way_to_the_digest() {
        for text in [
            "registry.example.com/team/build",
            "127.0.0.1:5000/x",
            "[::1]:5000/a-b/c__d.e",
        ] {
            let pinned = format!("oci://{text}@sha256:{DIGITS}");
            assert_eq!(parse(&pinned).unwrap().to_string(), pinned);
        }
        let both = parse(&format!(
            "oci://example.com/x:1.0@sha256:{}",
            DIGITS.to_uppercase()
        ))
        .unwrap();
        assert_eq!(
            both.to_string(),
            format!("oci://example.com/x@sha256:{DIGITS}")
        );
        refused("oci://example.com/x:1.0", "names a tag", "oras resolve");
        refused("oci://example.com:5000/x", "not pinned", "plugin push");
        refused(
            "oci://example.com/x@sha256:12",
            "no SHA-256",
            "64 hexadecimal",
        );
        refused(
            "oci://example.com/x@sha512:12",
            "no SHA-256",
            "64 hexadecimal",
        );
        for (text, message) in [
            ("oci://example.com", "no repository"),
            ("oci:///x", "no registry"),
            ("oci://exa mple/x", "no registry"),
            ("oci://example.com/X", "no repository"),
            ("oci://example.com/", "no repository"),
            ("oci://example.com/a//b", "no repository"),
            ("oci://example.com/a_-b", "no repository"),
            ("oci://example.com/../b", "no repository"),
            ("oci://example.com/a:", "no valid tag"),
            ("oci://me:pw@example.com/a", "user or password"),
        ] {
            refused(&format!("{text}@sha256:{DIGITS}"), message, "");
        }
    }

    #[test]
    fn what_looks_like_neither_is_a_path() {
        for text in ["ftp://example.com/x", "oci:x", "https:/x"] {
            assert!(matches!(parse(text), Ok(PluginRef::Path(_))), "{text}");
        }
    }
}
