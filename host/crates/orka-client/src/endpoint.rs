//! Where the Orka API is: an address checked and normalised once, at the edge.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// The base URL of an Orka API, without credentials, query or trailing slash.
///
/// Orka answers plain `http` on its address inside the cluster's network and `https` on its domains.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

/// Why a text is no [`Endpoint`]. The text itself is repeated only where it cannot hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Nothing was given.
    #[error("the Orka endpoint is empty")]
    Empty,
    /// `10.221.188.20` instead of `http://10.221.188.20`.
    #[error(
        "`{given}` has no scheme; write `{suggestion}` (addresses speak plain http, domains https)"
    )]
    NoScheme {
        /// What was given.
        given: String,
        /// The same with the scheme that Orka uses for such a host.
        suggestion: String,
    },
    /// A scheme other than `http` and `https`.
    #[error("the Orka endpoint must begin with `http://` or `https://`, not `{scheme}://`")]
    Scheme {
        /// The scheme that was given.
        scheme: String,
    },
    /// `https://user:password@host`.
    #[error(
        "the Orka endpoint must not hold a user name or password; give credentials by file or variable"
    )]
    HoldsCredentials,
    /// A `?query` or `#fragment`, which no base address has.
    #[error("the Orka endpoint must not have a query or fragment")]
    HoldsQuery,
    /// No URL at all.
    #[error("the Orka endpoint is not a URL: {why}")]
    NotAUrl {
        /// The URL parser's reason.
        why: String,
    },
}

impl Endpoint {
    /// Checks and normalises `text`: trailing slashes and a trailing `/api/v1` are dropped.
    ///
    /// # Errors
    ///
    /// [`EndpointError`] naming what is wrong and, where that is plain, what to write instead.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        if !text.contains("://") {
            return Err(without_scheme(text));
        }
        let mut url = Url::parse(text).map_err(|why| EndpointError::NotAUrl {
            why: why.to_string(),
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(EndpointError::Scheme {
                scheme: url.scheme().to_owned(),
            });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointError::HoldsCredentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(EndpointError::HoldsQuery);
        }
        let path = normal_path(url.path());
        url.set_path(&path);
        Ok(Self(url))
    }

    /// Whether the connection is encrypted.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The host, without port.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// Whether the host is this machine itself.
    pub(crate) fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        }
    }

    /// The URL of a call: `segments` are percent-encoded each, so a `/` inside one stays inside.
    ///
    /// `None` if a segment is empty or a dot segment, which a URL cannot carry.
    pub(crate) fn call(&self, segments: &[String], query: Option<&str>) -> Option<Url> {
        if segments
            .iter()
            .any(|segment| matches!(segment.as_str(), "" | "." | ".."))
        {
            return None;
        }
        let mut url = self.0.clone();
        url.path_segments_mut()
            .ok()?
            .pop_if_empty()
            .extend(segments);
        url.set_query(query);
        Some(url)
    }

    /// This endpoint at the scheme, host and port of `target`, where a redirect led.
    pub(crate) fn moved_to(&self, target: &Url) -> Option<Self> {
        let mut url = target.clone();
        url.set_path(self.0.path());
        url.set_query(None);
        url.set_fragment(None);
        (url != self.0).then_some(Self(url))
    }
}

fn without_scheme(text: &str) -> EndpointError {
    if text.contains('@') {
        return EndpointError::HoldsCredentials;
    }
    let guess = Url::parse(&format!("http://{text}"));
    let domain = matches!(guess.as_ref().map(Url::host), Ok(Some(Host::Domain(name))) if name != "localhost");
    let scheme = if domain { "https" } else { "http" };
    let rest = text.trim_start_matches('/');
    EndpointError::NoScheme {
        given: text.to_owned(),
        suggestion: format!("{scheme}://{rest}"),
    }
}

fn normal_path(path: &str) -> String {
    let segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    let kept = segments.strip_suffix(&["api", "v1"]).unwrap_or(&segments);
    format!("/{}", kept.join("/"))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_slashes_at_the_end_of_an_endpoint_q32() {
        for (given, shown) in [
            ("http://10.221.188.20", "http://10.221.188.20"),
            ("http://10.221.188.20/", "http://10.221.188.20"),
            (" https://company.orka.app// ", "https://company.orka.app"),
            ("https://host/orka/", "https://host/orka"),
            ("https://host/orka//api/v1/", "https://host/orka"),
            ("HTTPS://Host:8443/api/v1", "https://host:8443"),
            ("http://[fd00::1]:80/", "http://[fd00::1]"),
        ] {
            let endpoint = Endpoint::parse(given).unwrap();
            assert_eq!(endpoint.to_string(), shown, "{given}");
            let url = endpoint.call(&["token".to_owned()], None).unwrap();
            assert_eq!(url.as_str(), format!("{shown}/token"));
        }
    }

    #[test]
    fn says_what_to_write_when_the_scheme_is_missing() {
        for (given, suggestion) in [
            ("10.221.188.20", "http://10.221.188.20"),
            ("10.221.188.20:8080/x", "http://10.221.188.20:8080/x"),
            ("company.orka.app", "https://company.orka.app"),
            ("localhost:8080", "http://localhost:8080"),
            ("//10.221.188.20", "http://10.221.188.20"),
        ] {
            let error = Endpoint::parse(given).unwrap_err();
            assert!(
                error.to_string().contains(&format!("write `{suggestion}`")),
                "{given}: {error}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_base_address() {
        assert_eq!(Endpoint::parse("  "), Err(EndpointError::Empty));
        assert_eq!(
            Endpoint::parse("ftp://host"),
            Err(EndpointError::Scheme {
                scheme: "ftp".into()
            })
        );
        assert_eq!(
            Endpoint::parse("http://host/?a=b"),
            Err(EndpointError::HoldsQuery)
        );
        assert!(matches!(
            Endpoint::parse("http://host:99999"),
            Err(EndpointError::NotAUrl { .. })
        ));
    }

    #[test]
    fn never_repeats_a_password_in_the_endpoint() {
        for given in [
            "https://ci:hunter2@host",
            "ci:hunter2@host",
            "https://ci:hunter2@host:99999",
            "ftp://:hunter2@h",
        ] {
            let error = Endpoint::parse(given).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{given}");
        }
    }

    #[test]
    fn encodes_each_path_segment_and_refuses_dot_segments() {
        let endpoint = Endpoint::parse("http://host").unwrap();
        let url = endpoint
            .call(
                &["images".into(), "a/b c%2F.img?x#y".into()],
                Some("expand"),
            )
            .unwrap();
        assert_eq!(
            url.as_str(),
            "http://host/images/a%2Fb%20c%252F.img%3Fx%23y?expand"
        );
        for segment in ["", ".", ".."] {
            assert_eq!(
                endpoint.call(&["vms".into(), segment.into()], None),
                None,
                "{segment:?}"
            );
        }
    }
}
