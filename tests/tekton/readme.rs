//! The five commands of the README's section on Tekton, and what MIGRATION.md has people type, against what there is.

use std::path::Path;

use end_to_end::{Applied, Cluster, Namespace, documents, repository};
use orka_sim::{SimConfig, User};

use super::assert_outcome;
use super::definitions::manifest;

fn page(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap()
}

/// Lines of commands in a block, without comments.
fn commands(block: &str) -> Vec<String> {
    let lines = block.lines().map(|line| line.split(" #").next().unwrap());
    lines
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What follows a command's beginning.
fn after<'a>(command: &'a str, start: &str) -> Vec<&'a str> {
    let rest = command.strip_prefix(start);
    let rest = rest.unwrap_or_else(|| panic!("`{command}` does not begin with `{start}`"));
    rest.split_whitespace().collect()
}

fn literals<'a>(words: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    let literals = words
        .iter()
        .map(|word| word.strip_prefix("--from-literal=").unwrap());
    literals
        .map(|literal| literal.split_once('=').unwrap())
        .collect()
}

/// The files of the directory that `--from-file` names, as Kubernetes makes a Secret of them.
fn from_file(words: &[&str], directories: &Path) -> Vec<(String, String)> {
    let [word] = words else { panic!("{words:?}") };
    let directory = directories.join(word.strip_prefix("--from-file=").unwrap());
    let entries = std::fs::read_dir(directory).unwrap();
    let pair = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        (entry.file_name().into_string().unwrap(), text)
    };
    entries.map(|entry| pair(entry.unwrap())).collect()
}

fn borrowed(data: &[(String, String)]) -> Vec<(&str, &str)> {
    let pairs = data.iter();
    pairs
        .map(|(key, text)| (key.as_str(), text.as_str()))
        .collect()
}

