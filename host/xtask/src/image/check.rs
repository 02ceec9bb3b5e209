//! Whole jobs in a container made of the finished archive, confined as a cluster confines it and a little more: a user
//! that exists nowhere, a read-only root, no capabilities, no way to gain any.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use super::archive::{self, Archive};
use super::{
    AUTHORITIES, Architecture, COMPILER_PACKED, COMPILER_PLAIN, COMPILERS, MATERIALS, PLUGINS,
    PROGRAM, Place, name_server, program,
};
use crate::workspace::Workspace;
use crate::{demo, packages, process};

/// What the job builds; its bytes must come back.
const SCRIPT: &str =
    "#!/bin/sh\nmkdir -p out && printf 'from %s' \"$(cat input)\" > out/artifact\n";

/// An image that the simulated cluster has.
const IMAGE: &str = "Sonoma.orkasi";

/// What `--grants` takes for a plugin that did not come with the program.
const GRANTS: &str = "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\n";

/// What the bundled guard is asked to allow, and something else.
const RULES: &str = "image Sonoma.orkasi\n";
const OTHER_RULES: &str = "image Ventura.orkasi\n";

/// The exit code where the program itself fails.
const CRASHED: i32 = 210;

/// What a script says that is still running.
const RUNNING: &str = "the script is running";

/// How long a job may take to come as far as that.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which plugin a job runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plugin {
    /// The image's own, from its ahead-of-time code.
    Bundled,
    /// The same from elsewhere: it has to be compiled.
    Foreign,
    /// The same, but it wants a function that the contract does not have.
    Misfit,
}

/// A function of the contract that the plugin uses, and what a misfit wants in its place.
const FUNCTION: &[u8] = b"last-words";
const OTHER_FUNCTION: &[u8] = b"last-wards";

/// What a step says of it. It takes the compiler to find that out.
const MISFIT: &str = "orka:plugin/console.last-wards: it wants `func(message: string)`, this host has nothing of the kind";

/// The exit code where a plugin cannot be run, or is not allowed what it wants.
const REJECTED: i32 = 212;

/// A whole job.
struct Job {
    name: &'static str,
    /// What `orka-sim` is told.
    simulated: &'static [&'static str],
    plugin: Plugin,
    /// Whether somebody else owns all but the program, and all may write it: what file systems make of images at worst.
    foreign_files: bool,
    /// The rules of the image's guard, if it is asked.
    rules: Option<&'static str>,
    /// How the script ends; none if the process of the run crashes while it runs.
    status: Option<i32>,
    /// How the step has to end.
    code: i32,
    outcome: &'static str,
}

const SUCCEEDS: Job = Job {
    name: "by name over http",
    simulated: &["--generation", "2", "--api-version", "2.1.0"],
    plugin: Plugin::Bundled,
    foreign_files: false,
    rules: None,
    status: Some(0),
    code: 0,
    outcome: "succeeded",
};

const JOBS: [Job; 10] = [
    SUCCEEDS,
    Job {
        name: "over https with the operator's own authority",
        simulated: &["--tls", "private-ca"],
        ..SUCCEEDS
    },
    Job {
        name: "whose script fails",
        simulated: &["--generation", "3"],
        status: Some(65),
        code: 65,
        outcome: "build-failed",
        ..SUCCEEDS
    },
    Job {
        name: "whose process crashes",
        status: None,
        code: CRASHED,
        outcome: "infra-failed",
        ..SUCCEEDS
    },
    Job {
        name: "of a plugin that has to be compiled",
        plugin: Plugin::Foreign,
        ..SUCCEEDS
    },
    Job {
        name: "of a plugin that does not fit",
        plugin: Plugin::Misfit,
        code: REJECTED,
        outcome: "plugin-failed",
        ..SUCCEEDS
    },
    Job {
        name: "that the image's guard allows",
        rules: Some(RULES),
        ..SUCCEEDS
    },
    Job {
        name: "that the image's guard denies",
        rules: Some(OTHER_RULES),
        code: REJECTED,
        outcome: "denied",
        ..SUCCEEDS
    },
    Job {
        name: "of an image whose files are somebody else's",
        foreign_files: true,
        ..SUCCEEDS
    },
    Job {
        name: "of a plugin that has to be compiled by somebody else's compiler",
        plugin: Plugin::Foreign,
        foreign_files: true,
        ..SUCCEEDS
    },
];

/// Who owns files that are somebody else's.
const STRANGER: u32 = 4711;

/// Where the emulator is in the container, for programs of another architecture.
const EMULATOR: &str = "/emulator";

