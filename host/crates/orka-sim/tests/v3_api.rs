//! The 3.x API as a client that knows only HTTP meets it.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use orka_sim::{
    DeleteReply, FullCluster, Generation, GuestKind, NetworkMode, NodeSpec, SaToken, SimConfig,
    Switches,
};
use reqwest::Method;
use serde_json::{Value, json};
use support::{Rig, until};

const VMS: &str = "/api/v1/namespaces/orka-default/vms";
const CONFIGS: &str = "/api/v1/namespaces/orka-default/vmconfigs";
const OCI: &str = "ghcr.io/macstadium/orka-images/sequoia:latest";

fn three() -> SimConfig {
    SimConfig {
        generation: Generation::Three,
        guests: GuestKind::None,
        ..SimConfig::default()
    }
}

fn with(switches: Switches) -> SimConfig {
    SimConfig {
        switches,
        ..three()
    }
}

#[tokio::test]
async fn cluster_info_needs_no_token_and_old_paths_are_gone() {
    let rig = Rig::start(three()).await;
    let info = rig.get("/api/v1/cluster-info").await;
    assert_eq!(info.status, 200);
    assert!(info.json()["apiEndpoint"].is_string());
    assert_eq!(info.header("x-powered-by"), "");
    for path in [
        "/health-check",
        "/token",
        "/version",
        "/api/v1/nothing",
        "/",
    ] {
        assert_eq!(rig.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_3_0_cluster_answers_both_probes_and_a_2_cluster_only_its_own() {
    let both = SimConfig {
        generation: Generation::Both,
        ..three()
    };
    let rig = Rig::start(both).await;
    assert_eq!(rig.get("/health-check").await.status, 200);
    assert_eq!(rig.get("/api/v1/cluster-info").await.status, 200);
    let two = SimConfig {
        generation: Generation::Two,
        ..three()
    };
    let rig = Rig::start(two).await;
    let answer = rig.get("/api/v1/cluster-info").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (404, "text/html; charset=utf-8")
    );
}

#[tokio::test]
async fn a_missing_wrong_or_expired_token_is_unauthorized() {
    let expired = SaToken {
        token: "old".to_owned(),
        lifetime: Some(Duration::ZERO),
        ..SimConfig::default().sa_tokens[0].clone()
    };
    let mut rig = Rig::start(SimConfig {
        sa_tokens: vec![expired],
        ..three()
    })
    .await;
    let expected = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "Unauthorized", "reason": "Unauthorized", "code": 401,
    });
    for token in ["", "wrong", "old"] {
        rig.token = token.to_owned();
        let answer = rig.get(VMS).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()),
            (401, expected.clone()),
            "{token}"
        );
    }
}

#[tokio::test]
async fn a_namespace_that_is_not_the_accounts_is_forbidden() {
    let rig = Rig::with_account(three()).await;
    let answer = rig
        .post("/api/v1/namespaces/orka-test/vms", json!({ "image": OCI }))
        .await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["reason"]),
        (403, &json!("Forbidden"))
    );
    let text = "virtualmachineinstances.orka.macstadium.com is forbidden: User \
                \"system:serviceaccount:orka-default:sa-ci\" cannot create resource \"virtualmachineinstances\" in API \
                group \"orka.macstadium.com\" in the namespace \"orka-test\"";
    assert_eq!(answer.json()["message"], text);
}

