//! Below the API: detection, connections, redirects, proxies.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Mutex;

use orka_client::{
    BODY_BYTES_MAX, Client, Credentials, DeployRequest, Error, Generation, SignOut, TokenSource,
    UnreachableKind, VersionChoice,
};
use serde_json::json;
use support::tls::Tls;
use support::{
    Answer, Fake, PASSWORD, Request, TOKEN, config, envelope, login, moved, orka3, page_not_found,
    raw, reply, token,
};

const NAME: &str = "tekton-1a2b3c4d";

mod detection {
    use super::*;

    #[tokio::test]
    async fn prefers_orka_3_where_both_answer_unless_only_a_login_was_given() {
        let fake = Fake::start(|request| match request.path.as_str() {
            "/health-check" => reply(200, envelope(json!({ "api_version": "3.0.1" }))),
            _ => orka3(request),
        })
        .await;
        let both = Credentials::Both {
            email: "ci@example.com".into(),
            password: PASSWORD.into(),
            licence_key: None,
            token: TokenSource::Static(TOKEN.into()),
        };
        for (credentials, generation) in [
            (login(), Generation::Orka2),
            (token(), Generation::Orka3),
            (both, Generation::Orka3),
            (Credentials::Anonymous, Generation::Orka3),
        ] {
            let client = Client::connect(config(&fake.url, credentials))
                .await
                .unwrap();
            assert_eq!(client.generation(), generation);
        }
    }

    #[tokio::test]
    async fn shows_both_outcomes_when_neither_generation_answers() {
        let fake = Fake::start(|request| match request.path.as_str() {
            "/health-check" => reply(200, json!({ "status": "fine" })),
            _ => page_not_found(),
        })
        .await;
        let error = Client::connect(config(&fake.url, token()))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NotOrka { .. }), "{error:?}");
        let shown = error.to_string();
        assert!(
            shown.contains("Cannot GET /nowhere") && shown.contains("no `api_version`"),
            "{shown}"
        );
    }

    #[tokio::test]
    async fn takes_an_orka_2_that_does_not_tell_its_version_for_a_new_one() {
        for health in [json!({}), json!({ "api_version": null })] {
            let fake = Fake::start(move |request| match request.path.as_str() {
                "/health-check" => reply(200, envelope(health.clone())),
                "/token" => reply(200, envelope(json!({ "token": TOKEN }))),
                _ => page_not_found(),
            })
            .await;
            let client = Client::connect(config(&fake.url, login())).await.unwrap();
            assert_eq!(
                (client.generation(), client.api_version()),
                (Generation::Orka2, None)
            );
            client.sign_in().await.unwrap();
            assert_eq!(client.sign_out().await.unwrap(), SignOut::KeptShared);
            assert_eq!(fake.count("DELETE", "/token"), 0);
        }
    }

    #[tokio::test]
    async fn repeats_a_probe_that_fails_in_passing() {
        let failures = Mutex::new(2);
        let fake = Fake::start(move |request| {
            let mut left = failures.lock().unwrap();
            if request.path == "/api/v1/cluster-info" && *left > 0 {
                *left -= 1;
                return raw(503, "text/html", "starting");
            }
            orka3(request)
        })
        .await;
        let client = Client::connect(config(&fake.url, token())).await.unwrap();
        assert_eq!(client.generation(), Generation::Orka3);
    }

    #[tokio::test]
    async fn goes_on_as_told_when_a_release_answers_oddly_but_not_when_nobody_does() {
        let fake = Fake::start(|_| page_not_found()).await;
        for (choice, generation) in [
            (VersionChoice::V2, Generation::Orka2),
            (VersionChoice::V3, Generation::Orka3),
        ] {
            let mut config = config(&fake.url, login());
            config.version = choice;
            let client = Client::connect(config.clone()).await.unwrap();
            assert_eq!(
                (client.generation(), client.api_version()),
                (generation, None)
            );
            let closed = closed_port().await;
            config.endpoint = closed.parse().unwrap();
            assert!(matches!(
                Client::connect(config).await.unwrap_err(),
                Error::Unreachable { .. }
            ));
        }
    }

    #[tokio::test]
    async fn refuses_a_namespace_that_no_orka_3_has() {
        let fake = Fake::start(orka3).await;
        let mut config = config(&fake.url, token());
        config.namespace = "production".into();
        let error = Client::connect(config).await.unwrap_err();
        assert!(
            error.hint().unwrap().contains("`orka-production`"),
            "{error}"
        );
    }
}

