//! `orka-step demo`: the whole job against a simulated cluster in this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orka_sim::{GuestKind, Sim, SimConfig};
use plugin_manifest::{Manifest, is_secret_name};

use crate::cli::{DemoArgs, OrkaArgs, OrkaVersion, RegistryArgs, RunArgs, SshArgs};
use crate::config::{Config, Environment};
use crate::console::Console;
use crate::failure::Failure;
use crate::outcome::{EXIT_INTERNAL, EXIT_LEFTOVERS};
use crate::plugin::Plugin;
use crate::report;
use crate::run::{self, Finished};
use crate::state::Stop;

/// The program that the sample project's script compiles and packs.
const SOURCE: &str = "#include <stdio.h>\n\nint main(void) {\n    puts(\"hello from a build VM\");\n    return 0;\n}\n";

/// The sample project's script: it really compiles, runs and packs a program.
const SCRIPT: &str = "#!/bin/sh\nset -e\necho \"building in $(pwd) as $(id -un)\"\n\
cc -O2 -o hello hello.c\n./hello\nmkdir -p dist\ntar -cf dist/hello.tar hello\necho 'packed dist/hello.tar'\n";

/// Runs the demo and gives its exit code.
pub async fn demo(args: DemoArgs, console: Console, stop: Stop) -> u8 {
    match prepared(&args, &console).await {
        Ok(stage) => stage.play(&args, console, stop).await,
        Err(failure) => {
            report::print_failure(&console, &failure);
            EXIT_INTERNAL
        }
    }
}

/// How a simulated cluster is reached.
pub(crate) fn orka_args(url: String, credentials: Option<PathBuf>) -> OrkaArgs {
    OrkaArgs {
        orka_api: Some(url),
        orka_version: OrkaVersion::Auto,
        orka_namespace: orka_client::DEFAULT_NAMESPACE.to_owned(),
        orka_credentials: credentials.into_iter().collect(),
        orka_ca: None,
        node_addresses: Vec::new(),
        orka_metadata_member: "customMetadata".to_owned(),
        deploy_timeout: std::time::Duration::from_secs(600),
    }
}

/// How its VMs are.
pub(crate) fn ssh_args(credentials: Option<PathBuf>) -> SshArgs {
    SshArgs {
        ssh_credentials: credentials,
        ssh_key: false,
        ssh_host_keys: Vec::new(),
        ssh_keepalive: std::time::Duration::from_secs(60),
        ssh_jump: None,
        ssh_jump_credentials: None,
        ssh_timeout: std::time::Duration::from_secs(60),
    }
}

/// Everything the demo needs besides the program itself.
struct Stage {
    sim: Sim,
    config: SimConfig,
    /// Credentials and grants; gone with the demo.
    scratch: tempfile::TempDir,
    workspace: PathBuf,
    /// Whether the demo has made the workspace.
    is_own: bool,
}

async fn prepared(args: &DemoArgs, console: &Console) -> Result<Stage, Failure> {
    let trouble =
        |error: std::io::Error| Failure::internal("the demo cannot be set up").with_source(error);
    let config = SimConfig {
        // The newest version whose tokens are one per login, so that the whole job is shown: later ones keep theirs.
        api_version: "2.1.0".to_owned(),
        guests: GuestKind::Embedded,
        boot_delay: args.boot_delay,
        ..SimConfig::default()
    };
    let sim = Sim::start(config.clone()).await.map_err(|error| {
        Failure::internal("the simulated cluster cannot be started").with_source(error)
    })?;
    let scratch = tempfile::Builder::new()
        .prefix("orka-step-demo-")
        .tempdir()
        .map_err(trouble)?;
    let workspace = match &args.workspace {
        Some(path) => path.clone(),
        // Kept after the demo, so that the artifact can be looked at.
        None => sample_project().map_err(trouble)?,
    };
    credentials(&config, scratch.path()).map_err(trouble)?;
    let version = &config.api_version;
    console.info(&format!(
        "simulated cluster: Orka {version} at {}",
        sim.url()
    ));
    console.info(&format!("workspace: {}", workspace.display()));
    Ok(Stage {
        sim,
        config,
        scratch,
        workspace,
        is_own: args.workspace.is_none(),
    })
}