#[tokio::test]
async fn the_smallest_body_deploys_a_vm_with_a_generated_name() {
    let rig = Rig::with_account(three()).await;
    assert_eq!(rig.get(VMS).await.json(), json!({ "items": [] }));
    let answer = rig.post(VMS, json!({ "image": OCI })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let vm = answer.json();
    let name = vm["name"].as_str().unwrap();
    assert!(name.len() == 8 && name.starts_with("vm-"), "{name}");
    assert_eq!(
        (&vm["memory"], &vm["status"], &vm["ip"]),
        (&json!("4.80Gi"), &json!("Running"), &json!("127.0.0.1"))
    );
    assert!(vm["ssh"].is_u64() && vm["vnc"].is_u64() && vm["screenshare"].is_u64());
    let shown = rig.get(&format!("{VMS}/{name}")).await.json();
    assert_eq!(
        (&shown["cpu"], &shown["type"], &shown["image"]),
        (&json!(3), &json!("arm64"), &json!(OCI))
    );
    assert!(shown["deployDate"].as_str().unwrap().ends_with('Z'));
    assert_eq!(rig.get(VMS).await.json()["items"], json!([shown]));
    let deleted = rig
        .call(Method::DELETE, &format!("{VMS}/{name}"), None)
        .await;
    assert_eq!((deleted.status.as_u16(), deleted.text.as_str()), (200, ""));
    let again = rig
        .call(Method::DELETE, &format!("{VMS}/{name}"), None)
        .await;
    let text = format!("virtualmachineinstances.orka.macstadium.com \"{name}\" not found");
    assert_eq!(
        (again.status.as_u16(), &again.json()["message"]),
        (404, &json!(text))
    );
    assert_eq!(again.json()["details"]["kind"], "virtualmachineinstances");
}

#[tokio::test]
async fn names_are_unique_in_their_namespace_and_may_be_completed() {
    let rig = Rig::with_account(three()).await;
    let body = json!({ "image": OCI, "name": "build-1" });
    assert_eq!(rig.post(VMS, body.clone()).await.json()["name"], "build-1");
    let again = rig.post(VMS, body).await;
    assert_eq!(
        again.json(),
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "virtualmachineinstances.orka.macstadium.com \"build-1\" already exists",
            "reason": "AlreadyExists",
            "details": { "name": "build-1", "group": "orka.macstadium.com", "kind": "virtualmachineinstances" },
            "code": 409 })
    );
    let body = json!({ "image": OCI, "name": "build-1", "shouldGenerateName": true });
    let name = rig.post(VMS, body).await.json()["name"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(name.len() == 13 && name.starts_with("build-1-"), "{name}");
}

#[tokio::test]
async fn bad_requests_are_refused_and_leave_nothing() {
    let rig = Rig::with_account(three()).await;
    for body in [
        json!({}),
        json!({ "image": OCI, "name": "Upper" }),
        json!({ "image": OCI, "name": "a".repeat(64) }),
        json!({ "image": OCI, "cpu": "3" }),
        json!({ "image": OCI, "cpu": 0 }),
        json!({ "image": OCI, "legacyIO": true, "netBoost": true }),
        json!({ "image": OCI, "displayWidth": 100 }),
        json!({ "image": OCI, "displayDpi": 1000 }),
        json!({ "image": OCI, "reservedPorts": "9000" }),
        json!({ "image": OCI, "systemSerial": "short" }),
        json!({ "image": OCI, "gpuPassthrough": true }),
    ] {
        let answer = rig.post(VMS, body.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["kind"]),
            (400, &json!("Status")),
            "{body}"
        );
    }
    assert_eq!(
        rig.post(VMS, json!({ "image": "Nothing.orkasi" }))
            .await
            .status,
        404
    );
    assert_eq!(
        rig.post(VMS, json!({ "vmConfig": "nothing" })).await.status,
        404
    );
    assert!(rig.sim.state().vms.is_empty());
}

#[tokio::test]
async fn a_vm_config_gives_what_the_request_leaves_out() {
    let rig = Rig::with_account(three()).await;
    let config = json!({ "name": "ci", "image": "Sonoma.orkasi", "cpu": 4, "memory": 6 });
    assert_eq!(rig.post(CONFIGS, config.clone()).await.status, 201);
    assert_eq!(rig.post(CONFIGS, config).await.status, 409);
    assert_eq!(rig.get(CONFIGS).await.json()["items"][0]["name"], "ci");
    let vm = rig
        .post(VMS, json!({ "vmConfig": "ci", "name": "vm" }))
        .await
        .json();
    assert_eq!(vm["memory"], "6.00Gi");
    let shown = rig.get(&format!("{VMS}/vm")).await.json();
    assert_eq!(
        (&shown["cpu"], &shown["image"]),
        (&json!(4), &json!("Sonoma.orkasi"))
    );
    assert_eq!(
        rig.call(Method::DELETE, &format!("{CONFIGS}/ci"), None)
            .await
            .status,
        200
    );
    assert_eq!(rig.get(&format!("{CONFIGS}/ci")).await.status, 404);
}

