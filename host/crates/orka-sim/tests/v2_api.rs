//! The 2.x API as a client that knows only HTTP meets it.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use orka_sim::{GuestKind, SimConfig, Switches, TokenModel, User};
use reqwest::Method;
use serde_json::{Value, json};
use support::{Rig, config_body};

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
async fn unknown_paths_are_html_pages_as_express_writes_them() {
    let rig = Rig::start(no_guests()).await;
    for path in [
        "/",
        "//token",
        "/resources/vm/nothing",
        "/resources/vm/deploy",
    ] {
        let answer = rig.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
        assert!(
            answer
                .text
                .contains(&format!("<pre>Cannot GET {path}</pre>")),
            "{}",
            answer.text
        );
    }
    assert_eq!(rig.get("/").await.header("content-length"), "139");
}

#[tokio::test]
async fn health_and_version_need_no_token() {
    let rig = Rig::start(no_guests()).await;
    let health = rig.get("/health-check").await;
    assert_eq!(
        health.json(),
        json!({ "message": "", "help": {}, "errors": [], "api_version": "2.4.0" })
    );
    assert_eq!(
        health.header("content-type"),
        "application/json; charset=utf-8"
    );
    assert_eq!(health.header("x-powered-by"), "Express");
    assert!(health.header("etag").starts_with("W/\""));
    assert_eq!(
        rig.get("/version?all=true").await.json()["api_version"],
        "2.4.0"
    );
    assert_eq!(
        rig.get("/validation-requirements").await.json()["password_length"],
        6
    );
    assert_eq!(rig.get("/default-base-image").await.status, 200);
}

#[tokio::test]
async fn the_licence_key_is_checked_from_a_body_on_get() {
    let rig = Rig::start(no_guests()).await;
    let good = json!({ "licenseKey": rig.sim.config().licence_key });
    let answer = rig
        .call(Method::GET, "/validate-license-key", Some(good))
        .await;
    assert_eq!(answer.json()["message"], "Provided license key is valid");
    let answer = rig
        .call(
            Method::GET,
            "/validate-license-key",
            Some(json!({ "licenseKey": "x" })),
        )
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.error()),
        (401, "Provided license key is not valid".to_owned())
    );
}

#[tokio::test]
async fn calls_without_or_with_a_bad_token_are_401() {
    let mut rig = Rig::start(no_guests()).await;
    let answer = rig
        .delete("/resources/vm/delete", json!({ "orka_vm_name": "a" }))
        .await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("content-length"), "82");
    assert_eq!(answer.error(), "No authorization token was found");
    rig.token = "a.b.c".to_owned();
    let answer = rig.get("/token").await;
    assert_eq!(
        (answer.status.as_u16(), answer.error()),
        (401, "invalid signature".to_owned())
    );
}