/// Checks what is in the archive, then runs jobs in it. The name server is running.
pub(super) fn run(
    workspace: &Workspace,
    place: &Place,
    architecture: Architecture,
    packed: &Archive,
) -> Result<()> {
    packages::require(&[&packages::RUNC])?;
    let directory = place.directory.join("check");
    let archive = archive::unpack(&place.archive, &directory.join("oci"))?;
    ensure!(
        archive.manifest_digest == packed.manifest_digest,
        "the archive changed while it was checked"
    );
    let root = unpacked_root(&archive, &directory)?;
    contents(&root)?;
    settings(&archive, architecture)?;
    let simulator = demo::build_programs(workspace, "orka-sim", &[])?;
    let bench = Bench {
        directory,
        architecture,
        archive,
        simulator,
    };
    for job in &JOBS {
        if job.foreign_files {
            give_away(&root)?;
        }
        // A program under emulation can start no other of its kind: no compiler, and no worker whose crash it survives.
        let starts_another = job.plugin != Plugin::Bundled || job.status.is_none();
        if starts_another && !architecture.is_own() {
            println!("job        {}: left out on another architecture", job.name);
            continue;
        }
        bench.job(job)?;
    }
    println!("check      passed: {} in a container", architecture.name());
    Ok(())
}

/// The layers' files, as a runtime lays them out.
fn unpacked_root(archive: &Archive, directory: &Path) -> Result<PathBuf> {
    let root = directory.join("rootfs");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(&root)?;
    for layer in &archive.layers {
        let mut command = Command::new("tar");
        command.args(["--same-owner", "--numeric-owner", "-xpf"]);
        process::run(command.arg(layer).arg("-C").arg(&root))?;
    }
    Ok(root)
}

/// Gives all that came with the program to somebody else, and lets everybody write it.
fn give_away(root: &Path) -> Result<()> {
    for directory in [PLUGINS, COMPILERS].map(|it| root.join(it)) {
        let entries = fs::read_dir(&directory)?;
        let files = entries.map(|entry| entry.map(|entry| entry.path()));
        for path in files.chain([Ok(directory)]) {
            let path = path?;
            let mode = fs::metadata(&path)?.permissions().mode();
            // The owner first: a change of owner may take permissions away.
            chown(&path, Some(STRANGER), Some(STRANGER))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o022))?;
        }
    }
    Ok(())
}

/// Fails if anything is there that was not put there on purpose, or could be written by others.
fn contents(root: &Path) -> Result<()> {
    let mut directories = vec![root.to_owned()];
    let mut seen = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            let mode = metadata.permissions().mode();
            ensure!(
                metadata.is_dir() || metadata.is_file(),
                "`/{name}` is neither a file nor a directory"
            );
            ensure!(mode & 0o7022 == 0, "`/{name}` has the mode {mode:o}");
            if metadata.is_dir() {
                directories.push(path);
            } else {
                seen.push(name);
            }
        }
    }
    let expected = |name: &String| {
        let plugin = name
            .strip_prefix(PLUGINS)
            .and_then(|it| it.strip_prefix('/'));
        let plugin = plugin.and_then(|it| it.rsplit_once('.'));
        [
            PROGRAM,
            COMPILER_PLAIN,
            COMPILER_PACKED,
            AUTHORITIES,
            MATERIALS,
        ]
        .contains(&name.as_str())
            || plugin.is_some_and(|(stem, kind)| {
                !stem.contains('/') && ["wasm", "cwasm"].contains(&kind)
            })
    };
    if let Some(stranger) = seen.iter().find(|name| !expected(name)) {
        bail!("`/{stranger}` does not belong into the image");
    }
    let compilers = seen.iter().filter(|name| name.starts_with(COMPILERS));
    ensure!(
        compilers.count() == 1,
        "there is not one compiler: {seen:?}"
    );
    for needed in [PROGRAM, AUTHORITIES, MATERIALS] {
        ensure!(
            seen.iter().any(|name| name == needed),
            "`/{needed}` is missing"
        );
    }
    let of_kind = |kind: &str| {
        let mut stems: Vec<_> = seen
            .iter()
            .filter_map(|name| name.strip_suffix(kind))
            .collect();
        stems.sort_unstable();
        stems
    };
    ensure!(
        !of_kind(".wasm").is_empty() && of_kind(".wasm") == of_kind(".cwasm"),
        "plugins and ahead-of-time code do not match: {seen:?}"
    );
    Ok(())
}