#[tokio::test]
async fn metadata_and_ports_are_kept() {
    let switches = Switches {
        accept_custom_vm_metadata: true,
        ..Switches::default()
    };
    let rig = Rig::with_account(with(switches)).await;
    let body = json!({ "image": OCI, "name": "vm", "customMetadata": { "job": "7" },
        "customVMMetadata": { "team": "ios" }, "reservedPorts": "9000:4000,9001:4001/udp" });
    assert!(
        rig.post(VMS, body.clone())
            .await
            .json()
            .get("portWarnings")
            .is_none()
    );
    let shown = rig.get(&format!("{VMS}/vm")).await.json();
    assert_eq!(
        shown["customMetadata"],
        json!({ "job": "7", "team": "ios" })
    );
    let node = shown["node"].clone();
    let mut second = body;
    (second["name"], second["node"]) = (json!("vm2"), node);
    assert!(rig.post(VMS, second).await.json()["portWarnings"].is_string());
}

#[tokio::test]
async fn a_full_node_says_that_no_more_vms_fit() {
    let config = SimConfig {
        nodes: vec![NodeSpec::apple_silicon("mini")],
        ..three()
    };
    let rig = Rig::with_account(config).await;
    for _ in 0..2 {
        assert_eq!(rig.post(VMS, json!({ "image": OCI })).await.status, 200);
    }
    let full = rig.post(VMS, json!({ "image": OCI })).await;
    assert_eq!(
        full.json()["message"],
        "Cannot deploy more than 2 VMs on node mini"
    );
    assert_eq!(full.status, 500);
    let config = SimConfig {
        nodes: vec![NodeSpec::apple_silicon("mini")],
        ..three()
    };
    let rig = Rig::with_account(config).await;
    let large = rig.post(VMS, json!({ "image": OCI, "cpu": 12 })).await;
    assert_eq!(large.json()["message"], "Not enough CPU available");
    let large = rig.post(VMS, json!({ "image": OCI, "memory": 64 })).await;
    assert_eq!(large.json()["message"], "Not enough memory available");
}

#[tokio::test]
async fn a_waiting_vm_is_pending_without_a_node_and_runs_when_room_appears() {
    let switches = Switches {
        full_cluster: FullCluster::Wait,
        ..Switches::default()
    };
    let config = SimConfig {
        nodes: vec![NodeSpec::apple_silicon("mini")],
        ..with(switches)
    };
    let rig = Rig::with_account(config).await;
    for name in ["a", "b"] {
        rig.post(VMS, json!({ "image": OCI, "name": name })).await;
    }
    let waiting = rig.post(VMS, json!({ "image": OCI, "name": "c" }));
    let freeing = async {
        loop {
            let shown = rig.get(&format!("{VMS}/c")).await;
            if shown.status == 200 {
                let shown = shown.json();
                assert_eq!(
                    (&shown["status"], shown.get("node")),
                    (&json!("Pending"), None)
                );
                break;
            }
        }
        rig.call(Method::DELETE, &format!("{VMS}/a"), None).await
    };
    let (deployed, freed) = tokio::join!(waiting, freeing);
    assert_eq!(
        (deployed.status.as_u16(), freed.status.as_u16()),
        (200, 200)
    );
    assert_eq!(deployed.json()["status"], "Running");
}

#[tokio::test]
async fn a_deploy_that_times_out_leaves_the_vm_to_come_up_later_or_removes_it() {
    for remove in [false, true] {
        let switches = Switches {
            minute_ms: 1,
            remove_after_timeout: remove,
            ..Switches::default()
        };
        let deploy_delay = Duration::from_millis(300);
        let rig = Rig::with_account(SimConfig {
            deploy_delay,
            ..with(switches)
        })
        .await;
        let answer = rig
            .post(VMS, json!({ "image": OCI, "name": "vm", "timeout": 20 }))
            .await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["reason"]),
            (504, &json!("Timeout"))
        );
        let shown = rig.get(&format!("{VMS}/vm")).await;
        if remove {
            assert_eq!(shown.status, 404);
        } else {
            assert_eq!(
                (&shown.json()["status"], shown.json().get("ip")),
                (&json!("Pending"), None)
            );
            let running = || rig.sim.state().vms.iter().any(|vm| vm.phase == "Running");
            until("the VM runs at last", running).await;
        }
    }
}

