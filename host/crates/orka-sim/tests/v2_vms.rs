//! Deploying, deleting and purging VMs by the 2.x API.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use orka_sim::{BooleanStyle, GuestKind, NodeSpec, PortStyle, SimConfig, Switches, V2Statuses};
use serde_json::{Value, json};
use support::Rig;

fn no_guests() -> SimConfig {
    SimConfig {
        guests: GuestKind::None,
        ..SimConfig::default()
    }
}

fn with(switches: Switches) -> SimConfig {
    SimConfig {
        switches,
        ..no_guests()
    }
}

#[tokio::test]
async fn a_deploy_answers_as_a_cluster_does() {
    let rig = Rig::signed_in(no_guests()).await;
    let answer = rig.deploy("tekton-1a2b3c4d", "Mojave.img").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let vm = answer.json();
    assert_eq!(vm["message"], "Successfully deployed VM");
    assert_eq!(
        vm["help"]["data_for_virtual_machine_exec_tasks"]["orka_vm_name"],
        "tekton-1a2b3c4d"
    );
    assert_eq!(
        (&vm["vcpu"], &vm["host_cpu"], &vm["ip"]),
        (&json!("3"), &json!("3"), &json!("127.0.0.1"))
    );
    let id = vm["vm_id"].as_str().unwrap();
    assert!(id.len() == 13 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let port: u16 = vm["ssh_port"].as_str().unwrap().parse().unwrap();
    assert_eq!(
        (&vm["screen_share_port"], &vm["vnc_port"]),
        (&json!("5900"), &json!("5999"))
    );
    assert_eq!(
        (&vm["io_boost"], &vm["port_warnings"]),
        (&json!(false), &json!([]))
    );
    let status = rig.get(&format!("/resources/vm/status/{id}")).await.json();
    let entry = &status["virtual_machine_resources"][0]["status"][0];
    assert_eq!(entry["ssh_port"], port.to_string());
    assert_eq!(entry["vm_status"], "running");
    assert_eq!(entry["reserved_ports"][2]["guest_port"], 8821);
    assert!(entry["creation_timestamp"].as_str().unwrap().ends_with('Z'));
    let listed = rig.get("/resources/vm/list").await.json();
    assert_eq!(
        listed["virtual_machine_resources"][0]["vm_deployment_status"],
        "Deployed"
    );
    assert_eq!(listed["failed_virtual_machine_resources"], json!([]));
}

#[tokio::test]
async fn apple_silicon_writes_flags_as_not_applicable_and_vnc_can_be_off() {
    let rig = Rig::signed_in(no_guests()).await;
    rig.create("arm", "Sonoma.orkasi").await;
    let body = json!({ "orka_vm_name": "arm", "vnc_console": false });
    let vm = rig.post("/resources/vm/deploy", body).await.json();
    assert_eq!(
        (&vm["io_boost"], &vm["vnc_port"]),
        (&json!("N/A"), &json!("N/A"))
    );
    assert_eq!(vm["ram"], "4.80G");
}

#[tokio::test]
async fn ports_and_flags_are_written_in_the_style_of_the_switch() {
    for (ports, shown) in [
        (PortStyle::NotApplicable, json!("N/A")),
        (PortStyle::Missing, Value::Null),
        (PortStyle::Number, json!(5900)),
    ] {
        let switches = Switches {
            port_style: ports,
            boolean_style: BooleanStyle::Text,
            ..Switches::default()
        };
        let rig = Rig::signed_in(with(switches)).await;
        let vm = rig.deploy("vm", "Mojave.img").await.json();
        assert_eq!(vm["screen_share_port"], shown, "{ports:?}");
        assert_eq!(vm["io_boost"], "false");
    }
}

#[tokio::test]
async fn deploying_what_does_not_exist_or_fit_fails_with_the_known_texts() {
    let rig = Rig::signed_in(no_guests()).await;
    let answer = rig
        .post("/resources/vm/deploy", json!({ "orka_vm_name": "nobody" }))
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.error()),
        (404, "No VM configurations exist".to_owned())
    );
    assert_eq!(rig.deploy("no-image", "Nothing.img").await.status, 404);
    for number in 0..4 {
        assert_eq!(
            rig.deploy(&format!("arm-{number}"), "Sonoma.orkasi")
                .await
                .status,
            200
        );
    }
    let full = rig.deploy("arm-4", "Sonoma.orkasi").await;
    let text = "No available nodes with sufficient CPU.".to_owned();
    assert_eq!((full.status.as_u16(), full.error()), (500, text));
    assert!(full.json().get("ssh_port").is_none());
    let undeployed = rig.get("/resources/vm/status/arm-4").await.json();
    assert_eq!(
        undeployed["virtual_machine_resources"][0]["vm_deployment_status"],
        "Not Deployed"
    );
    assert_eq!(rig.purge("arm-0").await.status, 200);
    let again = rig
        .post("/resources/vm/deploy", json!({ "orka_vm_name": "arm-4" }))
        .await;
    assert_eq!(again.status, 200);
}

#[tokio::test]
async fn failures_may_be_200_with_errors_and_empty_deploy_members() {
    let v2_statuses = V2Statuses {
        capacity: 200,
        ..V2Statuses::default()
    };
    let switches = Switches {
        v2_statuses,
        zeroed_error_members: true,
        ..Switches::default()
    };
    let config = SimConfig {
        nodes: vec![NodeSpec::intel("pro")],
        ..with(switches)
    };
    let rig = Rig::signed_in(config).await;
    let answer = rig.deploy("arm", "Sonoma.orkasi").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.error().is_empty());
    assert_eq!(
        (&answer.json()["ip"], &answer.json()["port_warnings"]),
        (&json!(""), &Value::Null)
    );
}

