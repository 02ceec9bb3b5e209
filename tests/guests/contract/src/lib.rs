//! Calls every function of the contract, and says which did not do as it should.
//!
//! The component of each published version is kept in `tests/frozen` and runs for ever: nothing may be taken out of here, and
//! what a later version adds belongs into a guest of its own.

use std::cell::Cell;

use orka_plugin_sdk::bindings::orka::plugin::params::{self, Value};
use orka_plugin_sdk::cluster::{self, DeployOptions, Session, Vm, VmSpec};
use orka_plugin_sdk::console::{self, Ending, Group, Level};
use orka_plugin_sdk::ssh::{
    self, ConnectOptions, Connection, ExecOptions, Output, Stdin, TransferOptions,
};
use orka_plugin_sdk::{
    Error, ErrorInfo, Exit, Plugin, Verdict, clock, handoff, random, results, secrets, wait,
    workspace,
};

thread_local! {
    static DONE: Cell<u32> = const { Cell::new(0) };
}

struct Contract;

impl Plugin for Contract {
    fn run() -> Result<Verdict, Error> {
        given()?;
        time()?;
        files()?;
        let session = cluster::sign_in()?;
        done(1);
        on_the_cluster(&session)?;
        several_at_once(&session)?;
        for_other_tasks(&session)?;
        session.sign_out()?;
        done(1);
        results::set("done", &DONE.get().to_string())?;
        console::last_words("nothing more to say");
        Ok(Verdict::Succeeded)
    }
}

orka_plugin_sdk::register!(Contract);

/// Counts functions that did as they should.
fn done(functions: u32) {
    DONE.set(DONE.get() + functions);
}

/// Fails the run unless `good`.
fn check(good: bool, what: &str) -> Result<(), Error> {
    if good {
        return Ok(());
    }
    let message = format!("`{what}` does not do as the contract says");
    Err(Error::Other(ErrorInfo::new("contract.broken", message)))
}

fn given() -> Result<(), Error> {
    let is =
        |name: &str, wanted: fn(&Value) -> bool| params::get(name).is_some_and(|it| wanted(&it));
    check(
        is(
            "image",
            |it| matches!(it, Value::Text(text) if !text.is_empty()),
        ),
        "params.get: text",
    )?;
    check(
        is("flag", |it| matches!(it, Value::Boolean(true))),
        "params.get: boolean",
    )?;
    check(
        is("number", |it| matches!(it, Value::Integer(7))),
        "params.get: integer",
    )?;
    check(
        is(
            "words",
            |it| matches!(it, Value::List(words) if words.len() == 2),
        ),
        "params.get: list",
    )?;
    check(params::get("no-such").is_none(), "params.get: none")?;
    check(params::script().is_none(), "params.script")?;
    check(random::bytes(16).len() == 16, "random.bytes")?;
    let secret = secrets::open("signing")?;
    check(secret.name() == "signing", "secret.name")?;
    check(
        matches!(secrets::open("other"), Err(Error::Denied(_))),
        "secrets.open: denied",
    )?;
    let group = Group::new("a phase");
    console::log(Level::Info, "a line");
    console::progress(1, Some(2), "steps");
    group.finish(Ending::Done);
    done(9);
    Ok(())
}

fn time() -> Result<(), Error> {
    let before = clock::elapsed_ms();
    clock::sleep(20)?;
    check(
        clock::elapsed_ms() >= before + 20,
        "clock.elapsed-ms, clock.sleep",
    )?;
    check(clock::now_ms() > 1_600_000_000_000, "clock.now-ms")?;
    check(clock::remaining_ms() > 0, "clock.remaining-ms")?;
    let (soon, late) = (wait::timer(10), wait::timer(3_600_000));
    let ready = wait::wait_any(&[&late, &soon], Some(60_000))?;
    check(
        ready == [1] && soon.ready() && !late.ready(),
        "wait.wait-any, waitable.ready",
    )?;
    check(
        wait::wait_any(&[&late], Some(1))?.is_empty(),
        "wait.wait-any: time",
    )?;
    check(wait::wait_any(&[], None).is_err(), "wait.wait-any: nothing")?;
    done(7);
    Ok(())
}

fn files() -> Result<(), Error> {
    check(workspace::available(), "workspace.available")?;
    workspace::write("in/a.txt", b"a file")?;
    check(workspace::read("in/a.txt")? == b"a file", "workspace.read")?;
    let listed = workspace::list("in")?;
    check(listed.len() == 1 && listed[0].size == 6, "workspace.list")?;
    check(
        workspace::glob(&["in/*.txt".to_owned()])? == ["in/a.txt"],
        "workspace.glob",
    )?;
    check(workspace::hash("in/a.txt")?.len() == 64, "workspace.hash")?;
    check(
        workspace::read("../outside").is_err(),
        "workspace.read: outside",
    )?;
    handoff::put("left", "a value")?;
    check(
        handoff::get("left")?.as_deref() == Some("a value"),
        "handoff.get",
    )?;
    check(handoff::get("never")?.is_none(), "handoff.get: none")?;
    done(8);
    Ok(())
}

fn spec() -> VmSpec {
    match params::get("image") {
        Some(Value::Text(image)) => VmSpec::from_image(image),
        _ => VmSpec::from_image(""),
    }
}

