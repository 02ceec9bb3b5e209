/// <reference path="./orka-plugin-cluster.d.ts" />
/// <reference path="./orka-plugin-secrets.d.ts" />
/// <reference path="./orka-plugin-types.d.ts" />
/// <reference path="./orka-plugin-wait.d.ts" />
declare module 'orka:plugin/ssh@0.1.0' {
  /**
   * Waits until the VM accepts a login and logs in.
   * 
   * Errors, at once: `unauthenticated` (`ssh.authentication-declined`, `ssh.host-key-mismatch`,
   * `ssh.host-key-unknown`; of the jump host `ssh.jump-authentication-declined`, `ssh.jump-host-key`), `other`
   * (`ssh.no-common-algorithm`), `unavailable` (`ssh.jump-forbidden`). When time ran out: `timed-out` with the last state
   * (`ssh.refused`, `ssh.no-route`, `ssh.silent`; of the jump host `ssh.jump`, `ssh.jump-cannot-reach`). Also `not-found`
   * (`ssh.vm-deleted`: this run has deleted the VM), `invalid` (a key that cannot be read), `no-capacity`
   * (`run.too-many-connections`: a run has at most 64). Grant: `ssh.exec` or `ssh.transfer`.
   */
  export function connect(vm: Vm, options: ConnectOptions): Connection;
  /**
   * Begins to log in and returns at once, for several VMs side by side. Errors, grant: as `connect`.
   */
  export function startConnect(vm: Vm, options: ConnectOptions): Connecting;
  export type Error = import('orka:plugin/types@0.1.0').Error;
  export type Exit = import('orka:plugin/types@0.1.0').Exit;
  export type Vm = import('orka:plugin/cluster@0.1.0').Vm;
  export type Secret = import('orka:plugin/secrets@0.1.0').Secret;
  export type Waitable = import('orka:plugin/wait@0.1.0').Waitable;
  /**
   * How to log in. Absent members take the run's own SSH credentials.
   */
  export interface ConnectOptions {
    /**
     * The user to log in as.
     */
    username?: string,
    /**
     * A password to try instead of the run's.
     */
    password?: Secret,
    /**
     * A private key to try instead of the run's.
     */
    privateKey?: Secret,
    /**
     * How long to wait for the VM to accept the login, in milliseconds; absent takes the run's setting.
     */
    timeoutMs?: bigint,
  }
  /**
   * What a program reads from its standard input.
   */
  export type Stdin = StdinEmpty | StdinBytes | StdinFile | StdinSecret;
  /**
   * Nothing: end of file at once.
   */
  export interface StdinEmpty {
    tag: 'empty',
  }
  /**
   * These bytes.
   */
  export interface StdinBytes {
    tag: 'bytes',
    val: Uint8Array,
  }
  /**
   * A file of the workspace. Grant: `workspace.read`.
   */
  export interface StdinFile {
    tag: 'file',
    val: string,
  }
  /**
   * A secret.
   */
  export interface StdinSecret {
    tag: 'secret',
    val: Secret,
  }
  /**
   * Which shell starts the program. Either way, program and arguments arrive unchanged.
   * # Variants
   * 
   * ## `"plain"`
   * 
   * As sshd runs a command: no start-up files but those the login shell reads always.
   * ## `"login"`
   * 
   * In the user's login shell, with its profile (Homebrew's PATH, rbenv, mise).
   */
  export type Shell = 'plain' | 'login';
  /**
   * Where a program's output goes.
   * # Variants
   * 
   * ## `"log"`
   * 
   * To the step's log, line by line as it comes.
   * ## `"capture"`
   * 
   * Kept for `command.read-output`, up to 1 MiB; what the plugin does not read in time holds the program back.
   * Once the plugin drops the command, it goes nowhere.
   * ## `"discard"`
   * 
   * Nowhere.
   */
  export type Output = 'log' | 'capture' | 'discard';
  /**
   * How to run a program.
   */
  export interface ExecOptions {
    /**
     * Working directory; absent means the home directory.
     */
    cwd?: string,
    /**
     * Environment variables as name and value.
     */
    env: Array<[string, string]>,
    /**
     * Environment variables whose values are secrets. They do not appear in any process's arguments.
     */
    secretEnv: Array<[string, Secret]>,
    /**
     * Standard input.
     */
    stdin: Stdin,
    /**
     * The shell.
     */
    shell: Shell,
    /**
     * Whether to ask for a pseudo-terminal; standard error then arrives as standard output.
     */
    pty: boolean,
    /**
     * Where the output goes.
     */
    output: Output,
    /**
     * Whether the program outlives the connection: it runs in the VM on its own, and when the connection is lost, a
     * new one is made to the same host key and its output goes on where it broke off. Not with `pty`. What the
     * program leaves in its process group is ended with it.
     */
    detach: boolean,
    /**
     * Stops the program when it has printed nothing for so many milliseconds: SIGTERM, after 10 s SIGKILL. Absent
     * means never. While a lost connection is made again nothing is counted.
     */
    silenceTimeoutMs?: bigint,
  }
  /**
   * Which stream a piece of output came from.
   * # Variants
   * 
   * ## `"stdout"`
   * 
   * Standard output.
   * ## `"stderr"`
   * 
   * Standard error.
   */
  export type Stream = 'stdout' | 'stderr';
  /**
   * A piece of captured output.
   */
  export interface OutputChunk {
    /**
     * The stream.
     */
    stream: Stream,
    /**
     * The bytes as they came, but secrets of the run replaced by `***`. What may be the beginning of a secret
     * waits until more output, or its end, shows whether it is one.
     */
    data: Uint8Array,
  }
  /**
   * Which of the chosen files a download fetches.
   * # Variants
   * 
   * ## `"always"`
   * 
   * All of them.
   * ## `"size-time"`
   * 
   * Those whose size, permissions or modification time differ from the file of that name at the target.
   * ## `"hash"`
   * 
   * Those whose SHA-256 differs: slower, and right whatever happened to times.
   */
  export type Compare = 'always' | 'size-time' | 'hash';
  /**
   * What to copy.
   */
  export interface TransferOptions {
    /**
     * Globs with gitignore meaning; empty means everything.
     */
    include: Array<string>,
    /**
     * Globs with gitignore meaning that leave out what `include` chose.
     */
    exclude: Array<string>,
    /**
     * Upper limit of all files together, in bytes, checked as they come; absent means the host's own limit, 64 GiB, and
     * for a download what the operator's ceiling `artifacts-max-size` leaves. A higher one has no effect.
     */
    maxBytes?: bigint,
    /**
     * Upper limit of the number of entries, as above; absent means 500,000, and for a download what the ceiling
     * `artifacts-max-count` leaves.
     */
    maxEntries?: number,
    /**
     * Which of the chosen files are fetched; absent means `size-time` for a download of everything and `always` for
     * one with `include`. An upload sends all that was chosen.
     */
    compare?: Compare,
  }
  /**
   * What was copied.
   */
  export interface TransferSummary {
    /**
     * Regular files.
     */
    files: bigint,
    /**
     * Their bytes.
     */
    bytes: bigint,
    /**
     * Time taken, in milliseconds.
     */
    elapsedMs: bigint,
    /**
     * SHA-256 over the sorted list of files with their own SHA-256, in hexadecimal (downloads only). Covers what was
     * fetched, not what `compare` found unchanged.
     */
    digest?: string,
    /**
     * Files that were not fetched because the target has the same.
     */
    unchanged: bigint,
    /**
     * How it went where that is worth knowing, one sentence each: by a slower way and why, compressed, begun again
     * on a new connection, what was given up.
     */
    notes: Array<string>,
  }
  
