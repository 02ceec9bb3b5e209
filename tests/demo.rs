//! The whole job without a cluster.

use std::path::Path;

use end_to_end::{Ended, Running, Step, Stream, bundled, guest};
use rustix::process::Signal;

const LEFT: &str = "left on the cluster: 0 VMs, 0 VM configs";

/// The demo with its temporary files where the test removes them.
fn demo() -> Step {
    let step = Step::new(&["demo"]);
    let marker = step.scratch_file("tmp/marker", b"");
    let directory = Path::new(&marker).parent().unwrap().to_owned();
    step.flag("--boot-delay", "100ms")
        .environment("TMPDIR", directory.to_str().unwrap())
}

/// A line without what differs from run to run and from machine to machine. How many requests were made does not.
fn shape(line: &str) -> String {
    if line.starts_with("left on the cluster") {
        return line.to_owned();
    }
    let line = line.split(" as ").next().unwrap_or_default();
    let varies = |word: &str| word.contains(|it: char| it == '/' || it.is_ascii_digit());
    let words = line
        .split(' ')
        .map(|word| if varies(word) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// As on a terminal, where lines have no time before them.
#[tokio::test]
async fn the_demo_prints_what_the_readme_shows() {
    let readme = include_str!("../README.md");
    let start = readme.find("simulated cluster: ").unwrap();
    let shown = readme[start..].split("```").next().unwrap();
    let mut shown: Vec<String> = shown.lines().map(shape).collect();
    let ended = demo().ended().await;
    let log = ended.stderr.lines();
    let log = log.map(|line| line.split_once("Z ").map_or(line, |(_, line)| line));
    let mut printed: Vec<String> = log.chain(ended.stdout.lines()).map(shape).collect();
    // The two streams have an order each.
    shown.sort();
    printed.sort();
    assert_eq!(shown, printed, "{ended}");
}

#[tokio::test]
async fn the_demo_builds_and_leaves_nothing_but_its_workspace() {
    let ended = demo().ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    ended.assert_says(&[LEFT, "dist/hello.tar (sha256 "]);
    assert!(ended.stdout.contains("hello from a build VM"), "{ended}");
    let mut left = names(&ended);
    left.retain(|name| name != "marker");
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with("orka-step-demo-workspace-"), "{left:?}");
}

#[tokio::test]
async fn the_demo_runs_a_foreign_plugin_and_its_own_script() {
    let ended = demo()
        .flag("--plugin", guest("several").to_str().unwrap())
        .ended()
        .await;
    assert_eq!(ended.code, Some(0), "{ended}");
    ended.assert_says(&[LEFT]);
    let ended = demo()
        .param("script", "#!/bin/sh\nmkdir dist; echo >dist/a; exit 3\n")
        .ended()
        .await;
    assert_eq!(ended.code, Some(3), "{ended}");
    ended.assert_says(&[LEFT]);
}

#[tokio::test]
async fn the_demo_does_not_wait_for_tasks_that_there_are_not() {
    // By its name, and as a file.
    let teardown = bundled("teardown");
    for (name, given) in [
        ("deploy", "deploy"),
        ("teardown", teardown.to_str().unwrap()),
    ] {
        let ended = demo().flag("--plugin", given).ended().await;
        assert_eq!(ended.code, Some(211), "{ended}");
        let told = format!("plugin `{name}` works on what other Tasks of a run made");
        ended.assert_says(&[&told, "hint: start `orka-sim`, and run `init`", LEFT]);
    }
}

/// One that is named as a bundled plugin is, and is another file, may be all of its Tasks in one.
#[tokio::test]
async fn the_demo_shows_a_plugin_with_the_name_of_a_bundled_one() {
    let step = demo();
    let mut other = std::fs::read(bundled("deploy")).unwrap();
    // A custom section of one byte.
    other.extend([0, 3, 1, b'x', 0]);
    let other = step.scratch_file("deploy.wasm", &other);
    let mut running = step.flag("--plugin", other).start();
    running.says(Stream::Stderr, "<== sign in").await;
    running.signal(Signal::TERM);
    assert_eq!(running.ended().await.code, Some(143));
}

#[tokio::test]
async fn the_demo_grants_the_secrets_that_are_given_to_it() {
    let step = demo().param(
        "script",
        "#!/bin/sh\nmkdir dist; echo >dist/a; echo \"key: $KEY\"\n",
    );
    let step = step.param("secret-env", "KEY=SIGNING");
    let file = step.scratch_file("secrets/SIGNING", b"hunter22-is-secret");
    let key = step.scratch_file("key", &[7; 32]);
    let place = |file: &str| {
        Path::new(file)
            .parent()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let ended = step
        .flag("--secrets", place(&file))
        .flag("--plugin-cache", place(&file))
        .flag("--plugin-cache-key", key)
        .ended()
        .await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(ended.stdout.contains("key: ***"), "{ended}");

    // One that the plugin needs, where the plugin did not come with the program.
    let step = demo().flag("--plugin", guest("secret-probe").to_str().unwrap());
    let file = step.scratch_file("secrets/TOKEN_X", b"hunter22-is-secret");
    let ended = step.flag("--secrets", place(&file)).ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    ended.assert_says(&[LEFT]);
}

#[tokio::test]
async fn a_demo_that_is_stopped_leaves_nothing() {
    let mut running: Running = demo()
        .param("script", "#!/bin/sh\necho running\nsleep 300\n")
        .start();
    running.says(Stream::Stdout, "running\n").await;
    running.signal(Signal::INT);
    let ended = running.ended().await;
    assert_eq!(ended.code, Some(130), "{ended}");
    ended.assert_says(&[LEFT]);
}

fn names(ended: &Ended) -> Vec<String> {
    let entries = std::fs::read_dir(ended.scratch().join("tmp")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}
