//! How long an author waits: a new project in each language, built, tested and shown, with no edit.

#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use benches::{machine, results};
use clap::Parser;

/// What the project is called.
const NAME: &str = "ios-build";

/// What `demo` says at its end.
const NOTHING_LEFT: &str = "left on the cluster: 0 VMs, 0 VM configs";

#[derive(Parser)]
#[command(
    name = "bench scaffolds",
    about = "How long an author waits, from a new project to its demo"
)]
struct Cli {
    /// The program
    #[arg(long)]
    program: PathBuf,
    /// The directory with the tools of the languages, as the tests have them
    #[arg(long)]
    tools: PathBuf,
    /// Measure only these languages
    #[arg(long, value_name = "LANGUAGE")]
    only: Vec<String>,
    /// Keep the table in `tests/benches/RESULTS.md`
    #[arg(long)]
    keep: bool,
}

/// A language: where a project finds its tools, and what tells their versions.
struct Language {
    name: &'static str,
    /// Below the tools' directory; a project is made in it.
    place: &'static str,
    /// Below that, what goes in front of `PATH`.
    programs: &'static str,
    /// Commands that tell a version, and files of the project that pin one.
    versions: &'static [&'static [&'static str]],
    pins: &'static [(&'static str, &'static str)],
}

const LANGUAGES: [Language; 3] = [
    Language {
        name: "rust",
        place: "",
        programs: "",
        versions: &[&["rustc", "--version"]],
        pins: &[("vendor/orka-plugin-sdk/Cargo.toml", "wit-bindgen")],
    },
    Language {
        name: "typescript",
        place: "typescript",
        programs: "node_modules/.bin",
        versions: &[&["node", "--version"]],
        pins: &[
            ("package.json", "componentize-qjs"),
            ("package.json", "esbuild"),
        ],
    },
    Language {
        name: "python",
        place: "python",
        programs: "bin",
        versions: &[&["python3", "--version"]],
        pins: &[("requirements.txt", "componentize-py")],
    },
];

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut text = format!(
        "`cargo xtask bench scaffolds --keep`; {}. A new project each, with no edit; the tools were installed before, no crate \
         was compiled before.\n\n\
         | | `plugin new` | `plugin build` | once more | `plugin test --sweep` | `demo --plugin` | in all | tools |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
        machine::describe(),
    );
    let wanted =
        |language: &&Language| cli.only.is_empty() || cli.only.iter().any(|it| it == language.name);
    for language in LANGUAGES.iter().filter(wanted) {
        let (tools, took) = language.measured(&cli)?;
        let _ = write!(text, "| {} |", language.name);
        for duration in took.iter().chain([&took.iter().sum()]) {
            let _ = write!(text, " {:.2} s |", duration.as_secs_f64());
        }
        let _ = writeln!(text, " {tools} |");
    }
    println!("{text}");
    if cli.keep {
        results::keep("scaffolds", &text)?;
    }
    Ok(())
}

impl Language {
    /// The tools in words, and how long each command took.
    fn measured(&self, cli: &Cli) -> Result<(String, [Duration; 5])> {
        let tools = cli.tools.join(self.place);
        std::fs::create_dir_all(&tools)?;
        // The tools run inside the project.
        let tools = tools.canonicalize()?;
        // Below the tools, where `node_modules` is found.
        let place = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(&tools)?;
        let project = place.path().join(NAME);
        let author = Author {
            program: &cli.program,
            path: path_with(&tools.join(self.programs)),
            target: place.path().join("target"),
        };
        let directory = project.to_string_lossy().into_owned();
        let plugin = project.join(format!("dist/{NAME}.wasm"));
        let plugin = plugin.to_string_lossy().into_owned();
        let new = [
            "plugin", "new", NAME, "--lang", self.name, "--dir", &directory,
        ];
        let test = ["plugin", "test", &directory, "--sweep"];
        let demo = ["demo", "--plugin", &plugin, "--boot-delay", "100ms"];
        let took = [
            author.does(&new, "plugin build")?,
            author.does(&["plugin", "build", &directory], "sha256:")?,
            author.does(&["plugin", "build", &directory], "sha256:")?,
            author.does(&test, " passed, 0 failed")?,
            author.does(&demo, NOTHING_LEFT)?,
        ];
        Ok((self.tools(&author, &project)?, took))
    }

    fn tools(&self, author: &Author<'_>, project: &Path) -> Result<String> {
        let mut words = Vec::new();
        for version in self.versions {
            let output = author
                .command(Path::new(version[0]), &version[1..])
                .output();
            let output = output.with_context(|| format!("cannot start `{}`", version[0]))?;
            let said = String::from_utf8_lossy(&output.stdout);
            let told = said.split_whitespace();
            let number = told
                .map(|word| word.trim_start_matches('v'))
                .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
                .context("a tool does not tell its version")?;
            words.push(format!("{} {number}", version[0]));
        }
        for (file, tool) in self.pins {
            let text = std::fs::read_to_string(project.join(file))
                .with_context(|| format!("a new project has no `{file}`"))?;
            words.push(format!("{tool} {}", pinned(&text, tool)?));
        }
        Ok(words.join(", "))
    }
}

/// The first number of the line that names a tool, in TOML, JSON or a list of requirements.
fn pinned(text: &str, tool: &str) -> Result<String> {
    let rest = text.lines().find_map(|line| line.split_once(tool));
    let (_, rest) = rest.with_context(|| format!("`{tool}` is not pinned"))?;
    let is_part = |character: &char| character.is_ascii_digit() || *character == '.';
    let number: String = rest
        .chars()
        .skip_while(|character| !character.is_ascii_digit())
        .take_while(is_part)
        .collect();
    ensure!(!number.is_empty(), "`{tool}` is pinned to no version");
    Ok(number)
}

fn path_with(first: &Path) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", first.display())
}

/// Who types the commands.
struct Author<'a> {
    program: &'a Path,
    path: String,
    target: PathBuf,
}

impl Author<'_> {
    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("PATH", &self.path)
            .env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// How long a command takes that succeeds and says this.
    fn does(&self, arguments: &[&str], says: &str) -> Result<Duration> {
        let began = Instant::now();
        let output = self.command(self.program, arguments).output()?;
        let took = began.elapsed();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(
            output.status.success() && said.contains(says),
            "`orka-step {}` failed:\n{said}",
            arguments.join(" ")
        );
        Ok(took)
    }
}

#[cfg(test)]
mod tests {
    use super::pinned;

    #[test]
    fn a_version_is_found_however_it_is_pinned() {
        for (text, version) in [
            (
                "[dependencies]\nwit-bindgen = { version = \"0.61.1\" }\n",
                "0.61.1",
            ),
            ("{\n  \"wit-bindgen\": \"0.61\"\n}\n", "0.61"),
            ("wit-bindgen==1.2.3\n", "1.2.3"),
        ] {
            assert_eq!(pinned(text, "wit-bindgen").ok().as_deref(), Some(version));
        }
        assert!(pinned("other==1\n", "wit-bindgen").is_err());
    }
}