  export class Command implements Disposable {
    /**
     * This type does not have a public constructor.
     */
    private constructor();
    /**
    * Becomes ready when `wait` would not wait.
    */
    subscribe(): Waitable;
    /**
    * Waits for the end of the program, for at most `timeout-ms` milliseconds (absent: as long as the run lasts).
    * None means that it is still running.
    * 
    * Errors: `unavailable` (`ssh.lost`): it may still be running in the VM; with `detach` only once no new connection
    * could be made for 2 minutes. `unavailable` (`ssh.detached`): how it ended cannot be known. `unavailable`
    * (`files.input`): its standard input cannot be read to the end, and it was stopped. `timed-out`
    * (`command.silent`): it was stopped because of `silence-timeout-ms`.
    */
    wait(timeoutMs: bigint | undefined): Exit | undefined;
    /**
    * How the program ended; none while it runs. `wait` takes an end for that of the script, as the result
    * `exit-status` tells it; this leaves that result alone, for a policy that runs more than one. Errors: as `wait`.
    */
    exit(): Exit | undefined;
    /**
    * Takes captured output, at most `max-bytes`, waiting for at most `timeout-ms` milliseconds.
    * 
    * An empty list means that none came in time; none means that there will be no more. Errors: `unavailable`
    * (`ssh.lost`), `conflict` (`command.not-captured`), `invalid` (`max-bytes` is 0).
    */
    readOutput(maxBytes: number, timeoutMs: bigint): Array<OutputChunk> | undefined;
    /**
    * Sends a signal by its name without `SIG`, such as `TERM`. OpenSSH before 7.9 ignores it. Signalling a
    * program that has ended succeeds.
    * 
    * Errors: `unavailable` (`ssh.lost`; `ssh.unread`: three were sent already to a program whose captured output
    * is full and not read), `invalid` (a name that RFC 4254 section 6.10 does not have).
    */
    signal(name: string): void;
    [Symbol.dispose](): void;
  }
  
