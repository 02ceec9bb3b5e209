//! Certificates for an API behind https, good and bad.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// What kind of certificate an https API shows. All are issued by an authority of the simulator's own, which no
/// client knows until it is told ([`crate::Sim::authority`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// For `localhost` and `127.0.0.1`, and in force.
    PrivateCa,
    /// For another host.
    WrongHost,
    /// No longer in force.
    Expired,
}

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate itself.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The server's side of TLS.
    #[error("cannot set up TLS with the certificate")]
    Setup(#[from] tokio_rustls::rustls::Error),
}

/// The server's side of TLS and the authority behind it.
pub(crate) struct TlsSite {
    pub(crate) acceptor: TlsAcceptor,
    /// Certificate of the authority, PEM.
    pub(crate) authority: String,
}

impl TlsSite {
    pub(crate) fn make(kind: Tls) -> Result<Self, TlsError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "orka-sim authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let names: &[&str] = match kind {
            Tls::WrongHost => &["other.example.com"],
            Tls::PrivateCa | Tls::Expired => &["localhost", "127.0.0.1"],
        };
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        if kind == Tls::Expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &authority)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            authority: authority.pem(),
        })
    }
}
