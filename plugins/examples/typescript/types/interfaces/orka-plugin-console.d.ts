declare module 'orka:plugin/console@0.1.0' {
  /**
   * Writes a line, of which 16 KiB are shown, and 16 MiB of all lines of a run. Control characters are made harmless
   * and secrets are masked.
   */
  export function log(level: Level, message: string): void;
  /**
   * Tells how far something is. The host decides how often to show it.
   */
  export function progress(done: bigint, total: bigint | undefined, unit: string): void;
  /**
   * Last words: what a guest says before it traps, or before it returns an error of its own. Shown with either.
   */
  export function lastWords(message: string): void;
  /**
   * How much a line matters.
   * # Variants
   * 
   * ## `"debug"`
   * 
   * Shown with `--verbose`.
   * ## `"info"`
   * 
   * A milestone.
   * ## `"warn"`
   * 
   * Someone may want to act.
   * ## `"error"`
   * 
   * The run will fail for this.
   */
  export type Level = 'debug' | 'info' | 'warn' | 'error';
  /**
   * How a group ended.
   * # Variants
   * 
   * ## `"done"`
   * 
   * As it should.
   * ## `"failed"`
   * 
   * It failed.
   * ## `"skipped"`
   * 
   * There was nothing to do.
   */
  export type Ending = 'done' | 'failed' | 'skipped';
  
  export class Group implements Disposable {
    /**
    * Begins a phase.
    */
    constructor(title: string)
    /**
    * Ends it. Dropping an unfinished group ends it as `done`.
    */
    finish(ending: Ending): void;
    [Symbol.dispose](): void;
  }
}
