//! `orka-step plugin task`: a Tekton Task with a plugin's parameters and results, ready to be applied.

use std::fmt::Write as _;

use plugin_manifest::{Manifest, Parameter, ParameterType, ParameterValue};
use serde_json::Value;

use crate::cli::TaskArgs;
use crate::failure::Failure;
use crate::plugin::Plugin;
use crate::plugin::remote::is_remote;
use crate::results::{ARTIFACT_OUTPUTS, ARTIFACTS_DIGEST, ARTIFACTS_MANIFEST, REASON};

/// The parameter that stands last in the step's file, where people look for it.
const SCRIPT: &str = "script";

/// What no value of a parameter holds by accident, and nobody can guess before the run exists; see [`crate::task_file`].
const MARK: &str = "$(context.taskRun.uid)";

/// The host's own results, and what a Task says of each.
const OWN_RESULTS: [(&str, &str); 11] = [
    ("vm-name", "The name of the VM or VM config made last"),
    ("kept-vm", "The VMs that are kept on purpose, if any is"),
    ("kept-until", "Until when they are kept, as RFC 3339"),
    (
        "outcome",
        "succeeded, build-failed, infra-failed, plugin-failed, denied, no-capacity, timed-out or cancelled",
    ),
    (
        REASON,
        "What went wrong, in at most 200 bytes; the log says more",
    ),
    (
        "exit-status",
        "The script's exit status; 128 + N if signal N ended it",
    ),
    (ARTIFACTS_DIGEST, "SHA-256 of the files that came back"),
    (
        ARTIFACTS_MANIFEST,
        "The path in the workspace of the list of what came back",
    ),
    (
        ARTIFACT_OUTPUTS,
        "What Tekton Chains signs: the list of what came back, and its digest",
    ),
    ("duration-seconds", "How long the run took"),
    ("leftovers", "What may still exist, by name"),
];

/// Settings of the program that a Task's user may want to change; empty ones count as not given.
const SETTINGS: [(&str, &str); 3] = [
    (
        "orka-api",
        "The Orka endpoint; empty takes `ORKA_API` of the ConfigMap `orka-tekton-config`",
    ),
    (
        "orka-namespace",
        "The Orka namespace (3.x); empty takes `orka-default`, or `ORKA_NAMESPACE` of that ConfigMap",
    ),
    (
        "timeout",
        "The run's own deadline, such as `50m`. Keep it some minutes below the TaskRun's timeout",
    ),
];

/// Where Secrets are mounted, the name of each, and the flag that takes its directory.
const CREDENTIALS: [(&str, &str, &str); 2] = [
    ("orka-creds", "/etc/orka-step/orka", "orka-credentials"),
    ("orka-ssh-creds", "/etc/orka-step/ssh", "ssh-credentials"),
];

/// Workspaces that only whoever decides what plugins may do has a use for, and the flag that takes each.
const OPERATORS_WORKSPACES: [(&str, &str, &str); 4] = [
    (
        "grants",
        "grants",
        "What the plugin may do, as the file `grants.toml` or `grants.yaml`",
    ),
    (
        "guards",
        "guards",
        "Guards of the platform team, asked about every VM, program and file: the file `guards` with one a line, and what that names",
    ),
    (
        "secrets",
        "secrets",
        "Secrets that the plugin can use and never read, one file each",
    ),
    (
        "registry",
        "registry-credentials",
        "Logins for the registry that the plugin is fetched from, if it is: a Secret of the type `kubernetes.io/dockerconfigjson`",
    ),
];

/// Who the run is, without rights to ask Kubernetes, and what the namespace's administrator sets.
const STEP_ENVIRONMENT: &str = "      env:
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
      envFrom:
        - configMapRef:
            name: orka-tekton-config
            optional: true
";

/// The *restricted* Pod Security standard, and a read-only root beyond it.
const STEP_SECURITY: &str = "      securityContext:
        allowPrivilegeEscalation: false
        capabilities:
          drop: [ALL]
        readOnlyRootFilesystem: true
        runAsNonRoot: true
        seccompProfile:
          type: RuntimeDefault
";

/// The Task as YAML.
///
/// # Errors
///
/// As [`Plugin::load`].
pub fn task(args: &TaskArgs) -> Result<String, Failure> {
    let reference = args.place.reference(&args.plugin)?;
    let plugin = Plugin::load(&reference)?;
    let place = match (&args.plugin_path, plugin.bundled) {
        (Some(path), _) => path.clone(),
        (None, true) => plugin.manifest.name.clone(),
        // Fetched by the step as it was here.
        (None, false) if is_remote(&args.plugin) => args.plugin.clone(),
        (None, false) => {
            return Err(Failure::config(format!(
                "the Task needs to know where plugin `{}` is in the step's container",
                plugin.manifest.name
            ))
            .with_hint("give it with `--plugin-path`, such as `/plugins/mine.wasm`"));
        }
    };
    Ok(render(
        args,
        &plugin.manifest,
        &plugin.digest,
        &place,
        plugin.bundled,
    ))
}

