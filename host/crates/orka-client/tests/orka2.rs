//! The Orka 2 side of the client against a fake API.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use orka_client::{
    Client, DeployRequest, Error, Generation, Removal, Scheduler, SignOut, VmConfigSpec, VmState,
};
use serde_json::{Value, json};
use support::{Answer, Fake, PASSWORD, Request, TOKEN, config, envelope, login, refusal, reply};

const NAME: &str = "tekton-1a2b3c4d";

fn spec() -> VmConfigSpec {
    VmConfigSpec {
        name: NAME.into(),
        image: "Mojave.img".into(),
        cpu: 6,
        ..VmConfigSpec::default()
    }
}

fn deployed() -> Value {
    envelope(json!({
        "message": "Successfully deployed VM",
        "help": { "data_for_virtual_machine_exec_tasks": { "orka_vm_name": NAME, "orka_node_name": "mini-3" } },
        "ram": "16.00G", "vcpu": "3", "host_cpu": "3", "ip": "10.221.188.13", "ssh_port": "8822",
        "screen_share_port": "5900", "vm_id": "84ac9cf673e7a", "port_warnings": [], "io_boost": "N/A",
        "use_saved_state": false, "gpu_passthrough": false, "vnc_port": "N/A"
    }))
}

async fn signed_in(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (Fake, Client) {
    let fake = Fake::orka2("2.4.0", handler).await;
    let client = Client::connect(config(&fake.url, login())).await.unwrap();
    client.sign_in().await.unwrap();
    (fake, client)
}

fn nothing_else(request: &Request) -> Answer {
    panic!("unexpected {} {}", request.method, request.path)
}

#[tokio::test]
async fn does_the_whole_job_with_the_bodies_that_orka_2_documents() {
    let (fake, client) =
        signed_in(
            |request| match (request.method.as_str(), request.path.as_str()) {
                ("POST", "/resources/vm/create") => {
                    reply(201, envelope(json!({ "message": "Successfully Created" })))
                }
                ("POST", "/resources/vm/deploy") => reply(200, deployed()),
                ("DELETE", "/resources/vm/purge") => reply(
                    200,
                    envelope(json!({ "message": "Successfully purged VM" })),
                ),
                _ => nothing_else(request),
            },
        )
        .await;

    assert_eq!(client.generation(), Generation::Orka2);
    assert_eq!(client.api_version().unwrap().as_str(), "2.4.0");
    client.create_config(&spec()).await.unwrap();
    let mut request = DeployRequest::from(&spec());
    request.metadata = BTreeMap::from([("build".into(), "7".into())]);
    let vm = client.deploy(&request).await.unwrap();
    assert_eq!(client.purge(NAME).await.unwrap(), Removal::Removed);
    assert_eq!(client.sign_out().await.unwrap(), SignOut::KeptShared);

    assert_eq!(
        (vm.address.as_str(), vm.ssh_port, vm.vnc_port),
        ("10.221.188.13", 8822, None)
    );
    assert_eq!(
        (vm.id.as_deref(), vm.node.as_deref()),
        (Some("84ac9cf673e7a"), Some("mini-3"))
    );
    assert_eq!(vm.screen_share_port, Some(5900));
    assert_eq!(
        fake.only("POST", "/token").json(),
        json!({ "email": "ci@example.com", "password": PASSWORD })
    );
    assert_eq!(
        fake.only("POST", "/resources/vm/create").json(),
        json!({ "orka_vm_name": NAME, "orka_base_image": "Mojave.img", "orka_image": NAME, "orka_cpu_core": 6,
                "vcpu_count": 6 })
    );
    assert_eq!(
        fake.only("POST", "/resources/vm/deploy").json(),
        json!({ "orka_vm_name": NAME, "vm_metadata": { "items": [{ "key": "build", "value": "7" }] } })
    );
    let purge = fake.only("DELETE", "/resources/vm/purge");
    assert_eq!(purge.json(), json!({ "orka_vm_name": NAME }));
    assert_eq!(purge.header("content-type"), Some("application/json"));
    assert_eq!(
        purge.header("authorization"),
        Some(format!("Bearer {TOKEN}").as_str())
    );
    assert_eq!(fake.only("POST", "/token").header("authorization"), None);
    assert!(
        fake.requests()
            .iter()
            .all(|request| request.header("orka-licensekey").is_none())
    );
}

#[tokio::test]
async fn sends_every_option_of_a_config_and_leaves_blank_ones_out_q27() {
    let (fake, client) = signed_in(|_| reply(201, envelope(json!({})))).await;
    let full = VmConfigSpec {
        vcpu: Some(3),
        memory_gib: Some(7.5),
        snapshot: Some("snap".into()),
        iso: Some("mac.iso".into()),
        attached_disk: Some("disk".into()),
        vnc_console: Some(false),
        system_serial: Some("C02".into()),
        io_boost: Some(true),
        net_boost: Some(false),
        gpu_passthrough: Some(true),
        tag: Some("fast".into()),
        tag_required: Some(true),
        scheduler: Some(Scheduler::MostAllocated),
        template: Some("default".into()),
        ..spec()
    };
    client.create_config(&full).await.unwrap();
    assert_eq!(
        fake.requests().last().unwrap().json(),
        json!({ "orka_vm_name": NAME, "orka_base_image": "Mojave.img", "orka_image": "snap", "orka_cpu_core": 6,
                "vcpu_count": 3, "memory": 7.5, "iso_image": "mac.iso", "attached_disk": "disk", "vnc_console": false,
                "system_serial": "C02", "io_boost": true, "net_boost": false, "gpu_passthrough": true, "tag": "fast",
                "tag_required": true, "scheduler": "most-allocated", "orka_vm_config_template_name": "default" })
    );

    let blank = Some(String::new());
    let blanks = VmConfigSpec {
        memory_gib: Some(0.0),
        snapshot: blank.clone(),
        iso: blank.clone(),
        system_serial: blank.clone(),
        tag: Some("  ".into()),
        template: blank,
        ..spec()
    };
    client.create_config(&blanks).await.unwrap();
    assert_eq!(
        fake.requests().last().unwrap().json(),
        json!({ "orka_vm_name": NAME, "orka_base_image": "Mojave.img", "orka_image": NAME, "orka_cpu_core": 6,
                "vcpu_count": 6 })
    );
}

#[tokio::test]
async fn sends_every_option_of_a_deploy() {
    let (fake, client) = signed_in(|_| reply(200, deployed())).await;
    let request = DeployRequest {
        node: Some("mini-3".into()),
        replicas: Some(1),
        reserved_ports: vec!["9000:4000".parse().unwrap()],
        iso: Some("mac.iso".into()),
        iso_install: Some(true),
        attached_disk: Some("disk".into()),
        vnc_console: Some(true),
        system_serial: Some("C02".into()),
        gpu_passthrough: Some(false),
        tag: Some("fast".into()),
        tag_required: Some(false),
        scheduler: Some(Scheduler::Default),
        ..DeployRequest::new(NAME)
    };
    client.deploy(&request).await.unwrap();
    assert_eq!(
        fake.requests().last().unwrap().json(),
        json!({ "orka_vm_name": NAME, "orka_node_name": "mini-3", "replicas": 1, "reserved_ports": ["9000:4000"],
                "iso_install": true, "iso_image": "mac.iso", "attach_disk": true, "attached_disk": "disk",
                "vnc_console": true, "system_serial": "C02", "gpu_passthrough": false, "tag": "fast",
                "tag_required": false, "scheduler": "default" })
    );
}

#[tokio::test]
async fn reads_status_and_list_with_and_without_vms() {
    let (_fake, client) = signed_in(|_| {
        reply(200, envelope(json!({ "virtual_machine_resources": [
            { "virtual_machine_name": NAME, "vm_deployment_status": "Deployed", "unheard_of": [1],
              "status": [{ "owner": "ci@example.com", "virtual_machine_name": NAME,
                "virtual_machine_id": "84ac9cf673e7a", "node_location": "mini-3", "node_status": "UP",
                "virtual_machine_ip": "10.221.188.13", "vnc_port": "5999", "screen_sharing_port": "5900",
                "ssh_port": 8822, "cpu": 3, "gpu": "N/A", "base_image": "Mojave.img", "vm_status": "n/a",
                "creationTimestamp": "2020-07-28T11:09:25Z" }] },
            { "virtual_machine_name": "idle-config", "vm_deployment_status": "Not Deployed", "owner": "ci@example.com",
              "base_image": "Mojave.img", "RAM": "10.00G" },
            { "virtual_machine_name": null }, "nonsense"
        ], "failed_virtual_machine_resources": [{ "virtual_machine_name": "broken" }] })))
    })
    .await;
    let vms = client.vms().await.unwrap();
    let states: Vec<_> = vms
        .iter()
        .map(|vm| (vm.name.as_str(), vm.state.clone(), vm.is_deployed()))
        .collect();
    assert_eq!(
        states,
        [
            (NAME, VmState::Pending, true),
            ("idle-config", VmState::NotDeployed, false),
            ("broken", VmState::Failed, true)
        ]
    );
    assert_eq!(
        (vms[0].ssh_port, vms[0].screen_share_port, vms[0].vnc_port),
        (Some(8822), Some(5900), Some(5999))
    );
    assert_eq!(vms[0].created_at.as_deref(), Some("2020-07-28T11:09:25Z"));
    assert_eq!(vms[0].address.as_deref(), Some("10.221.188.13"));
}

#[tokio::test]
async fn a_name_that_nobody_has_is_an_empty_status_and_no_config() {
    let (fake, client) = signed_in(|request| match request.path.as_str() {
        path if path.starts_with("/resources/vm/configs") => {
            reply(200, envelope(json!({ "configs": [] })))
        }
        _ => reply(200, envelope(json!({ "virtual_machine_resources": [] }))),
    })
    .await;
    assert_eq!(client.vm(NAME).await.unwrap(), []);
    assert_eq!(client.config(NAME).await.unwrap(), None);
    assert_eq!(
        fake.count("GET", &format!("/resources/vm/status/{NAME}")),
        1
    );
    assert_eq!(
        fake.count("GET", &format!("/resources/vm/configs/{NAME}")),
        1
    );
}

#[tokio::test]
async fn reads_configs_nodes_and_images() {
    let (_fake, client) = signed_in(|request| {
        reply(200, envelope(match request.path.as_str() {
            "/resources/vm/configs" => json!({ "configs": [
                { "owner": "ci@example.com", "orka_vm_name": "a", "orka_base_image": "Mojave.img", "orka_cpu_core": 6,
                  "vcpu_count": "3", "iso_image": "None", "system_serial": "N/A", "tag": "", "memory": "automatic" },
                { "orka_vm_name": "b", "memory": 7.5 }] }),
            "/resources/node/list" => json!({ "nodes": [
                { "name": "mini-3", "address": "10.221.188.13", "available_cpu": 5, "allocatable_cpu": 12,
                  "available_memory": "47.49G", "node_type": "WORKER", "state": "READY", "orka_tags": ["fast", ""] },
                { "name": "mini-4", "state": "DOWN", "orka_tags": null }] }),
            _ => json!({ "image_attributes": [{ "image": "Mojave.img", "image_size": "90G", "date_added": "N/A" }],
                         "images": ["Mojave.img", "Monterey.orkasi"] }),
        }))
    })
    .await;
    let configs = client.configs().await.unwrap();
    assert_eq!(
        (
            configs[0].vcpu,
            configs[0].memory_gib,
            configs[0].tag.as_deref()
        ),
        (Some(3), None, None)
    );
    assert_eq!(
        (configs[1].name.as_str(), configs[1].memory_gib),
        ("b", Some(7.5))
    );
    let nodes = client.nodes().await.unwrap();
    assert_eq!(
        (
            nodes[0].is_ready,
            nodes[0].available_cpu,
            nodes[0].tags.as_slice()
        ),
        (true, Some(5), &["fast".to_owned()][..])
    );
    assert!(!nodes[1].is_ready);
    let images: Vec<_> = client
        .images()
        .await
        .unwrap()
        .into_iter()
        .map(|image| (image.name, image.size))
        .collect();
    assert_eq!(
        images,
        [
            ("Mojave.img".to_owned(), Some("90G".to_owned())),
            ("Monterey.orkasi".to_owned(), None)
        ]
    );
}

#[tokio::test]
async fn deletes_by_id_where_there_is_one_and_by_name_otherwise() {
    let (fake, client) = signed_in(|_| {
        reply(
            200,
            envelope(json!({ "message": "Successfully deleted VM(s)" })),
        )
    })
    .await;
    client
        .delete_instance(NAME, Some("84ac9cf673e7a"))
        .await
        .unwrap();
    assert_eq!(
        fake.requests().last().unwrap().json(),
        json!({ "orka_vm_name": "84ac9cf673e7a" })
    );
    client.delete_instance(NAME, None).await.unwrap();
    assert_eq!(
        fake.requests().last().unwrap().json(),
        json!({ "orka_vm_name": NAME })
    );
}

#[tokio::test]
async fn sorts_refusals_by_what_a_caller_can_do() {
    type Check = fn(&Error) -> bool;
    let cases: [(u16, &str, Check); 12] = [
        (500, "No available nodes with sufficient CPU.", |e| {
            matches!(e, Error::NoCapacity(_))
        }),
        (400, "REQUESTED CPU IS NOT AVAILABLE in the cluster", |e| {
            matches!(e, Error::NoCapacity(_))
        }),
        (200, "No available nodes with sufficient CPU.", |e| {
            matches!(e, Error::NoCapacity(_))
        }),
        (500, "insufficient resources", |e| {
            matches!(e, Error::NoCapacity(_))
        }),
        (404, "No VM configurations exist", |e| {
            matches!(e, Error::NotFound(_))
        }),
        (500, "No VM configurations exist", |e| {
            matches!(e, Error::NotFound(_))
        }),
        (409, "that name, well", |e| matches!(e, Error::Conflict(_))),
        (400, "VM config already exists", |e| {
            matches!(e, Error::Conflict(_))
        }),
        (400, "VM name must consist of lower case", |e| {
            matches!(e, Error::Invalid { reply: Some(_), .. })
        }),
        (200, "something else", |e| {
            matches!(e, Error::Invalid { reply: Some(_), .. })
        }),
        (403, "insufficient permissions", |e| {
            matches!(e, Error::Forbidden { .. })
        }),
        (500, "boom", |e| {
            matches!(
                e,
                Error::Server {
                    may_have_happened: true,
                    ..
                }
            )
        }),
    ];
    for (status, text, is_right) in cases {
        let (fake, client) = signed_in(move |_| refusal(status, text)).await;
        let error = client.deploy(&DeployRequest::new(NAME)).await.unwrap_err();
        assert!(is_right(&error), "{status} {text}: {error:?}");
        assert_eq!(error.server_messages(), [text]);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(
            fake.count("POST", "/resources/vm/deploy"),
            1,
            "a deploy is never repeated: {status} {text}"
        );
    }
}

#[tokio::test]
async fn refuses_what_cannot_be_right_before_anything_is_sent() {
    let (fake, client) = signed_in(nothing_else).await;
    let sent = fake.requests().len();
    let error = client
        .create_config(&VmConfigSpec {
            name: "My_VM".into(),
            ..spec()
        })
        .await
        .unwrap_err();
    assert_eq!(error.hint().as_deref(), Some("`my-vm` would do"));
    assert!(
        client
            .create_config(&VmConfigSpec { cpu: 5, ..spec() })
            .await
            .is_err()
    );
    let metadata = BTreeMap::from([("key".to_owned(), "x".repeat(100 * 1024))]);
    let error = client
        .deploy(&DeployRequest {
            metadata,
            ..DeployRequest::new(NAME)
        })
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Invalid { reply: None, .. }));
    assert!(!error.may_have_happened());
    for name in ["", ".."] {
        assert!(
            matches!(client.vm(name).await.unwrap_err(), Error::Invalid { .. }),
            "{name:?}"
        );
    }
    assert_eq!(fake.requests().len(), sent);
}

#[tokio::test]
async fn a_deploy_that_is_not_answered_in_time_may_have_happened() {
    let (fake, client) = signed_in(|_| Answer::Silence).await;
    let request = DeployRequest {
        limit: Some(Duration::from_millis(50)),
        ..DeployRequest::new(NAME)
    };
    let error = client.deploy(&request).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::TimedOut {
                may_have_happened: true,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("delete by name"));
    assert_eq!(fake.count("POST", "/resources/vm/deploy"), 1);
}