#[tokio::test]
async fn a_token_is_had_with_json_or_a_form_and_ends_by_revocation() {
    let mut rig = Rig::signed_in(no_guests()).await;
    let form = "email=ci%40example.com&password=correct-horse";
    let url = format!("{}/token", rig.sim.url());
    let request = rig
        .http
        .post(url)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(form);
    let answer: Value =
        serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(answer["token"], rig.token, "2.4.0 keeps one token per user");
    let check = rig.get("/token").await.json();
    assert_eq!(
        (&check["authenticated"], &check["is_token_revoked"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(check["email"], "ci@example.com");
    assert_eq!(
        rig.call(Method::DELETE, "/token", None).await.json()["tokensRevoked"],
        1
    );
    assert_eq!(rig.get("/token").await.status, 401);
    let old = std::mem::take(&mut rig.token);
    assert_ne!(rig.sign_in().await, old);
    assert_eq!(rig.sim.state().live_tokens(), 1);
}

#[tokio::test]
async fn wrong_credentials_and_missing_members_are_told_apart() {
    let rig = Rig::start(no_guests()).await;
    let wrong = json!({ "email": "ci@example.com", "password": "nonsense" });
    assert_eq!(rig.post("/token", wrong).await.status, 401);
    let answer = rig.post("/token", json!({})).await;
    assert_eq!(
        (answer.status.as_u16(), answer.error()),
        (400, "email is required".to_owned())
    );
}

#[tokio::test]
async fn token_models_differ_by_version_and_by_switch() {
    for (version, model, same, first_lives) in [
        ("2.1.0", TokenModel::ByVersion, false, true),
        ("2.1.1", TokenModel::ByVersion, true, true),
        ("2.4.0", TokenModel::OneRotating, false, false),
        ("2.4.0", TokenModel::Many, false, true),
    ] {
        let switches = Switches {
            token_model: model,
            ..Switches::default()
        };
        let config = SimConfig {
            api_version: version.to_owned(),
            ..with(switches)
        };
        let rig = Rig::signed_in(config).await;
        assert_eq!(
            rig.sign_in().await == rig.token,
            same,
            "{version} {model:?}"
        );
        assert_eq!(
            rig.get("/token").await.status == 200,
            first_lives,
            "{version} {model:?}"
        );
    }
}

#[tokio::test]
async fn the_token_check_may_answer_200_for_a_revoked_token() {
    let switches = Switches {
        token_check_always_ok: true,
        ..Switches::default()
    };
    let rig = Rig::signed_in(with(switches)).await;
    rig.call(Method::DELETE, "/token", None).await;
    let answer = rig.get("/token").await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.json()["authenticated"].clone()
        ),
        (200, json!(false))
    );
    assert_eq!(rig.get("/resources/vm/list").await.status, 401);
}

#[tokio::test]
async fn a_configuration_is_created_with_201_and_read_back() {
    let rig = Rig::signed_in(no_guests()).await;
    let mut body = config_body("tekton-1a2b3c4d", "Mojave.img", 6);
    body["tag"] = json!("");
    body["scheduler"] = json!("");
    body["memory"] = json!(0.0);
    let answer = rig.post("/resources/vm/create", body).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["message"]),
        (201, &json!("Successfully Created"))
    );
    let help = &answer.json()["help"];
    let expected = format!(
        "To deploy a VM, make sure you have a configuration created and use the endpoint {}/resources/vm/deploy",
        rig.sim.url()
    );
    assert_eq!(help["deploy_virtual_machine"], expected);
    let configs = rig
        .get("/resources/vm/configs/tekton-1a2b3c4d")
        .await
        .json();
    let config = &configs["configs"][0];
    assert_eq!(
        (&config["memory"], &config["iso_image"]),
        (&json!("automatic"), &json!("None"))
    );
    assert_eq!(
        (&config["system_serial"], &config["scheduler"]),
        (&json!("N/A"), &json!("default"))
    );
    assert_eq!(
        rig.get("/resources/vm/configs/other").await.json()["configs"],
        json!([])
    );
    let again = rig.create("tekton-1a2b3c4d", "Mojave.img").await;
    assert_eq!(again.status, 409);
}

#[tokio::test]
async fn bad_configurations_are_refused_with_the_text_of_the_server() {
    let rig = Rig::signed_in(no_guests()).await;
    let name_text = "VM name must consist of lower case alphanumeric characters or \"-\", start with an alphabetic \
                     character, and end with an alphanumeric character";
    let answer = rig.create("Tekton", "Mojave.img").await;
    assert_eq!(
        (answer.status.as_u16(), answer.error()),
        (400, name_text.to_owned())
    );
    for (member, value) in [
        ("orka_vm_name", Value::Null),
        ("orka_base_image", Value::Null),
        ("orka_cpu_core", json!(5)),
        ("orka_cpu_core", json!("6")),
        ("vcpu_count", json!(4)),
        ("scheduler", json!("fastest")),
        ("tag_required", json!("true")),
        ("memory", json!("lots")),
    ] {
        let mut body = config_body("good-name", "Mojave.img", 6);
        body[member] = value.clone();
        let answer = rig.post("/resources/vm/create", body).await;
        assert_eq!(answer.status, 400, "{member} {value}");
    }
    assert!(rig.sim.state().configs.is_empty());
}

#[tokio::test]
async fn members_may_be_made_mandatory() {
    let switches = Switches {
        require_orka_image: true,
        require_vcpu_count: true,
        ..Switches::default()
    };
    let rig = Rig::signed_in(with(switches)).await;
    for member in ["orka_image", "vcpu_count"] {
        let mut body = config_body("good-name", "Mojave.img", 6);
        body[member] = Value::Null;
        assert_eq!(
            rig.post("/resources/vm/create", body).await.error(),
            format!("{member} is required")
        );
    }
}

