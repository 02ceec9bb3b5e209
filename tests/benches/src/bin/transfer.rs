//! Transfers beside `scp`, `sftp`, `rsync`, `tar | ssh` and `ssh cat`: one server, in turns, checked, in memory.
//!
//! Each run starts from nothing: a program (ours too), its connection, its login, the transfer, the end. What arrived is
//! counted afterwards, so that nobody wins by leaving something out.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is what it is for"
)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use benches::medians::Runs;
use benches::sshd::{BEST_CIPHER, Login, Sshd};
use benches::{machine, results};
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use clap::{Parser, Subcommand};
use guest_ssh::{Compare, RemotePath, Selection, TransferOptions};
use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

/// No more of our memory may be resident in any transfer.
const MEMORY_MAX_MIB: u64 = 64;

/// A competitor that takes longer than this runs twice only.
const SLOW: Duration = Duration::from_secs(4);

#[derive(Parser)]
#[command(
    name = "bench transfer",
    about = "Transfers beside scp, sftp, rsync, tar | ssh and ssh cat"
)]
struct Cli {
    #[command(subcommand)]
    ours: Option<Ours>,
    /// Runs of each competitor in each case
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Only cases whose names contain this
    #[arg(long, default_value = "")]
    case: String,
    /// 64 MiB, 1,000 and 5,000 files, to see whether it works
    #[arg(long)]
    quick: bool,
    /// Keep the table in `tests/benches/RESULTS.md`
    #[arg(long)]
    keep: bool,
}

/// Our side, as a process of its own.
#[derive(Subcommand)]
enum Ours {
    #[command(hide = true)]
    Ours {
        way: String,
        port: u16,
        key: PathBuf,
        from: PathBuf,
        to: PathBuf,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(Ours::Ours {
        way,
        port,
        key,
        from,
        to,
    }) = cli.ours
    {
        return ours(&way, &Login { port, key }, &from, &to);
    }
    let place = tempfile::Builder::new()
        .prefix("orka-step-bench-")
        .tempdir_in(machine::scratch())?;
    let bench = Bench {
        server: Sshd::start(place.path())?,
        place: place.path().to_owned(),
        repetitions: if cli.quick { 2 } else { cli.repetitions },
        large: if cli.quick { 64 << 20 } else { 1 << 30 },
        files: if cli.quick { 1000 } else { 10_000 },
        many: if cli.quick { 5000 } else { 100_000 },
    };
    let cases: Vec<_> = cases()
        .into_iter()
        .filter(|case| case.name.contains(&cli.case))
        .collect();
    bench.prepare(cases.iter().any(|case| case.tree == Tree::Many))?;
    let mut text = format!(
        "`cargo xtask bench transfer --keep`; {}, loopback, {}; medians of up to {} runs in turns.\n",
        machine::describe(),
        if place.path().starts_with("/dev/shm") {
            "files in memory"
        } else {
            "files on disk"
        },
        bench.repetitions,
    );
    for case in &cases {
        let table = bench
            .measure(case)
            .with_context(|| format!("case `{}`", case.name))?;
        println!("{table}");
        text.push_str(&table);
    }
    if cli.keep {
        ensure!(
            !cli.quick && cli.case.is_empty(),
            "only a whole run is kept"
        );
        results::keep("transfer", &text)?;
    }
    Ok(())
}

/// What is moved, which way, by whom.
struct Case {
    name: &'static str,
    tree: Tree,
    way: Way,
    competitors: &'static [Tool],
    /// At least this many times as fast as a competitor, or as the quickest of all with [`None`].
    goals: &'static [(Option<&'static str>, f64)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    Large,
    Small,
    /// As many files as a large project has; the names alone fill megabytes.
    Many,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
    /// The same tree is on both sides, and one file in a hundred has changed in the VM.
    Changed,
}

