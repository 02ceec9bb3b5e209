//! TLS: whom the client trusts, and what it says when it does not.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::Write;

use orka_client::{Client, Error, UnreachableKind};
use support::tls::Tls;
use support::{Fake, config, orka3, token};

#[tokio::test]
async fn q22_trusts_a_private_authority_that_is_named_and_no_other() {
    let tls = Tls::new("127.0.0.1");
    let fake = tls.serve(orka3).await;
    let mut config = config(&fake.url, token());
    let error = Client::connect(config.clone()).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unreachable {
                kind: UnreachableKind::Tls,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("name its CA file"));
    assert!(!error.is_retryable());

    config.ca_file = Some(tls.ca_file());
    Client::connect(config.clone())
        .await
        .unwrap()
        .vms()
        .await
        .unwrap();

    config.ca_file = None;
    config.insecure_tls = true;
    Client::connect(config).await.unwrap().vms().await.unwrap();
}

#[tokio::test]
async fn says_what_is_wrong_with_a_certificate() {
    let expired: fn(&mut rcgen::CertificateParams) = |params| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    };
    for (tls, hint) in [
        (Tls::new("other.example.com"), "for another name"),
        (Tls::with("127.0.0.1", expired), "has expired"),
    ] {
        let fake = tls.serve(orka3).await;
        let mut config = config(&fake.url, token());
        config.ca_file = Some(tls.ca_file());
        let error = Client::connect(config).await.unwrap_err();
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
    }
}

#[tokio::test]
async fn suggests_http_where_the_server_speaks_it() {
    let fake = Fake::start(orka3).await;
    let error = Client::connect(config(&fake.url.replace("http:", "https:"), token()))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("`http://`"), "{error:?}");
}

#[tokio::test]
async fn refuses_a_ca_file_without_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let mut config = config("http://127.0.0.1:1", token());
    config.ca_file = Some(path.clone());
    for content in [
        None,
        Some(""),
        Some("no certificate"),
        Some("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
    ] {
        if let Some(content) = content {
            std::fs::File::create(&path)
                .unwrap()
                .write_all(content.as_bytes())
                .unwrap();
        }
        let error = Client::connect(config.clone()).await.unwrap_err();
        assert!(
            matches!(&error, Error::Invalid { what, .. } if what.contains("ca.pem")),
            "{content:?}: {error:?}"
        );
    }
}
