//! Processes that outlive their SSH session, found and killed when their VM goes away.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal};

/// Sweeps before giving up on processes that start others faster than they are killed.
const ROUNDS_MAX: usize = 20;

/// Kills every process that was started in a VM's home: by its environment or its working directory, as `/proc` shows
/// them. A daemon has left session, process group and parent behind, so nothing else leads to it.
pub(crate) fn kill_processes_of(home: &Path) {
    for _ in 0..ROUNDS_MAX {
        let found = processes_of(home);
        if found.is_empty() {
            return;
        }
        for process in found {
            // Gone already is as good.
            let _ = rustix::process::kill_process(process, Signal::KILL);
        }
        // A killed process is seen until its parent has taken note of it.
        std::thread::yield_now();
    }
    tracing::debug!("processes of a VM are still ending");
}

fn processes_of(home: &Path) -> Vec<Pid> {
    let variable = format!("HOME={}", home.display());
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = entries.filter_map(|entry| {
        Some((
            entry.file_name().to_str()?.parse::<u32>().ok()?,
            entry.path(),
        ))
    });
    numbered
        .filter(|(number, _)| *number != own)
        .filter(|(_, proc)| {
            let environment = fs::read(proc.join("environ")).unwrap_or_default();
            let started_here = environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == variable.as_bytes());
            started_here
                || fs::read_link(proc.join("cwd")).is_ok_and(|place| place.starts_with(home))
        })
        .filter_map(|(number, _)| Pid::from_raw(number.cast_signed()))
        .collect()
}
