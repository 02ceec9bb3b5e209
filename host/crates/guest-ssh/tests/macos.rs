//! Every test of commands and transfers once more, with a VM whose userland is macOS's: `support/userland.rs`.
#![allow(clippy::unwrap_used, missing_docs)]
// Each of the files brings the support code with it.
#![allow(clippy::duplicate_mod, reason = "the same tests on another userland")]

#[path = "detach.rs"]
mod detach;
#[path = "detach_alone.rs"]
mod detach_alone;
#[path = "exec.rs"]
mod exec;
#[path = "review.rs"]
mod review;
#[path = "transfer.rs"]
mod transfer;
#[path = "transfer_changing.rs"]
mod transfer_changing;
#[path = "transfer_limits.rs"]
mod transfer_limits;
#[path = "transfer_ways.rs"]
mod transfer_ways;

use std::process::Command;

/// Test files that are about something else than what a VM's programs do.
const ELSEWHERE: &[&str] = &[
    "hostile.rs",
    "hostile_archives.rs",
    "hostile_commands.rs",
    "hostile_detached.rs",
    "hostile_sftp.rs",
    "interop.rs",
    "login.rs",
    "macos.rs",
    "ready.rs",
];

#[test]
fn no_test_file_is_forgotten_here() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let own = std::fs::read_to_string(tests.join("macos.rs")).unwrap();
    for entry in std::fs::read_dir(tests).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let named =
            ELSEWHERE.contains(&name.as_str()) || own.contains(&format!("#[path = \"{name}\"]"));
        assert!(
            named || !name.ends_with(".rs"),
            "`{name}` runs on no macOS userland"
        );
    }
}

/// What runs in the stand-in userland: the status, and standard output.
fn run(line: &str) -> (Option<i32>, String) {
    let macos = exec::support::userland::Macos::whole();
    let output = Command::new(macos.path().join("sh"))
        .args(["-c", line])
        .env_clear()
        .env("PATH", macos.path())
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

#[test]
fn the_stand_ins_refuse_what_macos_refuses_so_that_the_tests_prove_something() {
    for line in [
        "find . -printf %p",
        "find -type f",
        "stat -c %s .",
        "sed --in-place s/a/b/ x",
        "date -d @0",
        "date --utc",
        "readlink -f .",
        "cp --parents a b",
        "cp -t b a",
        "xargs -d x",
        "head -c -3 /dev/null",
        "head -c 1M /dev/null",
        "ls --color",
        "tail --pid=1 /dev/null",
        "grep -P x /dev/null",
        "mktemp --suffix=x",
        "du -b .",
        "sort --zero-terminated /dev/null",
        "dd if=/dev/null bs=1M",
    ] {
        assert!(!matches!(run(line).0, Some(0)), "`{line}` worked");
    }
    for tool in [
        "sha256sum",
        "md5sum",
        "timeout",
        "setsid",
        "stdbuf",
        "tac",
        "nproc",
        "truncate",
        "realpath",
        "gtar",
        "numfmt",
    ] {
        assert_eq!(run(&format!("command -v {tool}")).0, Some(127), "`{tool}`");
    }
}

#[test]
fn the_stand_ins_answer_as_macos_does() {
    for (line, expected) in [
        ("uname", "Darwin\n"),
        ("printf abc | wc -c", "       3\n"),
        ("date -u -r 0 +%Y-%m-%d", "1970-01-01\n"),
        (
            "cd \"$(mktemp -d)\" && printf abc >f && touch -t 200101010000 f && stat -f '%z %N' f",
            "3 f\n",
        ),
        (
            "cd \"$(mktemp -d)\" && printf abc >f && sed -i '' s/b/x/ f && cat f && ls",
            "axcf\n",
        ),
        ("printf abc | shasum -a 256 | cut -c 1-8", "ba7816bf\n"),
        ("tar --version | cut -c 1-6", "bsdtar\n"),
    ] {
        assert_eq!(run(line), (Some(0), expected.to_owned()), "`{line}`");
    }
}
