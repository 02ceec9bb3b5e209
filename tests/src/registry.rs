//! A registry: the one that everybody runs, Docker's Distribution, on storage that goes with the test.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::step::PATH;

/// Who may use a registry with a login.
const USER: &str = "ci";
/// Its password, and the same as `htpasswd -B` writes it.
pub const REGISTRY_PASSWORD: &str = "registry-password";
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuux7DVfxfgfXTmp/9Tsk6HzX2QQGjxePG";

/// It listens at once; on a busy machine at once takes a while.
const PATIENCE: Duration = Duration::from_secs(30);

/// A registry on this machine. Dropped, it is killed.
pub struct Registry {
    address: String,
    directory: TempDir,
    _server: Child,
}

impl Registry {
    /// One that everybody may use.
    pub async fn start() -> Self {
        Self::with(false).await
    }

    /// One that asks for a login.
    pub async fn with_login() -> Self {
        Self::with(true).await
    }

    async fn with(asks: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": path("storage")}},
            // The kernel chooses a port, and the log says which.
            "http": {"addr": "127.0.0.1:0", "secret": "shared by nobody"},
        });
        if asks {
            std::fs::write(path("htpasswd"), format!("{USER}:{HASH}\n")).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": path("htpasswd")}});
        }
        // JSON is YAML.
        std::fs::write(path("config.yml"), config.to_string()).unwrap();
        let mut server = Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("`docker-registry` is missing: run `cargo xtask setup`");
        let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
        let listening = async {
            while let Some(line) = log.next_line().await.unwrap() {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    return rest.split(['"', ',']).next().unwrap().to_owned();
                }
            }
            panic!("the registry ended before it listened");
        };
        let address = timeout(PATIENCE, listening)
            .await
            .expect("the registry never listened");
        // A pipe that nobody reads would stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Self {
            address,
            directory,
            _server: server,
        }
    }

    /// A reference to a repository, without tag and digest.
    pub fn repository(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.address)
    }

    /// A directory as a Secret of the type `kubernetes.io/dockerconfigjson` is mounted, with this password.
    pub fn credentials(&self, password: &str) -> PathBuf {
        let kind = if password == REGISTRY_PASSWORD {
            "right"
        } else {
            "wrong"
        };
        let directory = self.directory.path().join(kind);
        std::fs::create_dir_all(&directory).unwrap();
        let file = json!({"auths": {&self.address: {"username": USER, "password": password}}});
        std::fs::write(directory.join(".dockerconfigjson"), file.to_string()).unwrap();
        directory
    }

    /// A blob or manifest as it lies in the storage.
    pub fn stored(&self, digest: &str) -> Value {
        let digits = digest.strip_prefix("sha256:").unwrap();
        let blobs = "storage/docker/registry/v2/blobs/sha256";
        let path = self.directory.path().join(blobs);
        let path = path.join(&digits[..2]).join(digits).join("data");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}