fn render(
    args: &TaskArgs,
    manifest: &Manifest,
    digest: &str,
    place: &str,
    is_bundled: bool,
) -> String {
    let name = quoted(args.name.as_ref().unwrap_or(&manifest.name));
    let version = quoted(&manifest.version.to_string());
    let digest = quoted(digest);
    let description = quoted(&manifest.description);
    let mut yaml = format!(
        "\
apiVersion: tekton.dev/v1
kind: Task
metadata:
  name: {name}
  labels:
    app.kubernetes.io/version: {version}
  annotations:
    orka-step/plugin-digest: {digest}
spec:
  description: {description}
"
    );
    // A plugin's own parameter of the name comes before a setting.
    let settings: Vec<(&str, &str)> = SETTINGS
        .into_iter()
        .filter(|(name, _)| !manifest.parameters.contains_key(*name))
        .collect();
    yaml.push_str(&params(manifest, &settings, is_bundled));
    yaml.push_str(&workspaces(manifest, is_bundled));
    yaml.push_str(&results(manifest));
    yaml.push_str(&volumes());
    yaml.push_str(&step(args, &sections(manifest, &settings), place));
    yaml
}

fn params(manifest: &Manifest, settings: &[(&str, &str)], is_bundled: bool) -> String {
    let own = manifest
        .parameters
        .iter()
        .map(|(name, it)| (name.as_str(), described(it, is_bundled), default(it)));
    let settings = settings
        .iter()
        .map(|(name, text)| (*name, (*text).to_owned(), Some(String::new())));
    let mut yaml = "  params:\n".to_owned();
    for (name, description, default) in own.chain(settings) {
        let description = quoted(&description);
        // Writing into a `String` cannot fail, here and below.
        let _ = write!(
            yaml,
            "    - name: {name}\n      type: string\n      description: {description}\n"
        );
        if let Some(default) = default {
            let _ = writeln!(yaml, "      default: {}", quoted(&default));
        }
    }
    yaml
}

fn workspaces(manifest: &Manifest, is_bundled: bool) -> String {
    let mut yaml = "  workspaces:
    - name: orka
      description: What is copied into VMs and back; holds the run's ledger, too
"
    .to_owned();
    if !uses_workspace(manifest) {
        yaml.push_str("      optional: true\n");
    }
    for (name, _, description) in OPERATORS_WORKSPACES {
        // Optional all the same: a platform team may have the Task's own arguments set it, which a workspace may not then.
        let description = if is_needed(name, manifest, is_bundled) {
            format!(
                "{description}; this plugin does not start without, unless the Task itself sets `--{name}`"
            )
        } else {
            description.to_owned()
        };
        let description = quoted(&description);
        let _ = write!(
            yaml,
            "    - name: {name}
      description: {description}
      optional: true
      readOnly: true
"
        );
    }
    yaml
}

/// Whether the plugin does not start without what this workspace of the operator brings.
fn is_needed(workspace: &str, manifest: &Manifest, is_bundled: bool) -> bool {
    match workspace {
        "secrets" => !manifest.secrets.is_empty(),
        // What came with the program has all that it needs; only secrets are granted by the operator alone.
        "grants" if is_bundled => false,
        "grants" => !(manifest.capabilities.is_empty() && manifest.secrets.is_empty()),
        _ => false,
    }
}

fn results(manifest: &Manifest) -> String {
    let own = manifest.results.iter();
    let own = own.map(|(name, it)| (name.as_str(), it.description.as_str()));
    let mut yaml = "  results:\n".to_owned();
    for (name, description) in OWN_RESULTS.into_iter().chain(own) {
        let description = quoted(description);
        let _ = write!(
            yaml,
            "    - name: {name}\n      description: {description}\n"
        );
        if name == ARTIFACT_OUTPUTS {
            yaml.push_str(
                "      type: object
      properties:
        uri: {type: string}
        digest: {type: string}
        isBuildArtifact: {type: string}
",
            );
        }
    }
    yaml
}

/// Optional, all of them: what is missing is told by the program, which says what to do; the pod's events would say less.
fn volumes() -> String {
    let mut yaml = "  volumes:\n".to_owned();
    for (secret, _, _) in CREDENTIALS {
        let _ = write!(
            yaml,
            "    - name: {secret}
      secret:
        secretName: {secret}
        optional: true
"
        );
    }
    yaml
}