#[derive(Clone, Copy)]
enum Tool {
    Scp,
    Sftp,
    Rsync(&'static str),
    Cat,
    /// With the digest that we have of everything that comes, too.
    CatSum,
    Tar,
}

fn cases() -> Vec<Case> {
    use Tool::{Cat, CatSum, Rsync, Scp, Sftp, Tar};
    let large: &[Tool] = &[Scp, Sftp, Rsync("-W"), Cat, Tar];
    let large_down: &[Tool] = &[Scp, Sftp, Rsync("-W"), Cat, CatSum, Tar];
    let small: &[Tool] = &[Tar, Rsync("-a"), Scp, Sftp];
    let many: &[Tool] = &[Tar, Rsync("-a")];
    let large_goals: &[_] = &[(None, 1.0)];
    let large_down_goals: &[_] = &[(None, 1.0), (Some("ssh cat, openssl sha256"), 1.0)];
    let small_goals: &[_] = &[
        (Some("tar"), 1.0),
        (Some("rsync -a"), 1.5),
        (Some("scp"), 20.0),
    ];
    let many_goals: &[_] = &[(Some("tar"), 1.0), (Some("rsync -a"), 1.0)];
    let case = |name, tree, way, competitors, goals| Case {
        name,
        tree,
        way,
        competitors,
        goals,
    };
    vec![
        case("a large file up", Tree::Large, Way::Up, large, large_goals),
        case(
            "a large file down",
            Tree::Large,
            Way::Down,
            large_down,
            large_down_goals,
        ),
        case("small files up", Tree::Small, Way::Up, small, small_goals),
        case(
            "small files down",
            Tree::Small,
            Way::Down,
            small,
            small_goals,
        ),
        case(
            "changed files back",
            Tree::Small,
            Way::Changed,
            &[Rsync("-a"), Tar],
            &[(Some("rsync -a"), 1.0)],
        ),
        case("many files up", Tree::Many, Way::Up, many, many_goals),
        case("many files down", Tree::Many, Way::Down, many, many_goals),
    ]
}

struct Bench {
    server: Sshd,
    place: PathBuf,
    repetitions: usize,
    large: u64,
    files: usize,
    many: usize,
}

impl Bench {
    fn tree(&self, tree: Tree) -> PathBuf {
        self.place.join(match tree {
            Tree::Large => "large",
            Tree::Small => "small",
            Tree::Many => "many",
        })
    }

    /// The same bytes in each run of this program, and nothing that could be compressed.
    fn prepare(&self, with_many: bool) -> Result<()> {
        let mut random = SmallRng::seed_from_u64(1);
        std::fs::create_dir(self.tree(Tree::Large))?;
        let mut large = std::fs::File::create(self.tree(Tree::Large).join("file"))?;
        let mut piece = vec![0; 1 << 20];
        for _ in 0..self.large >> 20 {
            random.fill_bytes(&mut piece);
            large.write_all(&piece)?;
        }
        for number in 0..self.files {
            let dir = self.tree(Tree::Small).join(format!("d{:02}", number % 100));
            std::fs::create_dir_all(&dir)?;
            let size = random.random_range(200..8192);
            random.fill_bytes(&mut piece[..size]);
            std::fs::write(dir.join(format!("file-{number:05}.txt")), &piece[..size])?;
        }
        for number in (0..self.many).filter(|_| with_many) {
            let dir = format!("module-{:03}/src/component-{:02}", number % 200, number % 7);
            let dir = self.tree(Tree::Many).join(dir);
            std::fs::create_dir_all(&dir)?;
            let size = random.random_range(50..2048);
            random.fill_bytes(&mut piece[..size]);
            std::fs::write(dir.join(format!("file-{number:06}.txt")), &piece[..size])?;
        }
        Ok(())
    }

    fn measure(&self, case: &Case) -> Result<String> {
        let mut runs = vec![(None, None, Runs::new("**orka-step**"))];
        for tool in case.competitors {
            for cipher in [None, Some(BEST_CIPHER)] {
                let name = format!(
                    "{}{}",
                    tool.name(),
                    if cipher.is_some() { ", aes128-gcm" } else { "" }
                );
                runs.push((Some(*tool), cipher, Runs::new(name)));
            }
        }
        let mut memory = 0;
        for round in 0..self.repetitions {
            for (tool, cipher, runs) in &mut runs {
                if round >= 2 && runs.median() > SLOW {
                    continue;
                }
                let (from, to) = self.scene(case)?;
                let started = Instant::now();
                match tool {
                    Some(tool) => {
                        self.run(tool.command(case, self.server.login(), *cipher, &from, &to))?
                    }
                    None => memory = memory.max(self.run_ours(case, &from, &to)?),
                }
                let took = started.elapsed();
                eprintln!("{}: {} {:.3} s", case.name, runs.name, took.as_secs_f64());
                runs.durations.push(took);
                self.check(case, &runs.name, &from, &to)?;
                std::fs::remove_dir_all(&to)?;
                if case.way == Way::Changed {
                    std::fs::remove_dir_all(&from)?;
                }
            }
        }
        let runs: Vec<_> = runs.into_iter().map(|(_, _, runs)| runs).collect();
        Ok(table(case, &runs, memory, self))
    }

