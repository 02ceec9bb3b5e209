//! What the command line names: directories, credentials, plugin; and how it is all told.

use clap::Parser as _;
use orka_sim::{NodeSpec, SimConfig};
use orka_step::cli::{Cli, Command};
use orka_step::config::Environment;
use orka_step::console::Console;
use orka_step::doctor::{self, Status, Subject};
use orka_step::mask::Masker;
use orka_step::outcome::{EXIT_CONFIG, EXIT_FILES, EXIT_PLUGIN_REJECTED};
use orka_step::plugin::{Plugin, PluginRef};
use orka_step::state::Stop;
use sha2::{Digest as _, Sha256};

use crate::bench::{Bench, GRANT_ALL, PASSWORD, build_plugin, orka2, orka3, shown};

#[tokio::test]
async fn an_ssh_key_that_cannot_be_used_is_found_before_a_vm_is_paid_for() {
    let bench = Bench::start(orka2()).await;
    bench.write(
        "ssh/id_rsa",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me@here\n",
    );
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::SshCredentials], EXIT_CONFIG);
    examined.assert(Status::Ok, &[Subject::Credentials, Subject::Capacity]);
    examined.assert_found(
        Subject::SshCredentials,
        "the private key `id_rsa` cannot be used",
    );

    let bench = Bench::start(orka2())
        .await
        .with("--ssh-credentials", "/nowhere");
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::SshCredentials], EXIT_CONFIG);
    examined.assert_found(
        Subject::SshCredentials,
        "cannot read the directory `/nowhere`",
    );
}

#[tokio::test]
async fn ssh_credentials_are_described_without_being_shown() {
    let bench = Bench::start(orka2()).await;
    bench.write("ssh/password", "hunter2-hunter2");
    bench.write("ssh/known_hosts", "");
    let examined = bench.examine().await;
    examined.assert_found(Subject::SshCredentials, "user `admin` with a password");
    examined.assert_found(Subject::SshCredentials, "trusted on first use");
    for secret in ["hunter2-hunter2", PASSWORD] {
        for text in [
            examined.diagnosis.table(),
            examined.diagnosis.json().unwrap(),
            examined.said.lines().join("\n"),
        ] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn a_foreign_plugin_without_grants_is_told_the_lines_that_would_allow_it() {
    let bench = Bench::start(orka2()).await.without("--grants");
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Grants], EXIT_PLUGIN_REJECTED);
    examined.assert(
        Status::Ok,
        &[Subject::Plugin, Subject::Parameters, Subject::Image],
    );
    let hint = examined.check(Subject::Grants).findings[0]
        .hint
        .clone()
        .unwrap();
    bench.write("grants.toml", &hint[hint.find("[[grant]]").unwrap()..]);
    let grants = shown(&bench.path("grants.toml"));
    let mended = bench.with("--grants", &grants).examine().await;
    mended.assert(Status::Ok, &[Subject::Grants]);
    assert_eq!(mended.diagnosis.exit_code(), 0);
}

/// What a run would end for before anything is deployed, without running the plugin.
#[tokio::test]
async fn parameters_that_a_run_would_refuse_are_found() {
    for (parameter, value, said) in [
        ("-pscript", "", "parameter `script` is missing"),
        ("-pscript-file", "build.sh", "given in more than one way"),
        ("-penv", "no equals sign", "parameter `env` needs lines"),
        (
            "-partifacts",
            "out/[z-a]",
            "parameter `artifacts` has a pattern that is wrong",
        ),
        (
            "-pexclude",
            "../x",
            "parameter `exclude` has a pattern that is wrong",
        ),
    ] {
        let bench = Bench::start(orka2()).await.with(parameter, value);
        let examined = bench.examine().await;
        examined.assert_failed(&[Subject::Parameters], EXIT_CONFIG);
        examined.assert_found(Subject::Parameters, said);
        if said.contains("pattern") {
            examined.assert_found(Subject::Parameters, "patterns read as in a `.gitignore`");
        }
    }
    let bench = Bench::start(orka2()).await.with("-pscript", "");
    let bench = bench.with("-pscript-file", "ci/build.sh");
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Parameters], EXIT_CONFIG);
    examined.assert_found(Subject::Parameters, "`ci/build.sh` of the workspace");
    bench.write("workspace/ci/build.sh", "true");
    let examined = bench.examine().await;
    examined.assert(Status::Ok, &[Subject::Parameters]);
}