  export class Connecting implements Disposable {
    /**
     * This type does not have a public constructor.
     */
    private constructor();
    /**
    * Becomes ready when `finish` would not wait.
    */
    subscribe(): Waitable;
    /**
    * Waits for the login. Errors: as `connect`; `conflict` (`connecting.finished`) the second time.
    */
    finish(): Connection;
    [Symbol.dispose](): void;
  }
  
  export class Connection implements Disposable {
    /**
     * This type does not have a public constructor.
     */
    private constructor();
    /**
    * SHA-256 fingerprint of the VM's host key, as `SHA256:…`.
    */
    hostKey(): string;
    /**
    * Puts a label in front of every line that programs started from here on write to the log, so that several VMs
    * can be told apart. Of a label 64 bytes are shown; an empty one is none.
    */
    labelOutput(label: string): void;
    /**
    * Starts a program. `arguments` reach it unchanged.
    * 
    * Errors: `unavailable` (`ssh.lost`; `ssh.exec-refused`, also where `detach` finds no shell that it can work with),
    * `invalid` (a NUL byte, a bad variable name, `detach` with `pty`, a `silence-timeout-ms` of 0), `not-found` (the
    * file to read), `denied`, `no-capacity` (`run.too-many-commands`: a run has at most 64 that have not ended, or whose
    * captured output was neither read to its end nor dropped). Grant: `ssh.exec`.
    */
    exec(program: string, arguments: Array<string>, options: ExecOptions): Command;
    /**
    * Writes a small file (1 MiB at most) whole or not at all, making its parent directories.
    * 
    * `mode` is the permission bits, such as 0o755. Errors: `unavailable`, `invalid`, `other` (`files.…`).
    * Grant: `ssh.transfer`.
    */
    writeFile(path: string, contents: Uint8Array, mode: number): void;
    /**
    * Copies a directory of the workspace into a directory of the VM, keeping modes, times and symbolic links.
    * 
    * What a file `.orkaignore` in the directory or one below it names stays here, whatever `include` says: it reads as a
    * `.gitignore` and holds from its own directory down. One that cannot be read ends the upload (`files.transfer`).
    * 
    * Errors: `not-found` (the source), `unavailable` (`ssh.lost`), `no-capacity` (`files.limit`; `files.vm-full`: the
    * VM's disk), `other` (`files.…`). Grants: `ssh.transfer` and `workspace.read`.
    */
    upload(source: string, target: string, options: TransferOptions): TransferSummary;
    /**
    * Copies a directory of the VM over a directory of the workspace: adds and overwrites, deletes nothing.
    * 
    * Files arrive beside the target first and are moved into place when all of them are there. What goes away in the VM
    * between its listing and its turn makes the host look once more; what goes away then is left out, with a warning in
    * the log. No name from the VM can leave the workspace. The host lists what came in its manifest and its results (`artifacts-digest`, …).
    * Errors: `not-found` (`files.nothing-matched` when `include` matched nothing),
    * `unavailable` (`ssh.lost`), `no-capacity` (`files.limit`, with the details `limit`, which is `bytes` or
    * `entries`, and `set by`, which is `the plugin` or `the operator`; `files.no-room`: the volume is full), `other`
    * (`files.unsafe-entry`, `files.…`).
    * Grants: `ssh.transfer` and `workspace.write`.
    */
    download(source: string, target: string, options: TransferOptions): TransferSummary;
    [Symbol.dispose](): void;
  }
}
