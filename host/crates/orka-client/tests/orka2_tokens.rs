//! Orka 2 tokens: obtained once, renewed together, revoked only where that harms nobody.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use orka_client::{Client, Error, SignOut, TokenState};
use serde_json::json;
use support::{Answer, Fake, Request, TOKEN, config, envelope, login, refusal, reply};

async fn signed_in(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (Fake, Client) {
    let fake = Fake::orka2("2.4.0", handler).await;
    let client = Client::connect(config(&fake.url, login())).await.unwrap();
    client.sign_in().await.unwrap();
    (fake, client)
}

#[tokio::test]
async fn a_wrong_password_is_refused_once_and_not_tried_again_by_later_calls() {
    for (status, text) in [
        (401, "Invalid credentials"),
        (400, "bad request"),
        (200, "no such user"),
    ] {
        let fake = Fake::orka2("2.4.0", move |_| refusal(status, text)).await;
        let mut config = config(&fake.url, login());
        config.credentials = orka_client::Credentials::Login {
            email: "ci@example.com".into(),
            password: "wrong-password".into(),
            licence_key: None,
        };
        let client = Client::connect(config).await.unwrap();
        let error = client.sign_in().await.unwrap_err();
        assert!(matches!(error, Error::LoginRefused(_)), "{error:?}");
        assert_eq!(error.server_messages(), [text]);
        assert!(error.hint().unwrap().contains("password"));
        assert!(!error.is_retryable());
        assert!(matches!(
            client.vms().await.unwrap_err(),
            Error::LoginRefused(_)
        ));
        assert_eq!(fake.count("POST", "/token"), 1);
    }
}

#[tokio::test]
async fn a_login_without_a_token_in_the_answer_is_an_unexpected_reply() {
    for answer in [
        json!({}),
        json!({ "token": null }),
        json!({ "token": "" }),
        json!({ "token": "null" }),
        json!({ "token": "a b" }),
    ] {
        let fake = Fake::start(move |request| match request.path.as_str() {
            "/health-check" => reply(200, envelope(json!({ "api_version": "2.4.0" }))),
            "/token" => reply(200, envelope(answer.clone())),
            _ => support::page_not_found(),
        })
        .await;
        let client = Client::connect(config(&fake.url, login())).await.unwrap();
        let error = client.sign_in().await.unwrap_err();
        assert!(
            matches!(&error, Error::UnexpectedReply { excerpt, .. } if excerpt.is_empty()),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_login_that_was_turned_away_for_coming_too_fast_is_made_again() {
    let logins = AtomicUsize::new(0);
    let fake = Fake::start(move |request| match request.path.as_str() {
        "/health-check" => reply(200, envelope(json!({ "api_version": "2.4.0" }))),
        "/token" if logins.fetch_add(1, Ordering::SeqCst) == 0 => refusal(429, "slow down"),
        "/token" => reply(200, envelope(json!({ "token": TOKEN }))),
        _ => support::page_not_found(),
    })
    .await;
    let client = Client::connect(config(&fake.url, login())).await.unwrap();
    client.sign_in().await.unwrap();
    assert_eq!(fake.count("POST", "/token"), 2);
}

#[tokio::test]
async fn revokes_the_token_only_where_it_is_its_own() {
    for (version, outcome, revocations) in [
        ("2.1.0", SignOut::Revoked, 1),
        ("1.5.3", SignOut::Revoked, 1),
        ("2.1.1", SignOut::KeptShared, 0),
        ("2.1.1-preview-1", SignOut::KeptShared, 0),
        ("2.4.0", SignOut::KeptShared, 0),
        ("garbage", SignOut::KeptShared, 0),
    ] {
        let fake = Fake::orka2(version, |request| {
            assert!(request.is("DELETE", "/token"));
            reply(200, envelope(json!({ "tokensRevoked": "1" })))
        })
        .await;
        let client = Client::connect(config(&fake.url, login())).await.unwrap();
        assert_eq!(client.sign_out().await.unwrap(), SignOut::NeverSignedIn);
        client.sign_in().await.unwrap();
        assert_eq!(client.sign_out().await.unwrap(), outcome, "{version}");
        assert_eq!(fake.count("DELETE", "/token"), revocations, "{version}");
        assert_eq!(client.sign_out().await.unwrap(), SignOut::NeverSignedIn);
    }
}

/// Where this client's own is from says nothing of that one.
#[tokio::test]
async fn a_token_that_another_login_got_is_revoked_where_logins_have_one_each() {
    for (version, outcome) in [("2.1.0", SignOut::Revoked), ("2.1.1", SignOut::KeptShared)] {
        let fake = Fake::orka2(version, |request| match request.path.as_str() {
            "/token" if request.is("DELETE", "/token") => {
                reply(200, envelope(json!({ "tokensRevoked": "1" })))
            }
            _ => reply(
                200,
                envelope(json!({ "authenticated": true, "is_token_revoked": false })),
            ),
        })
        .await;
        let client = Client::connect(config(&fake.url, support::token()))
            .await
            .unwrap();
        client.sign_in().await.unwrap();
        assert!(!client.token_is_from_login());
        let passed_on = secrecy::SecretString::from("of another login");
        assert_eq!(
            client.revoke(passed_on).await.unwrap(),
            outcome,
            "{version}"
        );
        assert!(client.held_token().await.is_some(), "{version}");
    }
}

#[tokio::test]
async fn a_given_token_is_checked_and_never_revoked() {
    let fake = Fake::orka2("2.0.0", |_| {
        reply(200, envelope(json!({ "authenticated": true, "is_token_revoked": false, "email": "ci@example.com" })))
    })
    .await;
    let client = Client::connect(config(&fake.url, support::token()))
        .await
        .unwrap();
    client.sign_in().await.unwrap();
    assert_eq!(
        client.check_token().await.unwrap(),
        TokenState::Valid {
            user: Some("ci@example.com".into())
        }
    );
    assert_eq!(client.sign_out().await.unwrap(), SignOut::KeptShared);
    assert_eq!(
        (fake.count("POST", "/token"), fake.count("DELETE", "/token")),
        (0, 0)
    );
}

#[tokio::test]
async fn tells_a_revoked_token_however_the_release_says_so() {
    for (status, body) in [
        (
            200,
            envelope(json!({ "authenticated": true, "is_token_revoked": true })),
        ),
        (200, envelope(json!({ "authenticated": "false" }))),
        (
            401,
            json!({ "errors": [{ "message": "invalid signature" }] }),
        ),
        (400, json!({ "errors": [{ "message": "jwt malformed" }] })),
    ] {
        let shown = body.to_string();
        let (fake, client) = signed_in(move |_| reply(status, body.clone())).await;
        let state = client.check_token().await.unwrap();
        assert!(
            matches!(state, TokenState::Refused { .. }),
            "{shown}: {state:?}"
        );
        assert_eq!(
            fake.count("POST", "/token"),
            1,
            "looking at the token does not renew it"
        );
    }
}

#[tokio::test]
async fn checks_the_licence_key_without_sending_it_anywhere_else() {
    for (status, verdict) in [(200, true), (401, false)] {
        let (fake, client) = signed_in(move |_| match status {
            200 => reply(
                200,
                envelope(json!({ "message": "Provided license key is valid" })),
            ),
            _ => refusal(401, "Provided license key is not valid"),
        })
        .await;
        assert_eq!(client.check_licence_key().await.unwrap(), Some(verdict));
        let request = fake.only("GET", "/validate-license-key");
        assert_eq!(request.json(), json!({ "licenseKey": "licence-key-9" }));
        assert_eq!(request.header("authorization"), None);
    }
}

#[tokio::test]
async fn callers_that_are_refused_together_renew_the_token_once() {
    let logins = AtomicUsize::new(0);
    let fake = Fake::start(move |request| match request.path.as_str() {
        "/health-check" => reply(200, envelope(json!({ "api_version": "2.4.0" }))),
        "/token" => {
            let number = logins.fetch_add(1, Ordering::SeqCst) + 1;
            reply(200, envelope(json!({ "token": format!("token-{number}") })))
        }
        "/resources/vm/list" if request.header("authorization") == Some("Bearer token-1") => {
            refusal(401, "The token has been revoked.")
        }
        "/resources/vm/list" => reply(200, envelope(json!({ "virtual_machine_resources": [] }))),
        _ => support::page_not_found(),
    })
    .await;
    let client = Client::connect(config(&fake.url, login())).await.unwrap();
    client.sign_in().await.unwrap();
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.vms().await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), []);
    }
    assert_eq!(fake.count("POST", "/token"), 2);
}