fn sample_project() -> std::io::Result<PathBuf> {
    let project = tempfile::Builder::new()
        .prefix("orka-step-demo-workspace-")
        .tempdir()?
        .keep();
    std::fs::write(project.join("hello.c"), SOURCE)?;
    std::fs::write(project.join("build.sh"), SCRIPT)?;
    Ok(project)
}

/// Refuses a bundled plugin that works on what other Tasks have made: in a demo there are none. Another may be all of its
/// Tasks in one.
fn can_be_shown(plugin: &Plugin) -> Result<(), Failure> {
    match plugin.works_on_others() {
        Some(capability) => Err(Failure::config(format!(
            "plugin `{}` works on what other Tasks of a run made (`{capability}`), and a demo is one Task on a new cluster",
            plugin.manifest.name
        ))
        .with_hint("start `orka-sim`, and run `init`, `deploy` and `teardown` against it with `orka-step run` and the same `--run-uid`")),
        None => Ok(()),
    }
}

/// The files of a directory that can be secrets. Others have names that no plugin can ask for.
fn secret_names(place: &Path) -> Vec<String> {
    let entries = place.read_dir().into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_secret_name(name)).collect()
}

fn credentials(config: &SimConfig, scratch: &Path) -> std::io::Result<()> {
    let user = config.users.first();
    let files = [
        ("orka/email", user.map_or("", |user| &user.email)),
        ("orka/password", user.map_or("", |user| &user.password)),
        ("ssh/username", &config.guest_user),
        ("ssh/password", &config.guest_password),
    ];
    for (name, value) in files {
        let path = scratch.join(name);
        path.parent().map(std::fs::create_dir_all).transpose()?;
        std::fs::write(path, value)?;
    }
    Ok(())
}

impl Stage {
    async fn play(self, args: &DemoArgs, console: Console, stop: Stop) -> u8 {
        let masker = console.masker().clone();
        let finished = match self.run_args(args) {
            Ok(run_args) => match Config::resolve(&run_args, &Environment::new(), masker) {
                Ok(mut config) => {
                    // Nobody can look on it for what a killed run has left.
                    config.simulated = true;
                    run::run(config, console.clone(), stop).await
                }
                Err(failures) => Finished::not_started(failures),
            },
            Err(failure) => Finished::not_started(vec![failure]),
        };
        let code = report::conclude(&finished, &console, None, None);
        self.tell_what_is_left(&finished, &console, code).await
    }

    /// The command line that a person would type.
    fn run_args(&self, args: &DemoArgs) -> Result<RunArgs, Failure> {
        let reference = args.place.reference(&args.plugin)?;
        let plugin = Plugin::load(&reference)?;
        can_be_shown(&plugin)?;
        // A stock grant has no secrets.
        let grants = if plugin.bundled && args.secrets.is_none() {
            None
        } else {
            Some(self.grant_all(&plugin, args.secrets.as_deref())?)
        };
        Ok(RunArgs {
            script: None,
            plugin: args.plugin.clone(),
            plugin_dir: args.place.plugin_dir.clone(),
            fetched: args.place.fetched.get(&args.plugin).cloned().map(Ok),
            registry: RegistryArgs::default(),
            params: self.params(args, &plugin.manifest),
            grants,
            guards: Vec::new(),
            guard_list: None,
            guard_failure: crate::guard::OnFailure::default(),
            secrets: args.secrets.clone(),
            limits: Vec::new(),
            code_cache: args.code_cache.clone(),
            task: None,
            orka: orka_args(self.sim.url(), Some(self.scratch.path().join("orka"))),
            ssh: ssh_args(Some(self.scratch.path().join("ssh"))),
            workspace: Some(self.workspace.clone()),
            results: None,
            report: None,
            record: None,
            timeout: std::time::Duration::from_secs(600),
            run_uid: None,
            task_uid: None,
            pod_uid: None,
            step_action: false,
            #[cfg(feature = "kubernetes")]
            older_hand_over: crate::cli::HandOverArgs::default(),
            vm_prefix: crate::identity::DEFAULT_PREFIX.to_owned(),
        })
    }