/// Every Task that the sample refers to is part of what is applied first.
fn assert_applies(directory: &str, task: &str) {
    let mut directories = vec![repository().join(directory)];
    let mut found = false;
    while let Some(directory) = directories.pop() {
        let text = std::fs::read_to_string(directory.join("kustomization.yaml")).unwrap();
        let resources = documents(&text).remove(0)["resources"].clone();
        for resource in resources.as_array().unwrap() {
            let path = directory.join(resource.as_str().unwrap());
            if path.is_dir() {
                directories.push(path);
            } else {
                found |= path.file_stem().unwrap() == task;
            }
        }
    }
    assert!(found, "`{directory}` has no `{task}`");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_five_commands_lead_to_a_first_build() {
    let text = page("README.md");
    let (_, section) = text.split_once("\n## On Tekton\n").unwrap();
    let commands = commands(section.split("```").nth(1).unwrap());
    let [apply, config_map, credentials, login, sample] = commands.as_slice() else {
        panic!("not five: {commands:#?}");
    };
    let [directory] = after(apply, "kubectl apply -k")[..] else {
        panic!("{apply}");
    };
    assert_applies(directory, "orka-full");
    let config_map = after(config_map, "kubectl create configmap");
    let credentials = after(credentials, "kubectl create secret generic");
    let login = after(login, "kubectl create secret generic");
    let [sample] = after(sample, "kubectl create -f")[..] else {
        panic!("{sample}");
    };
    // The two directories that the text describes, written with an editor, which ends files with a line break.
    let directories = tempfile::tempdir().unwrap();
    for (said, directory, files) in [
        (
            "`creds/orka` with the files `email` and `password`",
            "creds/orka",
            [("email", "ci@example.com"), ("password", "of the cluster")],
        ),
        (
            "`creds/ssh` with `username` and `password`",
            "creds/ssh",
            [("username", "builder"), ("password", "of the VMs")],
        ),
    ] {
        assert!(section.contains(said), "{said}");
        let directory = directories.path().join(directory);
        std::fs::create_dir_all(&directory).unwrap();
        for (name, text) in files {
            std::fs::write(directory.join(name), format!("{text}\n")).unwrap();
        }
    }
    let of_user = from_file(&credentials[1..], directories.path());
    let of_vm = from_file(&login[1..], directories.path());
    let user = User {
        email: "ci@example.com".to_owned(),
        password: "of the cluster".to_owned(),
    };
    let cluster = Cluster::with(SimConfig {
        users: vec![user],
        guest_user: "builder".to_owned(),
        guest_password: "of the VMs".to_owned(),
        ..Cluster::orka2()
    })
    .await;
    let namespace = Namespace::default()
        .config_map(config_map[0], &literals(&config_map[1..]))
        .secret(credentials[0], &borrowed(&of_user))
        .secret(login[0], &borrowed(&of_vm));
    let applied =
        Applied::read(sample, namespace).value(config_map[0], "ORKA_API", &cluster.sim.url());
    let ran = applied.run().await;
    assert_eq!(ran.len(), 1);
    // There is no `diskutil` here: the build came as far as the script.
    assert_outcome(&ran[0].ended, 127, "build-failed");
    ran[0].ended.assert_says(&["copied in"]);
    cluster.assert_purged();
}

/// Without the Secret and the ConfigMap it reads, the CronJob fails where nobody looks.
#[test]
fn the_reapers_commands_make_what_its_cronjob_reads() {
    let job = manifest("tekton/reaper/cronjob.yaml", "CronJob");
    let pod = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    let namespace = job["metadata"]["namespace"].as_str().unwrap();
    for file in ["README.md", "tekton/MIGRATION.md"] {
        let text = page(file);
        let mut blocks = text.split("```").skip(1).step_by(2);
        let block = blocks.find(|block| block.contains("kubectl apply -k tekton/reaper\n"));
        let commands = commands(block.unwrap());
        let [_, secret, config_map, again, first, logs] = commands.as_slice() else {
            panic!("{file}: {commands:#?}");
        };
        let secret = after(secret, "kubectl create secret generic");
        assert_eq!(
            pod["volumes"][0]["secret"]["secretName"], secret[0],
            "{file}"
        );
        let config_map = after(config_map, "kubectl create configmap");
        let read = &pod["containers"][0]["envFrom"][0]["configMapRef"]["name"];
        assert_eq!(*read, config_map[0], "{file}");
        assert!(
            config_map[3].starts_with("--from-literal=ORKA_API="),
            "{file}"
        );
        let first = after(first, "kubectl create job");
        // Whoever has mended what was wrong types it again.
        let again = after(again, "kubectl delete job");
        assert_eq!(
            (again[0], again[3]),
            (first[0], "--ignore-not-found"),
            "{file}"
        );
        let cron_job = first[3].strip_prefix("--from=cronjob/").unwrap();
        assert_eq!(job["metadata"]["name"], cron_job, "{file}");
        let logs = logs.split("; ").find_map(|part| part.strip_prefix("do "));
        let logs = after(logs.unwrap(), "kubectl logs");
        assert_eq!(logs[2], format!("job/{}", first[0]), "{file}");
        for words in [
            &secret[1..],
            &config_map[1..],
            &again[1..],
            &first[1..],
            &logs[..],
        ] {
            assert_eq!(words[..2], ["--namespace", namespace], "{file}");
        }
    }
}

/// Kubernetes has no log of a container that waits for its image, and says so at once.
#[test]
fn the_reapers_log_is_waited_for_while_its_image_is_pulled_and_not_for_ever() {
    for file in ["README.md", "tekton/MIGRATION.md"] {
        let text = page(file);
        let mut lines = text.lines().map(str::trim);
        let line = lines.find(|line| line.contains("job/orka-reap-first --follow"));
        for (tries, expected) in [
            (3, "waiting\nwaiting\nthe log\n".to_owned()),
            (99, "waiting\n".repeat(60)),
        ] {
            let shell = format!(
                "sleep() {{ :; }}; n=0; kubectl() {{ n=$((n + 1)); [ $n -ge {tries} ] && echo the log || {{ echo waiting; false; }}; }}\n{}",
                line.unwrap()
            );
            let ran = std::process::Command::new("sh")
                .args(["-c", &shell])
                .output();
            assert_eq!(
                String::from_utf8_lossy(&ran.unwrap().stdout),
                expected,
                "{file}"
            );
        }
    }
}

/// Files and folders that the pages name with `kubectl apply -k` and `-f`, in tables and texts too.
#[test]
fn what_the_pages_have_people_apply_is_there() {
    let mut seen = 0;
    for page in [
        "README.md",
        "tekton/README.md",
        "tekton/MIGRATION.md",
        "plugins/README.md",
        "host/LEAKS.md",
    ] {
        let text = std::fs::read_to_string(repository().join(page)).unwrap();
        for (flag, is_folder) in [("kubectl apply -k ", true), ("kubectl create -f ", false)] {
            for rest in text.split(flag).skip(1) {
                let is_end = |letter: char| letter.is_whitespace() || "`)…".contains(letter);
                let path = rest.split(is_end).next().unwrap();
                let target = repository().join(path);
                let target = if is_folder {
                    target.join("kustomization.yaml")
                } else {
                    target
                };
                assert!(Path::new(&target).is_file(), "{page}: `{path}`");
                seen += 1;
            }
        }
    }
    assert!(seen >= 10, "{seen}");
}
