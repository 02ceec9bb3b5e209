//! Faults as a client meets them.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use orka_sim::{FaultAction, FaultRule, Generation, GuestKind, Occurrence, SimConfig};
use reqwest::Method;
use serde_json::{Map, Value, json};
use support::{Rig, until};

const DEPLOY: &str = "/resources/vm/deploy";
const VMS: &str = "/api/v1/namespaces/orka-default/vms";
const OCI: &str = "ghcr.io/macstadium/orka-images/sequoia:latest";

async fn rig() -> Rig {
    let rig = Rig::signed_in(SimConfig {
        guests: GuestKind::None,
        ..SimConfig::default()
    })
    .await;
    rig.create("vm", "Mojave.img").await;
    rig
}

fn deploy_body() -> Value {
    json!({ "orka_vm_name": "vm" })
}

#[tokio::test]
async fn a_capacity_failure_happens_as_often_as_asked_and_then_the_deploy_works() {
    let rig = rig().await;
    let action = FaultAction::Error {
        status: 500,
        message: "No available nodes with sufficient CPU.".to_owned(),
    };
    rig.sim
        .add_fault(FaultRule::new("POST", DEPLOY, action).on(Occurrence::First(2)));
    for _ in 0..2 {
        let answer = rig.post(DEPLOY, deploy_body()).await;
        assert_eq!(answer.error(), "No available nodes with sufficient CPU.");
    }
    assert_eq!(rig.post(DEPLOY, deploy_body()).await.status, 200);
    assert_eq!(rig.sim.state().vms.len(), 1);
}

#[tokio::test]
async fn a_connection_closed_before_the_work_leaves_no_vm_and_after_it_one() {
    for (action, vms) in [
        (FaultAction::CloseBefore, 0),
        (FaultAction::ResetBefore, 0),
        (FaultAction::CloseAfter, 1),
        (FaultAction::ResetAfter, 1),
    ] {
        let rig = rig().await;
        // A client may repeat a request whose connection closed at once, so every deploy is hit.
        rig.sim
            .add_fault(FaultRule::new("POST", DEPLOY, action.clone()));
        assert!(
            rig.attempt(Method::POST, DEPLOY, Some(deploy_body()))
                .await
                .is_err(),
            "{action:?}"
        );
        let requests = rig.sim.state().requests_to("POST", DEPLOY).len();
        assert_eq!(rig.sim.state().vms.len(), vms * requests, "{action:?}");
    }
}

#[tokio::test]
async fn half_a_body_breaks_off_within_the_announced_length() {
    let rig = rig().await;
    rig.sim
        .add_fault(FaultRule::new("POST", DEPLOY, FaultAction::HalfBody));
    let url = format!("{}{DEPLOY}", rig.sim.url());
    let request = rig
        .http
        .post(url)
        .bearer_auth(&rig.token)
        .header("Content-Type", "application/json");
    let response = request
        .body(deploy_body().to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err());
    assert_eq!(rig.sim.state().vms.len(), 1);
}

#[tokio::test]
async fn a_client_that_gives_up_does_not_stop_the_deploy() {
    let rig = rig().await;
    rig.sim.add_fault(FaultRule::new(
        "POST",
        DEPLOY,
        FaultAction::Delay { ms: 200 },
    ));
    let url = format!("{}{DEPLOY}", rig.sim.url());
    let request = rig
        .http
        .post(url)
        .bearer_auth(&rig.token)
        .header("Content-Type", "application/json");
    let request = request
        .timeout(Duration::from_millis(50))
        .body(deploy_body().to_string());
    assert!(request.send().await.unwrap_err().is_timeout());
    until("the VM is deployed after all", || {
        rig.sim.state().vms.len() == 1
    })
    .await;
}

#[tokio::test]
async fn a_revoked_token_is_refused_until_a_new_one_is_had() {
    let mut rig = rig().await;
    rig.sim
        .add_fault(FaultRule::new("POST", DEPLOY, FaultAction::RevokeToken).on(Occurrence::Nth(1)));
    assert_eq!(rig.post(DEPLOY, deploy_body()).await.status, 401);
    rig.token = rig.sign_in().await;
    assert_eq!(rig.post(DEPLOY, deploy_body()).await.status, 200);
}