    /// The demo's own values for parameters that the plugin has, under what was typed.
    fn params(&self, args: &DemoArgs, manifest: &Manifest) -> Vec<(String, String)> {
        let image = self.config.images.first().map_or("", |image| &image.name);
        let mut params = BTreeMap::from([
            ("base-image", image.to_owned()),
            ("image", image.to_owned()),
        ]);
        if args.workspace.is_none() {
            params.insert("script-file", "build.sh".to_owned());
            params.insert("artifacts", "dist/**".to_owned());
        }
        if !manifest.parameters.contains_key("script-file") && args.workspace.is_none() {
            // A policy that takes its script as text alone.
            params.insert("script", "sh build.sh".to_owned());
        }
        let typed: Vec<&str> = args.params.iter().map(|(name, _)| name.as_str()).collect();
        if typed.contains(&"script") {
            params.remove("script-file");
        }
        let own = params
            .into_iter()
            .filter(|(name, _)| manifest.parameters.contains_key(*name) && !typed.contains(name))
            .map(|(name, value)| (name.to_owned(), value));
        own.chain(args.params.iter().cloned()).collect()
    }

    fn grant_all(&self, plugin: &Plugin, secrets: Option<&Path>) -> Result<PathBuf, Failure> {
        let path = self.scratch.path().join("grants.toml");
        // Each by its name as well, for plugins that take any.
        let names = secrets.map(secret_names).unwrap_or_default();
        let names: serde_json::Value = std::iter::once("*".to_owned()).chain(names).collect();
        let text = format!(
            "[[grant]]\nplugin = \"{}\"\ndigest = \"{}\"\ncapabilities = [\"*\"]\nsecrets = {names}\n",
            plugin.manifest.name, plugin.digest
        );
        std::fs::write(&path, text).map_err(|error| {
            Failure::internal("the demo's grants cannot be written").with_source(error)
        })?;
        Ok(path)
    }

    /// Shows the promise kept: counts what the cluster still has.
    async fn tell_what_is_left(self, finished: &Finished, console: &Console, code: u8) -> u8 {
        let state = self.sim.state();
        console.info(&format!(
            "left on the cluster: {} VMs, {} VM configs; {} requests were made",
            state.vms.len(),
            state.configs.len(),
            state.requests.len()
        ));
        let artifacts = finished.run.as_ref().map(|run| {
            run.artifacts
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .files()
        });
        for file in artifacts.unwrap_or_default().iter() {
            console.info(&format!(
                "artifact: {} (sha256 {})",
                self.workspace.join(&file.path).display(),
                file.sha256_hex()
            ));
        }
        if self.is_own {
            console.info(&format!(
                "the workspace `{}` stays, so that you can look at it; `--workspace DIR` takes one of yours",
                self.workspace.display()
            ));
        }
        let is_clean = state.vms.is_empty() && state.configs.is_empty();
        self.sim.shutdown().await;
        if code == 0 && !is_clean {
            EXIT_LEFTOVERS
        } else {
            code
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_with_the_name_of_a_bundled_one_can_be_shown() {
        let text = "[plugin]\nname = \"deploy\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"It deploys\"\ncapabilities = [\"cluster.adopt\"]\n";
        let plugin = |bundled| Plugin {
            bytes: Vec::new(),
            digest: "sha256:0".to_owned(),
            manifest: Manifest::parse_toml(text).unwrap(),
            path: PathBuf::from("dist/deploy.wasm"),
            bundled,
        };
        can_be_shown(&plugin(false)).unwrap();
        let refused = can_be_shown(&plugin(true)).unwrap_err();
        assert!(refused.message.contains("`cluster.adopt`"), "{refused}");
    }

    #[test]
    fn files_whose_names_are_no_secret_names_are_left_out() {
        let place = tempfile::tempdir().unwrap();
        for name in ["KEY", "key.p12", "a\u{7f}", "a b", "*"] {
            std::fs::write(place.path().join(name), "x").unwrap();
        }
        let mut names = secret_names(place.path());
        names.sort();
        assert_eq!(names, ["KEY", "key.p12"]);
    }
}
