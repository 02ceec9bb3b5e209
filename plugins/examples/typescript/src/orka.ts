// What makes policies pleasant to write: phases, errors, last words. Yours to change; nothing else depends on it.

import { type Ending, Group, type Level, lastWords, log } from "orka:plugin/console@0.1.0";
import { get, type Value } from "orka:plugin/params@0.1.0";
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

/** An error of the policy's own: `code` is stable and dotted, `message` one lower-case sentence, `hint` what to do next. */
export function failure(tag: HostError["tag"], code: string, message: string, hint?: string): HostError {
  const val: ErrorInfo = {
    code,
    message,
    hint,
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

/** A parameter of type `string` or `choice`; empty if it was not given and has no default. */
export function text(name: string): string {
  return parameter(name, "text")?.val ?? "";
}

/** A parameter of type `boolean`; false if it was not given and has no default. */
export function flag(name: string): boolean {
  return parameter(name, "boolean")?.val ?? false;
}

/** A parameter of type `integer`; undefined if it was not given and has no default. */
export function integer(name: string): number | undefined {
  const value = parameter(name, "integer");
  return value && Number(value.val);
}

/** A parameter of type `list`; empty if it was not given and has no default. */
export function list(name: string): string[] {
  return parameter(name, "list")?.val ?? [];
}

/** What `plugin.toml` calls each type. */
const TYPES: Record<Value["tag"], string> = { text: "string", boolean: "boolean", integer: "integer", list: "list" };

type Of<T extends Value["tag"]> = Extract<Value, { tag: T }>;

function isOf<T extends Value["tag"]>(value: Value, tag: T): value is Of<T> {
  return value.tag === tag;
}

/** A parameter's value. One of another type than `plugin.toml` gives it is a mistake of the policy. */
function parameter<T extends Value["tag"]>(name: string, wanted: T): Of<T> | undefined {
  // QuickJS has null for what the types call undefined.
  const value = get(name) ?? undefined;
  if (value === undefined || isOf(value, wanted)) return value;
  const problem = `is of type \`${TYPES[value.tag]}\` in \`plugin.toml\`, and the plugin reads it as \`${TYPES[wanted]}\``;
  const hint = `change \`type\` of \`[parameters.${name}]\` in the plugin's \`plugin.toml\`, or how the plugin reads it`;
  throw failure("invalid", "params.invalid", `parameter \`${name}\` ${problem}`, hint);
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

/** Where an exception was thrown: its stack, without `parameter` and its caller above, and `policyOf` below. */
function framesOf(error: Error): string {
  const frames = (error.stack ?? "").trim().split(/\s*\n\s*/);
  // By their place too: a policy's own functions may have these names.
  if (frames.length > 1 && /^at parameter /.test(frames[0] ?? "")) {
    frames.shift();
    if (frames.length > 1 && /^at (text|flag|integer|list) /.test(frames[0] ?? "")) frames.shift();
  }
  if (frames.length > 1 && /^at run /.test(frames[frames.length - 1] ?? "")) frames.pop();
  return frames.join("\n");
}

/**
 * Makes a function the component's `policy.run`. What the host threw goes back as it came, since its code decides the
 * step's outcome; any other exception is the plugin's failure, and the log shows where it was thrown.
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
        if (thrown instanceof Error) lastWords(`${problem}\n${framesOf(thrown)}`);
        throw failure("other", "plugin.exception", problem);
      }
    },
  };
}
