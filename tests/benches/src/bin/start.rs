//! How soon a step speaks: from the start of its process to the arrival of its first request at Orka, beside `curl` making
//! the same request; over http and over https with an authority of the server's own.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is what it is for"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use benches::medians::Runs;
use benches::{machine, results};
use clap::Parser;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Longer than any client takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is promised, in milliseconds.
const GOAL_MS: f64 = 30.0;

/// Where the head of a request ends.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// No client asks for more in one head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

#[derive(Parser)]
#[command(name = "bench start", about = "How soon a step speaks, beside curl")]
struct Cli {
    /// The program
    #[arg(long)]
    program: PathBuf,
    /// A directory with the plugin `build.wasm`
    #[arg(long)]
    plugins: PathBuf,
    /// Runs of each competitor
    #[arg(long, default_value_t = 41)]
    repetitions: usize,
    /// Keep the table in `tests/benches/RESULTS.md`
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    ensure!(cli.repetitions > 0, "nothing is measured in no runs");
    let place = tempfile::Builder::new()
        .prefix("orka-step-bench-")
        .tempdir_in(machine::scratch())?;
    let place = place.path();
    let ahead = install(&cli, place, "ahead", true)?;
    let compiling = install(&cli, place, "compiling", false)?;
    let mut text = format!(
        "`cargo xtask bench start --keep`; {}; program of {:.1} MB, loopback; medians of {} runs in turns.\n",
        machine::describe(),
        fs::metadata(&ahead)?.len() as f64 / 1e6,
        cli.repetitions,
    );
    for scheme in [Scheme::plain(), Scheme::secure(place)?] {
        let request = scheme.first_request(&ahead, place)?;
        let mut all = [
            Runs::new("this program, plugin compiled ahead of time"),
            Runs::new("the same, plugin compiled at the start"),
            Runs::new("`curl`, the same request"),
        ];
        for _ in 0..cli.repetitions {
            for (number, runs) in all.iter_mut().enumerate() {
                let client = |url: &str| match number {
                    0 => ours(&ahead, url, &scheme, place),
                    1 => ours(&compiling, url, &scheme, place),
                    _ => curl(url, &scheme, &request),
                };
                runs.durations.push(scheme.arrival(client)?.0);
            }
        }
        let title = format!("process start → `{request}` over {}", scheme.name);
        let table = table(&title, &all);
        println!("{table}");
        text.push_str(&table);
    }
    if cli.keep {
        results::keep("start", &text)?;
    }
    Ok(())
}

