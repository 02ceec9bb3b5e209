// What makes policies pleasant to write: phases, errors, last words. Yours to change; nothing else depends on it.

import { type Ending, Group, type Level, lastWords, log } from "orka:plugin/console@0.1.0";
import { get } from "orka:plugin/params@0.1.0";
import type { Verdict } from "orka:plugin/policy@0.1.0";
import type { Error as HostError, ErrorInfo, Exit } from "orka:plugin/types@0.1.0";

/** What goes to the log. QuickJS's own `console` goes nowhere. */
type Print = (...values: unknown[]) => void;

declare global {
  var console: Record<"debug" | "log" | "info" | "warn" | "error", Print>;
}

function print(level: Level): Print {
  const shown = (value: unknown) => (typeof value === "string" ? value : (JSON.stringify(value) ?? String(value)));
  return (...values) => log(level, values.map(shown).join(" "));
}

globalThis.console = {
  debug: print("debug"),
  log: print("info"),
  info: print("info"),
  warn: print("warn"),
  error: print("error"),
};

/** The host's error behind something that was thrown, if there is one. */
export function hostError(thrown: unknown): HostError | undefined {
  const payload = (thrown as { payload?: unknown } | null)?.payload ?? thrown;
  const error = payload as HostError | null;
  return typeof error?.tag === "string" && typeof error?.val?.code === "string" ? error : undefined;
}

/** An error of the policy's own: `code` is stable and dotted, `message` one lower-case sentence. */
export function failure(tag: HostError["tag"], code: string, message: string): HostError {
  const val: ErrorInfo = {
    code,
    message,
    hint: undefined,
    retryable: false,
    retryAfterMs: undefined,
    requestId: undefined,
    details: [],
  };
  return { tag, val };
}

/** Does `work` as a phase: the log shows its title, its time and whether it failed. */
export function phase<T>(title: string, work: () => T, ending: (value: T) => Ending = () => "done"): T {
  const group = new Group(title);
  try {
    const value = work();
    group.finish(ending(value));
    return value;
  } catch (thrown) {
    group.finish("failed");
    throw thrown;
  }
}

/** A parameter of type `string` or `choice`. */
export function text(name: string): string {
  const value = get(name);
  return value?.tag === "text" ? value.val : "";
}

/** A parameter of type `integer`. */
export function integer(name: string): number | undefined {
  const value = get(name);
  return value?.tag === "integer" ? Number(value.val) : undefined;
}

/** A parameter of type `list`. */
export function list(name: string): string[] {
  const value = get(name);
  return value?.tag === "list" ? value.val : [];
}

/** Status 0 is success; anything else is a failed build, passed on unchanged. */
export function verdict(exit: Exit): Verdict {
  return succeeded(exit) ? { tag: "succeeded" } : { tag: "build-failed", val: exit };
}

/** Whether a program ended by itself with status 0. */
export function succeeded(exit: Exit): boolean {
  return exit.tag === "status" && exit.val === 0;
}

/** The bytes of a text. QuickJS has no `TextEncoder`. */
export function utf8(text: string): Uint8Array {
  const bytes: number[] = [];
  for (const letter of text) {
    const code = letter.codePointAt(0) ?? 0xfffd;
    if (code < 0x80) bytes.push(code);
    else if (code < 0x800) bytes.push(0xc0 | (code >> 6), 0x80 | (code & 0x3f));
    else if (code < 0x10000) bytes.push(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f));
    else
      bytes.push(
        0xf0 | (code >> 18),
        0x80 | ((code >> 12) & 0x3f),
        0x80 | ((code >> 6) & 0x3f),
        0x80 | (code & 0x3f),
      );
  }
  return new Uint8Array(bytes);
}

/**
 * Makes a function the component's `policy.run`. What the host threw goes back as it came, since its code decides the
 * step's outcome; any other exception is said to the host with its stack, and is the plugin's failure.
 */
export function policyOf(run: () => Verdict): { run(): Verdict } {
  return {
    run() {
      try {
        return run();
      } catch (thrown) {
        const error = hostError(thrown);
        if (error) throw error;
        const problem = thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown);
        lastWords(thrown instanceof Error ? `${problem}\n${thrown.stack ?? ""}` : problem);
        throw failure("other", "plugin.exception", problem);
      }
    },
  };
}
