//! The Tasks, as Tekton starts their steps.

use end_to_end::{
    Cluster, Definition, Ended, Namespace, Pod, REGISTRY_PASSWORD, Registry, Step, Stream, bundled,
    guest, name, uid,
};
use orka_sim::SimConfig;
use rustix::process::Signal;

mod catalog;
mod definitions;
mod guarded;
mod kustomized;
mod migrate;
mod printed;
mod readme;
mod rights;
mod samples;

/// Everything that a shell, Tekton, Kubernetes or YAML could want to change on the way.
const AWKWARD: &str = "#!/bin/sh\n# $$ $$$$ $(HOME) $(date) ${HOME} $(params.script) $(ORKA_POD_UID) `id` \"q\" 'q' \\ \\n %s %% !! * ? é 🍎 \u{a0}\n\
                       cat <<'EOF' >/dev/null\ninside\nEOF\n# ## not a mark\ncat \"$0\" >script-as-it-came\nprintf %s \"$A\" >a\nexit 0\n";

/// A value that Kubernetes would alter in the environment.
const AWKWARD_VALUE: &str = "$$ $(ORKA_POD_UID) ${x} `id` \"q\" 'q' é";

fn generations() -> [SimConfig; 2] {
    [Cluster::orka2(), Cluster::orka3()]
}

fn full(namespace: &Namespace) -> Pod {
    namespace
        .run(&Definition::task("orka-full"))
        .empty_dir("orka")
        .param("base-image", "Sonoma.orkasi")
}