/// Fails unless the image says of itself what Tasks rely on.
fn settings(archive: &Archive, architecture: Architecture) -> Result<()> {
    let settings = &archive.settings;
    ensure!(
        archive.architecture == architecture.name(),
        "the image is for `{}`",
        archive.architecture
    );
    ensure!(
        settings.user == "65532:65532",
        "the image's user is `{}`",
        settings.user
    );
    ensure!(
        settings.entrypoint == [format!("/{PROGRAM}")],
        "the image starts {:?}",
        settings.entrypoint
    );
    let version = settings.labels.get("org.opencontainers.image.version");
    ensure!(
        version.is_some_and(|it| it == env!("CARGO_PKG_VERSION")),
        "the image's version is {version:?}"
    );
    Ok(())
}

/// Everything jobs need.
struct Bench {
    directory: PathBuf,
    architecture: Architecture,
    archive: Archive,
    simulator: PathBuf,
}

impl Bench {
    /// Runs one job against a cluster of its own and fails unless it ends as it should, brings its artifact back where it
    /// deployed anything, and leaves nothing behind.
    fn job(&self, job: &Job) -> Result<()> {
        let cluster = Cluster::start(&self.simulator, job.simulated)?;
        let place = self.directory.join("job");
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        let user = unknown_user()?;
        self.lay_out(&place, job, &cluster, user)?;
        let ending = match job.status {
            Some(status) => format!("exit {status}"),
            None => format!("echo '{RUNNING}'\nsleep 300"),
        };
        let script = format!("{SCRIPT}{ending}\n");
        let mut arguments: Vec<String> = [
            "run",
            "-v",
            "--orka-api",
            &cluster.endpoint()?,
            "--orka-credentials",
            "/creds/orka",
            "--ssh-credentials",
            "/creds/ssh",
            "--workspace",
            "/workspace",
            "--results",
            "/results",
            "-p",
            "artifacts=out/**",
            "-p",
            "artifacts-when=always",
        ]
        .map(str::to_owned)
        .into();
        arguments.extend(["-p".to_owned(), format!("base-image={IMAGE}")]);
        arguments.extend(["-p".to_owned(), format!("script={script}")]);
        if cluster.introduction["authority"].is_string() {
            arguments.extend(["--orka-ca".to_owned(), "/creds/authority".to_owned()]);
        }
        if job.plugin != Plugin::Bundled {
            let flags = ["--plugin=/creds/custom.wasm", "--grants=/creds/grants.toml"];
            arguments.extend(flags.map(str::to_owned));
        }
        if job.rules.is_some() {
            arguments.push("--guard=allowed-vms=/creds/rules".to_owned());
        }
        let (code, log) = self.contained(&place, user, &arguments, job.status.is_none())?;
        let name = job.name;
        let verdict = judge(&place, job, &cluster, code, &log);
        verdict.map_err(|error| anyhow!("the job {name}: {error}; its log:\n{log}"))?;
        println!("job        {name}: as expected (user {user}, exit code {code})");
        Ok(())
    }