fn on_the_cluster(session: &Session) -> Result<(), Error> {
    let _facts = session.facts();
    check(!session.images()?.is_empty(), "session.images")?;
    check(!session.nodes()?.is_empty(), "session.nodes")?;
    let config = session.create_config(&spec())?;
    check(!config.name().is_empty(), "vm-config.name")?;
    let vm = config.deploy(&DeployOptions::default())?;
    check(vm.info().ssh_port > 0, "vm.info")?;
    check(vm.exists()?, "vm.exists")?;
    in_a_vm(&vm)?;
    check(session.keep_max()? > 0, "session.keep-max")?;
    let kept = vm.keep(60_000, "only to see that it can be")?;
    check(
        kept.name == vm.info().name && !kept.login.is_empty(),
        "vm.keep",
    )?;
    vm.delete()?;
    check(!vm.exists()?, "vm.delete")?;
    config.purge()?;
    done(12);
    Ok(())
}

fn in_a_vm(vm: &Vm) -> Result<(), Error> {
    let connection = ssh::connect(vm, &ConnectOptions::default())?;
    check(
        connection.host_key().starts_with("SHA256:"),
        "connection.host-key",
    )?;
    connection.write_file(
        "tool",
        b"#!/bin/sh\necho \"$1 $PLAIN\"\ncat\ntest -n \"$SIGNING\"\n",
        0o755,
    )?;
    connection.upload("in", "copied", &TransferOptions::default())?;
    ran(&connection)?;
    signalled(&connection)?;
    let only = TransferOptions {
        include: vec!["a.*".to_owned()],
        ..TransferOptions::default()
    };
    let copied = connection.download("copied", "out", &only)?;
    check(
        copied.files == 1 && copied.digest.is_some(),
        "connection.download",
    )?;
    check(
        workspace::read("out/a.txt")? == b"a file",
        "connection.download: the file",
    )?;
    done(5);
    Ok(())
}

/// With arguments, a variable, a secret one, and standard input; what it wrote is read.
fn ran(connection: &Connection) -> Result<(), Error> {
    let secret = secrets::open("signing")?;
    let options = ExecOptions {
        env: vec![("PLAIN".to_owned(), "variable".to_owned())],
        secret_env: vec![("SIGNING".to_owned(), &secret)],
        stdin: Stdin::Bytes(b"from standard input".to_vec()),
        output: Output::Capture,
        ..ExecOptions::default()
    };
    let command = connection.exec("./tool", &["an argument; $(false)".to_owned()], &options)?;
    let mut written = Vec::new();
    while let Some(chunks) = command.read_output(64 * 1024, 10_000)? {
        chunks
            .into_iter()
            .for_each(|chunk| written.extend(chunk.data));
    }
    check(
        written == b"an argument; $(false) variable\nfrom standard input",
        "connection.exec, command.read-output",
    )?;
    check(
        matches!(command.wait(None)?, Some(Exit::Status(0))),
        "command.wait",
    )?;
    done(3);
    Ok(())
}

/// One that is signalled, and waited for among other things.
fn signalled(connection: &Connection) -> Result<(), Error> {
    let command = connection.exec("sleep", &["600".to_owned()], &ExecOptions::default())?;
    check(command.wait(Some(1))?.is_none(), "command.wait: time")?;
    let (ended, late) = (command.subscribe(), wait::timer(60_000));
    command.signal("TERM")?;
    check(
        wait::wait_any(&[&late, &ended], None)? == [1],
        "command.subscribe, command.signal",
    )?;
    check(
        matches!(command.wait(None)?, Some(Exit::Signal(signal)) if signal.name == "TERM"),
        "command.wait: signal",
    )?;
    done(2);
    Ok(())
}

fn several_at_once(session: &Session) -> Result<(), Error> {
    let config = session.create_config(&spec())?;
    let deployments = [
        config.start_deploy(&DeployOptions::default())?,
        config.start_deploy(&DeployOptions::default())?,
    ];
    let mut open: Vec<_> = deployments.iter().collect();
    while !open.is_empty() {
        let waitables: Vec<_> = open
            .iter()
            .map(|deployment| deployment.subscribe())
            .collect();
        let ready = wait::wait_any(&waitables.iter().collect::<Vec<_>>(), None)?;
        for position in ready.into_iter().rev() {
            let vm = open.remove(position as usize).finish()?;
            check(!vm.info().address.is_empty(), "deployment.finish")?;
        }
    }
    check(deployments[0].finish().is_err(), "deployment.finish: twice")?;
    config.purge()?;
    done(3);
    Ok(())
}

fn for_other_tasks(session: &Session) -> Result<(), Error> {
    let text = session.create_config(&spec())?.hand_over()?;
    let adopted = session.adopt_config(&text)?;
    let vm = adopted.deploy(&DeployOptions::default())?;
    vm.hand_over()?;
    (session.create_shared_config("contract", &spec())?).hand_over()?;
    check(
        session.shared_config("contract")?.is_some() && session.shared_config("other")?.is_none(),
        "session.shared-config",
    )?;
    let purged = session.purge_run()?;
    check(
        !purged.removed.is_empty() && purged.kept.is_empty(),
        "session.purge-run",
    )?;
    done(6);
    Ok(())
}