#[tokio::test]
async fn unauthorized_once_leaves_the_token_good() {
    let rig = rig().await;
    rig.sim
        .add_fault(FaultRule::new("*", "/resources/*", FaultAction::Unauthorized).times(1));
    assert_eq!(
        rig.get("/resources/vm/list").await.error(),
        "invalid signature"
    );
    assert_eq!(rig.get("/resources/vm/list").await.status, 200);
}

#[tokio::test]
async fn proxies_empty_bodies_garbage_limits_and_redirects_are_sent_as_told() {
    let rig = rig().await;
    let list = "/resources/vm/list";
    let hit = async |action: FaultAction| {
        rig.sim.clear_faults();
        rig.sim.add_fault(FaultRule::new("GET", list, action));
        rig.get(list).await
    };
    let page = hit(FaultAction::HtmlPage { status: 502 }).await;
    assert_eq!(
        (page.status.as_u16(), page.header("content-type")),
        (502, "text/html")
    );
    assert!(page.text.contains("502 Bad Gateway"));
    let empty = hit(FaultAction::EmptyOk).await;
    assert_eq!((empty.status.as_u16(), empty.text.as_str()), (200, ""));
    let garbage = hit(FaultAction::Garbage).await;
    assert!(serde_json::from_str::<Value>(&garbage.text).is_err());
    let limited = hit(FaultAction::RateLimit {
        retry_after: Some(7),
    })
    .await;
    assert_eq!(
        (limited.status.as_u16(), limited.header("retry-after")),
        (429, "7")
    );
    let limited = hit(FaultAction::RateLimit { retry_after: None }).await;
    assert_eq!(
        (limited.status.as_u16(), limited.header("retry-after")),
        (429, "")
    );
    let location = "https://other.example.com/".to_owned();
    let moved = hit(FaultAction::Redirect {
        location: location.clone(),
        status: 307,
    })
    .await;
    assert_eq!(
        (moved.status.as_u16(), moved.header("location")),
        (307, location.as_str())
    );
    let reply = FaultAction::Reply {
        status: 418,
        body: "[]".to_owned(),
        content_type: None,
        headers: vec![("X-Test".to_owned(), "1".to_owned())],
    };
    let exact = hit(reply).await;
    assert_eq!(
        (
            exact.status.as_u16(),
            exact.text.as_str(),
            exact.header("x-test")
        ),
        (418, "[]", "1")
    );
}

#[tokio::test]
async fn a_body_drips_at_the_pace_it_is_told() {
    let rig = rig().await;
    let action = FaultAction::SlowDrip { bytes: 10, ms: 20 };
    rig.sim
        .add_fault(FaultRule::new("GET", "/health-check", action));
    let started = Instant::now();
    let answer = rig.get("/health-check").await;
    assert_eq!(answer.json()["api_version"], "2.4.0");
    let pieces = u32::try_from(answer.text.len().div_ceil(10)).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(20) * pieces);
}

#[tokio::test]
async fn members_of_an_answer_are_changed_removed_and_added() {
    let rig = rig().await;
    let set = [
        ("ip".to_owned(), json!("")),
        ("ssh_port".to_owned(), json!("N/A")),
    ];
    let set: Map<String, Value> = set.into_iter().collect();
    let action = FaultAction::EditReply {
        set,
        remove: vec!["vm_id".to_owned()],
        status: Some(202),
    };
    rig.sim.add_fault(FaultRule::new("POST", DEPLOY, action));
    rig.sim
        .add_fault(FaultRule::new("POST", DEPLOY, FaultAction::UnknownMembers));
    let answer = rig.post(DEPLOY, deploy_body()).await;
    let vm = answer.json();
    assert_eq!(
        (answer.status.as_u16(), &vm["ip"], &vm["ssh_port"]),
        (202, &json!(""), &json!("N/A"))
    );
    assert!(vm.get("vm_id").is_none());
    assert_eq!(vm["help"]["x_null"], Value::Null);
    assert!(vm["x_unknown"].is_object());
}

