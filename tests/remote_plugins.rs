//! Plugins that are fetched: from a real registry, and from servers that misbehave.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end::{Asked, Cluster, Ended, REGISTRY_PASSWORD, Registry, Reply, Step, Web, bundled};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

const GRANT_ALL: &str = "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\n";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";

fn path(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// `plugin push` of a bundled plugin.
fn push(to: &str) -> Step {
    let file = path(bundled("build"));
    Step::new(&["plugin", "push"]).argument(file).argument(to)
}

/// The reference that `plugin push` printed.
#[track_caller]
fn pushed(ended: &Ended) -> String {
    assert_eq!(ended.code, Some(0), "{ended}");
    ended.stdout.trim().to_owned()
}

/// A run with a plugin that is to be fetched.
fn run(cluster: &Cluster, plugin: &str) -> Step {
    cluster
        .build("echo hello from the VM")
        .flag("--plugin", plugin)
        .granted(GRANT_ALL)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_runs_by_its_digest_and_is_granted_by_its_own() {
    let registry = Registry::start().await;
    let first = push(&registry.repository("team/build:1.0")).ended().await;
    let reference = pushed(&first);
    let component = std::fs::read(bundled("build")).unwrap();
    first.assert_says(&["pushed `build`", &digest(&component)]);
    let expected = registry.repository("team/build@sha256:");
    assert!(reference.starts_with(&expected), "{reference}");
    // Without a tag, and again: nothing depends on when it is pushed.
    let again = push(&registry.repository("team/build")).ended().await;
    assert_eq!(pushed(&again), reference);

    let cluster = Cluster::start().await;
    let own = format!(
        "[[grant]]\nplugin = \"build\"\ndigest = \"{}\"\ncapabilities = [\"*\"]\n",
        digest(&component)
    );
    let ended = run(&cluster, &reference).granted(&own).ended().await;
    ended.assert(0, "succeeded");
    assert!(ended.stdout.contains("hello from the VM"), "{ended}");
    ended.assert_says(&[&digest(&component)]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pushed_is_answered_with_what_to_do_about_a_push() {
    let to = "oci://127.0.0.1:1/team/it:1.0";
    let push = async |file: &str| {
        let step = Step::new(&["plugin", "push"]);
        step.argument(file).argument(to).ended().await
    };
    let named = push("build").await;
    assert_eq!(named.code, Some(212), "{named}");
    named.assert_says(&["needs no registry"]);
    let guard = push(bundled("allowed-vms").to_str().unwrap()).await;
    assert_eq!(guard.code, Some(212), "{guard}");
    guard.assert_says(&["files in the directory that is given with `--guards`"]);
    let dead = push(bundled("build").to_str().unwrap()).await;
    assert_eq!(dead.code, Some(217), "{dead}");
    dead.assert_says(&["`127.0.0.1:1` cannot be reached", "the registry's address"]);
    assert!(!dead.stderr.contains("deployed"), "{dead}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_laid_out_as_the_cncf_has_it() {
    let registry = Registry::start().await;
    let step = push(&registry.repository("build")).environment("SOURCE_DATE_EPOCH", "1700000000");
    let reference = pushed(&step.ended().await);
    let component = std::fs::read(bundled("build")).unwrap();
    let manifest = registry.stored(reference.split_once('@').unwrap().1);
    assert_eq!(manifest["mediaType"], MANIFEST);
    assert_eq!(manifest["config"]["mediaType"], CONFIG);
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1);
    assert_eq!(layers[0]["mediaType"], LAYER);
    assert_eq!(layers[0]["digest"], digest(&component));
    assert_eq!(layers[0]["size"], component.len());
    let annotations = &manifest["annotations"];
    assert_eq!(annotations["org.opencontainers.image.title"], "build");
    assert_eq!(annotations["org.opencontainers.image.version"], "0.1.0");
    let config = registry.stored(manifest["config"]["digest"].as_str().unwrap());
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    assert_eq!(
        (&config["architecture"], &config["os"]),
        (&json!("wasm"), &json!("wasip2"))
    );
    assert_eq!(config["layerDigests"], json!([digest(&component)]));
    assert_eq!(
        config["component"]["exports"],
        json!(["orka:plugin/policy@0.1.0"])
    );
    let imports = config["component"]["imports"].as_array().unwrap();
    assert!(
        imports.contains(&json!("orka:plugin/cluster@0.1.0")),
        "{imports:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_about_plugins_takes_what_a_registry_has() {
    let registry = Registry::start().await;
    let reference = pushed(&push(&registry.repository("build")).ended().await);
    let ask = |words: &[&str]| {
        let step = Step::new(&[&["plugin"][..], words].concat());
        step.argument(reference.clone())
    };
    let inspected = ask(&["inspect", "--json"]).ended().await;
    assert_eq!(inspected.code, Some(0), "{inspected}");
    let component = std::fs::read(bundled("build")).unwrap();
    let shown = inspected.summary();
    assert_eq!(
        (&shown["digest"], &shown["path"]),
        (&json!(digest(&component)), &json!(reference))
    );
    assert_eq!(
        shown["bundled"], false,
        "no stock grant for what comes from elsewhere"
    );

    let checked = ask(&["check"]).ended().await;
    assert_eq!(checked.code, Some(0), "{checked}");
    let task = ask(&["task"]).flag("--image", "orka-step:1").ended().await;
    assert_eq!(task.code, Some(0), "{task}");
    // The step fetches it as well, with the login of a workspace.
    assert!(task.stdout.contains(&reference), "{task}");
    assert!(task.stdout.contains("set registry-credentials"), "{task}");

    let step = ask(&["pull"]);
    let file = step.scratch_file("pulled.wasm", b"older");
    let pulled = step.flag("--output", file.clone()).ended().await;
    assert_eq!(pulled.code, Some(0), "{pulled}");
    assert!(pulled.stdout.contains(&digest(&component)), "{pulled}");
    assert_eq!(std::fs::read(file).unwrap(), component);

    let step = ask(&["compile"]);
    let into = step.scratch_file("code/none", b"");
    let into = into.strip_suffix("/none").unwrap().to_owned();
    let compiled = step.flag("--into", into.clone()).ended().await;
    assert_eq!(compiled.code, Some(0), "{compiled}");
    assert!(
        PathBuf::from(into).join("build.cwasm").is_file(),
        "{compiled}"
    );

    let cluster = Cluster::start().await;
    let doctor = cluster.doctor().flag("--plugin", reference.clone());
    let doctor = doctor.granted(GRANT_ALL).ended().await;
    assert_eq!(doctor.code, Some(0), "{doctor}");
    assert!(doctor.stdout.contains(&digest(&component)), "{doctor}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_a_login_gets_the_mounted_one_and_no_log_shows_it() {
    let registry = Registry::with_login().await;
    let repository = registry.repository("team/build");
    let right = path(registry.credentials(REGISTRY_PASSWORD));
    let wrong = path(registry.credentials("another-password"));
    let refused = push(&repository).ended().await;
    assert_eq!(refused.code, Some(211), "{refused}");
    refused.assert_says(&["asks for a login", "--registry-credentials"]);
    let step = push(&repository).flag("--registry-credentials", right.clone());
    let reference = pushed(&step.ended().await);

    let cluster = Cluster::start().await;
    let ended = run(&cluster, &reference).ended().await;
    ended.assert(211, "infra-failed");
    ended.assert_says(&["asks for a login", "kubernetes.io/dockerconfigjson"]);
    let ended = run(&cluster, &reference)
        .environment("ORKA_REGISTRY_CREDENTIALS", &wrong)
        .ended()
        .await;
    ended.assert(211, "infra-failed");
    ended.assert_says(&["declines `ci`", "wrong/.dockerconfigjson"]);
    cluster.assert_untouched();

    let ended = run(&cluster, &reference)
        .argument("-vv")
        .environment("ORKA_REGISTRY_CREDENTIALS", &right)
        .ended()
        .await;
    ended.assert(0, "succeeded");
    for secret in [
        REGISTRY_PASSWORD.to_owned(),
        STANDARD.encode(format!("ci:{REGISTRY_PASSWORD}")),
    ] {
        assert!(!ended.stderr.contains(&secret), "{ended}");
    }
    cluster.assert_purged();
    // What `docker login` wrote, where Docker looks for it.
    std::fs::rename(
        format!("{right}/.dockerconfigjson"),
        format!("{right}/config.json"),
    )
    .unwrap();
    let inspected = Step::new(&["plugin", "inspect"])
        .argument(&reference)
        .environment("DOCKER_CONFIG", &right);
    let inspected = inspected.ended().await;
    assert_eq!(inspected.code, Some(0), "{inspected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_the_registry_does_not_have_is_told() {
    let registry = Registry::start().await;
    let reference = pushed(&push(&registry.repository("build")).ended().await);
    let other = format!("{}@{}", registry.repository("build"), digest(b"other"));
    let cluster = Cluster::start().await;
    let ended = run(&cluster, &other).ended().await;
    ended.assert(212, "plugin-failed");
    ended.assert_says(&["the registry has no manifest", &digest(b"other")]);
    let tagged = reference.split_once('@').unwrap().0.to_owned() + ":1.0";
    let ended = run(&cluster, &tagged).ended().await;
    ended.assert(211, "infra-failed");
    ended.assert_says(&["names a tag", "plugin push", "@sha256:"]);
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_from_a_web_server_runs_and_only_if_it_is_the_one_that_was_meant() {
    let component = std::fs::read(bundled("build")).unwrap();
    let served = component.clone();
    let web = Web::with_tls(move |asked| match asked.target.as_str() {
        "/moved.wasm" => Reply::redirect("/build.wasm?signature=0123456789"),
        "/build.wasm?signature=0123456789" => Reply::ok(served.clone()),
        "/short.wasm" => Reply::ok(&served[..served.len() / 2]).announcing(served.len()),
        "/huge.wasm" => Reply::ok("").announcing(128 * 1024 * 1024 + 1),
        "/down.wasm" => Reply::redirect("http://127.0.0.1:9/build.wasm"),
        "/round.wasm" => Reply::redirect("/round.wasm"),
        "/busy.wasm" => Reply::status(503).header("retry-after", "0"),
        _ => Reply::status(404),
    })
    .await;
    let cluster = Cluster::start().await;
    let get = |path: &str, digest: &str| {
        run(&cluster, &format!("{}#{digest}", web.url(path)))
            .environment("ORKA_REGISTRY_CA", web.authority().to_str().unwrap())
    };
    let right = digest(&component);
    for (path, pin, code, outcome, said) in [
        (
            "/moved.wasm",
            digest(b"other"),
            212,
            "plugin-failed",
            "its digest is `",
        ),
        (
            "/short.wasm",
            right.clone(),
            217,
            "infra-failed",
            "the connection to `127.0.0.1` broke",
        ),
        (
            "/huge.wasm",
            right.clone(),
            212,
            "plugin-failed",
            "larger than 128.0 MiB",
        ),
        (
            "/down.wasm",
            right.clone(),
            212,
            "plugin-failed",
            "leads to `http://127.0.0.1`, which is not https",
        ),
        (
            "/round.wasm",
            right.clone(),
            217,
            "infra-failed",
            "led on too often",
        ),
        (
            "/busy.wasm",
            right.clone(),
            217,
            "infra-failed",
            "answered 503",
        ),
        (
            "/none.wasm",
            right.clone(),
            212,
            "plugin-failed",
            "there is nothing",
        ),
    ] {
        let ended = get(path, &pin).ended().await;
        ended.assert(code, outcome);
        ended.assert_says(&[said, path]);
    }
    let times = |wanted: &str| {
        web.asked()
            .iter()
            .filter(|asked| asked.target == wanted)
            .count()
    };
    assert_eq!((times("/busy.wasm"), times("/huge.wasm")), (3, 1));
    // Nobody vouches for the certificate: told with the way out, and not tried again.
    let unknown = get("/moved.wasm", &right)
        .environment("ORKA_REGISTRY_CA", "")
        .ended()
        .await;
    unknown.assert(211, "infra-failed");
    unknown.assert_says(&["cannot be reached", "--registry-ca"]);
    cluster.assert_untouched();

    let ended = get("/moved.wasm", &right).ended().await;
    ended.assert(0, "succeeded");
    assert!(
        !ended.stderr.contains("0123456789"),
        "the query may open more than this file: {ended}"
    );
    // The system's authorities are asked as everywhere else.
    let system = Step::new(&["plugin", "inspect"])
        .argument(format!("{}#{right}", web.url("/moved.wasm")))
        .environment("SSL_CERT_FILE", web.authority().to_str().unwrap())
        .ended()
        .await;
    assert_eq!(system.code, Some(0), "{system}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_with_the_plugin_is_told_with_all_the_others() {
    let ended = Step::new(&["run"])
        .flag("--plugin", "https://example.com/build.wasm")
        .flag("--guard", format!("oci://example.com/g@{}", digest(b"g")))
        .flag("--workspace", "/no-workspace")
        .ended()
        .await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&[
        "not pinned by a digest",
        "guards are not fetched",
        "/no-workspace",
        "no Orka endpoint",
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_of_the_environment_is_gone_through() {
    let proxy = Web::start(|_| Reply::status(403)).await;
    let url = format!("https://plugins.example.com/build.wasm#{}", digest(b"x"));
    let ended = Step::new(&["plugin", "inspect"])
        .argument(url)
        .environment("HTTPS_PROXY", &proxy.url(""))
        .ended()
        .await;
    assert_eq!(ended.code, Some(217), "{ended}");
    ended.assert_says(&["`plugins.example.com` cannot be reached"]);
    let asked = &proxy.asked()[0];
    assert_eq!(asked.method, "CONNECT");
    assert_eq!(asked.target, "plugins.example.com:443");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_fetch_that_hangs() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/build.wasm", silent.local_addr().unwrap());
    let cluster = Cluster::start().await;
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let running = run(&cluster, &format!("{url}#{}", digest(b"x"))).start();
        let _open = silent.accept().await.unwrap();
        running.signal(signal);
        running.ended().await.assert(code, "cancelled");
    }
    cluster.assert_untouched();
}

/// What a registry holds, by path.
type Held = Vec<(String, Vec<u8>)>;

/// One artifact of the repository `x`, made of these parts, and the digest of its manifest.
fn artifact(config: Value, layers: &[(&str, &[u8])]) -> (Held, String) {
    let blob = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()});
    let config = config.to_string().into_bytes();
    let described: Vec<Value> = layers
        .iter()
        .map(|(media_type, bytes)| blob(media_type, bytes))
        .collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": blob(CONFIG, &config), "layers": described});
    let manifest = manifest.to_string().into_bytes();
    let name = digest(&manifest);
    let mut held = vec![
        (format!("/v2/x/manifests/{name}"), manifest),
        (format!("/v2/x/blobs/{}", digest(&config)), config),
    ];
    let blobs = layers
        .iter()
        .map(|(_, bytes)| (format!("/v2/x/blobs/{}", digest(bytes)), bytes.to_vec()));
    held.extend(blobs);
    (held, name)
}

/// A registry that has this, and the reference to the manifest of this digest.
async fn serve(held: Held, name: &str) -> (Web, String) {
    let web = Web::start(move |asked: &Asked| {
        let found = held.iter().find(|(path, _)| *path == asked.target);
        found.map_or_else(|| Reply::status(404), |(_, bytes)| Reply::ok(bytes.clone()))
    })
    .await;
    let reference = format!("oci://{}/x@{name}", web.address());
    (web, reference)
}

async fn made_of(config: Value, layers: &[(&str, &[u8])]) -> (Web, String) {
    let (held, name) = artifact(config, layers);
    serve(held, &name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_before_it_is_downloaded() {
    let component = std::fs::read(bundled("build")).unwrap();
    let cluster = Cluster::start().await;
    for (imports, said) in [
        (
            json!(["acme:tool/work@1.0.0"]),
            "imports `acme:tool/work@1.0.0`, which is not part of the contract",
        ),
        (
            json!(["orka:plugin/cluster@0.9.0"]),
            "imports `orka:plugin/cluster@0.9.0`; this host provides 0.1",
        ),
    ] {
        let config =
            json!({"component": {"imports": imports, "exports": ["orka:plugin/policy@0.1.0"]}});
        let (web, reference) = made_of(config, &[(LAYER, &component)]).await;
        let ended = run(&cluster, &reference).ended().await;
        ended.assert(212, "plugin-failed");
        ended.assert_says(&[said, "rebuild it against version 0.1"]);
        let asked: Vec<String> = web.asked().into_iter().map(|asked| asked.target).collect();
        assert_eq!(asked.len(), 2, "{asked:?}");
        assert!(
            asked
                .iter()
                .all(|target| !target.contains(&digest(&component))),
            "{asked:?}"
        );
    }
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_is_no_single_component_is_refused() {
    let component = std::fs::read(bundled("build")).unwrap();
    let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
    let cluster = Cluster::start().await;
    for (layers, said) in [
        (
            vec![(LAYER, component.as_slice()), (LAYER, b"\0asm")],
            "has 2 layers",
        ),
        (vec![(tar, component.as_slice())], "not a Wasm component"),
        // Whatever the configuration says, the bytes are looked at as those of a file are.
        (
            vec![(LAYER, b"\0asm\x01\0\0\0".as_slice())],
            "it is a core module",
        ),
    ] {
        let (_web, reference) = made_of(json!({}), &layers).await;
        let ended = run(&cluster, &reference).ended().await;
        ended.assert(212, "plugin-failed");
        ended.assert_says(&[said, &reference]);
    }
    cluster.assert_untouched();
    let older = "application/vnd.wasm.content.layer.v1+wasm";
    let (_web, reference) = made_of(json!({}), &[(older, &component)]).await;
    run(&cluster, &reference)
        .ended()
        .await
        .assert(0, "succeeded");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_serves_something_else_is_found_out() {
    let component = std::fs::read(bundled("build")).unwrap();
    let (held, name) = artifact(json!({}), &[(LAYER, &component)]);
    assert_eq!(held.len(), 3);
    for at in 0..held.len() {
        let mut held = held.clone();
        // One bit of the manifest, the configuration or the component.
        *held[at].1.last_mut().unwrap() ^= 1;
        let (_web, reference) = serve(held, &name).await;
        let ended = Step::new(&["plugin", "inspect"])
            .argument(reference)
            .ended()
            .await;
        assert_eq!(ended.code, Some(212), "{ended}");
        ended.assert_says(&[
            "what is served is not what was asked for",
            "find out who changed it",
        ]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_asked_for_where_the_registry_says_and_passwords_go_nowhere_else() {
    let component = std::fs::read(bundled("build")).unwrap();
    let (store, reference) = made_of(json!({}), &[(LAYER, &component)]).await;
    let name = reference.split_once('@').unwrap().1.to_owned();
    // A front end that wants a token, hands it out itself, and leads to the store.
    let realm = Arc::new(std::sync::Mutex::new(String::new()));
    let (told, elsewhere) = (Arc::clone(&realm), store.url(""));
    let front = Web::start(move |asked: &Asked| {
        let authorization = asked
            .headers
            .get("authorization")
            .map_or("", String::as_str);
        if asked.target.starts_with("/token?") {
            return Reply::ok(r#"{"token":"token-of-the-registry"}"#);
        }
        if authorization != "Bearer token-of-the-registry" {
            let realm = told.lock().unwrap().clone();
            return Reply::status(401).header(
                "www-authenticate",
                format!(r#"Bearer realm="{realm}",service="s",scope="repository:x:pull""#),
            );
        }
        Reply::redirect(format!("{elsewhere}{}", asked.target))
    })
    .await;
    *realm.lock().unwrap() = front.url("/token");
    let auth = STANDARD.encode("ci:secret-of-ci");
    let inspect = || {
        let step = Step::new(&["plugin", "inspect"])
            .argument(format!("oci://{}/x@{name}", front.address()))
            .argument("-vv");
        let config = json!({"auths": {front.address(): {"auth": auth}}}).to_string();
        let file = step.scratch_file("config.json", config.as_bytes());
        step.flag("--registry-credentials", file)
    };
    let ended = inspect().ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    let asked = front.asked();
    let token = asked
        .iter()
        .find(|asked| asked.target.starts_with("/token?"))
        .unwrap();
    assert_eq!(token.target, "/token?service=s&scope=repository%3Ax%3Apull");
    assert_eq!(token.headers["authorization"], format!("Basic {auth}"));
    assert!(
        asked
            .iter()
            .filter(|asked| !asked.target.starts_with("/token?"))
            .all(|asked| {
                asked
                    .headers
                    .get("authorization")
                    .is_none_or(|value| !value.contains(&auth))
            })
    );
    assert!(
        store
            .asked()
            .iter()
            .all(|asked| !asked.headers.contains_key("authorization"))
    );
    for secret in ["secret-of-ci", &auth, "token-of-the-registry"] {
        assert!(!ended.stderr.contains(secret), "{ended}");
    }
    // Not even a registry may send a password over the network in the clear.
    *realm.lock().unwrap() = "http://198.51.100.7/token".to_owned();
    let ended = inspect().ended().await;
    assert_eq!(ended.code, Some(212), "{ended}");
    ended.assert_says(&["hands out tokens at `198.51.100.7`, which is not https"]);
}
