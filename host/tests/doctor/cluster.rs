//! What the cluster says.

use orka_client::{Client, ClientConfig, Credentials, DeployRequest, Endpoint, TokenSource};
use orka_sim::{FaultAction, FaultRule, NodeSpec, Sim, SimConfig};
use orka_step::config::Environment;
use orka_step::console::Console;
use orka_step::doctor::{self, Status, Subject};
use orka_step::mask::Masker;
use orka_step::outcome::{EXIT_CONFIG, EXIT_NO_CAPACITY, EXIT_ORKA, EXIT_TERMINATED, StopSignal};
use orka_step::state::Stop;

use crate::bench::{Bench, PASSWORD, build_plugin, orka2, orka3, others};

#[tokio::test]
async fn all_is_well_on_orka_2_and_the_token_is_given_back() {
    let bench = Bench::start(orka2()).await;
    let examined = bench.examine().await;
    examined.assert(Status::Ok, &others(&[Subject::Namespace]));
    examined.assert_found(Subject::Namespace, "Orka 2 has no namespaces");
    examined.assert_found(Subject::Endpoint, "Orka 2 answers at `http://127.0.0.1:");
    examined.assert_found(Subject::Endpoint, "version 2.1.0");
    examined.assert_found(Subject::Image, "`Sonoma.orkasi` is there");
    examined.assert_found(Subject::Capacity, "3 of 3 nodes have room for 3 cores");
    examined.assert_found(Subject::SignOut, "was revoked");
    assert_eq!(examined.diagnosis.exit_code(), 0);
    let table = examined.diagnosis.table();
    assert!(
        table.ends_with("\na run with this command line would start\n"),
        "{table}"
    );
    assert_eq!(bench.sim.state().requests_to("POST", "/token").len(), 1);
    assert_eq!(bench.sim.state().requests_to("DELETE", "/token").len(), 1);
}

#[tokio::test]
async fn a_token_that_other_builds_share_is_never_revoked() {
    let bench = Bench::start(SimConfig {
        api_version: "2.4.0".to_owned(),
        ..orka2()
    })
    .await;
    let examined = bench.examine().await;
    examined.assert(Status::Ok, &others(&[Subject::Namespace]));
    examined.assert_found(Subject::SignOut, "the token was kept");
    let state = bench.sim.state();
    assert_eq!(state.live_tokens(), 1);
    assert!(state.requests_to("DELETE", "*").is_empty());
}

#[tokio::test]
async fn all_is_well_on_orka_3() {
    let bench = Bench::start(orka3()).await;
    let examined = bench.examine().await;
    examined.assert(Status::Ok, &Subject::ALL);
    examined.assert_found(Subject::Endpoint, "Orka 3 answers at");
    examined.assert_found(Subject::Namespace, "`orka-default`");
    examined.assert_found(Subject::Image, "arm64");
    examined.assert_found(Subject::SignOut, "Orka 3 revokes no tokens");
    assert_eq!(examined.diagnosis.exit_code(), 0);
}

#[tokio::test]
async fn a_wrong_password_is_told_apart_from_a_wrong_endpoint_and_hides_nothing_else() {
    let bench = Bench::start(orka2()).await;
    bench.write("orka/password", "wrong-battery");
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Credentials], EXIT_CONFIG);
    examined.assert(
        Status::Skipped,
        &[Subject::Image, Subject::Capacity, Subject::SignOut],
    );
    examined.assert(
        Status::Ok,
        &[Subject::Endpoint, Subject::Plugin, Subject::Grants],
    );
    examined.assert_found(Subject::Credentials, "check e-mail address and password");
    assert_eq!(bench.sim.state().requests_to("POST", "/token").len(), 1);
}

#[tokio::test]
async fn an_unreachable_endpoint_leaves_every_check_that_needs_no_cluster() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let bench = Bench::start(orka2()).await.with("--orka-api", &url);
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Endpoint], EXIT_ORKA);
    let behind = [
        Subject::Credentials,
        Subject::Namespace,
        Subject::Image,
        Subject::Capacity,
        Subject::SignOut,
    ];
    examined.assert(Status::Skipped, &behind);
    examined.assert_found(Subject::Endpoint, "the connection was refused");
    let here = [behind.as_slice(), &[Subject::Endpoint]].concat();
    examined.assert(Status::Ok, &others(&here));
}

#[tokio::test]
async fn an_unknown_image_is_answered_with_the_name_that_was_meant() {
    for config in [orka2(), orka3()] {
        let bench = Bench::start(config)
            .await
            .with("-pbase-image", "sonma.orkasi");
        let examined = bench.examine().await;
        examined.assert_failed(&[Subject::Image], EXIT_CONFIG);
        examined.assert_found(Subject::Image, "did you mean `Sonoma.orkasi`?");
        examined.assert(Status::Ok, &[Subject::Capacity]);
    }
}

