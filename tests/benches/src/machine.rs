//! What kind of machine this is, without saying which.

use std::path::{Path, PathBuf};
use std::process::Command;

/// One line: processors, memory, the instructions that matter to ciphers and digests, and the programs compared with.
#[must_use]
pub fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_gib = field(&memory, "MemTotal:")
        .and_then(|text| text.split(' ').next()?.parse::<f64>().ok())
        .map_or_else(String::new, |kib| {
            format!(", {:.0} GiB", kib / 1024.0 / 1024.0)
        });
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let all = field(&cpu, "flags")
        .or_else(|| field(&cpu, "Features"))
        .unwrap_or_default();
    let features: Vec<_> = ["aes", "vaes", "avx2", "avx512f", "sha_ni", "sha2", "pmull"]
        .into_iter()
        .filter(|wanted| all.split(' ').any(|feature| feature == *wanted))
        .collect();
    format!(
        "{} × {}{memory_gib}; {}; {}; {}",
        cores,
        std::env::consts::ARCH,
        features.join(" "),
        first_words(Command::new("ssh").arg("-V"), 1).trim_end_matches(','),
        first_words(Command::new("rsync").arg("--version"), 3),
    )
}

/// A directory in memory where there is one, so that no disk is measured.
#[must_use]
pub fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.get(name.len()..)?.trim_start_matches([':', '\t', ' ']))
}

/// The first words of what a program says about itself, on whichever output.
fn first_words(command: &mut Command, count: usize) -> String {
    let Ok(output) = command.output() else {
        return "not installed".to_owned();
    };
    let text = [output.stdout, output.stderr].concat();
    let words: Vec<_> = String::from_utf8_lossy(&text)
        .split_whitespace()
        .filter(|word| *word != "version")
        .take(count.min(2))
        .map(str::to_owned)
        .collect();
    words.join(" ")
}