#[tokio::test]
async fn a_body_without_its_content_type_is_not_read() {
    let rig = Rig::signed_in(no_guests()).await;
    let url = format!("{}/resources/vm/create", rig.sim.url());
    let body = config_body("good-name", "Mojave.img", 6).to_string();
    let response = rig
        .http
        .post(url)
        .bearer_auth(&rig.token)
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn malformed_json_and_more_than_100_kb_are_refused() {
    let rig = Rig::signed_in(no_guests()).await;
    let url = format!("{}/resources/vm/create", rig.sim.url());
    let send = async |body: String| {
        let request = rig
            .http
            .post(&url)
            .bearer_auth(&rig.token)
            .header("Content-Type", "application/json");
        request.body(body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(send("{\"orka".to_owned()).await, 400);
    assert_eq!(
        send(json!({ "filler": "x".repeat(101 * 1024) }).to_string()).await,
        413
    );
}

#[tokio::test]
async fn users_do_not_see_or_touch_what_others_made() {
    let mut config = no_guests();
    config.users.push(User {
        email: "eve@example.com".to_owned(),
        password: "secret-eve".to_owned(),
    });
    let mut rig = Rig::signed_in(config).await;
    rig.deploy("vm", "Mojave.img").await;
    let eve = json!({ "email": "eve@example.com", "password": "secret-eve" });
    rig.token = rig.post("/token", eve).await.json()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        rig.get("/resources/vm/list").await.json()["virtual_machine_resources"],
        json!([])
    );
    assert_eq!(rig.purge("vm").await.status, 500);
    assert_eq!(rig.get("/resources/vm/list/all").await.status, 401);
    let url = format!("{}/resources/vm/list/all", rig.sim.url());
    let request = rig.http.get(url).bearer_auth(&rig.token);
    let all = request
        .header("orka-licensekey", &rig.sim.config().licence_key)
        .send()
        .await
        .unwrap();
    let all: Value = serde_json::from_str(&all.text().await.unwrap()).unwrap();
    assert_eq!(
        all["virtual_machine_resources"][0]["status"][0]["owner"],
        "ci@example.com"
    );
}

#[tokio::test]
async fn nodes_images_and_power_are_there() {
    let rig = Rig::signed_in(no_guests()).await;
    let vm = rig.deploy("vm", "Mojave.img").await.json();
    let nodes = rig.get("/resources/node/list").await.json();
    let pro = nodes["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["name"] == "macpro-1")
        .unwrap()
        .clone();
    assert_eq!(
        (&pro["available_cpu"], &pro["state"]),
        (&json!(21), &json!("READY"))
    );
    let status = rig.get("/resources/node/status/macpro-1").await.json();
    assert_eq!(status["node_status"]["sandbox"], "false");
    let images = rig.get("/resources/image/list").await.json();
    assert!(
        images["images"]
            .as_array()
            .unwrap()
            .contains(&json!("Mojave.img"))
    );
    assert_eq!(images["image_attributes"][0]["owner"], "all");
    let missing = rig.get("/resources/image/checksum/none.img").await;
    assert_eq!(
        (missing.status.as_u16(), missing.error()),
        (404, "image 'none.img' not found".to_owned())
    );
    let stopped = rig
        .post(
            "/resources/vm/exec/stop",
            json!({ "orka_vm_name": vm["vm_id"] }),
        )
        .await;
    let text = format!("{} has stopped on macpro-1", vm["vm_id"].as_str().unwrap());
    assert_eq!(stopped.json()["message"], text);
    let saved = json!({ "orka_vm_name": vm["vm_id"], "new_name": "Saved.img" });
    assert_eq!(
        rig.post("/resources/image/save", saved).await.json()["message"],
        "saved"
    );
    assert_eq!(rig.deploy("from-saved", "Saved.img").await.status, 200);
}

#[tokio::test]
async fn users_are_managed_with_the_licence_key_alone() {
    let rig = Rig::start(no_guests()).await;
    let url = format!("{}/users", rig.sim.url());
    let body = json!({ "email": "new@example.com", "password": "secret1" });
    assert_eq!(rig.post("/users", body.clone()).await.status, 401);
    let request = rig
        .http
        .post(url)
        .header("orka-licensekey", &rig.sim.config().licence_key);
    let created = request
        .header("Content-Type", "application/json")
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(created.status(), 201);
    assert_eq!(rig.post("/token", body).await.status, 200);
}

#[tokio::test]
async fn requests_are_recorded_in_order_with_bodies_and_outcomes() {
    let rig = Rig::signed_in(no_guests()).await;
    rig.create("vm", "Mojave.img").await;
    rig.purge("vm").await;
    let state = rig.sim.state();
    let seen: Vec<(&str, &str, Option<u16>)> = state
        .requests
        .iter()
        .map(|request| (&*request.method, &*request.path, request.status))
        .collect();
    let expected = [
        ("POST", "/token", Some(200)),
        ("POST", "/resources/vm/create", Some(201)),
        ("DELETE", "/resources/vm/purge", Some(200)),
    ];
    assert_eq!(seen, expected);
    assert_eq!(state.requests[0].json()["password"], "correct-horse");
    assert_eq!(
        state.requests[2].header("authorization"),
        Some(&*format!("Bearer {}", rig.token))
    );
    assert_eq!(state.deletions[0].name, "vm");
    let over_http: Value = rig.get("/_sim/state").await.json();
    assert_eq!(over_http["requests"].as_array().unwrap().len(), 3);
}