#[tokio::test]
async fn every_image_of_the_plugin_matrix_is_looked_for() {
    let plugin = build_plugin().with_file_name("matrix.wasm");
    let bench = Bench::start(orka3())
        .await
        .without("-pbase-image")
        .with("--plugin", plugin.to_str().unwrap())
        .with(
            "-pcells",
            "a=Sonoma.orkasi\nb=Sonoma.orkasi,cpu-count=6\nc=ghcr.io/acme/ios:1\nd=sonma.orkasi",
        );
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Image], EXIT_CONFIG);
    let findings = &examined.diagnosis.check(Subject::Image).unwrap().findings;
    assert_eq!(findings.len(), 3, "{findings:#?}");
    for (finding, said) in findings.iter().zip([
        "`Sonoma.orkasi` is there",
        "`ghcr.io/acme/ios:1` is in a registry",
        "no image `sonma.orkasi`",
    ]) {
        assert!(finding.text.contains(said), "{findings:#?}");
    }
    let lists = bench.sim.state().requests_to("GET", "*/images").len();
    assert_eq!(lists, 1);

    let bench = bench
        .without("-pcells")
        .with("-pimages", "Sonoma.orkasi\nVentura.orkasi");
    let examined = bench.examine().await;
    examined.assert(Status::Ok, &[Subject::Image]);
    let findings = &examined.diagnosis.check(Subject::Image).unwrap().findings;
    let found: Vec<&str> = findings.iter().map(|it| it.text.as_str()).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].contains("`Ventura.orkasi` is there"), "{found:?}");
}

#[tokio::test]
async fn an_oci_reference_is_said_to_be_unchecked_on_orka_3() {
    let bench = Bench::start(orka3()).await.with(
        "-pbase-image",
        "ghcr.io/macstadium/orka-images/sequoia:latest",
    );
    let examined = bench.examine().await;
    examined.assert(Status::Skipped, &[Subject::Image]);
    examined.assert_found(Subject::Image, "shows only when a VM is deployed");
    assert_eq!(examined.diagnosis.exit_code(), 0);
    assert!(bench.sim.state().requests_to("GET", "*/images").is_empty());
}

/// Deploys VMs of somebody else until the one node is full.
async fn fill(sim: &Sim) {
    let token = TokenSource::Static(sim.config().sa_tokens[1].token.clone().into());
    let config = ClientConfig::new(
        Endpoint::parse(&sim.url()).unwrap(),
        Credentials::Token(token),
    );
    let client = Client::connect(config).await.unwrap();
    for name in ["theirs-1", "theirs-2"] {
        let request = DeployRequest {
            image: Some("Sonoma.orkasi".to_owned()),
            cpu: Some(3),
            ..DeployRequest::new(name)
        };
        client.deploy(&request).await.unwrap();
    }
}

#[tokio::test]
async fn a_full_cluster_is_no_capacity_and_the_vms_of_others_stay() {
    // Twelve cores, so that six stay free beside two VMs: the node is full by its number of VMs.
    let node = NodeSpec {
        cpu: 12,
        ..NodeSpec::apple_silicon("mini-1")
    };
    let bench = Bench::start(SimConfig {
        nodes: vec![node],
        ..orka3()
    })
    .await;
    fill(&bench.sim).await;
    let (console, _) = Console::captured(Masker::default());
    let diagnosis = doctor::examine(
        &bench.args(),
        &Environment::new(),
        &console,
        &Stop::default(),
    )
    .await;
    let capacity = diagnosis.check(Subject::Capacity).unwrap();
    assert_eq!(capacity.status, Status::Fail, "{capacity:#?}");
    assert!(
        capacity.findings[0].text.contains("runs 2 VMs"),
        "{capacity:#?}"
    );
    assert_eq!(diagnosis.exit_code(), EXIT_NO_CAPACITY);
    let state = bench.sim.state();
    assert_eq!(state.vms.len(), 2);
    assert!(state.requests_to("DELETE", "*").is_empty());
    assert_eq!(
        state.requests_to("POST", "*").len(),
        2,
        "those of the others"
    );
}

#[tokio::test]
async fn a_cluster_too_small_is_no_capacity_on_both_generations() {
    for config in [orka2(), orka3()] {
        let small = NodeSpec {
            cpu: 2,
            ..NodeSpec::apple_silicon("mini-1")
        };
        let bench = Bench::start(SimConfig {
            nodes: vec![small],
            ..config
        })
        .await;
        let examined = bench.examine().await;
        examined.assert_failed(&[Subject::Capacity], EXIT_NO_CAPACITY);
        examined.assert_found(Subject::Capacity, "the largest has 2");
    }
}

