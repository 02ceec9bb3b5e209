//! Every sample, run as it is against a simulated cluster that has what the sample asks for.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use end_to_end::{
    Applied, Cluster, Kubernetes, Namespace, REGISTRY_PASSWORD, Ran, Registry, Step, guest,
    repository,
};
use orka_sim::{GuestKind, ImageSpec, SimConfig, SshdSettings, User};
use serde_json::json;
use tempfile::TempDir;

use super::{assert_outcome, generations};

/// What only a Mac has, as far as the samples use it. Each says what it was called with.
const PROGRAMS: [(&str, &str); 9] = [
    ("diskutil", "echo \"diskutil $*\""),
    ("sw_vers", "echo 'ProductName: macOS'"),
    ("sysctl", "echo 8"),
    ("system_profiler", "echo \"$1\""),
    (
        "ioreg",
        "echo '\"IOPlatformSerialNumber\" = \"C07XXXXXXXX0\"'",
    ),
    ("curl", "echo \"metadata of ${1##*/}\""),
    ("security", "echo \"security $1\""),
    // As far as a line goes that prints a text.
    ("ruby", "sed -n 's/^puts \"\\(.*\\)\"$/\\1/p' \"$1\""),
    (
        "xcodebuild",
        "case $* in\n\
         -version) echo 'Xcode 16.0' ;;\n\
         *archive*) mkdir -p build/App.xcarchive; echo signed >build/App.xcarchive/Info.plist ;;\n\
         *test) mkdir -p build/tests.xcresult build/logs; echo why >build/tests.xcresult/data; echo log >build/logs/a.log; exit 65 ;;\n\
         *) mkdir -p build/Release-iphoneos; echo app >build/Release-iphoneos/App ;;\n\
         esac",
    ),
];

/// Grants as a platform team keeps them for one plugin.
const GRANTS: &str = "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\n";

/// A cluster on which the samples' images and passwords are right, and what its VMs and the samples' volumes hold.
struct Site {
    cluster: Cluster,
    kubernetes: Arc<Kubernetes>,
    scratch: TempDir,
}

impl Site {
    async fn of(config: SimConfig) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let programs = scratch.path().join("bin");
        std::fs::create_dir(&programs).unwrap();
        for (name, script) in PROGRAMS {
            let path = programs.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut config = SimConfig {
            guest_programs: Some(programs),
            // Those of `orka-2.yaml` and `orka-3.yaml`.
            users: vec![User {
                email: "ci@example.com".to_owned(),
                password: "change-me".to_owned(),
            }],
            ..config
        };
        config.switches.gpu_passthrough = true;
        "change-me".clone_into(&mut config.sa_tokens[0].token);
        let images = [
            "Monterey.img",
            "Sonoma-signing.orkasi",
            "ghcr.io/macstadium/orka-images/sonoma:latest",
        ];
        config.images.extend(images.map(ImageSpec::named));
        Self {
            cluster: Cluster::with(config).await,
            kubernetes: Arc::new(Kubernetes::start().await),
            scratch,
        }
    }

    fn apply(&self, path: &str) -> Applied {
        let credentials = self.kubernetes.credentials();
        Applied::read(path, Namespace::of(&self.cluster))
            // The one thing that no sample can know.
            .value("orka-tekton-config", "ORKA_API", &self.cluster.sim.url())
            // What Kubernetes puts into a pod by itself.
            .value(
                "orka-tekton-config",
                "ORKA_KUBERNETES_API",
                self.kubernetes.url(),
            )
            .value(
                "orka-tekton-config",
                "ORKA_KUBERNETES_CREDENTIALS",
                credentials.to_str().unwrap(),
            )
    }

    /// A directory with these files, as a ConfigMap or Secret is mounted.
    fn object(&self, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let directory = self.scratch.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        for (file, contents) in files {
            std::fs::write(directory.join(file), contents).unwrap();
        }
        directory
    }
}

/// The only step of a run.
fn only(mut ran: Vec<Ran>) -> end_to_end::Ended {
    assert_eq!(ran.len(), 1);
    ran.remove(0).ended
}

/// Runs a TaskRun that ends like this.
async fn ends(site: &Site, sample: &str, code: i32, outcome: &str, says: &[&str]) -> Applied {
    let applied = site.apply(sample);
    let ended = only(applied.run().await);
    assert_outcome(&ended, code, outcome);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    for text in says {
        assert!(
            said.contains(text),
            "{sample} does not say `{text}`: {ended}"
        );
    }
    applied
}

