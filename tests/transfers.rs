//! What is copied in and back.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use end_to_end::{Cluster, Ended};

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_come_back_from_a_failed_script_when_asked_for() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build("#!/bin/sh\nmkdir logs\necho why >logs/x.log\necho big >other\nexit 7\n")
        .param("artifacts", "logs/**")
        .param("artifacts-when", "always")
        .ended()
        .await;
    ended.assert(7, "build-failed");
    assert_eq!(ended.file("logs/x.log").unwrap(), b"why\n");
    assert!(ended.file("other").is_none());
    assert!(
        ended.result("artifacts-digest").starts_with("sha256:"),
        "{ended}"
    );
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_back_from_a_failed_script_by_default() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build("#!/bin/sh\necho half >half\nexit 7\n")
        .ended()
        .await;
    ended.assert(7, "build-failed");
    assert!(ended.file("half").is_none());
    assert!(!ended.results.contains_key("artifacts-digest"), "{ended}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_artifacts_of_a_failed_script_do_not_hide_its_status() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build("#!/bin/sh\nexit 7\n")
        .param("artifacts", "logs/**")
        .param("artifacts-when", "always")
        .ended()
        .await;
    ended.assert(7, "build-failed");
    ended.assert_says(&["warning: nothing was copied back", "logs/**"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_that_were_never_made_fail_a_build_that_succeeded() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build("#!/bin/sh\ntrue\n")
        .param("artifacts", "dist/*.ipa")
        .ended()
        .await;
    ended.assert(217, "infra-failed");
    ended.assert_says(&["error: copying back", "dist/*.ipa"]);
    cluster.assert_purged();
}

/// Makes more than a mebibyte in three files.
const LARGE: &str =
    "#!/bin/sh\nmkdir dist\nfor name in a b c; do head -c 500000 /dev/zero >dist/$name; done\n";

#[tokio::test(flavor = "multi_thread")]
async fn more_than_may_come_back_is_refused_with_the_entry_and_what_raises_the_limit() {
    let operator = |ceiling: &str| {
        format!(
            "[[grant]]\nplugin = \"build\"\ncapabilities = [\"*\"]\n[grant.ceilings]\n{ceiling}\n"
        )
    };
    let cluster = Cluster::start().await;
    let step = || cluster.build(LARGE).param("artifacts", "dist/**");
    let by_size = "`: more than 1.0 MiB";
    for (step, told) in [
        (
            step().param("artifacts-max-size", "1Mi"),
            [by_size, "raise the parameter `artifacts-max-size`"],
        ),
        (
            step().granted(&operator("artifacts-max-size = \"1MiB\"")),
            [
                by_size,
                "raise `artifacts-max-size` under `[grant.ceilings]` at ",
            ],
        ),
        (
            step().param("artifacts-max-count", "2"),
            [
                "more than 2 entries",
                "raise the parameter `artifacts-max-count`",
            ],
        ),
        (
            step()
                .param("artifacts-max-count", "300000")
                .granted(&operator("artifacts-max-count = 2")),
            ["more than 2 entries", "raise `artifacts-max-count` under"],
        ),
    ] {
        let ended = step.ended().await;
        // What the grant does not allow is a denial; what the build itself bounds is not.
        if told[1].contains("parameter") {
            ended.assert(217, "infra-failed");
        } else {
            ended.assert(212, "denied");
            ended.assert_says(&["grants.toml:5"]);
        }
        ended.assert_says(&["error: copying back: download stopped at `", "dist"]);
        ended.assert_says(&told);
        assert!(ended.file("dist").is_none(), "{ended}");
        assert!(!ended.results.contains_key("artifacts-digest"), "{ended}");
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_come_back_comes_back_under_limits() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build(LARGE)
        .param("artifacts", "dist/**")
        .param("artifacts-max-size", "1500000")
        .param("artifacts-max-count", "100")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.file("dist/c").unwrap().len(), 500_000);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_build_false_copies_nothing_back() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build("#!/bin/sh\necho new >new\necho changed >old\n")
        .param("copy-build", "false")
        .file("old", "old")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    assert!(ended.file("new").is_none());
    assert_eq!(ended.file("old").unwrap(), b"old");
    ended.assert_says(&["copy back: skipped"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_names_survive_both_ways() {
    let names = [
        "with space",
        "line\nbreak",
        "-dash",
        "quo\"te'",
        "$(x)`y`",
        "é🍎",
        "star*",
        "dir \\ x/in\tner",
    ];
    for cluster in [Cluster::start().await, Cluster::with_openssh().await] {
        let mut step = cluster.build(
            "#!/bin/sh\nset -e\nmkdir -p copy\ntar -cf - --exclude ./copy . | tar -xf - -C copy\n",
        );
        for name in names {
            step = step.file(name, name);
        }
        let ended = step.ended().await;
        ended.assert(0, "succeeded");
        for name in names {
            assert_eq!(ended.file(name).unwrap(), name.as_bytes(), "{name:?}");
            let copy = ended.file(&format!("copy/{name}"));
            assert_eq!(copy.as_deref(), Some(name.as_bytes()), "{name:?}\n{ended}");
        }
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_own_folder_does_not_travel() {
    let cluster = Cluster::start().await;
    let script =
        "#!/bin/sh\nls -a\nmkdir -p .orka-step/x\necho forged >.orka-step/x/ledger-x.jsonl\n";
    let ended = cluster.build(script).file("a", "").ended().await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.stdout, ".\n..\na\n");
    assert!(
        ended.file(".orka-step/x/ledger-x.jsonl").is_none(),
        "a VM wrote into the host's folder"
    );
    let kept = ledgers(&ended);
    assert_eq!(kept.len(), 1, "{kept:?}");
    let states: Vec<_> = kept[0].lines().filter_map(state_of).collect();
    assert_eq!(states.first().map(String::as_str), Some("intent"));
    assert_eq!(states.last().map(String::as_str), Some("released"));
    cluster.assert_purged();
}

fn ledgers(ended: &Ended) -> Vec<String> {
    let runs = fs::read_dir(ended.workspace().join(".orka-step")).unwrap();
    // Beside one directory a run there is a `.gitignore`.
    let directories = runs
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir());
    let files = directories.flat_map(|run| fs::read_dir(run).unwrap());
    files
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_some_and(|it| it == "jsonl"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect()
}

/// None for the first line, which says whose ledger it is.
fn state_of(line: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["state"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_and_links_survive_both_ways() {
    let cluster = Cluster::start().await;
    let step = cluster.build(
        "#!/bin/sh\nset -e\n./run.sh\nreadlink link\nln -s run.sh second\nln -s nowhere dangling\n",
    );
    let step = step.file("run.sh", "#!/bin/sh\necho ran\n");
    let workspace = step.workspace();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(workspace.join("run.sh"), executable).unwrap();
    symlink("run.sh", workspace.join("link")).unwrap();
    let ended = step.ended().await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.stdout, "ran\nrun.sh\n");
    let link = |name: &str| fs::read_link(ended.workspace().join(name)).unwrap();
    assert_eq!(link("second"), Path::new("run.sh"));
    assert_eq!(link("dangling"), Path::new("nowhere"));
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vm_sends_is_not_written_through_a_link_out_of_the_workspace() {
    let cluster = Cluster::start().await;
    let script = "#!/bin/sh\nrm -f out\nmkdir out\necho from the VM >out/planted\n";
    let step = cluster.build(script);
    let inside = step.scratch_file("outside/own", b"untouched");
    let outside = Path::new(&inside).parent().unwrap().to_owned();
    symlink(&outside, step.workspace().join("out")).unwrap();
    let ended = step.ended().await;
    let present: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(present, ["own"], "{ended}");
    assert_eq!(fs::read(&inside).unwrap(), b"untouched");
    cluster.assert_purged();
}