fn step(args: &TaskArgs, sections: &[(String, String)], place: &str) -> String {
    let image = quoted(&args.image);
    let program = &args.program;
    let count = sections.len();
    // Kubernetes would alter `$$` and `$(NAME)` in arguments and in the environment, and nothing in a script.
    let mut yaml = format!(
        "  steps:
    - name: run
      image: {image}
      script: |-
        #!{program} task
        ## {MARK} sections {count}
"
    );
    for (section, value) in sections {
        let _ = write!(yaml, "        ## {MARK} {section}\n        {value}\n");
    }
    let plugin = quoted(&format!("--plugin={place}"));
    let _ = write!(yaml, "      args:\n        - {plugin}\n");
    for (_, path, flag) in CREDENTIALS {
        let _ = writeln!(yaml, "        - --{flag}={path}");
    }
    yaml.push_str(STEP_ENVIRONMENT);
    yaml.push_str("      volumeMounts:\n");
    for (name, path, _) in CREDENTIALS {
        let _ = write!(
            yaml,
            "        - name: {name}
          mountPath: {path}
          readOnly: true
"
        );
    }
    yaml.push_str(STEP_SECURITY);
    yaml
}

/// What the step's file holds: section and value, the script last.
fn sections(manifest: &Manifest, settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let workspace = |flag: &str, name: &str| {
        let path = format!("$(workspaces.{name}.path)");
        (format!("set {flag}"), path)
    };
    let parameter = |section: String, name: &str| (section, format!("$(params.{name})"));
    let mut all = vec![workspace("workspace", "orka")];
    all.extend(OPERATORS_WORKSPACES.map(|(name, flag, _)| workspace(flag, name)));
    all.extend(
        settings
            .iter()
            .map(|(name, _)| parameter(format!("set {name}"), name)),
    );
    let own = manifest.parameters.keys();
    all.extend(
        own.filter(|name| *name != SCRIPT)
            .map(|name| parameter(format!("param {name}"), name)),
    );
    if manifest.parameters.contains_key(SCRIPT) {
        all.push(parameter(SCRIPT.to_owned(), SCRIPT));
    }
    all
}

/// Whether a plugin has something to do with the workspace.
fn uses_workspace(manifest: &Manifest) -> bool {
    let mut asked = manifest
        .capabilities
        .iter()
        .chain(&manifest.optional_capabilities);
    asked.any(|capability| {
        let name = capability.as_str();
        name.starts_with("workspace.") || name.starts_with("handoff.")
    })
}

/// The description with what the type says beside it: every Task parameter is text.
fn described(parameter: &Parameter, is_bundled: bool) -> String {
    let kind = match &parameter.kind {
        // Of the bundled plugins the description says in words what a pattern says.
        ParameterType::Text {
            pattern: Some(pattern),
        } if !is_bundled => format!("matches {}", pattern.as_str()),
        ParameterType::Text { .. } => return parameter.description.clone(),
        ParameterType::Boolean => "true or false".to_owned(),
        ParameterType::Integer { minimum, maximum } => match (minimum, maximum) {
            (Some(least), Some(most)) => format!("a whole number from {least} to {most}"),
            (Some(least), None) => format!("a whole number, at least {least}"),
            (None, Some(most)) => format!("a whole number, at most {most}"),
            (None, None) => "a whole number".to_owned(),
        },
        ParameterType::Choice { choices } => format!("one of {}", choices.join(", ")),
        ParameterType::List { .. } if parameter.description.contains("one a line") => {
            return parameter.description.clone();
        }
        ParameterType::List { .. } => "one a line".to_owned(),
    };
    format!("{} ({kind})", parameter.description)
}

/// A parameter that is optional and has no default takes an empty text for "not given".
fn default(parameter: &Parameter) -> Option<String> {
    match &parameter.default {
        _ if parameter.required => None,
        None => Some(String::new()),
        Some(ParameterValue::List(items)) => Some(items.join("\n")),
        Some(value) => Some(value.to_string()),
    }
}

