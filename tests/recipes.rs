//! The SDK's recipes, on VMs whose `security`, `launchctl`, `sudo`, `stat` and `brew` behave like macOS's (`fakes/`).

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end::{Cluster, Ended, Step};
use tempfile::TempDir;

/// With every character that a shell or the parser of `security -i` may stumble over.
const PASSWORD: &str = r#"pass "w'o\r$d` #1 longer"#;
const PASSPHRASE: &str = r"p12 \ 'phrase' $(x)";

/// What stands for macOS in a VM.
struct Mac {
    directory: TempDir,
}

impl Mac {
    fn new() -> Self {
        let mac = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        for directory in ["state", "bin"] {
            std::fs::create_dir(mac.path(directory)).unwrap();
        }
        let fakes = Path::new(env!("CARGO_MANIFEST_DIR")).join("fakes");
        for program in ["security", "launchctl", "sudo", "stat", "id"] {
            std::fs::copy(fakes.join(program), mac.path("bin").join(program)).unwrap();
        }
        mac
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn state(&self, name: &str, text: &str) {
        std::fs::write(self.path("state").join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path("state").join(name)).unwrap_or_default()
    }

    /// A locked keychain, with a key in it or without; gives its path.
    fn keychain(&self, key: bool) -> String {
        let path = self.path("login.keychain-db");
        let key = if key { "key\u{20}codesign\n" } else { "" };
        std::fs::write(&path, format!("password {PASSWORD}\nlocked\n{key}")).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn step(&self, cluster: &Cluster, recipe: &str) -> Step {
        let bin = self.path("bin");
        let env = format!(
            "PATH={}:/usr/bin:/bin\nFAKE_STATE={}\nTMPDIR={}",
            bin.display(),
            self.path("state").display(),
            self.directory.path().display()
        );
        let step = cluster
            .guest("recipes")
            .param("recipe", recipe)
            .param("env", &env);
        with_secret(
            with_secret(step, "KEYCHAIN_PASSWORD", PASSWORD),
            "PASSPHRASE",
            PASSPHRASE,
        )
    }

    /// What the process list would have shown.
    fn assert_no_secret_in_arguments(&self) {
        let arguments = self.read("arguments");
        assert!(arguments.contains("-i"), "{arguments}");
        for secret in ["w'o", "phrase"] {
            assert!(!arguments.contains(secret), "{arguments}");
        }
    }
}

fn with_secret(step: Step, name: &str, value: &str) -> Step {
    let file = step.scratch_file(&format!("secrets/{name}"), value.as_bytes());
    let directory = file.strip_suffix(&format!("/{name}")).unwrap().to_owned();
    step.flag("--secrets", directory)
}

/// A PKCS #12 file as the fake reads it, in base64.
fn certificate(passphrase: &str, contents: &str) -> String {
    STANDARD.encode(format!("PKCS12\npassphrase {passphrase}\n{contents}"))
}

const IDENTITY: &str = "key one\nidentity Apple Distribution: Company, Inc. (TEAM123456)\n";

#[track_caller]
fn assert_recipe_fails(ended: &Ended, code: &str, texts: &[&str]) {
    ended.assert(213, "plugin-failed");
    assert_eq!(ended.report["failures"][0]["code"], code, "{ended}");
    ended.assert_says(texts);
    ended.assert_says(&["hint: "]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keychain_is_unlocked_with_a_password_that_nobody_can_see() {
    let (cluster, mac) = (Cluster::start().await, Mac::new());
    let keychain = mac.keychain(true);
    let ended = mac
        .step(&cluster, "unlock")
        .param("keychain", &keychain)
        .ended()
        .await;
    ended.assert(0, "succeeded");
    assert!(
        ended.stdout.contains(&format!("unlocked {keychain}")),
        "{ended}"
    );
    let text = std::fs::read_to_string(&keychain).unwrap();
    assert!(text.lines().any(|line| line == "unlocked"), "{text}");
    mac.assert_no_secret_in_arguments();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_keychain_is_unlocked_where_none_is_named() {
    let (cluster, mac) = (Cluster::start().await, Mac::new());
    let keychain = mac.keychain(true);
    mac.state("default-keychain", &keychain);
    let ended = mac.step(&cluster, "unlock").ended().await;
    ended.assert(0, "succeeded");
    assert!(
        ended.stdout.contains(&format!("unlocked {keychain}")),
        "{ended}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_that_cannot_be_says_why() {
    let (cluster, mac) = (Cluster::start().await, Mac::new());
    let unlock = |keychain: &str| mac.step(&cluster, "unlock").param("keychain", keychain);
    let keychain = mac.keychain(true);
    let wrong = with_secret(unlock(&keychain), "KEYCHAIN_PASSWORD", "not-that-one")
        .ended()
        .await;
    let texts = [
        "unlocking the keychain: the keychain stayed locked",
        "passphrase you entered is not correct",
    ];
    assert_recipe_fails(&wrong, "recipe.keychain-locked", &texts);

    let two_lines = with_secret(unlock(&keychain), "KEYCHAIN_PASSWORD", "two\nlines")
        .ended()
        .await;
    assert_recipe_fails(
        &two_lines,
        "recipe.secret-unusable",
        &["holds a line break"],
    );

    let absent = unlock("/nowhere/login.keychain-db").ended().await;
    assert_recipe_fails(
        &absent,
        "recipe.no-keychain",
        &["there is no such keychain"],
    );

    let no_default = mac.step(&cluster, "unlock").ended().await;
    assert_recipe_fails(
        &no_default,
        "recipe.no-default-keychain",
        &["no default keychain"],
    );

    let no_key = unlock(&mac.keychain(false)).ended().await;
    assert_recipe_fails(
        &no_key,
        "recipe.keychain-partition",
        &["could not be let at the keys"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_no_mac_is_told_apart() {
    let cluster = Cluster::start().await;
    for recipe in ["unlock", "console-user"] {
        let step = cluster.guest("recipes").param("recipe", recipe);
        let step = with_secret(step, "KEYCHAIN_PASSWORD", PASSWORD);
        let ended = step.ended().await;
        assert_recipe_fails(&ended, "recipe.not-macos", &["so it is not macOS"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_signs_from_a_keychain_of_its_own_and_is_gone_afterwards() {
    let (cluster, mac) = (Cluster::start().await, Mac::new());
    mac.state("search-list", "/Library/login.keychain-db\n");
    let step = mac.step(&cluster, "identity");
    let ended = with_secret(step, "CERTIFICATE", &certificate(PASSPHRASE, IDENTITY))
        .ended()
        .await;
    ended.assert(0, "succeeded");
    assert!(
        ended
            .stdout
            .contains("signs with Apple Distribution: Company, Inc. (TEAM123456)"),
        "{ended}"
    );
    let shown: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|line| line.contains("keychain-db"))
        .collect();
    assert_eq!(shown.len(), 2, "{ended}");
    assert!(
        shown[0].contains("Keychains/orka-step-"),
        "ours is the first: {ended}"
    );
    assert_eq!(mac.read("search-list"), "/Library/login.keychain-db\n");
    assert!(
        ended.stdout.contains("No such file or directory"),
        "the certificate's file is gone: {ended}"
    );
    mac.assert_no_secret_in_arguments();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keychain_is_removed_also_when_the_work_failed() {
    let (cluster, mac) = (Cluster::start().await, Mac::new());
    mac.state("search-list", "/Library/login.keychain-db\n");
    let step = mac.step(&cluster, "identity-then-fail");
    let ended = with_secret(step, "CERTIFICATE", &certificate(PASSPHRASE, IDENTITY))
        .ended()
        .await;
    ended.assert(213, "plugin-failed");
    assert_eq!(
        ended.report["failures"][0]["code"], "guest.failed",
        "{ended}"
    );
    assert_eq!(mac.read("search-list"), "/Library/login.keychain-db\n");
    assert!(mac.read("arguments").contains("delete-keychain"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_cannot_be_says_why_and_leaves_nothing() {
    let (cluster, mac) = (Cluster::start().await, Mac::new());
    mac.state("search-list", "/Library/login.keychain-db\n");
    let import = |certificate: String| {
        with_secret(mac.step(&cluster, "identity"), "CERTIFICATE", &certificate)
    };
    let cases = [
        (
            certificate("another", IDENTITY),
            "recipe.certificate-refused",
            "MAC verification failed",
        ),
        (
            STANDARD.encode("something else"),
            "recipe.certificate-refused",
            "Unknown format",
        ),
        (
            "no base64 at all!".to_owned(),
            "recipe.secret-unusable",
            "no base64",
        ),
        (
            certificate(PASSPHRASE, "identity without a key\n"),
            "recipe.keychain-partition",
            "let at the keys",
        ),
        (
            certificate(PASSPHRASE, "key without a certificate\n"),
            "recipe.no-signing-identity",
            "cannot sign",
        ),
    ];
    for (certificate, code, text) in cases {
        let ended = import(certificate).ended().await;
        assert_recipe_fails(&ended, code, &[text]);
        assert_eq!(
            mac.read("search-list"),
            "/Library/login.keychain-db\n",
            "{code}"
        );
        let left = std::fs::read_dir(mac.directory.path()).unwrap().flatten();
        let left: Vec<_> = left
            .map(|entry| entry.file_name())
            .filter(|name| name != "state" && name != "bin")
            .collect();
        assert!(left.is_empty(), "{code}: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn homebrew_is_found_in_the_first_prefix_that_has_it() {
    let (cluster, mac) = (Cluster::start().await, Mac::new());
    for prefix in ["arm", "intel"] {
        std::fs::create_dir_all(mac.path(prefix).join("bin")).unwrap();
    }
    let brew = mac.path("intel/bin/brew");
    std::fs::write(&brew, "#!/bin/sh\necho Homebrew 4\n").unwrap();
    std::fs::set_permissions(&brew, std::fs::Permissions::from_mode(0o755)).unwrap();
    let prefixes = format!(
        "{}\n{}",
        mac.path("arm").display(),
        mac.path("intel").display()
    );
    let step = mac.step(&cluster, "homebrew").param("prefixes", &prefixes);
    let ended = step.ended().await;
    ended.assert(0, "succeeded");
    assert!(ended.stdout.contains("Homebrew 4"), "{ended}");
    assert!(
        ended
            .stdout
            .contains(&format!("in {}", mac.path("intel").display())),
        "{ended}"
    );

    let without = mac
        .step(&cluster, "homebrew")
        .param("prefixes", "/nowhere")
        .ended()
        .await;
    assert_recipe_fails(
        &without,
        "recipe.no-homebrew",
        &["`brew` is not installed in the VM"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_in_the_console_users_session() {
    let (cluster, mac) = (Cluster::start().await, Mac::new());
    for (name, text) in [
        ("console-user", "admin"),
        ("gui-session", ""),
        ("sudoers", ""),
    ] {
        mac.state(name, text);
    }
    let ended = mac.step(&cluster, "console-user").ended().await;
    ended.assert(0, "succeeded");
    let expected = format!("session of 501 as admin: a  b {}", PASSPHRASE.len());
    assert!(ended.stdout.contains(&expected), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_that_cannot_be_used_is_explained() {
    let (cluster, mac) = (Cluster::start().await, Mac::new());
    for nobody in ["root", "loginwindow", "_mbsetupuser", ""] {
        mac.state("console-user", nobody);
        let ended = mac.step(&cluster, "console-user").ended().await;
        assert_recipe_fails(&ended, "recipe.no-console-user", &["nobody is logged in"]);
    }
    mac.state("console-user", "admin");
    let ended = mac.step(&cluster, "console-user").ended().await;
    assert_recipe_fails(
        &ended,
        "recipe.no-gui-session",
        &["no session with windows yet"],
    );
    mac.state("gui-session", "");
    let ended = mac.step(&cluster, "console-user").ended().await;
    assert_recipe_fails(&ended, "recipe.no-sudo", &["a password is required"]);
}
