//! The Orka 3 side of the client against a fake API.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use orka_client::{
    Client, DeployRequest, Display, Error, Generation, MetadataMember, Removal, Scheduler, SignOut,
    TokenState, VmConfigSpec, VmState,
};
use serde_json::{Value, json};
use support::{Answer, Fake, Request, TOKEN, config, raw, reply, status_object, token};

const NAME: &str = "tekton-1a2b3c4d";
const IMAGE: &str = "ghcr.io/macstadium/orka-images/sequoia:latest";
const VMS: &str = "/api/v1/namespaces/orka-default/vms";
const VM: &str = "/api/v1/namespaces/orka-default/vms/tekton-1a2b3c4d";
const CONFIG: &str = "/api/v1/namespaces/orka-default/vmconfigs/tekton-1a2b3c4d";

fn request() -> DeployRequest {
    DeployRequest {
        image: Some(IMAGE.into()),
        ..DeployRequest::new(NAME)
    }
}

fn vm(members: Value) -> Value {
    let mut vm = json!({ "name": NAME, "node": "mini-arm-13", "memory": "4.80Gi", "ip": "10.221.189.13", "ssh": 8822,
                         "vnc": 5999, "screenshare": 5901, "status": "Running" });
    vm.as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    vm
}

async fn connected(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (Fake, Client) {
    let fake = Fake::orka3(handler).await;
    let client = Client::connect(config(&fake.url, token())).await.unwrap();
    (fake, client)
}

#[tokio::test]
async fn does_the_whole_job_with_one_token_and_no_login() {
    let (fake, client) =
        connected(
            |request| match (request.method.as_str(), request.path.as_str()) {
                ("GET", VMS) => reply(200, json!({ "items": [] })),
                ("POST", VMS) => reply(201, vm(json!({ "portWarnings": "9000 was taken" }))),
                ("DELETE", VM) => raw(200, "text/plain", ""),
                ("DELETE", CONFIG) => status_object(404, "NotFound", "vmconfigs \"x\" not found"),
                _ => panic!("unexpected {} {}", request.method, request.path),
            },
        )
        .await;
    assert_eq!(
        (client.generation(), client.api_version()),
        (Generation::Orka3, None)
    );
    client.sign_in().await.unwrap();
    let deployed = client.deploy(&request()).await.unwrap();
    assert_eq!(client.purge(NAME).await.unwrap(), Removal::Removed);
    assert_eq!(client.sign_out().await.unwrap(), SignOut::NothingToRevoke);

    assert_eq!(
        (deployed.address.as_str(), deployed.ssh_port),
        ("10.221.189.13", 8822)
    );
    assert_eq!(
        (deployed.screen_share_port, deployed.vnc_port),
        (Some(5901), Some(5999))
    );
    assert_eq!(
        (deployed.id, deployed.node.as_deref()),
        (None, Some("mini-arm-13"))
    );
    assert_eq!(deployed.warnings, ["9000 was taken"]);
    assert_eq!(
        fake.only("POST", VMS).json(),
        json!({ "name": NAME, "shouldGenerateName": false, "image": IMAGE, "timeout": 15 })
    );
    let delete = fake.only("DELETE", VM);
    assert_eq!(
        (delete.body.as_str(), delete.header("content-type")),
        ("", None)
    );
    assert_eq!(
        delete.header("authorization"),
        Some(format!("Bearer {TOKEN}").as_str())
    );
    let info = fake.only("GET", "/api/v1/cluster-info");
    assert_eq!(info.header("authorization"), None);
}

#[tokio::test]
async fn sends_every_option_of_a_deploy_and_leaves_blank_ones_out_q27() {
    let (fake, client) = connected(|_| reply(200, vm(json!({})))).await;
    let full = DeployRequest {
        image: Some("Monterey.img".into()),
        config: Some("ci".into()),
        cpu: Some(4),
        memory_gib: Some(7.46),
        node: Some("mini-3".into()),
        replicas: Some(1),
        reserved_ports: vec![
            "9000:4000".parse().unwrap(),
            "9001:4001/udp".parse().unwrap(),
        ],
        iso: Some("mac.iso".into()),
        vnc_console: Some(true),
        metadata: BTreeMap::from([("build".into(), "7".into())]),
        system_serial: Some("C02XYZ12".into()),
        gpu_passthrough: Some(true),
        tag: Some("fast".into()),
        tag_required: Some(true),
        scheduler: Some(Scheduler::MostAllocated),
        net_boost: Some(true),
        legacy_io: Some(false),
        display: Display {
            width: Some(1920),
            height: Some(1080),
            dpi: Some(96),
        },
        generate_name: true,
        limit: Some(Duration::from_secs(61)),
        ..DeployRequest::new(NAME)
    };
    client.deploy(&full).await.unwrap();
    assert_eq!(
        fake.requests().last().unwrap().json(),
        json!({ "name": NAME, "shouldGenerateName": true, "image": "Monterey.img", "vmConfig": "ci", "cpu": 4,
                "memory": 7.4, "node": "mini-3", "reservedPorts": "9000:4000,9001:4001/udp", "iso": "mac.iso",
                "vncConsole": false, "customMetadata": { "build": "7" }, "systemSerial": "C02XYZ12",
                "gpuPassthrough": true, "tag": "fast", "tagRequired": true, "scheduler": "most-allocated",
                "netBoost": true, "legacyIO": false, "displayWidth": 1920, "displayHeight": 1080, "displayDPI": 96,
                "timeout": 7 })
    );

    let blanks = DeployRequest {
        memory_gib: Some(0.0),
        node: Some(String::new()),
        tag: Some(" ".into()),
        tag_required: Some(true),
        iso: Some(String::new()),
        config: Some(String::new()),
        ..request()
    };
    client.deploy(&blanks).await.unwrap();
    assert_eq!(
        fake.requests().last().unwrap().json(),
        json!({ "name": NAME, "shouldGenerateName": false, "image": IMAGE, "timeout": 15 })
    );
}

#[tokio::test]
async fn calls_the_metadata_as_it_was_told() {
    let fake = Fake::orka3(|_| reply(200, vm(json!({})))).await;
    let mut config = config(&fake.url, token());
    config.metadata_member = MetadataMember::CustomVmMetadata;
    let client = Client::connect(config).await.unwrap();
    let metadata = BTreeMap::from([("build".into(), "7".into())]);
    client
        .deploy(&DeployRequest {
            metadata,
            ..request()
        })
        .await
        .unwrap();
    assert_eq!(
        fake.only("POST", VMS).json()["customVMMetadata"],
        json!({ "build": "7" })
    );
}

#[tokio::test]
async fn makes_configs_in_the_namespace_that_all_share() {
    let fake = Fake::orka3(
        |request| match (request.method.as_str(), request.path.as_str()) {
            ("POST", _) => raw(201, "text/plain", ""),
            ("GET", CONFIG) => reply(
                200,
                json!({ "name": NAME, "image": IMAGE, "cpu": "4", "memory": "30G" }),
            ),
            ("GET", "/api/v1/namespaces/orka-default/vmconfigs") => reply(
                200,
                json!({ "items": [{ "name": NAME, "cpu": 4, "memory": 0 }, { "cpu": 1 }] }),
            ),
            _ => status_object(404, "NotFound", "not found"),
        },
    )
    .await;
    let mut config = config(&fake.url, token());
    config.namespace = "orka-test".into();
    let client = Client::connect(config).await.unwrap();
    let spec = VmConfigSpec {
        name: NAME.into(),
        image: "Ventura.img".into(),
        cpu: 4,
        vcpu: Some(4),
        legacy_io: Some(true),
        ..VmConfigSpec::default()
    };
    client.create_config(&spec).await.unwrap();
    assert_eq!(
        fake.only("POST", "/api/v1/namespaces/orka-default/vmconfigs")
            .json(),
        json!({ "name": NAME, "image": "Ventura.img", "cpu": 4, "legacyIO": true, "netBoost": false })
    );
    let found = client.config(NAME).await.unwrap().unwrap();
    assert_eq!((found.cpu, found.memory_gib), (Some(4), Some(30.0)));
    assert_eq!(client.configs().await.unwrap().len(), 1);
    assert_eq!(client.config("other").await.unwrap(), None);
    assert_eq!(client.vm("other").await.unwrap(), []);
    assert_eq!(
        fake.count("GET", "/api/v1/namespaces/orka-test/vms/other"),
        1
    );
}

#[tokio::test]
async fn reads_vms_nodes_images_and_the_cluster() {
    let (_fake, client) = connected(|request| match request.path.as_str() {
        VMS => reply(
            200,
            json!({ "items": [vm(json!({ "customMetadata": { "build": "7", "n": 1, "x": null }, "type": "arm64",
                "deployDate": "2023-10-10T19:56:21Z", "image": IMAGE })), { "name": "b", "status": "Pending" },
                { "name": "c", "phase": "Failed", "ssh": null }, { "name": "d", "status": "Stopping" }] }),
        ),
        "/api/v1/namespaces/orka-default/nodes" => reply(
            200,
            json!([{ "name": "mini-arm-13", "nodeIP": "10.221.189.13", "availableCpu": 5, "phase": "READY" },
                   { "name": "mini-arm-14", "ip": "10.221.189.14", "phase": "NOT READY" }]),
        ),
        _ => reply(200, json!({ "items": [{ "name": "sonoma.orkasi", "type": "arm64", "description": "x" }] })),
    })
    .await;
    let vms = client.vms().await.unwrap();
    let states: Vec<_> = vms.iter().map(|vm| vm.state.clone()).collect();
    assert_eq!(
        states,
        [
            VmState::Running,
            VmState::Pending,
            VmState::Failed,
            VmState::Other("Stopping".into())
        ]
    );
    assert_eq!(
        vms[0].metadata,
        BTreeMap::from([("build".into(), "7".into()), ("n".into(), "1".into())])
    );
    assert_eq!((vms[0].ssh_port, vms[2].ssh_port), (Some(8822), None));
    let nodes = client.nodes().await.unwrap();
    assert_eq!((nodes[0].is_ready, nodes[1].is_ready), (true, false));
    assert_eq!(nodes[1].ip, Some("10.221.189.14".parse().unwrap()));
    assert_eq!(
        client.images().await.unwrap()[0].architecture.as_deref(),
        Some("arm64")
    );
    assert_eq!(
        client.cluster_info().await.unwrap().api_domain.as_deref(),
        Some("company.orka.app")
    );
}

#[tokio::test]
async fn sorts_refusals_by_what_a_caller_can_do() {
    type Check = fn(&Error) -> bool;
    let cases: [(u16, &str, Check); 12] = [
        (
            500,
            "Cannot deploy more than 2 VMs on node mini-arm-13",
            |e| matches!(e, Error::NoCapacity(_)),
        ),
        (422, "Not enough CPU available", |e| {
            matches!(e, Error::NoCapacity(_))
        }),
        (400, "not enough memory available", |e| {
            matches!(e, Error::NoCapacity(_))
        }),
        (403, "vms is forbidden: exceeded quota", |e| {
            matches!(e, Error::NoCapacity(_))
        }),
        (401, "Unauthorized", |e| matches!(e, Error::Unauthorized(_))),
        (
            403,
            "User \"sa\" cannot create",
            |e| matches!(e, Error::Forbidden { namespace: Some(n), .. } if n == "orka-default"),
        ),
        (404, "Image sonoma not found", |e| {
            matches!(e, Error::NotFound(_))
        }),
        (409, "\"build-1\" already exists", |e| {
            matches!(e, Error::Conflict(_))
        }),
        (500, "VM with name x already exists", |e| {
            matches!(e, Error::Conflict(_))
        }),
        (422, "admission webhook denied the request: bad", |e| {
            matches!(e, Error::Invalid { reply: Some(_), .. })
        }),
        (
            500,
            "Unable to deploy the VM as the underlying VM process has crashed.",
            |e| {
                matches!(
                    e,
                    Error::Server {
                        may_have_happened: true,
                        ..
                    }
                )
            },
        ),
        (200, "Not enough CPU available", |e| {
            matches!(e, Error::NoCapacity(_))
        }),
    ];
    for (code, text, is_right) in cases {
        let (fake, client) = connected(move |_| status_object(code, "Reason", text)).await;
        let error = client.deploy(&request()).await.unwrap_err();
        assert!(is_right(&error), "{code} {text}: {error:?}");
        assert_eq!(error.server_messages(), [text]);
        assert_eq!(fake.count("POST", VMS), 1, "{code} {text}");
    }
}

#[tokio::test]
async fn explains_a_dead_token_and_a_missing_right_q24() {
    let (fake, client) = connected(|_| status_object(401, "Unauthorized", "Unauthorized")).await;
    let error = client.sign_in().await.unwrap_err();
    assert!(
        error
            .hint()
            .unwrap()
            .contains("have an administrator issue a new one"),
        "{error}"
    );
    assert_eq!(
        fake.count("GET", VMS),
        1,
        "a given token cannot be renewed, so nothing is repeated"
    );
    assert!(matches!(
        client.check_token().await.unwrap(),
        TokenState::Refused { .. }
    ));

    let (_fake, client) = connected(|_| status_object(403, "Forbidden", "vms is forbidden")).await;
    let error = client.sign_in().await.unwrap_err();
    assert!(
        error.to_string().contains("in namespace `orka-default`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_login_alone_is_no_use_on_orka_3() {
    let fake = Fake::orka3(|_| panic!("nothing may be sent without a token")).await;
    let client = Client::connect(config(&fake.url, support::login()))
        .await
        .unwrap();
    let error = client.sign_in().await.unwrap_err();
    assert!(
        matches!(error, Error::Invalid { reply: None, .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("service account token"),
        "{error}"
    );
}

#[tokio::test]
async fn purge_without_rights_to_configs_still_counts_as_done() {
    let (_fake, client) =
        connected(
            |request| match (request.method.as_str(), request.path.as_str()) {
                ("DELETE", VM) => raw(204, "text/plain", ""),
                _ => status_object(403, "Forbidden", "vmconfigs is forbidden"),
            },
        )
        .await;
    assert_eq!(client.purge(NAME).await.unwrap(), Removal::Removed);

    let (_fake, client) =
        connected(
            |request| match (request.method.as_str(), request.path.as_str()) {
                ("DELETE", VM) => raw(202, "text/plain", ""),
                ("GET", CONFIG) => reply(200, json!({ "name": NAME })),
                _ => status_object(403, "Forbidden", "vmconfigs is forbidden"),
            },
        )
        .await;
    assert!(
        matches!(
            client.purge(NAME).await.unwrap_err(),
            Error::Forbidden { .. }
        ),
        "the config is still there"
    );
}

#[tokio::test]
async fn a_missing_namespace_is_no_vm_that_is_gone() {
    let (_fake, client) =
        connected(|_| status_object(404, "NotFound", "namespaces \"orka-default\" not found"))
            .await;
    assert!(matches!(
        client.purge(NAME).await.unwrap_err(),
        Error::NotFound(_)
    ));
    assert!(matches!(
        client.vm(NAME).await.unwrap_err(),
        Error::NotFound(_)
    ));
}

#[tokio::test]
async fn a_token_file_is_read_again_when_the_api_refuses_its_token_q42() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "old-token\n").unwrap();
    let fake = Fake::orka3(|request| match request.header("authorization") {
        Some("Bearer new-token") => reply(200, json!({ "items": [] })),
        _ => status_object(401, "Unauthorized", "Unauthorized"),
    })
    .await;
    let source = orka_client::TokenSource::File(path.clone());
    let client = Client::connect(config(&fake.url, orka_client::Credentials::Token(source)))
        .await
        .unwrap();

    assert!(matches!(
        client.vms().await.unwrap_err(),
        Error::Unauthorized(_)
    ));
    assert_eq!(
        fake.count("GET", VMS),
        1,
        "the same token again would be refused again"
    );
    std::fs::write(&path, "new-token\n").unwrap();
    assert_eq!(client.vms().await.unwrap(), []);
    assert_eq!(
        fake.count("GET", VMS),
        3,
        "refused, read anew, repeated once"
    );

    std::fs::write(&path, " \n").unwrap();
    let emptied = Client::connect(config(
        &fake.url,
        orka_client::Credentials::Token(orka_client::TokenSource::File(path)),
    ))
    .await
    .unwrap();
    assert!(matches!(
        emptied.vms().await.unwrap_err(),
        Error::Invalid { .. }
    ));
}

#[tokio::test]
async fn the_server_waits_longer_than_the_client_q3() {
    let (fake, client) = connected(|_| reply(200, vm(json!({})))).await;
    for seconds in [1, 60, 61, 600, 86_400] {
        let limit = Duration::from_secs(seconds);
        client
            .deploy(&DeployRequest {
                limit: Some(limit),
                ..request()
            })
            .await
            .unwrap();
        let minutes = fake.requests().last().unwrap().json()["timeout"]
            .as_u64()
            .unwrap();
        assert!(minutes * 60 > seconds, "{minutes} min for {seconds} s");
    }
}
