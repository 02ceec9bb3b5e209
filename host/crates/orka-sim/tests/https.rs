//! The API behind https.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use orka_sim::{GuestKind, SimConfig, Tls};
use support::run;
use tokio::process::Command;

/// The exit status and output of `curl` for the health check, with this authority or none.
async fn probe(kind: Tls, trusted: bool) -> (Option<i32>, String) {
    let config = SimConfig {
        tls: Some(kind),
        guests: GuestKind::None,
        ..SimConfig::default()
    };
    let sim = orka_sim::Sim::start(config).await.unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("authority.pem");
    std::fs::write(&file, sim.authority().unwrap()).unwrap();
    let mut curl = Command::new("curl");
    curl.env_clear()
        .args(["--silent", &format!("{}/health-check", sim.url())]);
    if trusted {
        curl.arg("--cacert").arg(&file);
    }
    let ran = run(curl, b"").await;
    sim.shutdown().await;
    (ran.status, ran.text())
}

#[tokio::test]
async fn a_client_that_knows_the_authority_is_served_and_no_other() {
    let (status, body) = probe(Tls::PrivateCa, true).await;
    assert_eq!(status, Some(0));
    assert!(body.contains("\"api_version\":\"2.4.0\""), "{body}");
    // curl says 60 where it cannot verify the certificate.
    assert_eq!(probe(Tls::PrivateCa, false).await.0, Some(60));
}

#[tokio::test]
async fn a_certificate_for_another_host_or_of_the_past_is_refused() {
    assert_eq!(probe(Tls::WrongHost, true).await.0, Some(60));
    assert_eq!(probe(Tls::Expired, true).await.0, Some(60));
}