/// The program in a directory of its own, with its plugin beside it as in an image.
fn install(cli: &Cli, place: &Path, name: &str, ahead_of_time: bool) -> Result<PathBuf> {
    let directory = place.join(name);
    let plugins = directory.join("plugins");
    fs::create_dir_all(&plugins)?;
    // Code in a directory that others may write would not be used.
    fs::set_permissions(&plugins, fs::Permissions::from_mode(0o755))?;
    let program = directory.join("orka-step");
    fs::copy(&cli.program, &program)
        .with_context(|| format!("cannot copy `{}`", cli.program.display()))?;
    fs::copy(cli.plugins.join("build.wasm"), plugins.join("build.wasm"))
        .context("there is no plugin `build`: `cargo xtask plugins` builds it")?;
    if ahead_of_time {
        let output = Command::new(&program)
            .args(["plugin", "compile", "build", "--into"])
            .arg(&plugins)
            .output()?;
        ensure!(
            output.status.success(),
            "the plugin was not compiled: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(program)
}

/// A request as far as it matters here.
struct Head {
    /// When it was there.
    arrived: Instant,
    bytes: Vec<u8>,
    /// Keeps the connection open: a client that loses it would ask again.
    _connection: Box<dyn Send>,
}

/// How clients reach us.
struct Scheme {
    name: &'static str,
    /// The authority's certificate, and our side of TLS, where there is TLS.
    tls: Option<(PathBuf, Arc<ServerConfig>)>,
}

impl Scheme {
    fn plain() -> Self {
        Self {
            name: "http",
            tls: None,
        }
    }

    fn secure(place: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Without a name of its own it would have the server's, whose certificate then looks self-signed to OpenSSL.
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of the measurement");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = place.join("authority.pem");
        fs::write(&authority, issuer.pem())?;
        let key = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        Ok(Self {
            name: "https",
            tls: Some((authority, Arc::new(config))),
        })
    }

    fn authority(&self) -> Option<&Path> {
        self.tls.as_ref().map(|(authority, _)| authority.as_path())
    }

    /// Starts a client, waits for its first request, ends it. From before its start to the end of the request's head.
    ///
    /// Each client has a port of its own: another's second request must not be taken for its first.
    fn arrival(&self, client: impl FnOnce(&str) -> Command) -> Result<(Duration, Vec<u8>)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("{}://{}", self.name, listener.local_addr()?);
        let config = self.tls.as_ref().map(|(_, config)| config.clone());
        let (sender, heads) = channel();
        std::thread::spawn(move || {
            // Whoever waits for it may have given up.
            let _ = sender.send(first_head(&listener, config));
        });
        let mut command = client(&url);
        let started = Instant::now();
        let mut client = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let head = heads.recv_timeout(PATIENCE);
        // Before its connection ends, which would make it ask again.
        client.kill()?;
        client.wait()?;
        let head = head.with_context(|| format!("{command:?} made no request"))??;
        Ok((head.arrived.duration_since(started), head.bytes))
    }

    /// What this program asks first, such as `GET /token`.
    fn first_request(&self, program: &Path, place: &Path) -> Result<String> {
        let (_, head) = self.arrival(|url| ours(program, url, self, place))?;
        let text = String::from_utf8(head)?;
        let mut words = text.split(' ');
        let (method, path) = (words.next(), words.next());
        let (method, path) = method.zip(path).context("the request has no path")?;
        Ok(format!("{method} {path}"))
    }
}

fn first_head(listener: &TcpListener, config: Option<Arc<ServerConfig>>) -> Result<Head> {
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    match config {
        None => head(stream),
        Some(config) => head(StreamOwned::new(ServerConnection::new(config)?, stream)),
    }
}

/// Reads a request's head.
fn head(mut stream: impl Read + Send + 'static) -> Result<Head> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let length = stream.read(&mut chunk)?;
        ensure!(
            length > 0 && bytes.len() < HEAD_BYTES_MAX,
            "a request without an end"
        );
        bytes.extend_from_slice(&chunk[..length]);
        if bytes.windows(HEAD_END.len()).any(|it| it == HEAD_END) {
            return Ok(Head {
                arrived: Instant::now(),
                bytes,
                _connection: Box::new(stream),
            });
        }
    }
}

fn quiet(command: &mut Command) {
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
}

fn ours(program: &Path, url: &str, scheme: &Scheme, place: &Path) -> Command {
    let workspace = place.join("workspace");
    // What is there already is as good.
    let _ = fs::create_dir_all(&workspace);
    let mut command = Command::new(program);
    quiet(&mut command);
    command
        .args(["run", "--orka-api", url, "--workspace"])
        .arg(&workspace)
        .args(["-p", "base-image=Sonoma.orkasi", "-p", "script=true"])
        .envs([
            ("ORKA_EMAIL", "ci@example.com"),
            ("ORKA_PASSWORD", "not a secret"),
            ("SSH_USERNAME", "admin"),
            ("SSH_PASSWORD", "admin"),
        ]);
    if let Some(authority) = scheme.authority() {
        command.arg("--orka-ca").arg(authority);
    }
    command
}

fn curl(url: &str, scheme: &Scheme, request: &str) -> Command {
    let (method, path) = request.split_once(' ').unwrap_or(("GET", "/"));
    let mut command = Command::new("curl");
    quiet(&mut command);
    command
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .args(["--silent", "--request", method])
        .arg(format!("{url}{path}"));
    if let Some(authority) = scheme.authority() {
        command.arg("--cacert").arg(authority);
    }
    command
}

/// The first competitor is ours; the goal is what its median stays below.
fn table(title: &str, all: &[Runs]) -> String {
    let first = all.first().map_or(Duration::ZERO, Runs::median);
    let mut text = format!(
        "\n### {title} (goal: below {GOAL_MS} ms)\n\n| | median, ms | quickest–slowest, s | ratio to ours |\n| --- | --- | --- | --- |\n"
    );
    for runs in all {
        let median = runs.median();
        let ratio = median.as_secs_f64() / first.as_secs_f64().max(f64::EPSILON);
        // Writing into a `String` cannot fail.
        let _ = writeln!(
            text,
            "| {} | {:.1} | {} | {ratio:.2} |",
            runs.name,
            median.as_secs_f64() * 1000.0,
            runs.spread(),
        );
    }
    text
}
