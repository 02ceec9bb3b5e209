"""One VM, one script, its artifacts back."""

from dataclasses import dataclass

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.policy import Verdict
from wit_world.imports import cluster, console, results, ssh, types, workspace

from orka import integer, items, phase, policy, succeeded, text, verdict

# Where the workspace is in the VM, relative to the home directory.
WORKSPACE = "workspace/orka"
SCRIPT = "workspace/build-script"


@dataclass
class Machine:
    """A VM that is logged into."""

    config: cluster.VmConfig
    vm: cluster.Vm
    connection: ssh.Connection


class Policy(exports.Policy):
    def run(self) -> Verdict:
        return policy(build)


def build() -> Verdict:
    session = phase("sign in", cluster.sign_in)
    machine = bring_up(session)
    connection = machine.connection
    if workspace.available():
        phase("copy in", lambda: connection.upload("", WORKSPACE, transfer([])))
    exit = phase("run script", lambda: run_script(connection), ending_of)
    artifacts = items("artifacts")
    if artifacts and workspace.available():
        phase("copy back", lambda: copy_back(connection, artifacts, exit))
    results.set("node", machine.vm.info().node or "")
    phase("purge VM", machine.config.purge)
    phase("sign out", session.sign_out)
    return verdict(exit)


def bring_up(session: cluster.Session) -> Machine:
    """Tries another VM where one does not come up, as often as `attempts` allows."""
    attempts = integer("attempts") or 1
    attempt = 1
    while True:
        config = phase("create VM config", lambda: session.create_config(spec()))
        try:
            vm = phase("deploy VM", lambda: config.deploy(cluster.DeployOptions(None, [], [], None, None, [])))
            connection = phase("wait for SSH", lambda: ssh.connect(vm, ssh.ConnectOptions(None, None, None, None)))
            return Machine(config, vm, connection)
        except Err as raised:
            error = raised.value
            another = isinstance(error, (types.Error_Unavailable, types.Error_TimedOut))
            if not another or error.value.code == "run.deadline" or attempt >= attempts:
                raise
            console.log(console.Level.WARN, f"{error.value.message}; trying another VM")
        phase("purge VM", config.purge)
        attempt += 1


def spec() -> cluster.VmSpec:
    return cluster.VmSpec(
        image=text("base-image"),
        cpu_cores=integer("cpu-count"),
        vcpus=None,
        memory_mib=None,
        vnc_console=None,
        gpu_passthrough=None,
        system_serial=None,
        tag=None,
        tag_required=False,
        scheduler=None,
        options=[],
    )


def run_script(connection: ssh.Connection) -> types.Exit:
    connection.write_file(SCRIPT, f"#!/bin/sh\nset -ex\n{text('script')}".encode(), 0o755)
    in_workspace = workspace.available()
    options = ssh.ExecOptions(
        cwd=WORKSPACE if in_workspace else None,
        env=[],
        secret_env=[],
        stdin=ssh.Stdin_Empty(),
        shell=ssh.Shell.PLAIN,
        pty=False,
        detach=False,
        silence_timeout_ms=None,
        output=ssh.Output.LOG,
    )
    command = connection.exec("../build-script" if in_workspace else SCRIPT, [], options)
    while True:
        exit = command.wait(None)
        if exit is not None:
            return exit


def copy_back(connection: ssh.Connection, artifacts: list[str], exit: types.Exit) -> None:
    """Missing artifacts of a failed script are only worth a warning: its own status is the truth of the run."""
    try:
        connection.download(WORKSPACE, "", transfer(artifacts))
    except Err as raised:
        info = raised.value.value
        is_final = isinstance(raised.value, types.Error_Cancelled) or info.code == "run.deadline"
        if succeeded(exit) or is_final:
            raise
        console.log(console.Level.WARN, f"nothing was copied back: {info.message}")


def transfer(include: list[str]) -> ssh.TransferOptions:
    return ssh.TransferOptions(include, [], None, None, None)


def ending_of(exit: types.Exit) -> console.Ending:
    return console.Ending.DONE if succeeded(exit) else console.Ending.FAILED
