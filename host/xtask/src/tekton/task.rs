//! The Tasks.

use plugin_manifest::Manifest;

use super::parameters::{TaskParameter, Way};
use super::yaml::Yaml;

/// The Tasks' version in the catalog's sense: the one after those of the Tasks that they replace.
pub(super) const VERSION: &str = "0.3";

/// The image; the name is one that a kustomization can replace.
pub(super) const IMAGE: &str = concat!("orka-step:", env!("CARGO_PKG_VERSION"));

/// Where the image has the program.
pub(super) const PROGRAM: &str = "/usr/local/bin/orka-step";

/// The first release of Tekton that labels pods with the UIDs of their runs.
pub(super) const TEKTON_MINIMUM: &str = "0.63.0";

/// What no value of a parameter holds by accident, and nobody can guess before the run exists.
const MARK: &str = "$(context.taskRun.uid)";

/// The one result that is an object.
const ARTIFACT_OUTPUTS: &str = "ARTIFACT_OUTPUTS";

/// Its members, all of them texts.
const ARTIFACT_OUTPUTS_MEMBERS: [&str; 3] = ["uri", "digest", "isBuildArtifact"];

/// The program's own results.
pub(super) const OWN_RESULTS: [(&str, &str); 11] = [
    (
        "vm-name",
        "The name of the VM or VM config made last, written before it is made",
    ),
    (
        "outcome",
        "`succeeded`, `build-failed`, `infra-failed`, `plugin-failed`, `denied`, `no-capacity`, `timed-out` or `cancelled`",
    ),
    (
        "reason",
        "What went wrong, in at most 200 bytes; none where nothing did. The log says more",
    ),
    (
        "exit-status",
        "The script's own exit status, or 128 and the number of the signal that ended it",
    ),
    (
        "artifacts-digest",
        "SHA-256 of what was copied back, as `sha256:…`",
    ),
    (
        "artifacts-manifest",
        "The path in the workspace of the list of what was copied back, with size and SHA-256 of each file",
    ),
    (
        ARTIFACT_OUTPUTS,
        "What Tekton Chains signs: the list of what was copied back, and its digest",
    ),
    ("duration-seconds", "How long the run took"),
    (
        "kept-vm",
        "The names of the VMs that are kept on purpose, separated by spaces",
    ),
    (
        "kept-until",
        "Until when they are kept, as RFC 3339; a reaper goes by it",
    ),
    ("leftovers", "Names of what may still exist on the cluster"),
];

/// What every pod's step may not do: the *restricted* Pod Security standard, and a read-only root beyond it.
pub(super) const SECURITY_CONTEXT: &str = "\
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
";

/// What a plugin's compiler and a transfer need at most times; neither is a limit.
pub(super) const RESOURCES: &str = "\
computeResources:
  requests:
    cpu: 100m
    memory: 128Mi
";

/// Who the run is, without rights to ask Kubernetes.
pub(super) const IDENTITY: &str = "\
- name: ORKA_RUN_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['tekton.dev/pipelineRunUID']
- name: ORKA_TASK_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['tekton.dev/taskRunUID']
- name: ORKA_POD_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.uid
";

/// Which PipelineRun owns what is handed over.
const RUN_NAME: &str = "\
- name: ORKA_RUN_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['tekton.dev/pipelineRun']
";

/// A workspace of a Task.
pub(super) struct Workspace {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) optional: bool,
    pub(super) read_only: bool,
    /// The flag that takes its path.
    flag: &'static str,
}

const BUILD: Workspace = Workspace {
    name: "orka",
    description: "What is copied into the VM and back; it appears there as `~/workspace/orka`. Holds the run's ledger, too",
    optional: false,
    read_only: false,
    flag: "workspace",
};

const SHARED: Workspace = Workspace {
    name: "orka",
    description: "A workspace shared with the other Tasks of the run, if there is one; holds the run's ledger",
    optional: true,
    read_only: false,
    flag: "workspace",
};

const PLUGIN: Workspace = Workspace {
    name: "plugin",
    description: "Plugins of your own, each as `NAME.wasm`, such as a ConfigMap with `binaryData`",
    optional: true,
    read_only: true,
    flag: "plugin-dir",
};

