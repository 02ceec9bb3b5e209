/// <reference path="./orka-plugin-types.d.ts" />
declare module 'orka:plugin/handoff@0.1.0' {
  /**
   * Leaves a value under a name for later Tasks of the same pipeline run. Never a secret, since it is a plain file:
   * those in `value` are replaced by `***`.
   * 
   * Errors: `invalid` (a name that is not `[a-z0-9-]{1,63}`, or a value over 64 KiB), `not-found` (no workspace),
   * `other` (`files.…`). Grant: `handoff.write`.
   */
  export function put(name: string, value: string): void;
  /**
   * The value an earlier Task of the same pipeline run left, if any. Errors: as `put`. Grant: `handoff.read`.
   */
  export function get(name: string): string | undefined;
  export type Error = import('orka:plugin/types@0.1.0').Error;
}
