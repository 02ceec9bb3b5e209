/// <reference path="./orka-plugin-types.d.ts" />
declare module 'orka:plugin/results@0.1.0' {
  /**
   * Sets a result that the manifest declares; it is written at once, also if the run fails later.
   * 
   * Errors: `invalid` (`results.undeclared`, or the host's own `vm-name`, `outcome`, …), `no-capacity`
   * (`results.too-large`: all results together may have 1,024 bytes, names included, of which the host keeps 320 for
   * its own and the plugin has 704; where the run is granted `ssh.transfer` and `workspace.write`, the host keeps 344
   * more for what it says of files that come back, and the plugin has 360), `other` (`files.…`). Secrets in `value` are
   * replaced by `***`.
   */
  export function set(name: string, value: string): void;
  export type Error = import('orka:plugin/types@0.1.0').Error;
}