const GRANTS: Workspace = Workspace {
    name: "grants",
    description: "What plugins of your own may do, as the file `grants.toml` or `grants.yaml`",
    optional: true,
    read_only: true,
    flag: "grants",
};

const GUARDS: Workspace = Workspace {
    name: "guards",
    description: "Guards of the platform team, asked about every VM, program and file: the file `guards` with one a line, and \
                  what that names",
    optional: true,
    read_only: true,
    flag: "guards",
};

const REGISTRY: Workspace = Workspace {
    name: "registry",
    description: "Logins for registries that plugins are fetched from: a Secret of the type `kubernetes.io/dockerconfigjson`",
    optional: true,
    read_only: true,
    flag: "registry-credentials",
};

const SECRETS: Workspace = Workspace {
    name: "secrets",
    description: "Secrets that a granted plugin can use and never read, one file each",
    optional: true,
    read_only: true,
    flag: "secrets",
};

/// A Task.
pub(super) struct Task {
    pub(super) name: &'static str,
    /// The plugin that is its policy.
    pub(super) plugin: &'static str,
    display_name: &'static str,
    step: &'static str,
    tags: &'static str,
    description: &'static str,
    pub(super) workspaces: &'static [Workspace],
    /// Whether another plugin may take the place of its own.
    pub(super) takes_plugins: bool,
    pub(super) uses_ssh: bool,
    /// Whether it is one of the three that share a VM config.
    pub(super) is_modular: bool,
}

/// All of them.
pub(super) fn all() -> [Task; 4] {
    [
        Task {
            name: "orka-full",
            plugin: "build",
            display_name: "MacStadium Orka Full",
            step: "build",
            tags: "orka, macstadium, macos, ios, xcode, build",
            description: "Runs a build script on a macOS VM of a MacStadium Orka cluster\n\nDeploys a VM, copies the workspace \
                          in, runs the script, copies the result back and deletes the VM, however the TaskRun ends. The \
                          step's exit code is the script's; every other failure has its own, and the result `outcome` \
                          names it.",
            workspaces: &[BUILD, PLUGIN, REGISTRY, GRANTS, GUARDS, SECRETS],
            takes_plugins: true,
            uses_ssh: true,
            is_modular: false,
        },
        Task {
            name: "orka-init",
            plugin: "init",
            display_name: "MacStadium Orka Init",
            step: "init",
            tags: "orka, macstadium, macos, setup",
            description: "Makes a VM config for several `orka-deploy` Tasks of the same PipelineRun\n\nThey find it by the \
                          PipelineRun alone: no Secret, no ConfigMap and no rights in Kubernetes are needed. \
                          `orka-teardown` deletes it.",
            workspaces: &[SHARED, GUARDS],
            takes_plugins: false,
            uses_ssh: false,
            is_modular: true,
        },
        Task {
            name: "orka-deploy",
            plugin: "deploy",
            display_name: "MacStadium Orka Deploy",
            step: "build",
            tags: "orka, macstadium, macos, ios, xcode, build",
            description: "Runs a build script on a VM of its own, from the VM config that `orka-init` made\n\nSeveral may run at \
                          once. Each deletes its VM, or with `delete-vm: \"false\"` leaves it to `orka-teardown`.",
            workspaces: &[BUILD, GUARDS],
            takes_plugins: false,
            uses_ssh: true,
            is_modular: true,
        },
        Task {
            name: "orka-teardown",
            plugin: "teardown",
            display_name: "MacStadium Orka Teardown",
            step: "teardown",
            tags: "orka, macstadium, macos, cleanup",
            description: "Deletes every VM and VM config of the PipelineRun, whichever Task made it\n\nMeant for `finally`: it \
                          needs no result, no Secret and no ConfigMap of another Task, and succeeds where nothing was made.",
            workspaces: &[SHARED],
            takes_plugins: false,
            uses_ssh: false,
            is_modular: true,
        },
    ]
}

impl Task {
    /// Whether it writes or deletes what the older Tasks handed over.
    pub(super) fn hands_over(&self) -> bool {
        self.is_modular && !self.uses_ssh
    }

