//! How soon a VM is usable: from the moment `sshd` accepts to the first command's exit, beside `ssh` in a loop; a whole
//! login with one command, beside `ssh`; a command on an open connection, beside `ssh` with a control socket.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is what it is for"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use benches::medians::Runs;
use benches::sshd::{Login, Sshd};
use benches::{machine, results};
use clap::{Parser, Subcommand};
use guest_ssh::{Connection, ExecRequest, Exit};

/// How long the clients knock in vain before the server starts: long enough that their pauses have grown to the cap.
const CLOSED: Duration = Duration::from_millis(2300);

/// Longer than any server or client takes.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
#[command(name = "bench ready", about = "How soon a VM is usable, beside ssh")]
struct Cli {
    #[command(subcommand)]
    ours: Option<Ours>,
    /// Runs of each competitor
    #[arg(long, default_value_t = 15)]
    repetitions: usize,
    /// Keep the table in `tests/benches/RESULTS.md`
    #[arg(long)]
    keep: bool,
}

/// Our side, as a process of its own.
#[derive(Subcommand)]
enum Ours {
    /// Waits for the server, runs one command, ends.
    #[command(hide = true)]
    Ours { port: u16, key: PathBuf },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(Ours::Ours { port, key }) = cli.ours {
        return runtime()?.block_on(async {
            let connection = Login { port, key }.connect().await?;
            run_true(&connection).await
        });
    }
    ensure!(cli.repetitions > 0, "nothing is measured in no runs");
    let place = tempfile::Builder::new()
        .prefix("orka-step-bench-")
        .tempdir_in(machine::scratch())?;
    let mut text = format!(
        "`cargo xtask bench ready --keep`; {}, loopback; medians of {} runs in turns. `sshd` accepts: seen in \
         `/proc/net/tcp`, by the millisecond.\n",
        machine::describe(),
        cli.repetitions,
    );
    let tables = [
        accepting(place.path(), cli.repetitions)?,
        whole(place.path(), cli.repetitions)?,
        open(place.path(), cli.repetitions)?,
    ];
    for table in tables {
        println!("{table}");
        text.push_str(&table);
    }
    if cli.keep {
        results::keep("ready", &text)?;
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

async fn run_true(connection: &Connection) -> Result<()> {
    let mut command = connection.exec(ExecRequest::new("true", [""; 0])).await?;
    while command.next_output().await.is_some() {}
    ensure!(command.wait().await? == Exit::Status(0), "`true` failed");
    Ok(())
}

/// A directory of its own for each server.
fn directory(place: &Path, name: &str) -> Result<PathBuf> {
    let path = place.join(name);
    std::fs::create_dir(&path)?;
    Ok(path)
}

/// From the moment the server accepts to the first command's exit.
fn accepting(place: &Path, repetitions: usize) -> Result<String> {
    let mut all = [
        Runs::new("this program"),
        Runs::new("`ssh` in a loop, 0.3 s apart"),
    ];
    let mut server = Sshd::start(&directory(place, "accepting")?)?;
    for _ in 0..repetitions {
        for (number, runs) in all.iter_mut().enumerate() {
            server.stop();
            let login = server.login().clone();
            let mut client = match number {
                0 => ours(&login)?,
                _ => ssh_in_a_loop(&login)?,
            };
            std::thread::sleep(CLOSED);
            server.start_again()?;
            let accepts = until_listening(login.port)?;
            runs.durations.push(ended(&mut client, accepts)?);
        }
    }
    Ok(table(
        "sshd accepts → first command's exit",
        &all,
        Some(150.0),
    ))
}

/// A whole process: connecting, logging in, one command, the end.
fn whole(place: &Path, repetitions: usize) -> Result<String> {
    let server = Sshd::start(&directory(place, "whole")?)?;
    let mut all = [Runs::new("this program"), Runs::new("`ssh host true`")];
    for _ in 0..repetitions {
        for (number, runs) in all.iter_mut().enumerate() {
            let began = Instant::now();
            let mut client = match number {
                0 => ours(server.login())?,
                _ => ssh(server.login(), &[])
                    .spawn()
                    .context("cannot run `ssh`")?,
            };
            runs.durations.push(ended(&mut client, began)?);
        }
    }
    let mut inside = Runs::new("the same within a process");
    runtime()?.block_on(async {
        for _ in 0..repetitions {
            let began = Instant::now();
            run_true(&server.login().connect().await?).await?;
            inside.durations.push(began.elapsed());
        }
        anyhow::Ok(())
    })?;
    let [ours, theirs] = all;
    Ok(table(
        "connect + authenticate + exec",
        &[ours, theirs, inside],
        Some(50.0),
    ))
}

/// A command on an open connection.
fn open(place: &Path, repetitions: usize) -> Result<String> {
    let dir = directory(place, "open")?;
    let server = Sshd::start(&dir)?;
    let mut inside = Runs::new("this program");
    runtime()?.block_on(async {
        let connection = server.login().connect().await?;
        run_true(&connection).await?;
        for _ in 0..repetitions {
            let began = Instant::now();
            run_true(&connection).await?;
            inside.durations.push(began.elapsed());
        }
        anyhow::Ok(())
    })?;
    let socket = format!("ControlPath={}", dir.join("control").display());
    let mut master = ssh(
        server.login(),
        &["-o", &socket, "-o", "ControlMaster=yes", "-N"],
    )
    .spawn()
    .context("cannot run `ssh`")?;
    let began = Instant::now();
    while !dir.join("control").exists() {
        ensure!(began.elapsed() < PATIENCE, "`ssh` made no control socket");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut theirs = Runs::new("`ssh` with a control socket");
    for _ in 0..repetitions {
        let began = Instant::now();
        let mut client = ssh(server.login(), &["-o", &socket]).spawn()?;
        theirs.durations.push(ended(&mut client, began)?);
    }
    master.kill()?;
    master.wait()?;
    Ok(table(
        "exec on an open connection",
        &[inside, theirs],
        Some(5.0),
    ))
}

fn ours(login: &Login) -> Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["ours", &login.port.to_string()])
        .arg(&login.key)
        .spawn()
        .context("cannot start ourselves")
}

fn ssh(login: &Login, further: &[&str]) -> Command {
    let mut command = Command::new("ssh");
    command
        .args(login.options(None))
        .args(further)
        .args(["127.0.0.1", "true"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn ssh_in_a_loop(login: &Login) -> Result<Child> {
    Command::new("/bin/sh")
        .args([
            "-c",
            "until ssh \"$@\" 127.0.0.1 true 2>/dev/null; do sleep 0.3; done",
            "sh",
        ])
        .args(login.options(None))
        .stdin(Stdio::null())
        .spawn()
        .context("cannot run `sh`")
}

/// Waits until the port listens, without connecting: a connection of ours would keep the server busy.
fn until_listening(port: u16) -> Result<Instant> {
    let wanted = format!("0100007F:{port:04X} 00000000:0000 0A");
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if std::fs::read_to_string("/proc/net/tcp")?.contains(&wanted) {
            return Ok(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("`sshd` did not start")
}

fn ended(client: &mut Child, since: Instant) -> Result<Duration> {
    let status = client.wait()?;
    let elapsed = since.elapsed();
    ensure!(status.success(), "a client ended with {status}");
    Ok(elapsed)
}

/// The first competitor is ours; the goal is what its median stays below, in milliseconds.
fn table(title: &str, all: &[Runs], goal_ms: Option<f64>) -> String {
    let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let first = all.first().map_or(Duration::ZERO, Runs::median);
    let goal = goal_ms.map_or_else(String::new, |goal| format!(" (goal: below {goal} ms)"));
    let mut text =
        format!("\n### {title}{goal}\n\n| | median, ms | ratio to ours |\n| --- | --- | --- |\n");
    for runs in all {
        let median = runs.median();
        let ratio = median.as_secs_f64() / first.as_secs_f64().max(f64::EPSILON);
        let _ = writeln!(
            text,
            "| {} | {:.1} | {ratio:.2} |",
            runs.name,
            millis(median)
        );
    }
    text
}