/// A scalar of YAML: JSON's strings are among them.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::PluginPlace;

    fn rendered(manifest: &str) -> (String, Value) {
        let args = TaskArgs {
            plugin: "x".to_owned(),
            place: PluginPlace::default(),
            image: "registry.example.com/orka-step@sha256:00".to_owned(),
            program: "/usr/local/bin/orka-step".to_owned(),
            plugin_path: None,
            name: None,
        };
        let manifest = Manifest::parse_toml(manifest).unwrap();
        let text = render(&args, &manifest, "sha256:ab", "/plugins/x.wasm", false);
        let read = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        (text, read)
    }

    const MANIFEST: &str = "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\n\
        description = \"Says: \\\"hello\\\"\"\n\
        [parameters.image]\ntype = \"string\"\npattern = \"^[a-z]+$\"\nrequired = true\ndescription = \"The image: any\"\n\
        [parameters.copies]\ntype = \"integer\"\ndefault = 2\nminimum = 1\ndescription = \"How many\"\n\
        [parameters.globs]\ntype = \"list\"\ndefault = [\"a\", \"b\"]\ndescription = \"What\"\n\
        [results.count]\ndescription = \"How many came\"\n";

    #[test]
    fn a_task_has_the_plugins_parameters_with_their_defaults_and_its_results() {
        let (_, task) = rendered(MANIFEST);
        assert_eq!(task["metadata"]["name"], "mine");
        assert_eq!(
            task["metadata"]["annotations"]["orka-step/plugin-digest"],
            "sha256:ab"
        );
        let spec = &task["spec"];
        assert_eq!(spec["description"], "Says: \"hello\"");
        let params = spec["params"].as_array().unwrap();
        let of = |name: &str| params.iter().find(|it| it["name"] == name).unwrap();
        assert!(of("image")["default"].is_null(), "required");
        assert_eq!(of("copies")["default"], "2");
        assert_eq!(
            of("copies")["description"],
            "How many (a whole number, at least 1)"
        );
        assert_eq!(
            of("image")["description"],
            "The image: any (matches ^[a-z]+$)"
        );
        assert_eq!(of("globs")["default"], "a\nb");
        let results = spec["results"].as_array().unwrap();
        for name in crate::results::OWN.iter().chain(&["count"]) {
            assert!(results.iter().any(|it| it["name"] == **name), "{name}");
        }
        assert_eq!(spec["workspaces"][0]["optional"], true, "it asks for none");
        let step = &spec["steps"][0];
        let arguments = step["args"].as_array().unwrap();
        assert!(arguments.contains(&"--plugin=/plugins/x.wasm".into()));
        assert_eq!(step["securityContext"]["runAsNonRoot"], true);
    }

    #[test]
    fn a_workspace_says_that_a_plugin_does_not_start_without_it() {
        let manifest = |more: &str| {
            let head = "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n";
            Manifest::parse_toml(&format!("{head}{more}")).unwrap()
        };
        let goes_without = |more: &str, is_bundled: bool, name: &str| {
            let yaml = workspaces(&manifest(more), is_bundled);
            let read: Value = serde_saphyr::from_str(&yaml).unwrap();
            let all = read["workspaces"].as_array().unwrap();
            let found = all.iter().find(|it| it["name"] == name).unwrap();
            // The Task's own arguments may bring the same, which is set once.
            assert_eq!(found["optional"], true, "{name}");
            let description = found["description"].as_str().unwrap();
            !description.contains(&format!("unless the Task itself sets `--{name}`"))
        };
        let asks = "capabilities = [\"ssh.exec\"]\nsecrets = [\"KEY\"]\n";
        let could = "optional-capabilities = [\"ssh.exec\"]\noptional-secrets = [\"KEY\"]\n";
        for (more, is_bundled, grants, secrets) in [
            (asks, false, false, false),
            (asks, true, true, false),
            (could, false, true, true),
            ("", false, true, true),
        ] {
            assert_eq!(goes_without(more, is_bundled, "grants"), grants, "{more}");
            assert_eq!(goes_without(more, is_bundled, "secrets"), secrets, "{more}");
            assert!(goes_without(more, is_bundled, "guards"));
        }
    }

    #[test]
    fn values_travel_in_the_steps_file_and_never_as_arguments() {
        let with_script = format!(
            "{MANIFEST}[parameters.script]\ntype = \"string\"\ndefault = \"\"\ndescription = \"The script\"\n\
             [parameters.timeout]\ntype = \"string\"\ndefault = \"\"\ndescription = \"The plugin's own\"\n"
        );
        let (_, task) = rendered(&with_script);
        let step = &task["spec"]["steps"][0];
        let file = step["script"].as_str().unwrap();
        let mark = |line: &&str| line.starts_with("## $(context.taskRun.uid) ");
        let sections: Vec<&str> = file.lines().filter(mark).collect();
        assert!(
            sections[0].ends_with(&format!(" sections {}", sections.len() - 1)),
            "{file}"
        );
        assert!(file.starts_with("#!/usr/local/bin/orka-step task\n"));
        assert!(file.ends_with(" script\n$(params.script)"), "{file}");
        assert!(file.contains(" param copies\n$(params.copies)\n"));
        assert!(file.contains(" set orka-api\n$(params.orka-api)\n"));
        assert!(
            file.contains(" param timeout\n") && !file.contains(" set timeout\n"),
            "{file}"
        );
        assert!(!step["args"].to_string().contains("params."));
    }
}