    /// Its results, the plugin's own included.
    pub(super) fn results(&self, manifest: &Manifest) -> Vec<(String, String)> {
        let own = manifest.results.iter();
        let own = own.map(|(name, it)| (name.clone(), it.description.clone()));
        let host = OWN_RESULTS.iter().filter(|(name, _)| {
            self.uses_ssh
                || !matches!(
                    *name,
                    "exit-status"
                        | "artifacts-digest"
                        | "artifacts-manifest"
                        | ARTIFACT_OUTPUTS
                        | "kept-vm"
                        | "kept-until"
                )
        });
        own.chain(host.map(|(name, text)| ((*name).to_owned(), (*text).to_owned())))
            .collect()
    }

    /// The whole file.
    pub(super) fn yaml(&self, parameters: &[TaskParameter], manifest: &Manifest) -> String {
        let mut yaml = Yaml::default();
        yaml.line(
            0,
            &format!(
                "# Made by `cargo xtask tekton` from plugins/{}/plugin.toml. Change it there.",
                self.plugin
            ),
        );
        header(&mut yaml, "tekton.dev/v1", "Task", self.name, VERSION);
        annotations(&mut yaml, self.display_name, self.tags);
        yaml.line(0, "spec:");
        yaml.prose(1, "description", self.description);
        yaml.line(1, "workspaces:");
        for workspace in self.workspaces {
            yaml.text(2, "- name", workspace.name);
            yaml.prose(3, "description", workspace.description);
            if workspace.optional {
                yaml.line(3, "optional: true");
            }
            if workspace.read_only {
                yaml.line(3, "readOnly: true");
            }
        }
        params(&mut yaml, parameters);
        results(&mut yaml, &self.results(manifest));
        self.volumes(&mut yaml);
        self.step(&mut yaml, parameters);
        yaml.into_text()
    }

    fn volumes(&self, yaml: &mut Yaml) {
        yaml.line(1, "volumes:");
        yaml.lines(
            2,
            "\
# Optional, each and every key: what is missing is told by the program, which says what to do. Without that the pod
# would not start, and say so only in its events.
- name: orka-credentials
  secret:
    secretName: $(params.orka-creds-secret)
    optional: true
    items:
      - {key: $(params.orka-creds-email-key), path: email}
      - {key: $(params.orka-creds-password-key), path: password}
      - {key: $(params.orka-creds-token-key), path: token}
      - {key: licenseKey, path: licenseKey}
- name: tekton-orka-credentials
  secret:
    secretName: tekton-orka-creds
    optional: true
",
        );
        if self.uses_ssh {
            yaml.lines(
                2,
                "\
- name: ssh-credentials
  secret:
    secretName: $(params.ssh-secret)
    optional: true
    items:
      - {key: $(params.ssh-username-key), path: username}
      - {key: $(params.ssh-password-key), path: password}
      - {key: passphrase, path: passphrase}
      - {key: known_hosts, path: known_hosts}
",
            );
        }
    }

    fn step(&self, yaml: &mut Yaml, parameters: &[TaskParameter]) {
        yaml.line(1, "steps:");
        yaml.text(2, "- name", self.step);
        yaml.text(3, "image", IMAGE);
        self.script(yaml, parameters);
        yaml.line(3, "args:");
        yaml.line(
            4,
            "- --orka-credentials=/etc/orka-step/orka,/etc/orka-step/tekton-orka",
        );
        if self.uses_ssh {
            yaml.line(4, "- --ssh-credentials=/etc/orka-step/ssh");
        }
        if !self.takes_plugins {
            yaml.line(4, &format!("- --plugin={}", self.plugin));
        }
        yaml.line(3, "env:");
        yaml.lines(4, IDENTITY);
        if self.hands_over() {
            yaml.lines(4, RUN_NAME);
        }
        yaml.line(3, "envFrom:");
        yaml.lines(
            4,
            "\
# `ORKA_API`, and what else the namespace's administrator sets: every variable that `orka-step run --help` names.
- configMapRef:
    name: orka-tekton-config
    optional: true
",
        );
        yaml.lines(3, RESOURCES);
        yaml.lines(3, SECURITY_CONTEXT);
        yaml.line(3, "volumeMounts:");
        yaml.lines(4, &mount("orka-credentials", "orka"));
        yaml.lines(4, &mount("tekton-orka-credentials", "tekton-orka"));
        if self.uses_ssh {
            yaml.lines(4, &mount("ssh-credentials", "ssh"));
        }
    }