    /// The volumes: a workspace and results of the user's own, credentials that it can read.
    fn lay_out(&self, place: &Path, job: &Job, cluster: &Cluster, user: u32) -> Result<()> {
        let told = &cluster.introduction;
        let files = [
            ("workspace/input", "the workspace"),
            ("results/.keep", ""),
            ("creds/grants.toml", GRANTS),
            ("creds/rules", job.rules.unwrap_or_default()),
            (
                "creds/orka/email",
                told["email"].as_str().unwrap_or_default(),
            ),
            (
                "creds/orka/password",
                told["password"].as_str().unwrap_or_default(),
            ),
            (
                "creds/orka/token",
                told["token"].as_str().unwrap_or_default(),
            ),
            (
                "creds/ssh/username",
                told["ssh_user"].as_str().unwrap_or_default(),
            ),
            (
                "creds/ssh/password",
                told["ssh_password"].as_str().unwrap_or_default(),
            ),
            (
                "creds/authority",
                told["authority"].as_str().unwrap_or_default(),
            ),
            (
                "resolv.conf",
                &format!("nameserver {}\n", name_server::ADDRESS),
            ),
        ];
        for (name, text) in files {
            let path = place.join(name);
            path.parent().map(fs::create_dir_all).transpose()?;
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        if job.plugin != Plugin::Bundled {
            let bundled = self
                .directory
                .join("rootfs")
                .join(PLUGINS)
                .join("build.wasm");
            // An empty custom section changes the digest and nothing else.
            let bundled = program::unpacked(super::read(&bundled)?)?;
            let mut changed = [bundled, vec![0, 2, 1, b'x']].concat();
            if job.plugin == Plugin::Misfit {
                replace(&mut changed, FUNCTION, OTHER_FUNCTION);
            }
            fs::write(place.join("creds/custom.wasm"), changed)?;
        }
        for mine in ["workspace", "workspace/input", "results"] {
            chown(place.join(mine), Some(user), Some(user))
                .context("the check needs root, to give files to the container's user")?;
        }
        Ok(())
    }

    /// Runs the image's program in a container; gives its exit code and what it wrote.
    fn contained(
        &self,
        job: &Path,
        user: u32,
        arguments: &[String],
        crashes: bool,
    ) -> Result<(i32, String)> {
        let settings = self.settings(job, user, arguments)?;
        fs::write(
            self.directory.join("config.json"),
            serde_json::to_vec_pretty(&settings)?,
        )?;
        let name = format!("orka-step-image-check-{}", std::process::id());
        let log = job.join("log");
        let written = fs::File::create(&log)?;
        let mut runc = Command::new("runc")
            .arg("--root")
            .arg(self.directory.join("runc"))
            .args(["run", "--bundle"])
            .arg(&self.directory)
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(written.try_clone()?)
            .stderr(written)
            .spawn()
            .context("cannot start `runc`")?;
        let crashed = if crashes { crash(&log, user) } else { Ok(()) };
        let code = runc.wait()?.code();
        let text = String::from_utf8_lossy(&super::read(&log)?).into_owned();
        crashed.map_err(|error| anyhow!("{error}: {text}"))?;
        Ok((
            code.ok_or_else(|| anyhow!("`runc` was killed: {text}"))?,
            text,
        ))
    }

    /// What `runc` is told (OCI runtime specification).
    fn settings(&self, job: &Path, user: u32, arguments: &[String]) -> Result<Value> {
        let bind = |from: &Path, to: &str, mode: &str| {
            json!({
                "source": from, "destination": to, "type": "bind",
                "options": ["rbind", "nosuid", "nodev", mode],
            })
        };
        let mut mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
            json!({
                "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            }),
            bind(&job.join("workspace"), "/workspace", "rw"),
            bind(&job.join("results"), "/results", "rw"),
            bind(&job.join("creds"), "/creds", "ro"),
            bind(&job.join("resolv.conf"), "/etc/resolv.conf", "ro"),
        ];
        let mut command = self.archive.settings.entrypoint.clone();
        if let Some(emulator) = self.architecture.emulator() {
            let path = process::find_program(emulator.program)
                .ok_or_else(|| anyhow!("there is no `{}`", emulator.program))?;
            mounts.push(bind(&path, EMULATOR, "ro"));
            command.insert(0, EMULATOR.to_owned());
        }
        command.extend_from_slice(arguments);
        Ok(json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs", "readonly": true },
            "process": {
                "terminal": false, "cwd": "/", "args": command, "env": self.archive.settings.env,
                "user": { "uid": user, "gid": user },
                "capabilities": { "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": [] },
                "noNewPrivileges": true,
            },
            "mounts": mounts,
            // The simulated cluster is on this machine's loopback, so the network is this machine's.
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }] },
        }))
    }
}

/// Fails unless the job ended as it should.
fn judge(place: &Path, job: &Job, cluster: &Cluster, code: i32, log: &str) -> Result<()> {
    ensure!(
        code == job.code,
        "it ended with {code}, not with {}",
        job.code
    );
    let outcome = fs::read_to_string(place.join("results/outcome"))?;
    ensure!(outcome.trim() == job.outcome, "its outcome is `{outcome}`");
    let (said, otherwise) = match job.plugin {
        Plugin::Bundled => (
            &*format!("the plugin's code is from `/{PLUGINS}/build.cwasm`"),
            "its code came from elsewhere",
        ),
        Plugin::Foreign => ("the plugin was compiled in", "its code came from elsewhere"),
        Plugin::Misfit => (MISFIT, "what does not fit was not told"),
    };
    ensure!(
        log.contains(said) && !log.contains("is not used"),
        otherwise
    );
    let state = cluster.state()?;
    for kind in ["vms", "configs"] {
        let left = &state[kind];
        ensure!(
            left.as_array().is_some_and(Vec::is_empty),
            "it left {kind}: {left}"
        );
    }
    let deleted = state["deletions"].as_array().map_or(0, Vec::len);
    if job.code == REJECTED {
        ensure!(deleted == 0, "it deployed what was denied");
        return Ok(());
    }
    ensure!(deleted > 0, "it deployed nothing");
    if job.status.is_none() {
        return Ok(());
    }
    let artifact = fs::read_to_string(place.join("workspace/out/artifact"))?;
    ensure!(
        artifact == "from the workspace",
        "its artifact is `{artifact}`"
    );
    Ok(())
}

