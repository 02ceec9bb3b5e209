//! Errors a person can act on: what is wrong, an exit code for machines, and what to do next.

use std::time::Duration;

use orka_sim::{NodeSpec, Sim, SimConfig, Tls};
use orka_step::outcome::{EXIT_CONFIG, EXIT_NO_CAPACITY, EXIT_ORKA, Outcome};
use tokio::time::timeout;

use crate::world::{Build, Ended, World};

/// None of these may keep a person waiting for longer.
const PATIENCE: Duration = Duration::from_secs(55);

async fn ended(build: Build) -> Ended {
    timeout(PATIENCE, build.run()).await.unwrap()
}

/// What a failure must tell.
struct Told<'a> {
    code: u8,
    failure: &'a str,
    says: &'a [&'a str],
    hints: &'a [&'a str],
}

impl Ended {
    #[track_caller]
    fn assert_told(&self, told: &Told<'_>) {
        let text = self.text();
        assert_eq!(self.code, told.code, "{text}");
        let outcome = if told.code == EXIT_NO_CAPACITY {
            Outcome::NoCapacity
        } else {
            Outcome::InfraFailed
        };
        assert_eq!(self.outcome, outcome, "{text}");
        assert_eq!(self.failure, told.failure, "{text}");
        for says in told.says {
            assert!(text.contains(says), "does not say `{says}`:\n{text}");
        }
        let hint = self.hint.as_deref().unwrap_or_default();
        for word in told.hints {
            assert!(hint.contains(word), "does not hint at `{word}`:\n{text}");
        }
        assert!(
            text.contains(&format!("hint: {}", hint.lines().next().unwrap())),
            "{text}"
        );
        for secret in ["correct-horse", "wrong-horse", "sim-sa-token-ci"] {
            assert!(!text.contains(secret), "tells a secret:\n{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_tried_once() {
    for world in [World::Orka210, World::Orka240] {
        let sim = world.start().await;
        let build = Build::new(&sim, "true").variable("ORKA_PASSWORD", "wrong-horse");
        ended(build).await.assert_told(&Told {
            code: EXIT_CONFIG,
            failure: "orka.login-declined",
            says: &["Orka refused the login", "401", "Invalid email or password"],
            hints: &["password", "endpoint"],
        });
        let state = sim.state();
        assert_eq!(
            state.requests_to("POST", "/token").len(),
            1,
            "a second try may lock the user out"
        );
        assert!(state.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_token_that_is_invalid_or_expired_is_told() {
    let mut expired = World::Orka3.cluster();
    expired.sa_tokens[0].lifetime = Some(Duration::ZERO);
    let expired = Sim::start(expired).await.unwrap();
    let healthy = World::Orka3.start().await;
    let unknown = Build::new(&healthy, "true").variable("ORKA_TOKEN", "no-token-of-this-cluster");
    for build in [Build::new(&expired, "true"), unknown] {
        ended(build).await.assert_told(&Told {
            code: EXIT_CONFIG,
            failure: "orka.token-declined",
            says: &["Orka did not accept the token", "401", "Unauthorized"],
            hints: &["service account token", "expired", "administrator"],
        });
    }
    assert!(
        healthy.state().requests_to("POST", "*").is_empty(),
        "nothing was deployed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_rights_is_told_by_name() {
    let sim = World::Orka3.start().await;
    let build = Build::new(&sim, "true").flag("--orka-namespace", "orka-test");
    ended(build).await.assert_told(&Told {
        code: EXIT_CONFIG,
        failure: "orka.forbidden",
        says: &["in namespace `orka-test`", "403", "forbidden"],
        hints: &["role", "`orka-test`"],
    });
    assert!(
        sim.state().requests_to("POST", "*").is_empty(),
        "nothing was deployed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_cluster_has_not_is_told_with_the_one_that_was_meant() {
    for world in World::ALL {
        let sim = world.start().await;
        let build = Build::new(&sim, "true").param("base-image", "Sonomo.orkasi");
        ended(build).await.assert_told(&Told {
            code: EXIT_CONFIG,
            failure: "orka.not-found",
            says: &["Sonomo.orkasi", "404"],
            hints: &["`Sonoma.orkasi`"],
        });
        assert!(sim.state().is_clean(), "{world:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cluster_is_told_with_what_is_free() {
    for world in World::ALL {
        let sim = Sim::start(SimConfig {
            nodes: vec![NodeSpec {
                slots: 0,
                ..NodeSpec::apple_silicon("mini-arm-1")
            }],
            ..world.cluster()
        })
        .await
        .unwrap();
        ended(Build::new(&sim, "true")).await.assert_told(&Told {
            code: EXIT_NO_CAPACITY,
            failure: "orka.no-capacity",
            says: &["no Orka node has room"],
            hints: &["capacity-wait"],
        });
        assert!(sim.state().is_clean(), "{world:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_that_nobody_knows_is_told() {
    let sim = World::Orka3.start().await;
    let build = Build::new(&sim, "true").flag("--orka-api", "http://no-such-host.invalid");
    ended(build).await.assert_told(&Told {
        code: EXIT_ORKA,
        failure: "orka.unreachable",
        says: &[
            "`http://no-such-host.invalid",
            "the host name cannot be resolved",
        ],
        hints: &["spelling", "DNS"],
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_serves_is_told() {
    let sim = World::Orka3.start().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let build = Build::new(&sim, "true").flag("--orka-api", &format!("http://{closed}"));
    ended(build).await.assert_told(&Told {
        code: EXIT_ORKA,
        failure: "orka.unreachable",
        says: &[&closed.to_string(), "the connection was refused"],
        hints: &["address and port"],
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn https_to_a_port_that_speaks_http_is_told() {
    let sim = World::Orka3.start().await;
    let secure = sim.url().replace("http://", "https://");
    ended(Build::new(&sim, "true").flag("--orka-api", &secure))
        .await
        .assert_told(&Told {
            code: EXIT_ORKA,
            failure: "orka.unreachable",
            says: &["no secure connection could be made"],
            hints: &["plain http", "`http://`"],
        });
    assert!(sim.state().requests.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_trusted_is_told_with_its_fault() {
    for (tls, hint) in [
        (Tls::PrivateCa, "CA file"),
        (Tls::Expired, "expired"),
        (Tls::WrongHost, "another name"),
    ] {
        let sim = Sim::start(SimConfig {
            tls: Some(tls),
            ..World::Orka3.cluster()
        })
        .await
        .unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let authority = scratch.path().join("ca.pem");
        std::fs::write(&authority, sim.authority().unwrap()).unwrap();
        let mut build = Build::new(&sim, "true");
        if tls != Tls::PrivateCa {
            // The authority is known, so that the fault of the certificate itself is the one that is left.
            build = build.flag("--orka-ca", &authority.display().to_string());
        }
        ended(build.clone()).await.assert_told(&Told {
            code: EXIT_ORKA,
            failure: "orka.unreachable",
            says: &["no secure connection could be made"],
            hints: &[hint],
        });
        assert!(
            sim.state().requests.is_empty(),
            "{tls:?}: the token was sent"
        );
        if tls == Tls::PrivateCa {
            let build = build.flag("--orka-ca", &authority.display().to_string());
            let trusting = ended(build).await;
            assert_eq!(trusting.code, 0, "{}", trusting.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_the_other_generation_are_told() {
    let three = World::Orka3.start().await;
    let two = World::Orka240.start().await;
    let of_two = Build::new(&two, "true").flag("--orka-api", &three.url());
    let told = ended(of_two).await;
    assert_eq!(told.code, EXIT_CONFIG, "{}", told.text());
    assert!(
        told.hint.as_deref().unwrap().contains("orka3 sa token"),
        "{}",
        told.text()
    );
    let of_three = Build::new(&three, "true").flag("--orka-api", &two.url());
    let told = ended(of_three).await;
    assert_eq!(told.code, EXIT_CONFIG, "{}", told.text());
    assert!(
        told.hint.as_deref().unwrap().contains("password"),
        "{}",
        told.text()
    );
    assert!(three.state().is_clean() && two.state().is_clean());
}