    fn script(&self, yaml: &mut Yaml, parameters: &[TaskParameter]) {
        let mut sections: Vec<(String, String)> = self
            .workspaces
            .iter()
            .map(|it| {
                let path = format!("$(workspaces.{}.path)", it.name);
                (format!("set {}", it.flag), path)
            })
            .collect();
        let (script, others): (Vec<_>, Vec<_>) = parameters
            .iter()
            .flat_map(|it| {
                let sections = match &it.way {
                    Way::Section(section) => vec![section],
                    Way::Sections(plugin, program) => vec![plugin, program],
                    Way::Volume | Way::Variable(_) => Vec::new(),
                };
                let value = format!("$(params.{})", it.name);
                let pair = move |section: &String| (section.clone(), value.clone());
                sections.into_iter().map(pair)
            })
            .partition(|(section, _)| section == "script");
        sections.extend(others);
        // Last, where people look for it.
        sections.extend(script);
        yaml.lines(
            3,
            "\
# No shell: the program is the interpreter, and reads each value between two marks as it is. Kubernetes would alter `$$` and
# `$(NAME)` in arguments and in the environment.
script: |-
",
        );
        yaml.line(4, &format!("#!{PROGRAM} task"));
        yaml.line(4, &format!("## {MARK} sections {}", sections.len()));
        for (section, value) in sections {
            yaml.line(4, &format!("## {MARK} {section}"));
            yaml.line(4, &value);
        }
    }
}

fn mount(volume: &str, directory: &str) -> String {
    format!("- name: {volume}\n  mountPath: /etc/orka-step/{directory}\n  readOnly: true\n")
}

pub(super) fn header(yaml: &mut Yaml, api: &str, kind: &str, name: &str, version: &str) {
    yaml.lines(
        0,
        &format!(
            "\
apiVersion: {api}
kind: {kind}
metadata:
  name: {name}
  labels:
    app.kubernetes.io/version: \"{version}\"
    app.kubernetes.io/part-of: orka-step
"
        ),
    );
}

pub(super) fn annotations(yaml: &mut Yaml, display_name: &str, tags: &str) {
    yaml.line(1, "annotations:");
    yaml.line(
        2,
        &format!("tekton.dev/pipelines.minVersion: \"{TEKTON_MINIMUM}\""),
    );
    yaml.line(
        2,
        "tekton.dev/categories: Build Tools, Continuous Integration",
    );
    yaml.line(2, &format!("tekton.dev/tags: {tags}"));
    yaml.line(2, &format!("tekton.dev/displayName: {display_name}"));
    yaml.line(2, "tekton.dev/platforms: linux/amd64,linux/arm64");
    // Artifact Hub's own categories are others than the catalog's.
    yaml.line(2, "artifacthub.io/category: integration-delivery");
    yaml.line(2, "artifacthub.io/license: Apache-2.0");
}

pub(super) fn params(yaml: &mut Yaml, parameters: &[TaskParameter]) {
    yaml.line(1, "params:");
    for parameter in parameters {
        yaml.text(2, "- name", &parameter.name);
        yaml.line(3, "type: string");
        yaml.prose(3, "description", &parameter.description);
        if let Some(default) = &parameter.default {
            yaml.text(3, "default", default);
        }
    }
}

pub(super) fn results(yaml: &mut Yaml, results: &[(String, String)]) {
    yaml.line(1, "results:");
    for (name, description) in results {
        yaml.text(2, "- name", name);
        if name == ARTIFACT_OUTPUTS {
            yaml.line(3, "type: object");
            yaml.line(3, "properties:");
            for member in ARTIFACT_OUTPUTS_MEMBERS {
                yaml.line(4, &format!("{member}: {{type: string}}"));
            }
        } else {
            yaml.line(3, "type: string");
        }
        yaml.prose(3, "description", description);
    }
}
