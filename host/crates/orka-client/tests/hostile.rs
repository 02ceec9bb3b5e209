//! Whatever a server sends: no panic, no flood, no secret in any text.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orka_client::{
    Client, ClientConfig, Credentials, DeployRequest, Error, TokenSource, VersionChoice,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::{Answer, Fake, PASSWORD, TOKEN, config, login, orka3, raw, refusal, token};

const NAME: &str = "tekton-1a2b3c4d";

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
                    prop_assert!(shown.chars().count() < 12 * 64 * 1024, "{}", shown.len());
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
