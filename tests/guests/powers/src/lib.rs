//! Tries every power that the contract lends, as far as it gets, and tells what each call said.

use orka_plugin_sdk::cluster::{self, DeployOptions, VmSpec};
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::ssh::{self, ConnectOptions, ExecOptions, Stdin, TransferOptions};
use orka_plugin_sdk::{Error, Plugin, Verdict, handoff, secrets, workspace};

struct Powers;

/// Tells how a call ended and gives what it made.
fn tried<T>(call: &str, result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(made) => {
            console::log(Level::Info, &format!("{call}: done"));
            Some(made)
        }
        Err(error) => {
            console::log(Level::Info, &format!("{call}: {}", error.code()));
            None
        }
    }
}

fn try_the_cluster() {
    let Some(session) = tried("cluster.sign-in", cluster::sign_in()) else {
        return;
    };
    tried("cluster.images", session.images());
    tried("cluster.nodes", session.nodes());
    tried("cluster.keep-max", session.keep_max());
    tried("cluster.adopt-config", session.adopt_config("no config"));
    let spec = VmSpec::from_image("Sonoma.orkasi");
    let shared = tried("cluster.create-config", session.create_config(&spec));
    if let Some(config) = shared {
        tried("cluster.hand-over", config.hand_over());
    }
    let config = tried("cluster.create-config", session.create_config(&spec));
    if let Some(config) = config {
        let deployed = config.deploy(&DeployOptions::default());
        if let Some(vm) = tried("cluster.deploy", deployed) {
            tried("cluster.exists", vm.exists());
            try_the_vm(&vm);
            tried("cluster.keep", vm.keep(1000, "to see whether it may"));
        }
        tried("cluster.purge", config.purge());
    }
    tried("cluster.purge-run", session.purge_run());
}

fn try_the_vm(vm: &cluster::Vm) {
    let connected = ssh::connect(vm, &ConnectOptions::default());
    let Some(connection) = tried("ssh.connect", connected) else {
        return;
    };
    let all = TransferOptions::default();
    tried(
        "ssh.exec",
        connection.exec("true", &[], &ExecOptions::default()),
    );
    let reads = ExecOptions {
        stdin: Stdin::File("here".to_owned()),
        ..ExecOptions::default()
    };
    tried("ssh.exec-file", connection.exec("cat", &[], &reads));
    tried(
        "ssh.write-file",
        connection.write_file("there", b"x", 0o644),
    );
    tried("ssh.upload", connection.upload("", "up", &all));
    tried("ssh.download", connection.download(".", "down", &all));
}

impl Plugin for Powers {
    fn run() -> Result<Verdict, Error> {
        tried("workspace.write", workspace::write("here", b"x"));
        tried("workspace.read", workspace::read("here"));
        tried("workspace.list", workspace::list(""));
        tried("workspace.glob", workspace::glob(&["*".to_owned()]));
        tried("workspace.hash", workspace::hash("here"));
        tried("handoff.put", handoff::put("name", "value"));
        tried("handoff.get", handoff::get("name"));
        tried("secrets.open", secrets::open("NEVER_ASKED_FOR"));
        try_the_cluster();
        Ok(Verdict::Succeeded)
    }
}

orka_plugin_sdk::register!(Powers);
