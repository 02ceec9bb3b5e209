//! A fake API server behind TLS.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Answer, Fake, Request};

/// A server certificate and what is needed to trust it.
pub struct Tls {
    acceptor: TlsAcceptor,
    pem: String,
    directory: tempfile::TempDir,
}

impl Tls {
    pub fn new(name: &str) -> Self {
        Self::with(name, |_| ())
    }

    pub fn with(name: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Self {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            pem: certificate.pem(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub fn ca_file(&self) -> PathBuf {
        let path = self.directory.path().join("ca.pem");
        std::fs::write(&path, &self.pem).unwrap();
        path
    }

    pub async fn serve(
        &self,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Fake {
        let acceptor = self.acceptor.clone();
        let accept = move |stream| {
            let acceptor = acceptor.clone();
            async move { acceptor.accept(stream).await.ok() }
        };
        Fake::start_with("https", accept, handler).await
    }
}