/// By the doctor, and by a run before it sends anything.
#[tokio::test]
async fn an_ignore_file_that_would_end_the_upload_is_found_before_a_vm_is_paid_for() {
    let bench = Bench::start(orka2()).await;
    bench.write("workspace/lib/.orkaignore", "[z-a]\n");
    let examined = bench.examine().await;
    examined.assert(Status::Warn, &[Subject::Workspace]);
    examined.assert_found(Subject::Workspace, "`lib/.orkaignore`: line 1");
    let broken = bench.path("workspace/lib/.orkaignore");
    std::fs::write(&broken, b"*.o\n\xff\n").unwrap();
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Workspace], EXIT_CONFIG);
    examined.assert_found(
        Subject::Workspace,
        "`lib/.orkaignore` of the workspace cannot be used: line 2 is not UTF-8",
    );
    let before = bench.sim.state().requests.len();
    assert_eq!(bench.run().await, EXIT_CONFIG);
    assert_eq!(bench.sim.state().requests.len(), before);
    let bench = bench.with("-pexclude", "lib/");
    let examined = bench.examine().await;
    examined.assert(Status::Ok, &[Subject::Workspace]);
}

#[tokio::test]
async fn what_parameters_need_and_is_not_granted_is_told_with_the_line_that_grants_it() {
    let bench = Bench::start(orka2()).await;
    // It is a file here, and not the bundled one of its name.
    let digest = Plugin::load(&PluginRef::Path(build_plugin()))
        .unwrap()
        .digest;
    let narrow = format!(
        "[[grant]]\nplugin = \"build\"\n\
         capabilities = [\"cluster.read\", \"cluster.deploy\", \"ssh.*\", \"workspace.*\"]\n\
         digest = \"{digest}\"\n"
    );
    bench.write("grants.toml", &narrow);
    bench.write("secrets/SIGNING", "hunter22");
    let secrets = shown(&bench.path("secrets"));
    let bench = bench.with("--secrets", &secrets);
    bench.examine().await.assert(Status::Ok, &[Subject::Grants]);
    let bench = bench
        .with("-pkeep", "always")
        .with("-psecret-env", "KEY=SIGNING");
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Grants], EXIT_PLUGIN_REJECTED);
    // One change to the file answers all that is lacking.
    let findings = &examined.check(Subject::Grants).findings;
    let hints: Vec<&str> = findings
        .iter()
        .filter_map(|finding| finding.hint.as_deref())
        .collect();
    assert!(findings.len() == 2 && hints.len() == 1, "{findings:?}");
    assert!(
        hints[0].contains("\"cluster.keep\"]") && hints[0].contains("grants.toml:3"),
        "{hints:?}"
    );
    assert!(hints[0].ends_with("secrets = [\"SIGNING\"]"), "{hints:?}");
}

#[tokio::test]
async fn a_secret_that_a_plugin_needs_and_a_run_would_not_have_is_found() {
    let bench = Bench::start(orka2()).await;
    let plugin = build_plugin();
    let plugin = plugin.ancestors().nth(2).unwrap();
    let plugin = plugin.join("guests/grabby.wasm");
    let bench = bench
        .with("--plugin", &shown(&plugin))
        .without("-pbase-image")
        .without("-pscript");
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Grants], EXIT_CONFIG);
    examined.assert_found(
        Subject::Grants,
        "this run has no secret `SIGNING_KEY`, which plugin `grabby` needs",
    );
    assert_eq!(bench.run().await, EXIT_CONFIG);
}

#[tokio::test]
async fn a_host_key_that_is_none_is_told_once() {
    let bench = Bench::start(orka2()).await.with("--ssh-host-key", "foo");
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::SshCredentials], EXIT_CONFIG);
    let table = examined.diagnosis.table();
    assert_eq!(
        table.matches("`--ssh-host-key` is wrong").count(),
        1,
        "{table}"
    );
}