const FULL: &str = "tekton/task/orka-full/0.3/samples";

/// Those that need nothing but the cluster: with what they print.
const PLAIN: [(&str, &[&str]); 9] = [
    ("capacity-wait", &["ProductName: macOS"]),
    (
        "code-signing",
        &["security unlock-keychain", "security lock-keychain"],
    ),
    ("dump-disk-info", &["diskutil info /"]),
    ("gpu-passthrough", &["SPDisplaysDataType"]),
    ("guards", &["cpu-cores from 12 to 8"]),
    ("inject-system-serial", &["C07XXXXXXXX0"]),
    (
        "inject-vm-metadata",
        &["metadata of firstKey", "metadata of secondKey"],
    ),
    ("retry-elsewhere", &["Xcode 16.0"]),
    (
        "several-vms-in-one-task",
        &["built as ventura", "built as sonoma", "built as large"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn samples_that_need_a_cluster_alone_build_on_both_generations() {
    for config in generations() {
        let site = Site::of(config).await;
        for (sample, says) in PLAIN {
            ends(
                &site,
                &format!("{FULL}/{sample}.yaml"),
                0,
                "succeeded",
                says,
            )
            .await;
        }
        site.cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_for_one_generation_builds_there() {
    for (config, sample) in generations().into_iter().zip(["orka-2", "orka-3"]) {
        let site = Site::of(config).await;
        let sample = format!("{FULL}/{sample}.yaml");
        ends(&site, &sample, 0, "succeeded", &["ProductName: macOS"]).await;
        site.cluster.assert_purged();
    }
}

/// Where every node is Apple silicon, the image finds none to boot on, and another image is refused what those lack.
#[tokio::test(flavor = "multi_thread")]
async fn samples_for_intel_nodes_fail_where_there_are_none() {
    for config in generations() {
        let nodes = config
            .nodes
            .iter()
            .filter(|node| node.name.starts_with("mini"));
        let nodes = nodes.cloned().collect();
        let site = Site::of(SimConfig { nodes, ..config }).await;
        for sample in ["gpu-passthrough", "inject-system-serial"] {
            let sample = format!("{FULL}/{sample}.yaml");
            ends(
                &site,
                &sample,
                215,
                "no-capacity",
                &["no Orka node has room"],
            )
            .await;
        }
        let applied = site.apply(&format!("{FULL}/gpu-passthrough.yaml"));
        let ended = only(applied.param("base-image", "Sonoma.orkasi").run().await);
        assert_outcome(&ended, 211, "infra-failed");
        ended.assert_says(&["Intel"]);
        site.cluster.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_with_evidence_brings_it_back_from_a_failed_build() {
    let site = Site::of(Cluster::orka3()).await;
    let sample = format!("{FULL}/evidence-on-failure.yaml");
    let applied = ends(&site, &sample, 65, "build-failed", &[]).await;
    let sources = applied.volume("sources");
    for (file, contents) in [
        ("build/tests.xcresult/data", "why\n"),
        ("build/logs/a.log", "log\n"),
    ] {
        assert_eq!(
            std::fs::read_to_string(sources.join(file)).unwrap(),
            contents
        );
    }
    site.cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_that_signs_brings_back_the_archive_alone() {
    let site = Site::of(Cluster::orka3()).await;
    let sample = format!("{FULL}/code-signing.yaml");
    let applied = site.apply(&sample);
    std::fs::write(applied.volume("sources").join("main.swift"), "let x = 1\n").unwrap();
    assert_outcome(&only(applied.run().await), 0, "succeeded");
    let archive = applied
        .volume("sources")
        .join("build/App.xcarchive/Info.plist");
    assert_eq!(std::fs::read_to_string(archive).unwrap(), "signed\n");
    site.cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_that_keeps_a_vm_names_it() {
    for config in generations() {
        let site = Site::of(config).await;
        let applied = site.apply(&format!("{FULL}/keep-for-debugging.yaml"));
        let ended = only(applied.run().await);
        assert_outcome(&ended, 127, "build-failed");
        assert_eq!(
            ended.result("kept-vm"),
            site.cluster.only_vm().name,
            "{ended}"
        );
        assert_ne!(ended.result("kept-until"), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_with_a_plugin_in_a_config_map_runs_it() {
    let site = Site::of(Cluster::orka3()).await;
    let plugin = std::fs::read(guest("hello")).unwrap();
    let applied = site
        .apply(&format!("{FULL}/custom-plugin.yaml"))
        .directory(
            "orka-plugins",
            &site.object("orka-plugins", &[("hello.wasm", &plugin)]),
        )
        .directory(
            "orka-grants",
            &site.object("orka-grants", &[("grants.toml", GRANTS.as_bytes())]),
        );
    let ended = only(applied.run().await);
    assert_outcome(&ended, 0, "succeeded");
    ended.assert_says(&[
        "plugin `hello`",
        "left out what plugin `hello` has no parameter for",
    ]);
    site.cluster.assert_nothing_left();
}

/// The reference stands for one that a registry has, which no sample can.
#[tokio::test(flavor = "multi_thread")]
async fn the_sample_with_a_plugin_in_a_registry_fetches_it() {
    let site = Site::of(Cluster::orka3()).await;
    let registry = Registry::with_login().await;
    let login = registry.credentials(REGISTRY_PASSWORD);
    let pushed = Step::new(&["plugin", "push"])
        .argument(guest("hello").to_str().unwrap())
        .argument(registry.repository("team/hello"))
        .flag("--registry-credentials", login.to_str().unwrap())
        .ended()
        .await;
    assert_eq!(pushed.code, Some(0), "{pushed}");
    let applied = site
        .apply(&format!("{FULL}/plugin-from-registry.yaml"))
        .param("plugin", pushed.stdout.trim())
        .directory("registry-login", &login)
        .directory(
            "orka-grants",
            &site.object("orka-grants", &[("grants.toml", GRANTS.as_bytes())]),
        );
    let ended = only(applied.run().await);
    assert_outcome(&ended, 0, "succeeded");
    ended.assert_says(&["plugin `hello`"]);
    site.cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_with_a_key_logs_in_by_it() {
    let guests = GuestKind::Sshd(SshdSettings::default());
    let site = Site::of(SimConfig {
        guests,
        ..Cluster::orka2()
    })
    .await;
    let key = site.cluster.ssh_credentials().join("ssh-privatekey");
    let key = std::fs::read_to_string(key).unwrap();
    let user = site.cluster.sim.guest_user();
    let applied = site
        .apply(&format!("{FULL}/use-ssh-key.yaml"))
        .secret("orka-ssh-key", &[("username", user), ("id_rsa", &key)]);
    let ended = only(applied.run().await);
    assert_outcome(&ended, 0, "succeeded");
    assert!(ended.stdout.contains("Hello macOS"), "{ended}");
    site.cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_with_a_matrix_builds_in_each_image() {
    for config in generations() {
        let site = Site::of(config).await;
        let ran = site.apply(&format!("{FULL}/several-vms.yaml")).run().await;
        assert_eq!(ran.len(), 2);
        for it in &ran {
            assert_outcome(&it.ended, 0, "succeeded");
            assert!(it.ended.stdout.contains("Xcode 16.0"), "{}", it.ended);
        }
        let requests = site.cluster.sim.state().requests;
        for image in ["Ventura.orkasi", "Sonoma.orkasi"] {
            let mut posted = requests.iter().filter(|it| it.method == "POST");
            assert!(posted.any(|it| it.body.contains(image)), "{image}");
        }
        site.cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_with_a_checkout_leaves_the_build_to_the_next_task() {
    for config in generations() {
        let site = Site::of(config).await;
        let applied = site
            .apply(&format!("{FULL}/build-calcupad-pipeline.yaml"))
            .stand_in("fetch-repo", |workspace| {
                std::fs::write(workspace.join("main.swift"), "let x = 1\n").unwrap();
            })
            .stand_in("show-build", |workspace| {
                let app = workspace.join("build/Release-iphoneos/App");
                assert_eq!(std::fs::read_to_string(app).unwrap(), "app\n");
            });
        let ran = applied.run().await;
        assert_eq!(ran.len(), 1);
        assert_outcome(&ran[0].ended, 0, "succeeded");
        site.cluster.assert_purged();
    }
}

fn by_task(ran: &[Ran]) -> BTreeMap<&str, &end_to_end::Ended> {
    ran.iter().map(|it| (it.task.as_str(), &it.ended)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_with_two_deploys_builds_in_both_and_cleans_up() {
    for config in generations() {
        let site = Site::of(config).await;
        let applied = site.apply("tekton/task/orka-deploy/0.3/samples/parallel-deploy.yaml");
        let ran = applied.run().await;
        let tasks = by_task(&ran);
        assert_eq!(
            tasks.keys().copied().collect::<Vec<_>>(),
            ["cleanup", "diskinfo", "ruby", "setup"]
        );
        for ended in tasks.values() {
            assert_outcome(ended, 0, "succeeded");
        }
        assert!(
            tasks["diskinfo"].stdout.contains("diskutil info /"),
            "{}",
            tasks["diskinfo"]
        );
        assert!(
            tasks["ruby"].stdout.contains("Hello macOS"),
            "{}",
            tasks["ruby"]
        );
        site.cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_with_a_failed_build_deletes_its_vm_in_finally() {
    for config in generations() {
        let site = Site::of(config).await;
        let applied = site.apply("tekton/task/orka-teardown/0.3/samples/in-finally.yaml");
        let ran = applied.run().await;
        let tasks = by_task(&ran);
        assert_outcome(tasks["setup"], 0, "succeeded");
        assert_outcome(tasks["build"], 65, "build-failed");
        assert_outcome(tasks["cleanup"], 0, "succeeded");
        site.cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_that_hands_over_has_both_objects_for_the_step_between() {
    for config in generations() {
        let site = Site::of(config).await;
        let kubernetes = &site.kubernetes;
        let asked = Arc::clone(kubernetes);
        let applied = site
            .apply("tekton/task/orka-init/0.3/samples/hand-over.yaml")
            .stand_in("ask", move |_| {
                let objects = asked.objects();
                let names: Vec<&String> = objects.keys().collect();
                assert_eq!(names, ["configmaps/orka-vm-name", "secrets/orka-token"]);
                assert_ne!(
                    objects["configmaps/orka-vm-name"]["data"]["vm-name"],
                    json!("")
                );
                assert!(objects["secrets/orka-token"]["data"]["token"].is_string());
            });
        kubernetes.add_pipeline_run_named("the-pipeline-run", applied.run_uid());
        let ran = applied.run().await;
        let tasks = by_task(&ran);
        assert_eq!(
            tasks.keys().copied().collect::<Vec<_>>(),
            ["build", "cleanup", "setup"]
        );
        for ended in tasks.values() {
            assert_outcome(ended, 0, "succeeded");
        }
        assert!(kubernetes.objects().is_empty());
        site.cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_of_the_step_action_builds_between_steps_of_others() {
    for config in generations() {
        let site = Site::of(config).await;
        let applied = site
            .apply("tekton/stepaction/orka-step/0.1/samples/between-own-steps.yaml")
            .param("base-image", "Sonoma.orkasi")
            .stand_in("version", |workspace| {
                std::fs::write(workspace.join("built-by-tekton"), "").unwrap();
            })
            .stand_in("look", |workspace| {
                assert!(workspace.join("built-by-a-mac").exists());
            });
        let source = applied.volume("source");
        std::fs::create_dir(source.join("ci")).unwrap();
        let script = "#!/bin/sh\ntest -e built-by-tekton && touch built-by-a-mac\n";
        std::fs::write(source.join("ci/build.sh"), script).unwrap();
        assert_outcome(&only(applied.run().await), 0, "succeeded");
        site.cluster.assert_purged();
    }
}

/// The plugin that the samples run is the one that the README has people write.
#[test]
fn the_readmes_first_plugin_is_the_one_that_is_run() {
    let read = |path: &str| std::fs::read_to_string(repository().join(path)).unwrap();
    let source = read("tests/guests/hello/src/lib.rs");
    let (_, code) = source.split_once("\n\n").unwrap();
    assert!(read("README.md").contains(&format!("```rust\n// src/lib.rs\n{code}```\n")));
}

/// A new sample needs a test like those above.
#[test]
fn every_sample_is_run() {
    let own = include_str!("samples.rs");
    let plain = PLAIN.map(|(sample, _)| sample);
    let mut seen = 0;
    for of in [
        "task/orka-full/0.3",
        "task/orka-deploy/0.3",
        "task/orka-init/0.3",
        "task/orka-teardown/0.3",
        "stepaction/orka-step/0.1",
    ] {
        let samples = repository().join("tekton").join(of).join("samples");
        for entry in std::fs::read_dir(samples).unwrap() {
            let path = entry.unwrap().path();
            let name = Path::new(&path)
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let is_run = plain.contains(&name.as_str())
                || own.contains(&format!("/{name}.yaml\""))
                || own.contains(&format!("\"{name}\""));
            assert!(is_run, "{}", path.display());
            seen += 1;
        }
    }
    assert_eq!(seen, 22);
}