#[tokio::test]
async fn deploys_and_deletes_answer_with_the_codes_of_the_switch() {
    for (reply, code) in [
        (DeleteReply::OkJson, 200),
        (DeleteReply::Accepted, 202),
        (DeleteReply::NoContent, 204),
    ] {
        let switches = Switches {
            delete_reply: reply,
            deploy_created: true,
            ..Switches::default()
        };
        let rig = Rig::with_account(with(switches)).await;
        assert_eq!(
            rig.post(VMS, json!({ "image": OCI, "name": "vm" }))
                .await
                .status,
            201
        );
        let deleted = rig.call(Method::DELETE, &format!("{VMS}/vm"), None).await;
        assert_eq!(deleted.status, code);
        assert_eq!(deleted.text.is_empty(), reply != DeleteReply::OkJson);
    }
}

#[tokio::test]
async fn a_bridged_vm_has_the_ports_of_the_guest() {
    let switches = Switches {
        network_mode: NetworkMode::Bridge,
        ..Switches::default()
    };
    let rig = Rig::with_account(with(switches)).await;
    let vm = rig.post(VMS, json!({ "image": OCI })).await.json();
    assert_eq!(
        (&vm["screenshare"], &vm["vnc"]),
        (&json!(5900), &json!(6000))
    );
}

#[tokio::test]
async fn nodes_belong_to_namespaces() {
    let mut nodes = SimConfig::default().nodes;
    nodes[1].namespace = "orka-test".to_owned();
    let mut rig = Rig::with_account(SimConfig { nodes, ..three() }).await;
    let listed = rig
        .get("/api/v1/namespaces/orka-default/nodes")
        .await
        .json();
    let names: Vec<&Value> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["name"])
        .collect();
    assert_eq!(names, [&json!("mini-arm-1"), &json!("macpro-1")]);
    let node = &listed["items"][0];
    assert_eq!(
        (&node["phase"], &node["availableCpu"], &node["nodeIP"]),
        (&json!("READY"), &json!(8), &json!("127.0.0.1"))
    );
    rig.token = "sim-admin-token".to_owned();
    let path = "/api/v1/namespaces/orka-test/nodes/mini-arm-2/namespace";
    assert_eq!(
        rig.post(path, json!({ "namespace": "orka-default" }))
            .await
            .status,
        200
    );
    let listed = rig
        .get("/api/v1/namespaces/orka-default/nodes")
        .await
        .json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn accounts_get_tokens_rights_and_lose_them() {
    let mut rig = Rig::with_account(three()).await;
    let account = "/api/v1/namespaces/orka-test/serviceaccounts/robot";
    assert_eq!(rig.post(account, json!({})).await.status, 403);
    rig.token = "sim-admin-token".to_owned();
    assert_eq!(rig.post(account, json!({})).await.status, 201);
    let token = rig
        .post(&format!("{account}/token"), json!({}))
        .await
        .json()["token"]
        .clone();
    let subjects = "/api/v1/namespaces/orka-default/rolebindings/orka-dev/subjects/add";
    let body = json!({ "serviceaccounts": [{ "name": "robot", "namespace": "orka-test" }] });
    assert_eq!(rig.post(subjects, body).await.status, 200);
    let admin = std::mem::replace(&mut rig.token, token.as_str().unwrap().to_owned());
    assert_eq!(rig.get(VMS).await.status, 200);
    assert_eq!(
        rig.get("/api/v1/namespaces/orka-test/vms").await.status,
        200
    );
    let robot = std::mem::replace(&mut rig.token, admin);
    assert_eq!(rig.call(Method::DELETE, account, None).await.status, 200);
    rig.token = robot;
    assert_eq!(rig.get(VMS).await.status, 401);
}

#[tokio::test]
async fn images_are_listed_in_orka_default_alone() {
    let rig = Rig::with_account(three()).await;
    let images = rig
        .get("/api/v1/namespaces/orka-default/images")
        .await
        .json();
    let intel = images["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|image| image["name"] == "Mojave.img")
        .unwrap();
    assert_eq!(intel["type"], "amd64");
    assert_eq!(
        rig.get("/api/v1/namespaces/orka-test/images").await.status,
        403
    );
}