#[tokio::test]
async fn no_rights_in_the_namespace_are_no_bad_token() {
    let bench = Bench::start(orka3())
        .await
        .with("--orka-namespace", "orka-test");
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Namespace], EXIT_CONFIG);
    examined.assert(Status::Ok, &[Subject::Credentials, Subject::Image]);
    examined.assert(Status::Skipped, &[Subject::Capacity]);
    examined.assert_found(Subject::Namespace, "a role in namespace `orka-test`");
}

#[tokio::test]
async fn an_expired_token_is_told_with_what_to_do() {
    let bench = Bench::start(orka3()).await;
    bench.write("orka/token", "no-such-token");
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Credentials], EXIT_CONFIG);
    examined.assert_found(Subject::Credentials, "issue a new one");
}

#[tokio::test]
async fn a_login_is_of_no_use_on_orka_3() {
    let bench = Bench::start(orka3()).await;
    std::fs::remove_file(bench.path("orka/token")).unwrap();
    bench.write("orka/email", "ci@example.com");
    bench.write("orka/password", PASSWORD);
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Credentials], EXIT_CONFIG);
    examined.assert_found(Subject::Credentials, "service account token");
}

#[tokio::test]
async fn q25_a_slow_list_of_nodes_is_waited_for_only_so_long_and_is_no_failure() {
    let bench = Bench::start(orka2()).await.with("--list-timeout", "300ms");
    bench.sim.add_fault(FaultRule::new(
        "GET",
        "/resources/node/list",
        FaultAction::Hang,
    ));
    let examined = bench.examine().await;
    examined.assert(Status::Warn, &[Subject::Capacity]);
    examined.assert_found(Subject::Capacity, "`--list-timeout");
    examined.assert(Status::Ok, &[Subject::Image, Subject::SignOut]);
    assert_eq!(examined.diagnosis.exit_code(), 0);
}

#[tokio::test]
async fn a_list_that_is_refused_is_no_failure_since_a_run_makes_none() {
    let bench = Bench::start(orka3()).await;
    bench.sim.add_fault(FaultRule::new(
        "GET",
        "*/images",
        FaultAction::Error {
            status: 403,
            message: "images are forbidden".to_owned(),
        },
    ));
    let examined = bench.examine().await;
    examined.assert(Status::Warn, &[Subject::Image]);
    examined.assert_found(Subject::Image, "images are forbidden");
    examined.assert(Status::Ok, &[Subject::Capacity]);
    assert_eq!(examined.diagnosis.exit_code(), 0);
}

#[tokio::test]
async fn a_signal_ends_the_checks_and_the_token_is_given_back_all_the_same() {
    let bench = Bench::start(orka2()).await;
    bench.sim.add_fault(FaultRule::new(
        "GET",
        "/resources/image/list",
        FaultAction::Hang,
    ));
    let stop = Stop::default();
    let signal_once_it_hangs = async {
        while bench
            .sim
            .state()
            .requests_to("GET", "/resources/image/list")
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
        stop.stop(StopSignal::Terminate);
    };
    let (examined, ()) = tokio::join!(bench.examine_until(&stop), signal_once_it_hangs);
    assert_eq!(examined.diagnosis.exit_code(), EXIT_TERMINATED);
    examined.assert(Status::Skipped, &[Subject::Image, Subject::Capacity]);
    examined.assert_found(Subject::Image, "SIGTERM");
    examined.assert_found(Subject::SignOut, "was revoked");
}

#[tokio::test]
async fn a_token_that_cannot_be_given_back_is_told() {
    let bench = Bench::start(SimConfig {
        api_version: "2.0.0".to_owned(),
        ..orka2()
    })
    .await;
    bench.sim.add_fault(FaultRule::new(
        "DELETE",
        "/token",
        FaultAction::HtmlPage { status: 502 },
    ));
    let examined = bench.examine().await;
    examined.assert(Status::Warn, &[Subject::SignOut]);
    examined.assert_found(Subject::SignOut, "stays valid");
    assert_eq!(examined.diagnosis.exit_code(), 0);
}

#[tokio::test]
async fn a_generation_that_the_cluster_is_not_is_told_with_the_flag_that_named_it() {
    for (config, named) in [(orka2(), "3"), (orka3(), "2")] {
        let bench = Bench::start(config).await.with("--orka-version", named);
        bench.write("orka/token", "a-token-of-no-use");
        bench.write("orka/email", "me@example.com");
        bench.write("orka/password", PASSWORD);
        let examined = bench.examine().await;
        examined.assert_found(
            Subject::Credentials,
            &format!("`--orka-version {named}` may be wrong: leave it out"),
        );
        assert_eq!(bench.run().await, examined.diagnosis.exit_code());
    }
}
