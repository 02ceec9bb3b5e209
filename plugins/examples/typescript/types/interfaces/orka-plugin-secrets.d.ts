/// <reference path="./orka-plugin-types.d.ts" />
declare module 'orka:plugin/secrets@0.1.0' {
  /**
   * Finds a secret by name.
   * 
   * Errors: `denied` (not asked for in the manifest, or not granted), `not-found` (granted, but this run has none of
   * that name). Grant: the secret's name.
   */
  export function open(name: string): Secret;
  export type Error = import('orka:plugin/types@0.1.0').Error;
  
  export class Secret implements Disposable {
    /**
     * This type does not have a public constructor.
     */
    private constructor();
    /**
    * Its name.
    */
    name(): string;
    [Symbol.dispose](): void;
  }
}