#[tokio::test]
async fn an_image_above_the_ceiling_is_denied() {
    let bench = Bench::start(orka2()).await;
    bench.write(
        "grants.toml",
        &format!("{GRANT_ALL}[grant.ceilings]\nimages = [\"Ventura*\"]\n"),
    );
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Grants], EXIT_PLUGIN_REJECTED);
    examined.assert_found(Subject::Grants, "`images`");
}

/// The row of its own says it, and what does not follow from it is checked all the same.
#[tokio::test]
async fn a_grants_file_that_is_missing_or_wrong_is_told_as_grants() {
    for (file, said) in [("none.toml", "none.toml"), ("wrong.toml", "wrong.toml")] {
        let bench = Bench::start(orka2()).await;
        bench.write("wrong.toml", "grant = 5");
        let grants = shown(&bench.path(file));
        let bench = bench.with("--grants", &grants);
        let examined = bench.examine().await;
        examined.assert_failed(&[Subject::Grants], EXIT_CONFIG);
        examined.assert_found(Subject::Grants, said);
        examined.assert(Status::Ok, &[Subject::Plugin, Subject::Parameters]);
        assert_eq!(bench.run().await, EXIT_CONFIG);
    }
}

#[tokio::test]
async fn guards_are_loaded_configured_and_asked_about_the_vm() {
    let guard = build_plugin().with_file_name("allowed-vms.wasm");
    let pinned = hex::encode(Sha256::digest(std::fs::read(&guard).unwrap()));
    let guard = shown(&guard);
    // (reference, rules, what is found, the exit code, and what else it is about)
    let cases = [
        ("", "image Sonoma.orkasi\n", "it allows the VM as it is", 0),
        (
            "",
            "image Sonoma.orkasi\ncores * 8\n",
            "would change image `Sonoma.orkasi`: cpu-cores from 12 to 8",
            0,
        ),
        (
            "",
            "image Ventura.*\n",
            "denied image `Sonoma.orkasi`: image `Sonoma.orkasi` is not on the list",
            EXIT_PLUGIN_REJECTED,
        ),
        (
            "",
            "imgae Sonoma.orkasi\n",
            "it refuses its configuration: line 1: `imgae Sonoma.orkasi`; a rule is",
            EXIT_PLUGIN_REJECTED,
        ),
        (&pinned, "image Sonoma.orkasi\n", &pinned, 0),
        (
            &"0".repeat(64),
            "image Sonoma.orkasi\n",
            &format!("its digest is sha256:{pinned}, and sha256:00"),
            EXIT_PLUGIN_REJECTED,
        ),
    ];
    for config in [orka2(), orka3()] {
        for (digest, rules, said, code) in cases {
            let bench = Bench::start(config.clone()).await;
            let bench = bench
                .with("-pbase-image", "Sonoma.orkasi")
                .with("-pcpu-count", "12");
            bench.write("rules.txt", rules);
            let rules = shown(&bench.path("rules.txt"));
            let digest = match digest {
                "" => String::new(),
                digits => format!("@sha256:{digits}"),
            };
            let bench = bench.with("--guard", &format!("{guard}{digest}={rules}"));
            let examined = bench.examine().await;
            examined.assert_found(Subject::Guards, said);
            if code == 0 {
                examined.assert(Status::Ok, &[Subject::Guards, Subject::Grants]);
                assert_eq!(examined.diagnosis.exit_code(), 0);
            } else {
                examined.assert_failed(&[Subject::Guards], code);
                assert_eq!(bench.run().await, code, "{said}");
            }
        }
    }
}

