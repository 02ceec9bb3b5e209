/// <reference path="./orka-plugin-types.d.ts" />
declare module 'orka:plugin/wait@0.1.0' {
  /**
   * Becomes ready after so many milliseconds.
   */
  export function timer(durationMs: bigint): Waitable;
  /**
   * Waits until at least one is ready and returns the positions of those that are, in order.
   * 
   * An empty list of positions means that `timeout-ms` milliseconds passed. Errors: `cancelled`, `timed-out` (the
   * run's own deadline), `invalid` (`wait.empty`: nothing to wait for).
   */
  export function waitAny(waitables: Array<Waitable>, timeoutMs: bigint | undefined): Uint32Array;
  export type Error = import('orka:plugin/types@0.1.0').Error;
  
  export class Waitable implements Disposable {
    /**
     * This type does not have a public constructor.
     */
    private constructor();
    /**
    * Whether it is ready now.
    */
    ready(): boolean;
    [Symbol.dispose](): void;
  }
}
