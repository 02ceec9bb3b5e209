/// <reference path="./orka-plugin-types.d.ts" />
declare module 'orka:plugin/clock@0.1.0' {
  /**
   * Milliseconds since 1970-01-01T00:00:00Z.
   */
  export function nowMs(): bigint;
  /**
   * Milliseconds since the run began; never goes back.
   */
  export function elapsedMs(): bigint;
  /**
   * Milliseconds until the run's own deadline.
   */
  export function remainingMs(): bigint;
  /**
   * Waits for so many milliseconds. Errors: `cancelled`, `timed-out` (the run's own deadline comes first).
   */
  export function sleep(durationMs: bigint): void;
  export type Error = import('orka:plugin/types@0.1.0').Error;
}
