//! A plain HTTP client, and the OpenSSH clients, for the tests of this crate.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use orka_sim::{Sim, SimConfig};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Long enough for a slow machine; no test waits for it when things go well.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster and a client of it that knows nothing but HTTP.
pub struct Rig {
    pub sim: Sim,
    pub http: reqwest::Client,
    pub token: String,
}

/// An answer read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The text of the first error of the 2.x envelope.
    pub fn error(&self) -> String {
        self.json()["errors"][0]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

impl Rig {
    /// Starts a cluster; nobody is signed in.
    pub async fn start(config: SimConfig) -> Self {
        // The client wants a TLS provider although nothing here speaks TLS; a second installation is refused and fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let sim = Sim::start(config).await.unwrap();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            sim,
            http,
            token: String::new(),
        }
    }

    /// Starts a cluster and signs in by the 2.x API.
    pub async fn signed_in(config: SimConfig) -> Self {
        let mut rig = Self::start(config).await;
        rig.token = rig.sign_in().await;
        rig
    }

    /// Starts a cluster and uses its first 3.x token.
    pub async fn with_account(config: SimConfig) -> Self {
        let mut rig = Self::start(config).await;
        rig.token = rig.sim.config().sa_tokens[0].token.clone();
        rig
    }

    pub async fn sign_in(&self) -> String {
        let user = &self.sim.config().users[0];
        let body = json!({ "email": user.email, "password": user.password });
        let answer = self.call(Method::POST, "/token", Some(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    /// Sends a request that may fail on the wire.
    pub async fn attempt(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> reqwest::Result<Answer> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.sim.url()));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request
                .header("Content-Type", "application/json")
                .body(body.to_string());
        }
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer {
            status,
            headers,
            text: response.text().await?,
        })
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.attempt(method, path, body).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str, body: Value) -> Answer {
        self.call(Method::DELETE, path, Some(body)).await
    }

    /// Makes a configuration with three cores.
    pub async fn create(&self, name: &str, image: &str) -> Answer {
        self.post("/resources/vm/create", config_body(name, image, 3))
            .await
    }

    /// Makes a configuration and deploys it.
    pub async fn deploy(&self, name: &str, image: &str) -> Answer {
        assert_eq!(self.create(name, image).await.status, 201);
        self.post("/resources/vm/deploy", json!({ "orka_vm_name": name }))
            .await
    }

    pub async fn purge(&self, name: &str) -> Answer {
        self.delete("/resources/vm/purge", json!({ "orka_vm_name": name }))
            .await
    }
}

pub fn config_body(name: &str, image: &str, cores: u32) -> Value {
    json!({
        "orka_vm_name": name, "orka_base_image": image, "orka_image": name,
        "orka_cpu_core": cores, "vcpu_count": cores,
    })
}

/// What an SSH client program came to.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }
}

/// How to log in.
pub enum Login<'a> {
    Password(&'a str),
    Key(&'a Path),
}

/// One of `ssh`, `scp`, `sftp`, with no configuration of this machine.
pub fn client(program: &str, login: &Login<'_>, port: u16) -> Command {
    let mut command = match login {
        Login::Password(password) => {
            let mut command = Command::new("sshpass");
            command.args(["-p", password, program, "-o", "PubkeyAuthentication=no"]);
            command
        }
        Login::Key(key) => {
            let mut command = Command::new(program);
            command
                .args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-i"])
                .arg(key);
            command
        }
    };
    command.args([
        "-F",
        "/dev/null",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]);
    command.args([
        "-o",
        "LogLevel=ERROR",
        "-o",
        "NumberOfPasswordPrompts=1",
        "-o",
        &format!("Port={port}"),
    ]);
    command.kill_on_drop(true);
    command
}

/// Runs a program with this input, within [`PATIENCE`].
pub async fn run(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = tokio::spawn(async move {
        // A program that does not want all of it is a case of its own.
        let _ = stdin.write_all(&input).await;
    });
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    feeding.await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran {
        status: output.status.code(),
        stdout: output.stdout,
        stderr,
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}