    /// Where a run takes from and puts to; the tree it puts to is made anew.
    fn scene(&self, case: &Case) -> Result<(PathBuf, PathBuf)> {
        let (from, to) = (self.tree(case.tree), self.place.join("to"));
        if case.way != Way::Changed {
            std::fs::create_dir(&to)?;
            return Ok((from, to));
        }
        let changed = self.place.join("changed");
        for copy in [&to, &changed] {
            self.run({
                let mut command = Command::new("cp");
                command.arg("-a").arg(&from).arg(copy);
                command
            })?;
        }
        for number in (0..self.files).step_by(100) {
            let file = changed.join(format!("d{:02}/file-{number:05}.txt", number % 100));
            std::fs::write(file, format!("changed {number}"))?;
        }
        Ok((changed, to))
    }

    fn run(&self, mut command: Command) -> Result<()> {
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = status.with_context(|| format!("cannot run {command:?}"))?;
        ensure!(status.success(), "{command:?} failed: {status}");
        Ok(())
    }

    /// Returns the most memory that was resident, in KiB.
    fn run_ours(&self, case: &Case, from: &Path, to: &Path) -> Result<u64> {
        let way = match case.way {
            Way::Up => "up",
            Way::Down => "down",
            Way::Changed => "changed",
        };
        let login = self.server.login();
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["ours", way, &login.port.to_string()])
            .args([&login.key, from, to]);
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "our own side failed");
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    }

    fn check(&self, case: &Case, who: &str, from: &Path, to: &Path) -> Result<()> {
        let (sent, arrived) = (count(from)?, count(to)?);
        ensure!(
            sent == arrived,
            "{who} moved {arrived:?} files and bytes of {sent:?}"
        );
        if case.way == Way::Changed {
            let file = to.join("d00/file-00000.txt");
            ensure!(
                std::fs::read(file)? == b"changed 0",
                "{who} brought an old file back"
            );
        }
        Ok(())
    }
}

/// Files and bytes below a directory.
fn count(dir: &Path) -> Result<(u64, u64)> {
    let mut sum = (0, 0);
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let below = if entry.file_type()?.is_dir() {
            count(&entry.path())?
        } else {
            (1, entry.metadata()?.len())
        };
        sum = (sum.0 + below.0, sum.1 + below.1);
    }
    Ok(sum)
}

impl Tool {
    fn name(self) -> String {
        match self {
            Self::Scp => "scp".to_owned(),
            Self::Sftp => "sftp".to_owned(),
            Self::Rsync(option) => format!("rsync {option}"),
            Self::Cat => "ssh cat".to_owned(),
            Self::CatSum => "ssh cat, openssl sha256".to_owned(),
            Self::Tar => "tar to ssh".to_owned(),
        }
    }

    fn command(
        self,
        case: &Case,
        login: &Login,
        cipher: Option<&str>,
        from: &Path,
        to: &Path,
    ) -> Command {
        let options = login.options(cipher);
        let up = case.way == Way::Up;
        let (from, to) = (from.display().to_string(), to.display().to_string());
        // None of these paths holds anything that a shell or `scp` would read as more than a name.
        let there = |path: &str| format!("127.0.0.1:{path}");
        match self {
            Self::Scp | Self::Rsync(_) => {
                let mut command = Command::new(if matches!(self, Self::Scp) {
                    "scp"
                } else {
                    "rsync"
                });
                let contents = if let Self::Rsync(option) = self {
                    command.args([option, "-r", "-e", &format!("ssh {}", options.join(" "))]);
                    "/"
                } else {
                    command.args(options).args(["-q", "-r"]);
                    "/."
                };
                let from = format!("{from}{contents}");
                if up {
                    command.args([from, there(&to)])
                } else {
                    command.args([there(&from), to])
                };
                command
            }
            Self::Sftp => {
                let words = if up {
                    format!("put -r {from}/. {to}")
                } else {
                    format!("get -r {from}/. {to}")
                };
                shell(&format!(
                    "printf '%s\\n' '{words}' | sftp -q -b - {} 127.0.0.1",
                    options.join(" ")
                ))
            }
            Self::Cat => {
                let ssh = format!("ssh {} 127.0.0.1", options.join(" "));
                shell(&if up {
                    format!("{ssh} 'cat >{to}/file' <{from}/file")
                } else {
                    format!("{ssh} 'cat {from}/file' >{to}/file")
                })
            }
            Self::CatSum => {
                let ssh = format!("ssh {} 127.0.0.1", options.join(" "));
                shell(&format!(
                    "{ssh} 'cat {from}/file' | tee {to}/file | openssl sha256"
                ))
            }
            Self::Tar => {
                let ssh = format!("ssh {} 127.0.0.1", options.join(" "));
                shell(&if up {
                    format!("tar -cf - -C {from} . | {ssh} 'tar -xpf - -C {to}'")
                } else {
                    format!("{ssh} 'tar -cf - -C {from} .' | tar -xpf - -C {to}")
                })
            }
        }
    }
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    command
}

