/// <reference path="./orka-plugin-types.d.ts" />
declare module 'orka:plugin/policy@0.1.0' {
  /**
   * Runs the policy once.
   * 
   * Parameters come from `params`, everything else from the other imports. An error that a host call gave may be
   * handed back as it came, also with a longer `message`: its `code` decides the step's outcome and exit code. An
   * error with a code of the plugin's own is the plugin's failure. Whatever this function does, and also if it traps
   * or never returns, the host deletes every VM and VM config that the run made.
   */
  export function run(): Verdict;
  export type Error = import('orka:plugin/types@0.1.0').Error;
  export type Exit = import('orka:plugin/types@0.1.0').Exit;
  /**
   * How a run ended, in the policy's judgement.
   */
  export type Verdict = VerdictSucceeded | VerdictBuildFailed;
  /**
   * What was asked for is done. The step exits 0.
   */
  export interface VerdictSucceeded {
    tag: 'succeeded',
  }
  /**
   * The build itself failed. The step's exit code is this exit's status unchanged, or 128 + N for signal N.
   */
  export interface VerdictBuildFailed {
    tag: 'build-failed',
    val: Exit,
  }
}
