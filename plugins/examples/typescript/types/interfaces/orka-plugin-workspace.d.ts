/// <reference path="./orka-plugin-types.d.ts" />
declare module 'orka:plugin/workspace@0.1.0' {
  /**
   * Whether the run has a workspace at all.
   */
  export function available(): boolean;
  /**
   * The entries of a directory, by name, not those below. At most 10,000.
   * 
   * Errors: `not-found`, `invalid` (a path that leaves the workspace), `no-capacity` (`files.limit`). Grant:
   * `workspace.read`.
   */
  export function list(path: string): Array<Entry>;
  /**
   * Reads a small file (1 MiB at most). Errors and grant: as `list`.
   */
  export function read(path: string): Uint8Array;
  /**
   * Writes a small file (1 MiB at most) whole or not at all, making its parent directories.
   * 
   * A link of that name is replaced, not followed. Errors: `invalid`, `no-capacity` (`files.limit`: over 1 MiB),
   * `other` (`files.…`). Grant: `workspace.write`.
   */
  export function write(path: string, contents: Uint8Array): void;
  /**
   * The regular files that the globs select, by name; none without globs. At most 10,000. Links are not followed.
   * 
   * Globs have gitignore meaning, as in `ssh.transfer-options`: `logs/` selects all below, `!x` takes back what an
   * earlier one selected. Errors and grant: as `list`.
   */
  export function glob(patterns: Array<string>): Array<string>;
  /**
   * SHA-256 of a file in hexadecimal, whatever its size. Errors and grant: as `list`.
   */
  export function hash(path: string): string;
  export type Error = import('orka:plugin/types@0.1.0').Error;
  /**
   * What a path names.
   * # Variants
   * 
   * ## `"file"`
   * 
   * A regular file.
   * ## `"directory"`
   * 
   * A directory.
   * ## `"symbolic-link"`
   * 
   * A symbolic link, not followed.
   * ## `"other"`
   * 
   * Anything else.
   */
  export type Kind = 'file' | 'directory' | 'symbolic-link' | 'other';
  /**
   * An entry of a directory.
   */
  export interface Entry {
    /**
     * Path relative to the workspace.
     */
    path: string,
    /**
     * What it is.
     */
    kind: Kind,
    /**
     * Size in bytes, for regular files.
     */
    size: bigint,
  }
}
