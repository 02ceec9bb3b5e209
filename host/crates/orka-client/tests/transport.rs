//! Below the API: detection, redirects, TLS, proxies, limits, secrets.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orka_client::{
    BODY_BYTES_MAX, Client, ClientConfig, Credentials, DeployRequest, Error, Generation,
    TokenSource, UnreachableKind, VersionChoice,
};
use serde_json::json;
use support::{
    Answer, Fake, PASSWORD, Request, TOKEN, config, envelope, login, page_not_found, raw, refusal,
    reply, token, with_header,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

const NAME: &str = "tekton-1a2b3c4d";

fn moved(status: u16, location: &str) -> Answer {
    with_header(raw(status, "text/plain", ""), "location", location)
}

fn orka3(request: &Request) -> Answer {
    match request.path.as_str() {
        "/api/v1/cluster-info" => {
            reply(200, json!({ "apiEndpoint": "https://10.221.188.19:6443" }))
        }
        "/health-check" => page_not_found(),
        _ => reply(200, json!({ "items": [] })),
    }
}

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

/// A server certificate and what is needed to trust it.
struct Tls {
    acceptor: TlsAcceptor,
    pem: String,
    directory: tempfile::TempDir,
}

impl Tls {
    fn new(name: &str) -> Self {
        Self::with(name, |_| ())
    }

    fn with(name: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Self {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            pem: certificate.pem(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn ca_file(&self) -> PathBuf {
        let path = self.directory.path().join("ca.pem");
        std::fs::write(&path, &self.pem).unwrap();
        path
    }

    async fn serve(&self, handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Fake {
        let acceptor = self.acceptor.clone();
        let accept = move |stream| {
            let acceptor = acceptor.clone();
            async move { acceptor.accept(stream).await.ok() }
        };
        Fake::start_with("https", accept, handler).await
    }
}

mod tls {
    use super::*;

    #[tokio::test]
    async fn q22_trusts_a_private_authority_that_is_named_and_no_other() {
        let tls = Tls::new("127.0.0.1");
        let fake = tls.serve(orka3).await;
        let mut config = config(&fake.url, token());
        let error = Client::connect(config.clone()).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Unreachable {
                    kind: UnreachableKind::Tls,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.hint().unwrap().contains("name its CA file"));
        assert!(!error.is_retryable());

        config.ca_file = Some(tls.ca_file());
        Client::connect(config.clone())
            .await
            .unwrap()
            .vms()
            .await
            .unwrap();

        config.ca_file = None;
        config.insecure_tls = true;
        Client::connect(config).await.unwrap().vms().await.unwrap();
    }

    #[tokio::test]
    async fn says_what_is_wrong_with_a_certificate() {
        let expired: fn(&mut rcgen::CertificateParams) = |params| {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        };
        for (tls, hint) in [
            (Tls::new("other.example.com"), "for another name"),
            (Tls::with("127.0.0.1", expired), "has expired"),
        ] {
            let fake = tls.serve(orka3).await;
            let mut config = config(&fake.url, token());
            config.ca_file = Some(tls.ca_file());
            let error = Client::connect(config).await.unwrap_err();
            assert!(error.hint().unwrap().contains(hint), "{error:?}");
        }
    }

    #[tokio::test]
    async fn suggests_http_where_the_server_speaks_it() {
        let fake = Fake::start(orka3).await;
        let error = Client::connect(config(&fake.url.replace("http:", "https:"), token()))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("`http://`"), "{error:?}");
    }

    #[tokio::test]
    async fn refuses_a_ca_file_without_certificates() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let mut config = config("http://127.0.0.1:1", token());
        config.ca_file = Some(path.clone());
        for content in [
            None,
            Some(""),
            Some("no certificate"),
            Some("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
        ] {
            if let Some(content) = content {
                std::fs::File::create(&path)
                    .unwrap()
                    .write_all(content.as_bytes())
                    .unwrap();
            }
            let error = Client::connect(config.clone()).await.unwrap_err();
            assert!(
                matches!(&error, Error::Invalid { what, .. } if what.contains("ca.pem")),
                "{content:?}: {error:?}"
            );
        }
    }
}

mod secrets {
    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn holds_a_secret(text: &str) -> bool {
        [PASSWORD, TOKEN, "licence-key-9"]
            .iter()
            .any(|secret| text.contains(secret))
    }

    #[tokio::test]
    async fn no_secret_is_ever_printed_or_logged() {
        let log = Buffer::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);

        let fake = Fake::orka2("2.1.0", |request| match request.path.as_str() {
            "/resources/vm/list" => refusal(401, "invalid signature"),
            "/validate-license-key" => refusal(401, "Provided license key is not valid"),
            "/resources/vm/deploy" => Answer::Close,
            _ => raw(500, "text/html", "<html>"),
        })
        .await;
        let config = config(&fake.url, login());
        let client = Client::connect(config.clone()).await.unwrap();
        client.sign_in().await.unwrap();
        let mut printed = format!("{config:?} {client:?} {:?}", token());
        for error in [
            client.vms().await.unwrap_err(),
            client.deploy(&DeployRequest::new(NAME)).await.unwrap_err(),
            client.purge(NAME).await.unwrap_err(),
            client.sign_out().await.unwrap_err(),
        ] {
            printed += &format!("{error} {error:?} {:?}", error.hint());
        }
        client.check_licence_key().await.unwrap();
        let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(!holds_a_secret(&printed), "{printed}");
        assert!(!holds_a_secret(&logged), "{logged}");
        assert!(
            logged.contains("orka.request") && logged.contains("status=401"),
            "{logged}"
        );
        assert!(logged.contains("path=\"/resources/vm/deploy\""), "{logged}");
    }

    #[tokio::test]
    async fn a_token_that_no_header_can_carry_is_refused_without_showing_it() {
        let fake = Fake::start(orka3).await;
        for bad in ["se cret", "secret\u{1}", "sécret", " \n"] {
            let credentials = Credentials::Token(TokenSource::Static(bad.into()));
            let client = Client::connect(config(&fake.url, credentials))
                .await
                .unwrap();
            let error = client.vms().await.unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
            assert!(!format!("{error:?}").contains("cret"), "{error:?}");
        }
    }
}

mod properties {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    fn body() -> impl Strategy<Value = Vec<u8>> {
        let known = r#"{"message":"","help":{},"errors":[],"ip":"10.0.0.1","ssh_port":"8822","vm_id":"1","items":[{"name":"x",
            "ssh":1}],"virtual_machine_resources":[{"status":[{"virtual_machine_name":"x"}]}],"kind":"Status","name":"x"}"#;
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..400),
            "<html>(\\PC|\\s){0,300}".prop_map(String::into_bytes),
            (0..known.len()).prop_map(move |end| known.as_bytes()[..end].to_vec()),
            (0..known.len(), any::<u8>()).prop_map(move |(at, byte)| {
                let mut body = known.as_bytes().to_vec();
                body[at] = byte;
                body
            }),
            (1_usize..20_000).prop_map(|depth| "[".repeat(depth).into_bytes()),
            (1_usize..20_000).prop_map(|depth| r#"{"errors":"#.repeat(depth).into_bytes()),
        ]
    }

    async fn call_everything(client: &Client, request: &DeployRequest) -> Vec<Error> {
        [
            client.deploy(request).await.err(),
            client.vm(NAME).await.err(),
            client.vms().await.err(),
            client.configs().await.err(),
            client.config(NAME).await.err(),
            client.nodes().await.err(),
            client.images().await.err(),
            client.purge(NAME).await.err(),
            client.delete_instance(NAME, None).await.err(),
            client.check_token().await.err(),
            client.cluster_info().await.err(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    #[test]
    fn no_answer_makes_the_client_panic_or_print_more_than_a_line() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let answer = Arc::new(Mutex::new((200, Vec::new())));
        let shared = Arc::clone(&answer);
        let fake = runtime.block_on(Fake::start(move |_| {
            let (status, body) = shared.lock().unwrap().clone();
            raw(status, "application/json", body)
        }));
        let request = DeployRequest {
            image: Some("sonoma.orkasi".into()),
            ..DeployRequest::new(NAME)
        };
        let mut runner = TestRunner::new(Config {
            cases: 150,
            ..Config::default()
        });
        let statuses = prop_oneof![3 => Just(200_u16), 1 => (201_u16..600).prop_filter("has a body", |s| *s != 204 && *s != 304)];
        for version in [VersionChoice::V2, VersionChoice::V3] {
            *answer.lock().unwrap() = (404, Vec::new());
            let mut config: ClientConfig = config(&fake.url, token());
            config.version = version;
            config.retry = orka_client::RetryPolicy::NONE;
            let client = runtime.block_on(Client::connect(config)).unwrap();
            runner
                .run(&(&statuses, body()), |(status, body)| {
                    *answer.lock().unwrap() = (status, body);
                    for error in runtime.block_on(call_everything(&client, &request)) {
                        let shown = format!("{error} {}", error.hint().unwrap_or_default());
                        prop_assert!(!shown.contains(char::is_control), "{shown:?}");
                        prop_assert!(shown.chars().count() < 12_000, "{}", shown.len());
                    }
                    Ok(())
                })
                .unwrap();
        }
    }

    #[test]
    fn a_limit_holds_for_every_call_to_a_silent_server() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let fake = Fake::orka2("2.4.0", |_| Answer::Silence).await;
            let mut config = config(&fake.url, login());
            config.timeouts.call = Duration::from_millis(30);
            config.timeouts.deploy = Duration::from_millis(30);
            let client = Client::connect(config).await.unwrap();
            client.sign_in().await.unwrap();
            let errors = call_everything(&client, &DeployRequest::new(NAME)).await;
            // `cluster_info` asks `/health-check`, which does answer.
            assert_eq!(errors.len(), 10);
            assert!(
                errors
                    .iter()
                    .all(|error| matches!(error, Error::TimedOut { .. })),
                "{errors:?}"
            );
        });
    }
}
