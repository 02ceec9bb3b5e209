//! The five commands of the README's section on Tekton, and what MIGRATION.md has people type, against what there is.

use std::path::Path;

use end_to_end::{Applied, Cluster, Namespace, documents, repository};
use orka_sim::{SimConfig, User};

use super::assert_outcome;

/// Lines of commands in the first block of a section, without comments.
fn commands(file: &str, section: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository().join(file)).unwrap();
    let (_, rest) = text.split_once(&format!("\n{section}\n")).unwrap();
    let block = rest.split("```").nth(1).unwrap();
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
    let commands = commands("README.md", "## On Tekton");
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
    let of_user = literals(&credentials[1..]);
    let value = |key: &str| {
        let pair = of_user.iter().find(|(own, _)| *own == key);
        pair.unwrap().1.to_owned()
    };
    let user = User {
        email: value("email"),
        password: value("password"),
    };
    let (name, password) = (literals(&login[1..])[0], literals(&login[1..])[1]);
    let cluster = Cluster::with(SimConfig {
        users: vec![user],
        guest_user: name.1.to_owned(),
        guest_password: password.1.to_owned(),
        ..Cluster::orka2()
    })
    .await;
    let namespace = Namespace::default()
        .config_map(config_map[0], &literals(&config_map[1..]))
        .secret(credentials[0], &of_user)
        .secret(login[0], &literals(&login[1..]));
    let applied =
        Applied::read(sample, namespace).value(config_map[0], "ORKA_API", &cluster.sim.url());
    let ran = applied.run().await;
    assert_eq!(ran.len(), 1);
    // There is no `diskutil` here: the build came as far as the script.
    assert_outcome(&ran[0].ended, 127, "build-failed");
    ran[0].ended.assert_says(&["copied in"]);
    cluster.assert_purged();
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