/// A run asks the guards first, and the grants and the cluster about what they leave.
#[tokio::test]
async fn grants_and_capacity_go_by_the_vm_that_guards_leave() {
    let bench = Bench::start(orka2()).await.with("-pcpu-count", "24");
    let bench = bench.with("-pbase-image", "Sonoma.orkasi");
    bench.write(
        "grants.toml",
        &format!("{GRANT_ALL}[grant.ceilings]\ncpu-cores = 8\n"),
    );
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Grants], EXIT_PLUGIN_REJECTED);
    bench.write("guards/guards", "# of the team\nrules.wasm=rules.txt\n");
    bench.write("guards/rules.txt", "image *\ncores - 6\n");
    let guard = build_plugin().with_file_name("allowed-vms.wasm");
    std::fs::copy(guard, bench.path("guards/rules.wasm")).unwrap();
    let list = shown(&bench.path("guards"));
    let bench = bench.with("--guards", &list);
    let examined = bench.examine().await;
    examined.assert(Status::Ok, &[Subject::Grants, Subject::Guards]);
    examined.assert_found(Subject::Capacity, "room for 6 cores");
    assert_eq!(examined.diagnosis.exit_code(), 0);
    std::fs::remove_file(bench.path("guards/guards")).unwrap();
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Grants, Subject::Guards], EXIT_CONFIG);
    examined.assert_found(Subject::Guards, "cannot read the list of guards");
}

#[tokio::test]
async fn a_plugin_that_is_no_component_skips_what_depends_on_it() {
    let bench = Bench::start(orka2()).await;
    bench.write("core.wasm", "\0asm\u{1}\0\0\0");
    let plugin = shown(&bench.path("core.wasm"));
    let examined = bench.with("--plugin", &plugin).examine().await;
    examined.assert_failed(&[Subject::Plugin], EXIT_PLUGIN_REJECTED);
    examined.assert(Status::Skipped, &[Subject::Parameters, Subject::Grants]);
    examined.assert(Status::Ok, &[Subject::Image, Subject::Capacity]);
}

#[tokio::test]
async fn image_and_cores_can_be_named_without_parameters() {
    let bench = Bench::start(orka2()).await.without("-pbase-image");
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Parameters], EXIT_CONFIG);
    examined.assert(Status::Skipped, &[Subject::Image]);

    let bench = bench
        .with("--image", "Ventura.orkasi")
        .with("--cpu-count", "24");
    let examined = bench.examine().await;
    examined.assert(Status::Ok, &[Subject::Parameters]);
    examined.assert_found(Subject::Image, "`Ventura.orkasi` is there");
    examined.assert_found(
        Subject::Capacity,
        "1 of 3 nodes has room for 24 cores: `macpro-1`",
    );
}

#[tokio::test]
async fn the_failure_that_a_run_meets_first_decides_and_all_are_shown() {
    let bench = Bench::start(orka2())
        .await
        .with("-pbase-image", "nothing-like-it")
        .with("--workspace", "/nowhere")
        .without("--grants");
    let examined = bench.examine().await;
    examined.assert_failed(
        &[Subject::Image, Subject::Workspace, Subject::Grants],
        EXIT_CONFIG,
    );
    let table = examined.diagnosis.table();
    assert!(
        table.contains("exit code 211, for `workspace`; 3 of 15 checks failed"),
        "{table}"
    );
}

#[tokio::test]
async fn an_empty_command_line_is_told_everything_that_is_missing() {
    let bench = Bench::start(orka2()).await;
    let args = match Cli::try_parse_from(["orka-step", "doctor"])
        .unwrap()
        .command
    {
        Command::Doctor(args) => *args,
        _ => panic!("not `doctor`"),
    };
    let (console, _) = Console::captured(Masker::default());
    let diagnosis = doctor::examine(&args, &Environment::new(), &console, &Stop::default()).await;
    for name in [
        Subject::Endpoint,
        Subject::Credentials,
        Subject::SshCredentials,
    ] {
        let check = diagnosis.check(name).unwrap();
        assert_eq!(check.status, Status::Fail, "{check:#?}");
        assert!(check.findings[0].hint.is_some());
    }
    assert_eq!(diagnosis.exit_code(), EXIT_CONFIG);
    assert!(bench.sim.state().requests.is_empty());
}

#[tokio::test]
async fn the_directories_are_left_as_they_were() {
    let bench = Bench::start(orka2()).await;
    bench
        .examine()
        .await
        .assert(Status::Ok, &[Subject::Workspace, Subject::Results]);
    for directory in ["workspace", "results"] {
        let left = std::fs::read_dir(bench.path(directory)).unwrap().count();
        assert_eq!(left, 0, "{directory}");
    }
    bench.write("workspace/.orka-step/ledger", "of another run");
    bench
        .examine()
        .await
        .assert(Status::Ok, &[Subject::Workspace]);
    assert!(bench.path("workspace/.orka-step/ledger").is_file());
}