/// Puts `other`, of the same length, wherever `one` is.
fn replace(bytes: &mut [u8], one: &[u8], other: &[u8]) {
    for place in 0..bytes.len().saturating_sub(one.len() - 1) {
        let found = &mut bytes[place..place + one.len()];
        if found == one {
            found.copy_from_slice(other);
        }
    }
}

/// Waits for the script to run, and aborts the process that does the work. A job that does not come so far is ended.
fn crash(log: &Path, user: u32) -> Result<()> {
    let waited_from = SystemTime::now();
    let is_running = || fs::read_to_string(log).is_ok_and(|text| text.contains(RUNNING));
    while !is_running() && waited_from.elapsed().is_ok_and(|waited| waited < PATIENCE) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let of_user = processes_of(user)?;
    let is_parent = |pid: &u32| of_user.iter().any(|(_, parent)| parent == pid);
    let worker = of_user
        .iter()
        .find(|(_, parent)| of_user.iter().any(|(pid, _)| pid == parent));
    let (signal, (pid, _)) = match worker {
        Some(worker) if is_running() => ("-ABRT", worker),
        _ => {
            let first = of_user
                .iter()
                .find(|(pid, _)| is_parent(pid))
                .or(of_user.first());
            ("-KILL", first.context("the job has no process")?)
        }
    };
    process::run(Command::new("kill").args([signal, &pid.to_string()]))?;
    ensure!(signal == "-ABRT", "the script never ran beside a worker");
    Ok(())
}

/// The processes of a user, each with its parent.
fn processes_of(user: u32) -> Result<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // It may have ended in between.
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let member = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u32>().ok()
        };
        if member("Uid:") == Some(user) {
            found.extend(member("PPid:").map(|parent| (pid, parent)));
        }
    }
    Ok(found)
}

/// A user number as OpenShift gives them out: high, another each time, and known to nobody.
fn unknown_user() -> Result<u32> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(1_000_000_000 + now.subsec_nanos() % 1_000_000_000)
}

/// A simulated cluster in a process of its own, ended when dropped.
struct Cluster {
    process: Child,
    introduction: Value,
}

impl Cluster {
    fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start `orka-sim`")?;
        let stdout = process.stdout.take().context("`orka-sim` has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let introduction = serde_json::from_str(&line);
        let mut cluster = Self {
            process,
            introduction: Value::Null,
        };
        cluster.introduction =
            introduction.with_context(|| format!("`orka-sim` said `{}`", line.trim()))?;
        Ok(cluster)
    }

    fn url(&self) -> Result<&str> {
        self.introduction["url"]
            .as_str()
            .context("`orka-sim` named no URL")
    }

    /// The endpoint for the job: by name over http, as the certificate has it over https.
    fn endpoint(&self) -> Result<String> {
        let url = self.url()?;
        Ok(match url.strip_prefix("http://") {
            None => url.to_owned(),
            Some(address) => {
                let (_, port) = address.rsplit_once(':').context("the URL has no port")?;
                format!("http://{}:{port}", name_server::NAME)
            }
        })
    }

    /// What the cluster has, as it tells over http; over https the program's own confirmation has to do.
    fn state(&self) -> Result<Value> {
        let url = self.url()?;
        let Some(address) = url.strip_prefix("http://") else {
            return https_state(url, &self.introduction);
        };
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(
            stream,
            "GET /_sim/state HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        body(&reply)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Through `curl`, which speaks TLS.
fn https_state(url: &str, introduction: &Value) -> Result<Value> {
    let authority =
        std::env::temp_dir().join(format!("orka-step-authority-{}", std::process::id()));
    fs::write(
        &authority,
        introduction["authority"].as_str().unwrap_or_default(),
    )?;
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--noproxy",
            "*",
            "--cacert",
        ])
        .arg(&authority)
        .arg(format!("{url}/_sim/state"));
    let text = process::output(&mut command);
    let _ = fs::remove_file(&authority);
    serde_json::from_str(&text?).context("the cluster's state is no JSON")
}

/// The JSON of an HTTP answer that is not chunked or is in one chunk.
fn body(reply: &str) -> Result<Value> {
    let (_, body) = reply
        .split_once("\r\n\r\n")
        .context("an answer without an end of its head")?;
    let start = body.find('{').context("the cluster's state is no JSON")?;
    let end = body.rfind('}').context("the cluster's state is no JSON")?;
    serde_json::from_str(&body[start..=end]).context("the cluster's state is no JSON")
}
