//! What clusters are known to do, one test each, named by number; each fails if the work-around is taken out.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use orka_client::{
    Client, DeployRequest, Error, Removal, UnreachableKind, VmConfigSpec, VmState, patient_until,
};
use serde_json::{Value, json};
use support::{
    Answer, Fake, Request, TOKEN, config, envelope, login, page_not_found, raw, refusal, reply,
    status_object, token, with_header,
};
use tokio::time::{Instant, timeout};

const NAME: &str = "tekton-1a2b3c4d";
const DEPLOY: &str = "/resources/vm/deploy";
const PURGE: &str = "/resources/vm/purge";

async fn orka2(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (Fake, Client) {
    let fake = Fake::orka2("2.4.0", handler).await;
    let client = Client::connect(config(&fake.url, login())).await.unwrap();
    (fake, client)
}

async fn orka3(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (Fake, Client) {
    let fake = Fake::orka3(handler).await;
    let client = Client::connect(config(&fake.url, token())).await.unwrap();
    (fake, client)
}

fn deployed(members: Value) -> Value {
    let mut body =
        envelope(json!({ "ip": "10.221.188.13", "ssh_port": "8822", "vm_id": "84ac9cf673e7a" }));
    let object = body.as_object_mut().unwrap();
    for (name, value) in members.as_object().unwrap() {
        match value.as_str() {
            Some("MISSING") => drop(object.remove(name)),
            _ => drop(object.insert(name.clone(), value.clone())),
        }
    }
    body
}

fn request3() -> DeployRequest {
    DeployRequest {
        image: Some("sonoma.orkasi".into()),
        ..DeployRequest::new(NAME)
    }
}

/// Answers with each of `answers` in turn, then with the last for ever.
fn in_turn(answers: Vec<Answer>) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    let next = AtomicUsize::new(0);
    move |_| answers[next.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)].clone()
}

