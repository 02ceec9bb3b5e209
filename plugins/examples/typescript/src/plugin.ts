// One VM, one script, its artifacts back.

import { type Session, signIn, type Vm, type VmConfig } from "orka:plugin/cluster@0.1.0";
import { log } from "orka:plugin/console@0.1.0";
import { set } from "orka:plugin/results@0.1.0";
import { type Connection, connect } from "orka:plugin/ssh@0.1.0";
import type { Exit } from "orka:plugin/types@0.1.0";
import { available } from "orka:plugin/workspace@0.1.0";
import { hostError, integer, list, phase, policyOf, succeeded, text, utf8, verdict } from "./orka.js";

/** Where the workspace is in the VM, relative to the home directory. */
const WORKSPACE = "workspace/orka";
const SCRIPT = "workspace/build-script";

/** A VM that is logged into. */
interface Machine {
  config: VmConfig;
  vm: Vm;
  connection: Connection;
}

export const policy = policyOf(() => {
  const session = phase("sign in", () => signIn());
  const machine = bringUp(session);
  if (available()) {
    phase("copy in", () => machine.connection.upload("", WORKSPACE, { include: [], exclude: [] }));
  }
  const exit = phase("run script", () => runScript(machine.connection), (exit) => (succeeded(exit) ? "done" : "failed"));
  const artifacts = list("artifacts");
  if (artifacts.length > 0 && available()) {
    phase("copy back", () => copyBack(machine.connection, artifacts, exit));
  }
  set("node", machine.vm.info().node ?? "");
  phase("purge VM", () => machine.config.purge());
  phase("sign out", () => session.signOut());
  return verdict(exit);
});

/** Tries another VM where one does not come up, as often as `attempts` allows. */
function bringUp(session: Session): Machine {
  const attempts = integer("attempts") ?? 1;
  for (let attempt = 1; ; attempt++) {
    const config = phase("create VM config", () =>
      session.createConfig({
        image: text("base-image"),
        cpuCores: integer("cpu-count"),
        tagRequired: false,
        options: [],
      }),
    );
    try {
      const vm = phase("deploy VM", () => config.deploy({ metadata: [], reservedPorts: [], options: [] }));
      const connection = phase("wait for SSH", () => connect(vm, {}));
      return { config, vm, connection };
    } catch (thrown) {
      const error = hostError(thrown);
      const another = error?.tag === "unavailable" || error?.tag === "timed-out";
      if (!another || error.val.code === "run.deadline" || attempt >= attempts) throw thrown;
      log("warn", `${error.val.message}; trying another VM`);
      phase("purge VM", () => config.purge());
    }
  }
}

function runScript(connection: Connection): Exit {
  connection.writeFile(SCRIPT, utf8(`#!/bin/sh\nset -ex\n${text("script")}`), 0o755);
  const command = connection.exec(available() ? "../build-script" : SCRIPT, [], {
    cwd: available() ? WORKSPACE : undefined,
    env: [],
    secretEnv: [],
    stdin: { tag: "empty" },
    shell: "plain",
    pty: false,
    detach: false,
    output: "log",
  });
  for (;;) {
    const exit = command.wait(undefined);
    if (exit) return exit;
  }
}

/** Missing artifacts of a failed script are only worth a warning: its own status is the truth of the run. */
function copyBack(connection: Connection, artifacts: string[], exit: Exit): void {
  try {
    connection.download(WORKSPACE, "", { include: artifacts, exclude: [] });
  } catch (thrown) {
    const error = hostError(thrown);
    if (succeeded(exit) || !error || error.tag === "cancelled" || error.val.code === "run.deadline") throw thrown;
    log("warn", `nothing was copied back: ${error.val.message}`);
  }
}