#[tokio::test]
async fn a_node_or_a_required_tag_pins_the_vm() {
    let tagged = NodeSpec {
        tags: vec!["ci".to_owned()],
        ..NodeSpec::apple_silicon("b")
    };
    let nodes = vec![
        NodeSpec::apple_silicon("a"),
        tagged,
        NodeSpec::apple_silicon("c"),
    ];
    let rig = Rig::signed_in(SimConfig {
        nodes,
        ..no_guests()
    })
    .await;
    let node =
        |vm: &Value| vm["help"]["data_for_virtual_machine_exec_tasks"]["orka_node_name"].clone();
    rig.create("vm", "Sonoma.orkasi").await;
    let body = json!({ "orka_vm_name": "vm", "orka_node_name": "c" });
    assert_eq!(
        node(&rig.post("/resources/vm/deploy", body).await.json()),
        "c"
    );
    let body = json!({ "orka_vm_name": "vm", "tag": "ci", "tag_required": true });
    for _ in 0..2 {
        assert_eq!(
            node(&rig.post("/resources/vm/deploy", body.clone()).await.json()),
            "b"
        );
    }
    assert_eq!(rig.post("/resources/vm/deploy", body).await.status, 500);
    let body = json!({ "orka_vm_name": "vm", "orka_node_name": "nowhere" });
    assert_eq!(rig.post("/resources/vm/deploy", body).await.status, 400);
}

#[tokio::test]
async fn reserved_ports_and_metadata_are_checked_and_kept() {
    let rig = Rig::signed_in(no_guests()).await;
    rig.create("vm", "Mojave.img").await;
    for body in [
        json!({ "reserved_ports": ["8822:22"] }),
        json!({ "reserved_ports": "9000:80" }),
        json!({ "vm_metadata": { "items": [{ "key": "orka_x", "value": "1" }] } }),
    ] {
        let mut body = body;
        body["orka_vm_name"] = json!("vm");
        assert_eq!(
            rig.post("/resources/vm/deploy", body.clone()).await.status,
            400,
            "{body}"
        );
    }
    let body = json!({ "orka_vm_name": "vm", "reserved_ports": ["9000:80"],
        "vm_metadata": { "items": [{ "key": "job", "value": "7" }] } });
    assert_eq!(
        rig.post("/resources/vm/deploy", body.clone()).await.json()["port_warnings"],
        json!([])
    );
    let second = rig.post("/resources/vm/deploy", body).await.json();
    assert_eq!(second["port_warnings"].as_array().unwrap().len(), 1);
    let ports = rig.get("/resources/ports").await.json();
    let reserved = ports["reserved_ports"].as_array().unwrap();
    assert!(
        reserved
            .iter()
            .any(|port| port["host_port"] == 9000 && port["orka_node_name"] == "macpro-1")
    );
    assert_eq!(rig.sim.state().vms[0].metadata["job"], "7");
}

#[tokio::test]
async fn delete_keeps_and_purge_removes_the_configuration() {
    let rig = Rig::signed_in(no_guests()).await;
    rig.deploy("vm", "Mojave.img").await;
    let body = json!({ "orka_vm_name": "vm" });
    let deleted = rig.delete("/resources/vm/delete", body.clone()).await;
    assert_eq!(
        (deleted.status.as_u16(), &deleted.json()["message"]),
        (200, &json!("Successfully deleted VM"))
    );
    assert_eq!(
        deleted.json()["help"]["required_request_data_for_deploy"]["orka_vm_name"],
        "vm"
    );
    let again = rig.delete("/resources/vm/delete", body).await;
    let text = "No VMs with that name are currently deployed".to_owned();
    assert_eq!((again.status.as_u16(), again.error()), (500, text));
    assert_eq!(rig.sim.state().configs.len(), 1);
    let purged = rig.purge("vm").await;
    assert_eq!(
        (purged.status.as_u16(), &purged.json()["message"]),
        (200, &json!("Successfully purged VM"))
    );
    assert!(purged.json()["help"]["required_request_data_for_create"]["orka_base_img"].is_string());
    assert!(rig.sim.state().is_clean());
    let unknown = rig.purge("vm").await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.error()),
        (500, "No VMs with that name exist in Orka".to_owned())
    );
}

#[tokio::test]
async fn replicas_share_an_id_and_are_deleted_by_it_alone() {
    let rig = Rig::signed_in(no_guests()).await;
    rig.create("scaled", "Mojave.img").await;
    let body = json!({ "orka_vm_name": "scaled", "replicas": 2 });
    let answer = rig.post("/resources/vm/deploy", body).await.json();
    assert_eq!(answer["message"], "2 of 2 VMs deployed successfully.");
    assert!(answer.get("ip").is_none());
    let list = rig.get("/resources/vm/list").await.json();
    assert_eq!(
        list["virtual_machine_resources"][0]["status"][0]["vm_status"],
        "Scaled"
    );
    let list = rig.get("/resources/vm/list?expand").await.json();
    assert_eq!(
        list["virtual_machine_resources"][0]["status"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let by_name = rig
        .delete("/resources/vm/delete", json!({ "orka_vm_name": "scaled" }))
        .await;
    assert_eq!(by_name.status, 500);
    let by_id = rig
        .delete(
            "/resources/vm/delete",
            json!({ "orka_vm_name": answer["vm_id"] }),
        )
        .await;
    assert_eq!(by_id.status, 200);
    assert!(rig.sim.state().vms.is_empty());
}