async fn closed_port() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

mod reaching {
    use super::*;

    #[tokio::test]
    async fn tells_refused_connections_from_unknown_hosts() {
        let refused = Client::connect(config(&closed_port().await, token()))
            .await
            .unwrap_err();
        assert!(
            matches!(
                refused,
                Error::Unreachable {
                    kind: UnreachableKind::Refused,
                    ..
                }
            ),
            "{refused:?}"
        );
        assert!(refused.is_retryable() && !refused.may_have_happened());
        let unknown = Client::connect(config("http://orka.invalid", token()))
            .await
            .unwrap_err();
        assert!(
            matches!(
                unknown,
                Error::Unreachable {
                    kind: UnreachableKind::Dns,
                    ..
                }
            ),
            "{unknown:?}"
        );
    }

    #[tokio::test]
    async fn a_deploy_that_could_not_be_sent_is_tried_again_and_did_not_happen() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = config(&format!("http://{address}"), token());
        config.version = VersionChoice::V3;
        // The one connection that is accepted serves the probe, and is closed by it.
        let server = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let body = r#"{"apiEndpoint":"https://x"}"#;
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + body).as_bytes()).await.unwrap();
        });
        let client = Client::connect(config).await.unwrap();
        server.await.unwrap();
        let request = DeployRequest {
            image: Some("sonoma.orkasi".into()),
            ..DeployRequest::new(NAME)
        };
        let error = client.deploy(&request).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Unreachable {
                    kind: UnreachableKind::Refused,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(!error.may_have_happened());
    }

    #[tokio::test]
    async fn stops_reading_an_answer_that_has_no_end() {
        let fake = Fake::start(|request| match request.path.as_str() {
            "/api/v1/namespaces/orka-default/vms" => Answer::Endless,
            _ => orka3(request),
        })
        .await;
        let client = Client::connect(config(&fake.url, token())).await.unwrap();
        let error = client.vms().await.unwrap_err();
        assert!(
            matches!(&error, Error::UnexpectedReply { why, .. } if why == "more than 8 MiB"),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn reads_an_answer_of_just_the_largest_size() {
        let filler = " ".repeat(BODY_BYTES_MAX - r#"{"items":[]}"#.len());
        for (extra, is_read) in [("", true), (" ", false)] {
            let body = format!(r#"{{"items":[]}}{filler}{extra}"#);
            let fake = Fake::start(move |request| match request.path.as_str() {
                "/api/v1/namespaces/orka-default/vms" => raw(200, "application/json", body.clone()),
                _ => orka3(request),
            })
            .await;
            let client = Client::connect(config(&fake.url, token())).await.unwrap();
            assert_eq!(client.vms().await.is_ok(), is_read);
        }
    }

    #[tokio::test]
    async fn q37_uses_the_proxy_of_the_environment() {
        const CHILD: &str = "ORKA_CLIENT_TEST_BEHIND_PROXY";
        if std::env::var_os(CHILD).is_some() {
            let client = Client::connect(config("http://orka.invalid", token()))
                .await
                .unwrap();
            assert_eq!(client.vms().await.unwrap(), []);
            return;
        }
        let proxy = Fake::start(|request| {
            let path = request
                .path
                .strip_prefix("http://orka.invalid")
                .unwrap()
                .to_owned();
            orka3(&Request {
                path,
                ..request.clone()
            })
        })
        .await;
        // The environment belongs to the process, so the other side of the test gets one of its own.
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "reaching::q37_uses_the_proxy_of_the_environment"])
            .env(CHILD, "1")
            .env("http_proxy", &proxy.url)
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .output()
            .await
            .unwrap();
        assert!(
            child.status.success(),
            "{}",
            String::from_utf8_lossy(&child.stdout)
        );
        assert_eq!(
            proxy.count(
                "GET",
                "http://orka.invalid/api/v1/namespaces/orka-default/vms"
            ),
            1
        );
    }
}

mod redirects {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_that_moves_to_https_is_given_credentials_only_there() {
        let tls = Tls::new("127.0.0.1");
        let secure = tls.serve(orka3).await;
        let target = secure.url.clone();
        let plain =
            Fake::start(move |request| moved(301, &format!("{target}{}", request.path))).await;
        let mut config = config(&plain.url, token());
        config.ca_file = Some(tls.ca_file());
        let client = Client::connect(config).await.unwrap();
        client.vms().await.unwrap();
        assert_eq!(client.endpoint().to_string(), secure.url);
        assert!(
            plain
                .requests()
                .iter()
                .all(|request| request.header("authorization").is_none())
        );
        assert_eq!(plain.requests().len(), 2, "the probes alone");
        assert_eq!(
            secure.count("GET", "/api/v1/namespaces/orka-default/vms"),
            1
        );
    }

    #[tokio::test]
    async fn a_redirect_on_the_same_host_keeps_method_body_and_token() {
        for status in [301, 302, 307, 308] {
            let fake = Fake::orka2("2.4.0", move |request| match request.path.as_str() {
                "/resources/vm/deploy" => moved(status, "/v2/deploy?x=1"),
                _ => reply(200, envelope(json!({ "ip": "10.0.0.1", "ssh_port": 22 }))),
            })
            .await;
            let client = Client::connect(config(&fake.url, login())).await.unwrap();
            client.deploy(&DeployRequest::new(NAME)).await.unwrap();
            let request = fake.only("POST", "/v2/deploy?x=1");
            assert_eq!(request.json(), json!({ "orka_vm_name": NAME }));
            assert_eq!(
                request.header("authorization"),
                Some(format!("Bearer {TOKEN}").as_str())
            );
        }
    }

    #[tokio::test]
    async fn neither_token_nor_password_goes_to_another_host_or_port() {
        let other = Fake::start(|_| reply(200, envelope(json!({ "token": "stolen" })))).await;
        let same_host = format!("{}/x", other.url);
        let other_host = same_host.replace("127.0.0.1", "u:secret@localhost");
        for target in [same_host, other_host] {
            let location = target.clone();
            let fake = Fake::start(move |request| match request.path.as_str() {
                "/health-check" => reply(200, envelope(json!({ "api_version": "2.4.0" }))),
                "/api/v1/cluster-info" => page_not_found(),
                _ => moved(307, &location),
            })
            .await;
            let client = Client::connect(config(&fake.url, login())).await.unwrap();
            let error = client.sign_in().await.unwrap_err();
            assert!(matches!(error, Error::Redirected { .. }), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("secret"));
            let client = Client::connect(config(&fake.url, token())).await.unwrap();
            assert!(matches!(
                client.vms().await.unwrap_err(),
                Error::Redirected { .. }
            ));
        }
        assert_eq!(other.requests().len(), 0);
    }

    #[tokio::test]
    async fn another_name_is_another_host_even_on_the_same_port() {
        let fake = Fake::orka2("2.4.0", |request| {
            let host = request
                .header("host")
                .unwrap()
                .replace("127.0.0.1", "localhost");
            moved(307, &format!("http://{host}/taken"))
        })
        .await;
        let client = Client::connect(config(&fake.url, login())).await.unwrap();
        let error = client.vms().await.unwrap_err();
        assert!(
            matches!(&error, Error::Redirected { target, .. } if target.contains("localhost")),
            "{error:?}"
        );
        assert_eq!(fake.count("GET", "/taken"), 0);
    }

    #[tokio::test]
    async fn nothing_goes_back_from_https_to_http() {
        let plain = Fake::start(orka3).await;
        let target = plain.url.clone();
        let tls = Tls::new("127.0.0.1");
        let secure = tls
            .serve(move |request| moved(308, &format!("{target}{}", request.path)))
            .await;
        let mut config = config(&secure.url, token());
        config.ca_file = Some(tls.ca_file());
        let error = Client::connect(config).await.unwrap_err();
        assert!(matches!(error, Error::Redirected { .. }), "{error:?}");
        assert_eq!(plain.requests().len(), 0);
    }

    #[tokio::test]
    async fn gives_up_on_a_redirect_that_leads_nowhere() {
        let fake = Fake::orka2("2.4.0", |request| moved(302, &request.path)).await;
        let client = Client::connect(config(&fake.url, login())).await.unwrap();
        assert!(matches!(
            client.vms().await.unwrap_err(),
            Error::Redirected { .. }
        ));
        let fake = Fake::orka2("2.4.0", |_| moved(303, "/elsewhere")).await;
        let client = Client::connect(config(&fake.url, login())).await.unwrap();
        let error = client.deploy(&DeployRequest::new(NAME)).await.unwrap_err();
        assert!(
            matches!(error, Error::UnexpectedReply { status: 303, .. }),
            "{error:?}"
        );
        assert_eq!(fake.count("GET", "/elsewhere"), 0);
    }
}
