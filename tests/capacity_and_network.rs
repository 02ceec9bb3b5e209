//! A cluster that is full, away or slow, and VMs that cannot be logged into.

use std::time::Duration;

use end_to_end::Cluster;
use orka_sim::{FaultAction, FaultRule, GuestFault, GuestKind, NodeSpec, Occurrence, SimConfig};

const TRUE: &str = "#!/bin/sh\ntrue\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_ssh_password_is_told_at_once() {
    let cluster = Cluster::start().await;
    cluster.write_ssh("password", "not-the-password");
    let ended = cluster
        .build(TRUE)
        .flag("--ssh-timeout", "50s")
        .ended()
        .await;
    ended.assert(216, "infra-failed");
    ended.assert_says(&["declined user `admin`", "hint: "]);
    assert!(ended.took < Duration::from_secs(20), "{ended}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_never_listens_is_told_with_its_last_state() {
    let cluster = Cluster::with(SimConfig {
        guests: GuestKind::None,
        ..Cluster::orka2()
    })
    .await;
    let ended = cluster
        .build(TRUE)
        .flag("--ssh-timeout", "2s")
        .ended()
        .await;
    ended.assert(216, "infra-failed");
    ended.assert_says(&[
        "was not ready for SSH after",
        "refused the connection",
        "hint: check the SSH port",
    ]);
    assert!(ended.took < Duration::from_secs(20), "{ended}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_accepts_and_says_nothing_is_told_apart() {
    let cluster = Cluster::start().await;
    let hangs = GuestFault {
        hangs: true,
        ..GuestFault::default()
    };
    cluster.sim.add_fault(FaultRule::new(
        "POST",
        "/resources/vm/deploy",
        FaultAction::Guest(hangs),
    ));
    let ended = cluster
        .build(TRUE)
        .flag("--ssh-timeout", "3s")
        .ended()
        .await;
    ended.assert(216, "infra-failed");
    ended.assert_says(&["was not ready for SSH", "went silent"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_boots_slowly_is_waited_for() {
    let cluster = Cluster::with(SimConfig {
        boot_delay: Duration::from_secs(2),
        ..Cluster::orka2()
    })
    .await;
    let ended = cluster.build(TRUE).ended().await;
    ended.assert(0, "succeeded");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_under_the_script_is_not_its_failure() {
    let cluster = Cluster::start().await;
    let cut = GuestFault {
        cut_after_ms: Some(3_000),
        ..GuestFault::default()
    };
    cluster.sim.add_fault(FaultRule::new(
        "POST",
        "/resources/vm/deploy",
        FaultAction::Guest(cut),
    ));
    let ended = cluster
        .build("#!/bin/sh\necho begun\nsleep 50\n")
        .ended()
        .await;
    ended.assert(216, "infra-failed");
    assert!(!ended.results.contains_key("exit-status"), "{ended}");
    assert_eq!(ended.stdout, "begun\n", "run once");
    ended.assert_says(&["lost"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_nobody_serves_is_orkas_failure() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let cluster = Cluster::start().await;
    let url = format!("http://{closed}");
    let ended = cluster.build(TRUE).flag("--orka-api", &url).ended().await;
    ended.assert(214, "infra-failed");
    ended.assert_says(&[&closed.to_string(), "hint: "]);
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cluster_is_told_apart() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let node = NodeSpec {
            slots: 0,
            ..NodeSpec::apple_silicon("mini-1")
        };
        let cluster = Cluster::with(SimConfig {
            nodes: vec![node],
            ..config
        })
        .await;
        let ended = cluster.build(TRUE).ended().await;
        ended.assert(215, "no-capacity");
        ended.assert_says(&["hint: "]);
        cluster.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_appears_in_time_is_taken() {
    let cluster = Cluster::start().await;
    let full = FaultAction::Error {
        status: 500,
        message: "No available nodes with sufficient CPU.".to_owned(),
    };
    cluster
        .sim
        .add_fault(FaultRule::new("POST", "/resources/vm/deploy", full).on(Occurrence::First(1)));
    let ended = cluster
        .build(TRUE)
        .param("capacity-wait", "1m")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    ended.assert_says(&["waiting for room"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_whose_reply_is_lost_leaves_nothing() {
    let cluster = Cluster::start().await;
    cluster.sim.add_fault(FaultRule::new(
        "POST",
        "/resources/vm/deploy",
        FaultAction::CloseAfter,
    ));
    let ended = cluster.build(TRUE).ended().await;
    ended.assert(214, "infra-failed");
    cluster.assert_purged();
}

/// Takes the whole budget that the host has for deleting.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_purged_is_named_with_the_command_that_does() {
    let cluster = Cluster::start().await;
    let broken = FaultAction::Error {
        status: 403,
        message: "purging is not for you".to_owned(),
    };
    cluster
        .sim
        .add_fault(FaultRule::new("DELETE", "/resources/vm/purge", broken));
    let step = cluster.guest("grabby");
    let key = step.scratch_file("secrets/SIGNING_KEY", b"a-key-of-no-use");
    let secrets = key.trim_end_matches("/SIGNING_KEY").to_owned();
    let step = step.flag("--secrets", secrets);
    let ended = step.patience(Duration::from_secs(100)).ended().await;
    ended.assert(219, "infra-failed");
    let vm = cluster.only_vm();
    let reason = format!("may still exist: {}", vm.name);
    assert_eq!(ended.result("reason"), reason);
    ended.assert_says(&[
        &format!("`{}` may still exist", vm.name),
        "purging is not for you",
        &format!("hint: delete it with `orka vm purge -v {}`", vm.name),
    ]);
    assert_eq!(ended.report["leftovers"][0]["name"], vm.name.as_str());
}