#[tokio::test]
async fn q2_a_deploy_has_a_longer_limit_than_other_calls() {
    let fake = Fake::orka2("2.4.0", |request| match request.path.as_str() {
        DEPLOY => reply(200, deployed(json!({}))),
        _ => Answer::Silence,
    })
    .await;
    let mut config = config(&fake.url, login());
    let defaults = config.timeouts;
    assert!(defaults.deploy >= Duration::from_secs(600) && defaults.deploy > defaults.call);
    config.timeouts.call = Duration::from_millis(50);
    let client = Client::connect(config).await.unwrap();
    client.deploy(&DeployRequest::new(NAME)).await.unwrap();
    let error = client.vms().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::TimedOut {
                may_have_happened: false,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(
        fake.count("GET", "/resources/vm/list"),
        1,
        "a limit that passed is not waited for again"
    );
}

#[tokio::test]
async fn q4_a_deploy_that_is_cut_off_may_have_happened_and_is_not_repeated() {
    for answer in [
        Answer::Close,
        Answer::CutShort {
            status: 200,
            body: br#"{"ip":"10.2"#.to_vec(),
        },
    ] {
        let cut = answer.clone();
        let (fake, client) = orka2(move |_| cut.clone()).await;
        let error = client.deploy(&DeployRequest::new(NAME)).await.unwrap_err();
        assert!(
            matches!(error, Error::Interrupted { .. }),
            "{answer:?}: {error:?}"
        );
        assert!(error.may_have_happened() && error.is_retryable());
        assert_eq!(fake.count("POST", DEPLOY), 1);

        let (fake, client) = orka3(move |_| answer.clone()).await;
        assert!(
            client
                .deploy(&request3())
                .await
                .unwrap_err()
                .may_have_happened()
        );
        assert_eq!(
            fake.requests()
                .iter()
                .filter(|request| request.method == "POST")
                .count(),
            1
        );
    }
}

#[tokio::test]
async fn q5_a_deploy_without_a_usable_address_is_a_vm_to_delete() {
    for members in [
        json!({ "ip": "" }),
        json!({ "ip": null }),
        json!({ "ip": "MISSING" }),
        json!({ "ip": "N/A" }),
        json!({ "ip": "10.221.188" }),
        json!({ "ip": "0.0.0.0" }),
        json!({ "ssh_port": "N/A" }),
        json!({ "ssh_port": "" }),
        json!({ "ssh_port": null }),
        json!({ "ssh_port": "MISSING" }),
        json!({ "ssh_port": 0 }),
        json!({ "ssh_port": "70000" }),
    ] {
        let body = deployed(members.clone());
        let (_fake, client) = orka2(move |_| reply(200, body.clone())).await;
        let error = client.deploy(&DeployRequest::new(NAME)).await.unwrap_err();
        assert!(
            matches!(&error, Error::UnusableVm { name, id: Some(id), .. } if name == NAME && id == "84ac9cf673e7a"),
            "{members}: {error:?}"
        );
        assert!(error.may_have_happened() && error.is_retryable());
    }
}

#[tokio::test]
async fn q6_success_takes_a_good_status_and_no_errors() {
    for (status, body) in [
        (
            200,
            json!({ "message": "Successfully deployed VM", "errors": [{ "message": "it is not" }], "ip": "10.0.0.1" }),
        ),
        (400, json!({ "message": "it is not", "errors": [] })),
        (400, json!({ "message": "it is not" })),
        (400, json!({ "errors": ["it is not"] })),
    ] {
        let shown = body.to_string();
        let (_fake, client) = orka2(move |_| reply(status, body.clone())).await;
        let error = client.deploy(&DeployRequest::new(NAME)).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{shown}: {error:?}");
        assert_eq!(error.server_messages(), ["it is not"], "{shown}");
    }
}

#[tokio::test]
async fn q7_a_proxys_page_is_shown_with_its_status_and_never_parsed() {
    let page = "<html>\r\n<h1>502 Bad Gateway</h1>\x1b[31m</html>";
    let (_fake, client) = orka2(move |_| raw(502, "text/html", page)).await;
    let error = client.deploy(&DeployRequest::new(NAME)).await.unwrap_err();
    assert!(matches!(error, Error::Server { .. }), "{error:?}");
    assert_eq!(error.status(), Some(502));
    assert!(
        error.to_string().contains("<h1>502 Bad Gateway</h1>"),
        "{error}"
    );
    assert!(!error.to_string().contains('\x1b'));
}

#[tokio::test]
async fn q8_a_deletion_may_be_answered_with_nothing() {
    for status in [200, 202, 204] {
        let (_fake, client) = orka3(move |_| raw(status, "text/plain", "")).await;
        assert_eq!(
            client.delete_instance(NAME, None).await.unwrap(),
            Removal::Removed,
            "{status}"
        );
    }
}

#[tokio::test]
async fn q9_what_is_gone_already_is_no_failure() {
    for (status, text) in [
        (500, "No VMs with that name are currently deployed"),
        (500, "No deployments exists for this VM name"),
        (200, "No VMs with that name exist in Orka"),
        (404, "VM not found"),
    ] {
        let (fake, client) = orka2(move |_| refusal(status, text)).await;
        assert_eq!(
            client.purge(NAME).await.unwrap(),
            Removal::AlreadyGone,
            "{text}"
        );
        assert_eq!(
            client.delete_instance(NAME, None).await.unwrap(),
            Removal::AlreadyGone,
            "{text}"
        );
        assert_eq!(fake.count("DELETE", PURGE), 1);
    }
    let (_fake, client) =
        orka3(|_| status_object(404, "NotFound", "virtualmachineinstances \"x\" not found")).await;
    assert_eq!(client.purge(NAME).await.unwrap(), Removal::AlreadyGone);
}

#[tokio::test]
async fn q9_only_orka_itself_can_say_that_something_is_gone() {
    let strangers = [
        page_not_found(),
        raw(404, "text/plain", "404 page not found\n"),
        reply(
            404,
            json!({ "message": "no Route matched with those values" }),
        ),
        reply(404, json!({ "message": "Not Found" })),
        reply(404, json!({})),
        raw(404, "text/plain", ""),
    ];
    for answer in strangers {
        let (shown, other) = (format!("{answer:?}"), answer.clone());
        let (_fake, client) = orka2(move |_| answer.clone()).await;
        assert!(
            matches!(
                client.purge(NAME).await.unwrap_err(),
                Error::UnexpectedReply { .. }
            ),
            "{shown}"
        );
        let (_fake, client) = orka3(move |_| other.clone()).await;
        assert!(
            matches!(
                client.purge(NAME).await.unwrap_err(),
                Error::UnexpectedReply { .. }
            ),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn q10_a_deletion_that_fails_for_a_moment_is_repeated() {
    let done = reply(
        200,
        envelope(json!({ "message": "Successfully purged VM" })),
    );
    for failure in [
        refusal(500, "boom"),
        raw(503, "text/html", "<html>"),
        Answer::Close,
        refusal(429, "slow down"),
    ] {
        let (fake, client) = orka2(in_turn(vec![
            failure.clone(),
            failure.clone(),
            done.clone(),
        ]))
        .await;
        assert_eq!(
            client.purge(NAME).await.unwrap(),
            Removal::Removed,
            "{failure:?}"
        );
        assert_eq!(fake.count("DELETE", PURGE), 3);
    }
    let (fake, client) = orka2(|_| refusal(500, "boom")).await;
    assert!(matches!(
        client.purge(NAME).await.unwrap_err(),
        Error::Server { .. }
    ));
    assert_eq!(fake.count("DELETE", PURGE), 3, "the attempts are bounded");
}

/// What waits for an hour is not waited for by one who leaves in a minute: the answer is told instead.
#[tokio::test]
async fn q10_a_deletion_is_not_repeated_for_a_caller_who_will_be_gone() {
    let fake = Fake::orka2("2.4.0", |_| refusal(500, "boom")).await;
    let mut config = config(&fake.url, login());
    let hour = Duration::from_secs(3600);
    (config.retry.wait_first, config.retry.wait_max) = (hour, hour);
    let client = Client::connect(config).await.unwrap();
    let minute = Duration::from_secs(60);
    let purge = patient_until(Instant::now() + minute, client.purge(NAME));
    let error = timeout(minute, purge).await.unwrap().unwrap_err();
    assert_eq!(error.server_messages(), ["boom"]);
    assert_eq!(fake.count("DELETE", PURGE), 1);
}

#[tokio::test]
async fn q12_a_token_that_somebody_else_revoked_is_renewed_once_and_the_call_repeated_once() {
    let revoked = refusal(401, "invalid signature");
    let (fake, client) = orka2(in_turn(vec![
        revoked.clone(),
        reply(200, deployed(json!({}))),
    ]))
    .await;
    client.deploy(&DeployRequest::new(NAME)).await.unwrap();
    assert_eq!(
        (fake.count("POST", "/token"), fake.count("POST", DEPLOY)),
        (2, 2)
    );

    let (fake, client) = orka2(move |_| revoked.clone()).await;
    assert!(matches!(
        client.vms().await.unwrap_err(),
        Error::Unauthorized(_)
    ));
    assert_eq!(
        (
            fake.count("POST", "/token"),
            fake.count("GET", "/resources/vm/list")
        ),
        (2, 2)
    );
}

#[tokio::test]
async fn q13_a_refused_login_leads_to_no_other_login() {
    let fake = Fake::start(|request| match request.path.as_str() {
        "/health-check" => reply(200, envelope(json!({ "api_version": "2.4.0" }))),
        "/token" => refusal(401, "No authorization token was found"),
        _ => page_not_found(),
    })
    .await;
    let client = Client::connect(config(&fake.url, login())).await.unwrap();
    assert!(matches!(
        client.vms().await.unwrap_err(),
        Error::LoginRefused(_)
    ));
    assert_eq!(fake.count("POST", "/token"), 1);
}

#[tokio::test]
async fn q20_private_node_addresses_become_public_ones() {
    let fake = Fake::orka2("2.4.0", |request| match request.path.as_str() {
        DEPLOY => reply(200, deployed(json!({}))),
        _ => reply(200, envelope(json!({ "virtual_machine_resources": [{ "virtual_machine_name": NAME,
                "status": [{ "virtual_machine_ip": "10.221.188.13" }, { "virtual_machine_ip": "10.221.188.14" }] }] }))),
    })
    .await;
    let mut config = config(&fake.url, login());
    config.node_addresses.insert(
        "10.221.188.13".parse().unwrap(),
        "mac-13.example.com".into(),
    );
    let client = Client::connect(config).await.unwrap();
    let vm = client.deploy(&DeployRequest::new(NAME)).await.unwrap();
    assert_eq!(
        (vm.address.as_str(), vm.reported_ip),
        ("mac-13.example.com", "10.221.188.13".parse().unwrap())
    );
    let addresses: Vec<_> = client
        .vm(NAME)
        .await
        .unwrap()
        .into_iter()
        .map(|vm| vm.address.unwrap())
        .collect();
    assert_eq!(addresses, ["mac-13.example.com", "10.221.188.14"]);
}

#[tokio::test]
async fn q23_an_endpoint_that_says_nothing_is_reported_within_the_probes_limit() {
    let fake = Fake::start(|_| Answer::Silence).await;
    let mut config = config(&fake.url, token());
    config.timeouts.probe = Duration::from_millis(50);
    let error = Client::connect(config).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unreachable {
                kind: UnreachableKind::TimedOut,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("VPN"));
    assert_eq!(fake.requests().len(), 2, "each probe once");
}

#[tokio::test]
async fn q28_legacy_io_goes_without_net_boost() {
    let (fake, client) = orka3(|_| raw(201, "text/plain", "")).await;
    let spec = VmConfigSpec {
        name: NAME.into(),
        image: "Ventura.img".into(),
        cpu: 4,
        legacy_io: Some(true),
        ..VmConfigSpec::default()
    };
    client.create_config(&spec).await.unwrap();
    assert_eq!(
        fake.requests().last().unwrap().json()["netBoost"],
        json!(false)
    );
    let both = VmConfigSpec {
        net_boost: Some(true),
        ..spec
    };
    assert!(matches!(
        client.create_config(&both).await.unwrap_err(),
        Error::Invalid { reply: None, .. }
    ));
}

#[tokio::test]
async fn q31_a_vm_that_failed_is_no_vm() {
    let failed = json!({ "name": NAME, "status": "Failed", "errorMessage": "no\nspace", "ip": "10.0.0.1", "ssh": 8822 });
    let (_fake, client) = orka3(move |_| reply(200, failed.clone())).await;
    let error = client.deploy(&request3()).await.unwrap_err();
    assert!(
        matches!(&error, Error::UnusableVm { why, .. } if why == "it failed: no space"),
        "{error:?}"
    );
}

#[tokio::test]
async fn q31_an_address_inside_the_node_is_a_failed_deploy_unless_it_is_mapped() {
    let inside = json!({ "name": NAME, "status": "Running", "ip": "192.168.64.7", "ssh": 22 });
    let fake = Fake::orka3(move |_| reply(200, inside.clone())).await;
    let mut config = config(&fake.url, token());
    let client = Client::connect(config.clone()).await.unwrap();
    assert!(matches!(
        client.deploy(&request3()).await.unwrap_err(),
        Error::UnusableVm { .. }
    ));
    config
        .node_addresses
        .insert("192.168.64.7".parse().unwrap(), "10.0.0.7".into());
    let client = Client::connect(config).await.unwrap();
    assert_eq!(
        client.deploy(&request3()).await.unwrap().address,
        "10.0.0.7"
    );
}

#[tokio::test]
async fn q32_an_endpoint_with_a_slash_at_its_end_makes_no_double_slash() {
    let fake = Fake::orka3(|_| reply(200, json!({ "items": [] }))).await;
    let client = Client::connect(config(&format!("{}//", fake.url), token()))
        .await
        .unwrap();
    client.vms().await.unwrap();
    assert!(
        fake.requests()
            .iter()
            .all(|request| request.path.starts_with("/") && !request.path.contains("//"))
    );
}

#[tokio::test]
async fn q35_a_config_whose_deploy_failed_is_found_among_the_configs() {
    let (_fake, client) = orka2(|request| match request.path.as_str() {
        "/resources/vm/configs/tekton-1a2b3c4d" => reply(
            200,
            envelope(json!({ "configs": [{ "orka_vm_name": NAME }] })),
        ),
        _ => reply(200, envelope(json!({ "virtual_machine_resources": [] }))),
    })
    .await;
    assert_eq!(client.vm(NAME).await.unwrap(), []);
    assert_eq!(client.config(NAME).await.unwrap().unwrap().name, NAME);
}

#[tokio::test]
async fn q37_a_read_is_repeated_over_passing_failures() {
    let list = reply(200, json!({ "items": [] }));
    for failure in [
        Answer::Close,
        raw(503, "text/html", "starting"),
        Answer::CutShort {
            status: 200,
            body: b"{".to_vec(),
        },
    ] {
        let (fake, client) = orka3(in_turn(vec![failure.clone(), failure, list.clone()])).await;
        assert_eq!(client.vms().await.unwrap(), []);
        assert_eq!(fake.count("GET", "/api/v1/namespaces/orka-default/vms"), 3);
    }
}

#[tokio::test]
async fn q37_a_server_that_asks_for_patience_gets_it() {
    let busy = with_header(refusal(429, "slow down"), "retry-after", "1");
    let fake = Fake::orka2(
        "2.4.0",
        in_turn(vec![busy, reply(200, envelope(json!({})))]),
    )
    .await;
    let mut config = config(&fake.url, login());
    config.retry.wait_max = Duration::from_secs(5);
    let client = Client::connect(config).await.unwrap();
    client.sign_in().await.unwrap();
    let started = std::time::Instant::now();
    client.vms().await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn q37_what_was_turned_away_for_coming_too_fast_is_asked_for_again_also_where_it_makes_something()
 {
    let busy = refusal(429, "slow down");
    let done = reply(200, deployed(json!({})));
    let (fake, client) = orka2(in_turn(vec![busy.clone(), busy.clone(), done])).await;
    client.deploy(&DeployRequest::new(NAME)).await.unwrap();
    assert_eq!(fake.count("POST", DEPLOY), 3);

    let (fake, client) = orka2(move |_| busy.clone()).await;
    let error = client.deploy(&DeployRequest::new(NAME)).await.unwrap_err();
    assert!(matches!(error, Error::RateLimited { .. }), "{error:?}");
    assert!(!error.may_have_happened());
    assert_eq!(fake.count("POST", DEPLOY), 3, "the attempts are bounded");
}

#[tokio::test]
async fn q41_a_deploy_answered_with_a_page_or_nothing_is_an_error_that_shows_it() {
    // Who shows it hides secrets in it first, and cuts it then.
    let long = "x".repeat(70_000);
    for (body, excerpt) in [
        ("", String::new()),
        ("<html>login</html>", "<html>login</html>".into()),
        (&long, format!("{}…", &long[..64 * 1024])),
        ("[]", "[]".into()),
        ("null", "null".into()),
    ] {
        let page = body.to_owned();
        let (_fake, client) = orka2(move |_| raw(200, "text/html", page.clone())).await;
        let two = client.deploy(&DeployRequest::new(NAME)).await.unwrap_err();
        let page = body.to_owned();
        let (_fake, client) = orka3(move |_| raw(200, "text/html", page.clone())).await;
        let three = client.deploy(&request3()).await.unwrap_err();
        for error in [two, three] {
            assert!(
                matches!(&error, Error::UnexpectedReply { status: 200, excerpt: shown, may_have_happened: true, .. } if *shown == excerpt),
                "{body}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn q44_ports_may_be_numbers_or_strings_and_other_members_anything() {
    for members in [
        json!({ "ssh_port": 8822 }),
        json!({ "ssh_port": " 8822 " }),
        json!({ "vnc_port": "N/A", "io_boost": "N/A", "net_boost": null, "port_warnings": null, "vm_id": 7 }),
        json!({ "help": null, "errors": null, "message": null }),
        json!({ "help": "none", "screen_share_port": [] }),
    ] {
        let body = deployed(members.clone());
        let (_fake, client) = orka2(move |_| reply(200, body.clone())).await;
        let vm = client.deploy(&DeployRequest::new(NAME)).await.unwrap();
        assert_eq!(vm.ssh_port, 8822, "{members}");
    }
    let (_fake, client) = orka3(|_| {
        reply(
            200,
            json!({ "name": NAME, "ip": "10.0.0.1", "ssh": "8822", "vnc": null }),
        )
    })
    .await;
    assert_eq!(client.deploy(&request3()).await.unwrap().ssh_port, 8822);
}

#[tokio::test]
async fn q18_no_state_word_is_taken_for_more_than_it_says() {
    let (_fake, client) = orka2(|_| {
        reply(200, envelope(json!({ "virtual_machine_resources": [{ "virtual_machine_name": NAME, "status": [
            { "vm_status": "ERROR" }, { "vm_status": "running" }, { "vm_status": "n/a" }, { "vm_status": "Scaled" }
        ] }] })))
    })
    .await;
    let states: Vec<_> = client
        .vm(NAME)
        .await
        .unwrap()
        .into_iter()
        .map(|vm| vm.state)
        .collect();
    assert_eq!(
        states,
        [
            VmState::Failed,
            VmState::Running,
            VmState::Pending,
            VmState::Other("Scaled".into())
        ]
    );
}

#[tokio::test]
async fn q1_speaks_http_1_1_and_names_itself() {
    let (fake, client) = orka2(|_| reply(200, envelope(json!({})))).await;
    client.vms().await.unwrap();
    // The fake understands HTTP/1.1 alone, so that an answer at all is most of the proof.
    let request = fake.only("GET", "/resources/vm/list");
    assert_eq!(request.header("upgrade"), None);
    assert!(
        request
            .header("user-agent")
            .unwrap()
            .starts_with("orka-client/")
    );
    assert_eq!(
        request.header("authorization"),
        Some(format!("Bearer {TOKEN}").as_str())
    );
}