#[tokio::test]
async fn results_that_cannot_be_written_are_found() {
    // Nobody can make files there, root included.
    let bench = Bench::start(orka2()).await.with("--results", "/proc");
    let examined = bench.examine().await;
    examined.assert_failed(&[Subject::Results], EXIT_FILES);
}

#[tokio::test]
async fn a_deadline_that_leaves_no_time_for_the_build_is_a_warning() {
    let bench = Bench::start(orka2()).await.with("--timeout", "20m");
    let examined = bench.examine().await;
    examined.assert(Status::Warn, &[Subject::Timeout]);
    assert_eq!(examined.diagnosis.exit_code(), 0);
}

#[tokio::test]
async fn the_exit_code_is_the_one_that_the_run_itself_ends_with() {
    let small = NodeSpec {
        cpu: 2,
        ..NodeSpec::apple_silicon("mini-1")
    };
    let cramped = |config| SimConfig {
        nodes: vec![small.clone()],
        ..config
    };
    let cases: [(&str, SimConfig, &str, &str); 12] = [
        (
            "unknown image on 2.x",
            orka2(),
            "-pbase-image",
            "sonma.orkasi",
        ),
        (
            "unknown image on 3.x",
            orka3(),
            "-pbase-image",
            "sonma.orkasi",
        ),
        ("no room on 2.x", cramped(orka2()), "--timeout", "50m"),
        ("no room on 3.x", cramped(orka3()), "--timeout", "50m"),
        ("a size that 2.x has not", orka2(), "-pcpu-count", "5"),
        ("no rights", orka3(), "--orka-namespace", "orka-test"),
        (
            "no such credentials",
            orka2(),
            "--orka-credentials",
            "/nowhere",
        ),
        (
            "no such SSH credentials",
            orka2(),
            "--ssh-credentials",
            "/nowhere",
        ),
        ("unknown parameter", orka2(), "-pbase-imgae", "x"),
        ("no such plugin", orka2(), "--plugin", "/nowhere.wasm"),
        ("no such grants", orka2(), "--grants", "/dev/null"),
        (
            "results on a read-only place",
            orka2(),
            "--results",
            "/proc",
        ),
    ];
    for (case, config, flag, value) in cases {
        let bench = Bench::start(config).await.with(flag, value);
        let examined = bench.examine().await;
        let foretold = examined.diagnosis.exit_code();
        assert_ne!(foretold, 0, "{case}:\n{}", examined.diagnosis.table());
        assert_eq!(
            bench.run().await,
            foretold,
            "{case}:\n{}",
            examined.diagnosis.table()
        );
    }
}

#[tokio::test]
async fn what_is_printed_is_the_table_or_the_json_and_nothing_else() {
    let bench = Bench::start(orka3())
        .await
        .with("-pbase-image", "sonma.orkasi");
    let (console, said) = Console::captured(Masker::default());
    let mut args = bench.args();
    let environment = Environment::new();
    let code = doctor::doctor(&args, &environment, &console, &Stop::default()).await;
    assert_eq!(code, EXIT_CONFIG);
    let lines = said.lines();
    assert!(
        lines[0].starts_with("CHECK            STATUS   FOUND"),
        "{lines:#?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("endpoint         ok       Orka 3"))
    );
    assert!(lines.last().unwrap().contains("exit code 211, for `image`"));

    args.json = true;
    let (console, said) = Console::captured(Masker::default());
    let code = doctor::doctor(&args, &environment, &console, &Stop::default()).await;
    assert_eq!(code, EXIT_CONFIG);
    let json: serde_json::Value = serde_json::from_str(&said.lines().join("\n")).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["wouldStart"], false);
    assert_eq!(json["exitCode"], 211);
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(checks.len(), Subject::ALL.len());
    let image = checks
        .iter()
        .find(|check| check["name"] == "image")
        .unwrap();
    assert_eq!(image["status"], "fail");
    assert_eq!(image["exitCode"], 211);
    assert_eq!(
        image["findings"][0]["hint"],
        "did you mean `Sonoma.orkasi`?"
    );
}