#[tokio::test]
async fn a_vm_that_fails_stays_until_it_is_deleted() {
    let rig = rig().await;
    let action = FaultAction::FailVm {
        message: "the VM process has crashed".to_owned(),
    };
    rig.sim
        .add_fault(FaultRule::new("POST", DEPLOY, action).times(1));
    assert_eq!(
        rig.post(DEPLOY, deploy_body()).await.error(),
        "the VM process has crashed"
    );
    let status = rig.get("/resources/vm/status/vm").await.json();
    let entry = &status["virtual_machine_resources"][0]["status"][0];
    assert_eq!(entry["vm_status"], "ERROR");
    assert_eq!(
        rig.delete("/resources/vm/delete", deploy_body())
            .await
            .status,
        500,
        "by name"
    );
    let by_id = json!({ "orka_vm_name": entry["virtual_machine_id"] });
    assert_eq!(rig.delete("/resources/vm/delete", by_id).await.status, 200);
}

#[tokio::test]
async fn three_has_its_own_shapes_of_the_same_faults() {
    let config = SimConfig {
        generation: Generation::Three,
        guests: GuestKind::None,
        ..SimConfig::default()
    };
    let rig = Rig::with_account(config).await;
    let action = FaultAction::FailVm {
        message: "NAT self-healing failed".to_owned(),
    };
    rig.sim
        .add_fault(FaultRule::new("POST", VMS, action).times(1));
    let failed = rig.post(VMS, json!({ "image": OCI, "name": "vm" })).await;
    assert_eq!(
        (failed.status.as_u16(), &failed.json()["message"]),
        (500, &json!("NAT self-healing failed"))
    );
    assert_eq!(
        rig.get(&format!("{VMS}/vm")).await.json()["status"],
        "Failed"
    );
    let error = FaultAction::Error {
        status: 500,
        message: "etcd is down".to_owned(),
    };
    rig.sim
        .add_fault(FaultRule::new("DELETE", &format!("{VMS}/*"), error).on(Occurrence::First(2)));
    for expected in [500, 500, 200] {
        let answer = rig.call(Method::DELETE, &format!("{VMS}/vm"), None).await;
        assert_eq!(answer.status, expected);
    }
    rig.sim
        .add_fault(FaultRule::new("GET", VMS, FaultAction::Unauthorized));
    assert_eq!(rig.get(VMS).await.json()["reason"], "Unauthorized");
}

#[tokio::test]
async fn rules_are_added_and_removed_over_http() {
    let rig = rig().await;
    let rule = json!({ "path": "/health-check", "action": { "kind": "html-page", "status": 503 } });
    assert_eq!(rig.post("/_sim/faults", rule).await.status, 200);
    assert_eq!(rig.get("/health-check").await.status, 503);
    assert_eq!(
        rig.get("/_sim/faults").await.json()[0]["action"]["kind"],
        "html-page"
    );
    assert_eq!(
        rig.call(Method::DELETE, "/_sim/faults", None).await.status,
        200
    );
    assert_eq!(rig.get("/health-check").await.status, 200);
    assert_eq!(
        rig.post("/_sim/faults", json!({ "path": "*" }))
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn a_request_still_held_up_at_the_end_makes_nothing_afterwards() {
    let scratch = tempfile::tempdir().unwrap();
    let config = SimConfig {
        home_root: Some(scratch.path().join("vms")),
        ..SimConfig::default()
    };
    let rig = Rig::signed_in(config).await;
    rig.create("vm", "Mojave.img").await;
    let delay = FaultAction::Delay { ms: 100 };
    rig.sim.add_fault(FaultRule::new("POST", DEPLOY, delay));
    let url = format!("{}{DEPLOY}", rig.sim.url());
    let request = rig.http.post(url).bearer_auth(&rig.token);
    let request = request
        .header("Content-Type", "application/json")
        .body(deploy_body().to_string());
    let waiting = tokio::spawn(request.send());
    until("the request has arrived", || {
        rig.sim.state().requests_to("POST", DEPLOY).len() == 1
    })
    .await;
    rig.sim.shutdown().await;
    assert!(waiting.await.unwrap().is_err());
    // The held-up work would have gone on by now.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        std::fs::read_dir(scratch.path().join("vms"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_down_for_a_moment_refuses_connections_and_answers_again() {
    let rig = Rig::signed_in(SimConfig::default()).await;
    rig.sim.refuse_connections_for(Duration::from_millis(500));
    let until_it = async |refuses: bool| {
        let looking = async {
            loop {
                match rig.attempt(Method::GET, "/health-check", None).await {
                    Err(error) if refuses && error.is_connect() => return,
                    Ok(_) if !refuses => return,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(support::PATIENCE, looking)
            .await
            .unwrap();
    };
    until_it(true).await;
    until_it(false).await;
}