#[track_caller]
fn assert_outcome(ended: &Ended, code: i32, outcome: &str) {
    assert_eq!(ended.code, Some(code), "{ended}");
    assert_eq!(ended.result("outcome"), outcome, "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn orka_full_works_with_the_old_parameters_alone() {
    for config in generations() {
        let cluster = Cluster::with(config).await;
        let pod = full(&Namespace::of(&cluster)).param("script", "echo built >built\n");
        let expected = name("tekton", pod.task_run_uid(), pod.pod_uid(), 1);
        let ended = pod.ended().await;
        assert_outcome(&ended, 0, "succeeded");
        assert_eq!(ended.result("exit-status"), "0");
        assert!(
            ended
                .result("vm-name")
                .starts_with(&expected[..expected.len() - 1]),
            "{ended}"
        );
        assert_eq!(ended.file("built").unwrap(), b"built\n");
        cluster.assert_purged();
    }
}

/// Every parameter of every release of the old Task, with its old default, and an image of each name.
#[tokio::test(flavor = "multi_thread")]
async fn orka_full_takes_every_old_parameter_and_says_which_have_no_effect() {
    let cluster = Cluster::start().await;
    let old = [
        ("cpu-count", "3"),
        ("vcpu-count", "3"),
        ("vnc-console", "false"),
        ("vm-metadata", ""),
        ("system-serial", ""),
        ("gpu-passthrough", "false"),
        ("tag", ""),
        ("tag-required", "false"),
        ("scheduler", "default"),
        ("copy-build", "true"),
        ("verbose", "false"),
        ("orka-creds-secret", "orka-creds"),
        ("orka-creds-email-key", "email"),
        ("orka-creds-password-key", "password"),
        ("ssh-key", "false"),
        ("ssh-secret", "orka-ssh-creds"),
        ("ssh-username-key", "username"),
        ("ssh-password-key", "password"),
        ("user-home", "/tekton/home"),
    ];
    let image = "ghcr.io/macstadium/orka-tekton-runner:latest";
    let images = ["orka-image", "orka-tekton-runner-image", "docker-image"];
    let mut pod = full(&Namespace::of(&cluster)).param("script", "true");
    for (name, value) in old {
        pod = pod.param(name, value);
    }
    for name in images {
        pod = pod.param(name, image);
    }
    let ended = pod.ended().await;
    assert_outcome(&ended, 0, "succeeded");
    for name in images {
        ended.assert_says(&[&format!("the parameter `{name}` has no effect")]);
    }
    assert!(!ended.stderr.contains("user-home"), "{ended}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_of_a_value_reaches_the_vm() {
    for config in generations() {
        let cluster = Cluster::with(config).await;
        let ended = full(&Namespace::of(&cluster))
            .param("script", AWKWARD)
            .param("env", &format!("A={AWKWARD_VALUE}"))
            .ended()
            .await;
        assert_outcome(&ended, 0, "succeeded");
        assert_eq!(
            String::from_utf8(ended.file("script-as-it-came").unwrap()).unwrap(),
            AWKWARD
        );
        assert_eq!(ended.file("a").unwrap(), AWKWARD_VALUE.as_bytes());
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_forges_a_section_runs_nothing() {
    let cluster = Cluster::start().await;
    for forged in [
        "x\n## $(context.taskRun.uid) script\ntouch forged",
        "x\n## $(context.taskRun.uid) param script-file\nforged",
        "x\n## $(context.taskRun.uid) set plugin\nforged",
    ] {
        let ended = full(&Namespace::of(&cluster))
            .param("tag", forged)
            .param("script", "true")
            .ended()
            .await;
        assert_outcome(&ended, 211, "infra-failed");
        ended.assert_says(&["looks like the start of a section", "nothing was run"]);
    }
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_status_is_the_steps() {
    let cluster = Cluster::start().await;
    let ended = full(&Namespace::of(&cluster))
        .param("script", "exit 65")
        .ended()
        .await;
    assert_outcome(&ended, 65, "build-failed");
    assert_eq!(ended.result("exit-status"), "65");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_secrets_of_any_name_and_key() {
    let cluster = Cluster::start().await;
    let namespace = Namespace::of(&cluster)
        .renamed(
            "orka-creds",
            "mine",
            &[("email", "user"), ("password", "pass")],
        )
        .renamed(
            "orka-ssh-creds",
            "login",
            &[("username", "who"), ("password", "word")],
        );
    let ended = full(&namespace)
        .param("orka-creds-secret", "mine")
        .param("orka-creds-email-key", "user")
        .param("orka-creds-password-key", "pass")
        .param("ssh-secret", "login")
        .param("ssh-username-key", "who")
        .param("ssh-password-key", "word")
        .param("script", "true")
        .ended()
        .await;
    assert_outcome(&ended, 0, "succeeded");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_named_tekton_orka_creds_does_as_well() {
    for config in generations() {
        let cluster = Cluster::with(config).await;
        let namespace = Namespace::of(&cluster).renamed("orka-creds", "tekton-orka-creds", &[]);
        let ended = full(&namespace).param("script", "true").ended().await;
        assert_outcome(&ended, 0, "succeeded");
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_key_is_taken_from_the_key_that_is_named() {
    let cluster = Cluster::with_openssh().await;
    let namespace = Namespace::of(&cluster).renamed(
        "orka-ssh-creds",
        "orka-ssh-key",
        &[("ssh-privatekey", "id_rsa")],
    );
    for said in ["true", "false"] {
        let ended = full(&namespace)
            .param("ssh-key", said)
            .param("ssh-secret", "orka-ssh-key")
            .param("ssh-password-key", "id_rsa")
            .param("script", "true")
            .ended()
            .await;
        assert_outcome(&ended, 0, "succeeded");
    }
    cluster.assert_purged();
    let password = Cluster::start().await;
    let ended = full(&Namespace::of(&password))
        .param("ssh-key", "true")
        .param("script", "true")
        .ended()
        .await;
    assert_outcome(&ended, 211, "infra-failed");
    ended.assert_says(&["the private key `password` cannot be used"]);
    password.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_told_by_the_program_and_not_by_a_pod_that_never_starts() {
    let cluster = Cluster::start().await;
    for (secret, said) in [
        ("orka-creds", "no Orka credentials are given"),
        ("orka-ssh-creds", "no SSH user name is given"),
    ] {
        let namespace = Namespace::of(&cluster).without(secret);
        let ended = full(&namespace).param("script", "true").ended().await;
        assert_outcome(&ended, 211, "infra-failed");
        ended.assert_says(&[said]);
    }
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_told_before_anything_is_deployed() {
    let cluster = Cluster::start().await;
    let ended = full(&Namespace::of(&cluster))
        .param("timeout", "soon")
        .param("script", "true")
        .ended()
        .await;
    assert_outcome(&ended, 211, "infra-failed");
    ended.assert_says(&["--timeout"]);
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_of_ones_own_comes_from_a_registry_with_the_login_of_a_workspace() {
    let cluster = Cluster::start().await;
    let registry = Registry::with_login().await;
    let login = registry.credentials(REGISTRY_PASSWORD);
    let pushed = Step::new(&["plugin", "push"])
        .argument(bundled("build").to_str().unwrap())
        .argument(registry.repository("team/build"))
        .flag("--registry-credentials", login.to_str().unwrap())
        .ended()
        .await;
    assert_eq!(pushed.code, Some(0), "{pushed}");
    let pod = || {
        full(&Namespace::of(&cluster))
            .param("plugin", pushed.stdout.trim())
            .param(
                "grants",
                "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\n",
            )
            .param("script", "true")
    };
    let ended = pod().ended().await;
    assert_outcome(&ended, 211, "infra-failed");
    ended.assert_says(&["asks for a login"]);
    cluster.assert_untouched();
    let ended = pod().workspace("registry", &login).ended().await;
    assert_outcome(&ended, 0, "succeeded");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_of_ones_own_comes_by_a_workspace_and_does_what_it_is_granted() {
    let cluster = Cluster::start().await;
    let plugins = tempfile::tempdir().unwrap();
    std::fs::copy(guest("several"), plugins.path().join("mine.wasm")).unwrap();
    let grants = "[[grant]]\nplugin = \"several\"\ncapabilities = [\"*\"]\n";
    let pod = || {
        full(&Namespace::of(&cluster))
            .workspace("plugin", plugins.path())
            .param("plugin", "mine")
            .param("script", "true")
    };
    let ended = pod().ended().await;
    assert_outcome(&ended, 212, "denied");
    ended.assert_says(&["asks for what it was not granted"]);
    cluster.assert_untouched();
    let ended = pod().param("grants", grants).ended().await;
    assert!(
        !ended.stderr.contains("asks for what it was not granted"),
        "{ended}"
    );
    ended.assert_says(&["left out what plugin `several` has no parameter for"]);
    // The operator's file does as well; both at once do not.
    let operator = tempfile::tempdir().unwrap();
    std::fs::write(operator.path().join("grants.toml"), grants).unwrap();
    let ended = pod().workspace("grants", operator.path()).ended().await;
    assert!(
        !ended.stderr.contains("asks for what it was not granted"),
        "{ended}"
    );
    let ended = pod()
        .workspace("grants", operator.path())
        .param("grants", grants)
        .ended()
        .await;
    assert_outcome(&ended, 211, "infra-failed");
    cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_run_leaves_nothing() {
    for config in generations() {
        let cluster = Cluster::with(config).await;
        let mut running = full(&Namespace::of(&cluster))
            .param("script", "#!/bin/sh\necho running\nsleep 300\n")
            .start();
        running.says(Stream::Stdout, "running\n").await;
        // To the whole process group, as Tekton's entrypoint passes it on.
        rustix::process::kill_process_group(running.pid(), Signal::TERM).unwrap();
        let ended = running.ended().await;
        assert_outcome(&ended, 143, "cancelled");
        cluster.assert_purged();
    }
}

fn task(namespace: &Namespace, task: &str, run: &str) -> Pod {
    namespace.run(&Definition::task(task)).in_pipeline_run(run)
}

fn deploy(namespace: &Namespace, run: &str) -> Pod {
    task(namespace, "orka-deploy", run).empty_dir("orka")
}

async fn pipeline(namespace: &Namespace, run: &str) -> usize {
    // Nothing ties them to `init`, as in the old sample: they start at the same time and wait for it.
    let one = deploy(namespace, run)
        .param("script", "echo one >made\n")
        .start();
    let two = deploy(namespace, run)
        .param("script", "#!/bin/sh\necho two >made\n")
        .param("delete-vm", "false")
        .start();
    let init = task(namespace, "orka-init", run)
        .param("base-image", "Sonoma.orkasi")
        .ended()
        .await;
    assert_outcome(&init, 0, "succeeded");
    let (one, two) = tokio::join!(one.ended(), two.ended());
    for (ended, made) in [(&one, "one\n"), (&two, "two\n")] {
        assert_outcome(ended, 0, "succeeded");
        assert_eq!(ended.file("made").unwrap(), made.as_bytes());
    }
    assert_ne!(one.result("vm-name"), "", "{one}");
    let teardown = task(namespace, "orka-teardown", run).ended().await;
    assert_outcome(&teardown, 0, "succeeded");
    teardown.stderr.matches("purged").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_pipeline_runs_twice_at_once_in_one_namespace() {
    for config in generations() {
        let cluster = Cluster::with(SimConfig { ..config }).await;
        let namespace = Namespace::of(&cluster);
        let (a, b) = (uid("pipeline run a"), uid("pipeline run b"));
        let (first, second) = tokio::join!(pipeline(&namespace, &a), pipeline(&namespace, &b));
        assert!(first > 0 && second > 0);
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_two_vm_configs_tells_them_apart_by_their_names() {
    for config in generations() {
        let cluster = Cluster::with(config).await;
        let namespace = Namespace::of(&cluster);
        let run = uid("pipeline run");
        for (channel, cores) in [("small", "3"), ("large", "4")] {
            let ended = task(&namespace, "orka-init", &run)
                .param("base-image", "Sonoma.orkasi")
                .param("cpu-count", cores)
                .param("orka-vm-name-config", channel)
                .ended()
                .await;
            assert_outcome(&ended, 0, "succeeded");
        }
        let ended = deploy(&namespace, &run)
            .param("orka-vm-name-config", "large")
            .param("script", "#!/bin/sh\necho running\nsleep 300\n")
            .start();
        let mut running = ended;
        running.says(Stream::Stdout, "running\n").await;
        assert_eq!(cluster.only_vm().cpu, 4);
        running.signal(Signal::TERM);
        running.ended().await;
        // The same once more, as a Task that is tried again; another shape under the same name is no such thing.
        let again = |cores: &str| {
            task(&namespace, "orka-init", &run)
                .param("base-image", "Sonoma.orkasi")
                .param("cpu-count", cores)
                .param("orka-vm-name-config", "large")
                .ended()
        };
        assert_outcome(&again("4").await, 0, "succeeded");
        let other = again("6").await;
        assert_ne!(other.code, Some(0), "{other}");
        other.assert_says(&["another VM config for `large/vm-name` already"]);
        let teardown = task(&namespace, "orka-teardown", &run).ended().await;
        assert_outcome(&teardown, 0, "succeeded");
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_run_that_is_cancelled_in_the_middle_leaves_nothing_after_its_finally() {
    for config in generations() {
        let cluster = Cluster::with(config).await;
        let namespace = Namespace::of(&cluster);
        let run = uid("cancelled");
        let init = task(&namespace, "orka-init", &run)
            .param("base-image", "Sonoma.orkasi")
            .ended()
            .await;
        assert_outcome(&init, 0, "succeeded");
        let long = "#!/bin/sh\necho running\nsleep 300\n";
        let mut stopped = deploy(&namespace, &run).param("script", long).start();
        let mut killed = deploy(&namespace, &run).param("script", long).start();
        stopped.says(Stream::Stdout, "running\n").await;
        killed.says(Stream::Stdout, "running\n").await;
        stopped.signal(Signal::TERM);
        killed.signal(Signal::KILL);
        assert_outcome(&stopped.ended().await, 143, "cancelled");
        killed.ended().await;
        assert_eq!(cluster.sim.state().vms.len(), 1, "the killed step's");
        let teardown = task(&namespace, "orka-teardown", &run).ended().await;
        assert_outcome(&teardown, 0, "succeeded");
        assert!(cluster.sim.state().is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn teardown_needs_nothing_of_an_init_that_never_ran() {
    for config in generations() {
        let cluster = Cluster::with(config).await;
        let namespace = Namespace::of(&cluster);
        let ended = task(&namespace, "orka-teardown", &uid("no init"))
            .ended()
            .await;
        assert_outcome(&ended, 0, "succeeded");
        cluster.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_step_action_builds_between_other_steps() {
    for config in generations() {
        let cluster = Cluster::with(config).await;
        let sources = tempfile::tempdir().unwrap();
        std::fs::create_dir(sources.path().join("ci")).unwrap();
        std::fs::write(sources.path().join("ci/build.sh"), AWKWARD).unwrap();
        let ended = step_action(&cluster, sources.path())
            .param("script-file", "ci/build.sh")
            .ended()
            .await;
        assert_outcome(&ended, 0, "succeeded");
        assert_came(sources.path());
        cluster.assert_purged();
    }
}

/// [`AWKWARD`] wrote itself down as it was given.
fn assert_came(sources: &std::path::Path) {
    let came = std::fs::read(sources.join("script-as-it-came")).unwrap();
    assert_eq!(String::from_utf8(came).unwrap(), AWKWARD);
}

/// A `fieldRef` is not expanded, so the annotation comes as it was written.
#[tokio::test(flavor = "multi_thread")]
async fn every_byte_of_a_script_reaches_the_vm_by_the_step_actions_annotation() {
    let cluster = Cluster::start().await;
    let sources = tempfile::tempdir().unwrap();
    let ended = step_action(&cluster, sources.path())
        .annotated_script(AWKWARD)
        .ended()
        .await;
    assert_outcome(&ended, 0, "succeeded");
    assert_came(sources.path());
    cluster.assert_purged();
}

/// What the namespace's ConfigMap sets comes as it is: an annotation that is not there counts for less, and a `$` is one.
#[tokio::test(flavor = "multi_thread")]
async fn the_step_action_takes_what_a_config_map_sets() {
    let cluster = Cluster::start().await;
    let sources = tempfile::tempdir().unwrap();
    let set = [
        ("ORKA_PARAM_SCRIPT", "echo \"$PRICE\" >made"),
        ("ORKA_PARAM_ENV", "PRICE=$5"),
    ];
    let namespace = Namespace::of(&cluster).config_map("of-the-team", &set);
    let ended = step_action_in(&namespace, sources.path())
        .env_from("of-the-team")
        .ended()
        .await;
    assert_outcome(&ended, 0, "succeeded");
    let made = std::fs::read_to_string(sources.path().join("made")).unwrap();
    assert_eq!(made, "$5\n");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_the_step_action_that_kubernetes_may_have_altered_is_refused() {
    let cluster = Cluster::start().await;
    let sources = tempfile::tempdir().unwrap();
    for value in ["build/$$/x", "build/$(NOTHING)/x", "build/$x"] {
        let ended = step_action(&cluster, sources.path())
            .annotated_script("true")
            .param("artifacts", value)
            .ended()
            .await;
        assert_eq!(ended.code, Some(211), "{ended}");
        ended.assert_says(&[
            "the StepAction's parameter `artifacts` holds a `$`",
            "`orka-step/script`",
        ]);
    }
    cluster.assert_untouched();
}

/// The StepAction gives the parameters of `build`; another plugin has others.
#[tokio::test(flavor = "multi_thread")]
async fn the_step_action_runs_a_plugin_that_lacks_most_of_its_parameters() {
    let cluster = Cluster::start().await;
    let sources = tempfile::tempdir().unwrap();
    let ended = step_action(&cluster, sources.path())
        .param("plugin", "teardown")
        .param("cpu-count", "4")
        .ended()
        .await;
    assert_outcome(&ended, 0, "succeeded");
    ended.assert_says(&[
        "left out what plugin `teardown` has no parameter for",
        "ORKA_PARAM_CPU_COUNT",
    ]);
    cluster.assert_nothing_left();
}

fn step_action(cluster: &Cluster, sources: &std::path::Path) -> Pod {
    step_action_in(&Namespace::of(cluster), sources)
}

fn step_action_in(namespace: &Namespace, sources: &std::path::Path) -> Pod {
    namespace
        .run(&Definition::step_action("orka-step"))
        .param("workspace-path", sources.to_str().unwrap())
        .param("orka-credentials", "orka-creds")
        .param("ssh-credentials", "orka-ssh-creds")
        .param("base-image", "Sonoma.orkasi")
        .env_from("orka-tekton-config")
}

/// Parameters of a bundled plugin that the Task does not have come by `plugin-params`.
#[tokio::test(flavor = "multi_thread")]
async fn orka_full_runs_the_other_bundled_plugins_with_parameters_of_their_own() {
    let cluster = Cluster::start().await;
    let ended = full(&Namespace::of(&cluster))
        .param("plugin", "matrix")
        .param("script", "echo \"$ORKA_MATRIX_CELL\" >cell\n")
        .param(
            "plugin-params",
            r#"{"cells": "a=Sonoma.orkasi\nb=Sonoma.orkasi,cpu-count=4"}"#,
        )
        .ended()
        .await;
    assert_outcome(&ended, 0, "succeeded");
    assert_eq!(ended.result("matrix"), r#"{"a":0,"b":0}"#, "{ended}");
    cluster.assert_purged();

    let cluster = Cluster::start().await;
    let ended = full(&Namespace::of(&cluster))
        .param("plugin", "retry-elsewhere")
        .param("script", "echo built")
        .param("node", "no-such-node")
        .param("plugin-params", "alternatives=node=")
        .ended()
        .await;
    assert_outcome(&ended, 0, "succeeded");
    assert_eq!(
        ended.result("built-on"),
        "Sonoma.orkasi, 3 cores",
        "{ended}"
    );
    cluster.assert_purged();
}
