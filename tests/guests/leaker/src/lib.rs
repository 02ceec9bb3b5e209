//! Learns a secret, which a program in the VM prints in a form that no mask knows, and tells it wherever anything can be told.

use orka_plugin_sdk::cluster::{DeployOptions, Session, Vm, VmConfig, VmSpec};
use orka_plugin_sdk::console::{self, Ending, Group, Level};
use orka_plugin_sdk::secrets::Secret;
use orka_plugin_sdk::ssh::{
    self, ConnectOptions, Connection, ExecOptions, Output, TransferOptions,
};
use orka_plugin_sdk::{
    Error, ErrorInfo, Plugin, Verdict, cluster, handoff, params, results, secrets, workspace,
};

const NAME: &str = "TOKEN_X";

/// Each byte's number on a line of its own.
const DETOUR: &str = "printf %s \"$TOKEN_X\" | od -An -v -tu1 -w1";

struct Leaker;

impl Plugin for Leaker {
    fn run() -> Result<Verdict, Error> {
        let secret = secrets::open(NAME)?;
        let session = cluster::sign_in()?;
        let config = session.create_config(&VmSpec::from_image("Sonoma.orkasi"))?;
        let vm = config.deploy(&DeployOptions::default())?;
        let connection = ssh::connect(&vm, &ConnectOptions::default())?;
        let known = learned(&connection, &secret)?;
        tell("length", &known.len().to_string());
        through_the_log(&known);
        through_what_is_written(&known)?;
        through_programs(&connection, &known)?;
        through_refusals(&connection, &vm, &known);
        through_limits(&session, &config, &connection, &known);
        match params::required_text("end")?.as_str() {
            "error" => Err(Error::Other(
                ErrorInfo::new("leaker.told", format!("it is {known}"))
                    .with_hint(format!("it is {known}")),
            )
            .with_detail(known.as_str(), known.as_str())),
            "code" => Err(Error::Other(ErrorInfo::new(known, "it is in the code"))),
            "panic" => panic!("it is {known}"),
            _ => Ok(Verdict::Succeeded),
        }
    }
}

fn learned(connection: &Connection, secret: &Secret) -> Result<String, Error> {
    let options = ExecOptions {
        secret_env: vec![(NAME.to_owned(), secret)],
        output: Output::Capture,
        ..ExecOptions::default()
    };
    let arguments = ["-c".to_owned(), DETOUR.to_owned()];
    let command = connection.exec("sh", &arguments, &options)?;
    let mut said = String::new();
    while let Some(chunks) = command.read_output(4096, 10_000)? {
        for chunk in chunks {
            said.push_str(&String::from_utf8_lossy(&chunk.data));
        }
    }
    let numbers = said.split_whitespace().map(str::parse);
    let bytes: Result<Vec<u8>, _> = numbers.collect();
    bytes
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Error::Other(ErrorInfo::new("leaker.lost", "the detour is closed")))
}

fn tell(what: &str, said: &str) {
    console::log(Level::Info, &format!("{what}: {said}"));
}

fn tried<T>(what: &str, result: Result<T, Error>) {
    match result {
        Ok(_) => tell(what, "done"),
        Err(error) => tell(what, &error.info().message),
    }
}

fn through_the_log(known: &str) {
    for level in [Level::Debug, Level::Info, Level::Warn, Level::Error] {
        console::log(level, known);
    }
    // Cut off where it is too long, wherever the secret is.
    for filler in 0..300 {
        Group::new(&format!("{}{known}", "x".repeat(filler))).finish(Ending::Done);
    }
    console::progress(1, None, known);
}

fn through_what_is_written(known: &str) -> Result<(), Error> {
    results::set("seen", known)?;
    handoff::put("seen", known)?;
    tried(known, results::set(known, known));
    tried(known, handoff::put(known, known));
    Ok(())
}

fn through_programs(connection: &Connection, known: &str) -> Result<(), Error> {
    connection.label_output(known);
    for filler in 0..70 {
        connection.label_output(&format!("{}{known}", "x".repeat(filler)));
        ssh::run(connection, "echo", &[known], &ExecOptions::default())?;
    }
    let options = ExecOptions {
        env: vec![("SEEN".to_owned(), known.to_owned())],
        cwd: Some(known.to_owned()),
        ..ExecOptions::default()
    };
    tried("cwd", ssh::run(connection, known, &[known], &options));
    Ok(())
}

fn through_refusals(connection: &Connection, vm: &Vm, known: &str) {
    let all = TransferOptions::default();
    tried("read", workspace::read(known));
    tried("open", secrets::open(known));
    tried(
        "glob",
        workspace::glob(&[format!("{known}["), known.to_owned()]),
    );
    tried("upload", connection.upload(known, known, &all));
    tried("download", connection.download(known, known, &all));
    tried("write-file", connection.write_file(known, b"x", 0o600));
    tried("keep", vm.keep(1000, known));
}

/// In what is longer than anybody repeats, wherever that is cut: an answer of Orka, one of the VM, and what the host refuses.
fn through_limits(session: &Session, config: &VmConfig, connection: &Connection, known: &str) {
    // The part of a secret that is looked for is longer than the steps.
    for filler in (0..520).step_by(4) {
        let long = format!("{}{known}", "x".repeat(filler));
        let spec = VmSpec::from_image(&long);
        tried("image", session.create_config(&spec));
        tried("write-file", connection.write_file(&long, b"x", 0o600));
        let options = DeployOptions {
            node: Some(long),
            ..DeployOptions::default()
        };
        tried("node", config.deploy(&options));
    }
}

orka_plugin_sdk::register!(Leaker);