fn table(case: &Case, runs: &[Runs], memory_kib: u64, bench: &Bench) -> String {
    let Some((ours, others)) = runs.split_first() else {
        return String::new();
    };
    let seconds = |runs: &Runs| runs.median().as_secs_f64();
    let quickest = |name: &str| {
        others
            .iter()
            .filter(|other| other.name.starts_with(name))
            .min_by(|one, two| seconds(one).total_cmp(&seconds(two)))
    };
    let what = match case.tree {
        Tree::Large => format!("{} MiB", bench.large >> 20),
        Tree::Small => format!("{} files of 200 B to 8 KB", bench.files),
        Tree::Many => format!("{} files of 50 B to 2 KB", bench.many),
    };
    let mut text = format!(
        "\n### {} ({what})\n\n| | median, s | runs, s | rate, MiB/s | we are × as fast |\n| --- | --- | --- | --- | --- |\n",
        case.name
    );
    let bytes = count(&bench.tree(case.tree)).map_or(0, |(_, bytes)| bytes);
    for run in runs {
        let rate = bytes as f64 / 1024.0 / 1024.0 / seconds(run);
        let ratio = seconds(run) / seconds(ours);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {:.3} | {} ({}) | {rate:.0} | {ratio:.2} |",
            run.name,
            seconds(run),
            run.spread(),
            run.durations.len(),
        );
    }
    text.push_str("\n| goal | reached | |\n| --- | --- | --- |\n");
    for (name, goal) in case.goals {
        if let Some(other) = quickest(name.unwrap_or_default()) {
            let ratio = seconds(other) / seconds(ours);
            let verdict = if ratio >= *goal { "met" } else { "**missed**" };
            let _ = writeln!(
                text,
                "| ≥ {goal:.1} × {} | {ratio:.2} × | {verdict} |",
                other.name
            );
        }
    }
    let verdict = if memory_kib < MEMORY_MAX_MIB * 1024 {
        "met"
    } else {
        "**missed**"
    };
    let _ = writeln!(
        text,
        "| resident memory < {MEMORY_MAX_MIB} MiB | {:.1} MiB | {verdict} |",
        memory_kib as f64 / 1024.0
    );
    text
}

/// One transfer; prints the most memory that was resident, in KiB.
fn ours(way: &str, login: &Login, from: &Path, to: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let connection = login.connect().await?;
        let everything = Selection::everything();
        let mut options = TransferOptions::default();
        if way == "changed" {
            options.compare = Compare::SizeTime;
        }
        let open = |path: &Path| Dir::open_ambient_dir(path, ambient_authority());
        let remote = |path: &Path| RemotePath::parse(path.as_os_str().as_bytes());
        match way {
            "up" => drop(
                connection
                    .upload(&open(from)?, &everything, &remote(to)?, &options, |_| ())
                    .await?,
            ),
            "down" | "changed" => drop(
                connection
                    .download(
                        &remote(from)?,
                        &everything,
                        &open(to)?,
                        Path::new("."),
                        &options,
                        |_| (),
                    )
                    .await?,
            ),
            other => bail!("there is no way `{other}`"),
        }
        connection.close().await;
        anyhow::Ok(())
    })?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("the kernel does not say VmHWM")?;
    println!("{}", peak.trim().trim_end_matches("kB").trim());
    Ok(())
}
