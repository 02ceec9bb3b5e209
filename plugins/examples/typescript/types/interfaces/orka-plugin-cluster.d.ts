/// <reference path="./orka-plugin-types.d.ts" />
/// <reference path="./orka-plugin-wait.d.ts" />
declare module 'orka:plugin/cluster@0.1.0' {
  /**
   * Signs in with the credentials the run was given.
   * 
   * A second call gives a second handle on the same login. Errors: `unauthenticated` (`orka.login-declined`,
   * `orka.token-declined`), `denied` (also `orka.forbidden`: no rights in the namespace), `unavailable`, `timed-out`.
   * Grant: `cluster.read`.
   */
  export function signIn(): Session;
  export type Error = import('orka:plugin/types@0.1.0').Error;
  export type Waitable = import('orka:plugin/wait@0.1.0').Waitable;
  /**
   * Which of Orka's two APIs the cluster speaks.
   * # Variants
   * 
   * ## `"orka2"`
   * 
   * Orka 1.x and 2.x: e-mail and password, VM configs, purge.
   * ## `"orka3"`
   * 
   * Orka 3.x: service account token, namespaces.
   */
  export type Generation = 'orka2' | 'orka3';
  /**
   * What is known of the cluster.
   */
  export interface Facts {
    /**
     * The API in use.
     */
    generation: Generation,
    /**
     * The cluster's own version string, where it tells one (1.x and 2.x do, 3.x does not).
     */
    apiVersion?: string,
    /**
     * The Orka namespace the run works in (3.x only).
     */
    namespace?: string,
  }
  /**
   * The shape of a VM. Absent members take the cluster's default, if nothing else is said.
   */
  export interface VmSpec {
    /**
     * The base image: a name in the cluster's image list, or on 3.x an OCI reference.
     */
    image: string,
    /**
     * CPU cores; absent means 3. 2.x accepts 3, 4, 6, 8, 12 and 24.
     */
    cpuCores?: number,
    /**
     * Virtual CPUs (2.x only): as many as cores, or half when there are more than 3.
     */
    vcpus?: number,
    /**
     * Memory in MiB; absent means chosen by the cluster.
     */
    memoryMib?: number,
    /**
     * Whether the VNC console is on (Intel nodes only).
     */
    vncConsole?: boolean,
    /**
     * Whether the VM gets the node's GPU (Intel nodes only; turns the VNC console off).
     */
    gpuPassthrough?: boolean,
    /**
     * A serial number for the VM (Intel nodes only).
     */
    systemSerial?: string,
    /**
     * Node tag to prefer.
     */
    tag?: string,
    /**
     * Whether `tag` is a must.
     */
    tagRequired: boolean,
    /**
     * `default` or `most-allocated`.
     */
    scheduler?: string,
    /**
     * Further options as name and value, by the API's own member names. One that this cluster or this host does
     * not know is refused with `invalid`, code `orka.unknown-option`; it is never dropped in silence.
     */
    options: Array<[string, string]>,
  }
  /**
   * What belongs to one deployment rather than to the VM's shape.
   */
  export interface DeployOptions {
    /**
     * The node to deploy on; absent lets the scheduler choose.
     */
    node?: string,
    /**
     * Metadata the guest can read. Visible to everything in the VM: no secrets. Keys beginning `orka_` are reserved,
     * and so are those beginning `orka-step-`, which say whose the VM is.
     */
    metadata: Array<[string, string]>,
    /**
     * Port reservations as `NODE:VM`, such as `9000:4000`.
     */
    reservedPorts: Array<string>,
    /**
     * How long one deploy request may take, in milliseconds; absent takes the run's setting.
     */
    timeoutMs?: bigint,
    /**
     * How long to wait for a node with room, in milliseconds; absent means not at all.
     */
    capacityWaitMs?: bigint,
    /**
     * As in `vm-spec`.
     */
    options: Array<[string, string]>,
  }
  /**
   * A deployed VM, as its deployment was answered.
   */
  export interface VmInfo {
    /**
     * The name the host chose.
     */
    name: string,
    /**
     * Orka's id of the instance (2.x only).
     */
    id?: string,
    /**
     * The node it runs on, where Orka tells.
     */
    node?: string,
    /**
     * Host name or IP address to reach it at.
     */
    address: string,
    /**
     * TCP port of its SSH server.
     */
    sshPort: number,
    /**
     * TCP port of screen sharing, where there is one.
     */
    screenSharePort?: number,
    /**
     * TCP port of the VNC console, where there is one.
     */
    vncPort?: number,
  }
  /**
   * A node of the cluster.
   */
  export interface Node {
    /**
     * Its name.
     */
    name: string,
    /**
     * Whether Orka calls it ready.
     */
    ready: boolean,
    /**
     * CPU cores free and in all.
     */
    cpuAvailable?: number,
    /**
     * CPU cores in all.
     */
    cpuTotal?: number,
    /**
     * Its tags.
     */
    tags: Array<string>,
  }
  /**
   * A VM that is kept on purpose after the run.
   */
  export interface KeptVm {
    /**
     * Its name.
     */
    name: string,
    /**
     * Host name or IP address to reach it at.
     */
    address: string,
    /**
     * TCP port of its SSH server.
     */
    sshPort: number,
    /**
     * The command that logs in, as far as the host knows the user.
     */
    login: string,
    /**
     * When a reaper may delete it, as RFC 3339.
     */
    expiresAt: string,
  }
  /**
   * What a purge of the whole run did, by name.
   */
  export interface Purged {
    /**
     * Nothing is left of these.
     */
    removed: Array<string>,
    /**
     * These are kept on purpose, and their time has not passed.
     */
    kept: Array<string>,
  }
  /**
   * What became of the token when a session ended.
   */
  export type SignOut = SignOutRevoked | SignOutKept | SignOutNotApplicable;
  /**
   * The token was revoked.
   */
  export interface SignOutRevoked {
    tag: 'revoked',
  }
  /**
   * The token was left alone, for this reason: since Orka 2.1.1 all logins of a user share one token.
   */
  export interface SignOutKept {
    tag: 'kept',
    val: string,
  }
  /**
   * Nothing to revoke: a service account token ends by expiry (3.x).
   */
  export interface SignOutNotApplicable {
    tag: 'not-applicable',
  }
  
  export class Deployment implements Disposable {
    /**
     * This type does not have a public constructor.
     */
    private constructor();
    /**
    * Becomes ready when `finish` would not wait.
    */
    subscribe(): Waitable;
    /**
    * Waits for the VM. Errors: as `vm-config.deploy`; `conflict` (`deployment.finished`) the second time.
    */
    finish(): Vm;
    [Symbol.dispose](): void;
  }
  
  export class Session implements Disposable {
    /**
     * This type does not have a public constructor.
     */
    private constructor();
    /**
    * What is known of the cluster.
    */
    facts(): Facts;
    /**
    * The names of the images the cluster offers; OCI images of 3.x are not in the list.
    * 
    * Errors: `unavailable`, `timed-out`, `unauthenticated`. Grant: `cluster.read`.
    */
    images(): Array<string>;
    /**
    * The nodes this login can see. Slow on large clusters (10 s and more).
    * 
    * Errors: `unavailable`, `timed-out`, `unauthenticated`. Grant: `cluster.read`.
    */
    nodes(): Array<Node>;
    /**
    * Makes a VM config, the template VMs are deployed from.
    * 
    * On 2.x the cluster stores it; on 3.x the host keeps it and creates nothing. Errors: `invalid` (with what to
    * change), `denied` (a ceiling of the grant), `conflict`, `unavailable`, `timed-out`. Grant: `cluster.deploy`.
    */
    createConfig(spec: VmSpec): VmConfig;
    /**
    * The longest lifetime in milliseconds that `vm.keep` may ask for, so that a policy can find out before it deploys.
    * 
    * Errors: `denied` (the run may keep nothing). Grant: `cluster.keep`.
    */
    keepMax(): bigint;
    /**
    * Makes a VM config that other Tasks of the same pipeline run find with `shared-config`, by the run and `channel`
    * alone. `channel` is any text that they have in common; it tells several such configs of one run apart.
    * 
    * The cluster stores it, on 3.x too; where the login has no rights to that, a warning says so, and the config is
    * as from `create-config`. What an earlier attempt of the same Task has left is taken up. To leave it to the others,
    * hand it over. Errors: as `create-config`; `conflict` (`run.config-exists`: the run has another of this channel).
    * Grants: `cluster.deploy` and `cluster.hand-over`.
    */
    createSharedConfig(channel: string, spec: VmSpec): VmConfig;
    /**
    * Takes up the VM config that a Task of the same pipeline run made with `create-shared-config`; none while there
    * is none. It is then as from `adopt-config`.
    * 
    * Errors: `denied` (also a ceiling of the grant; on 3.x no rights to VM configs), `unavailable`, `timed-out`.
    * Grant: `cluster.adopt`.
    */
    sharedConfig(channel: string): VmConfig | undefined;
    /**
    * Takes up a VM config that another Task of the same pipeline run handed over, from its text.
    * 
    * VMs deployed from it are this run's and deleted with it; the config stays, for others and for whoever purges
    * the run. Only names of this pipeline run are accepted. Errors: `invalid` (`handoff.vm-config`: no such text,
    * or another run's or another API's), `not-found` (2.x: the config is gone), `denied` (also a ceiling of the
    * grant), `unavailable`, `timed-out`. Grant: `cluster.adopt`.
    */
    adoptConfig(text: string): VmConfig;
    /**
    * Deletes every VM and VM config of the pipeline run, whichever Task made it, by what the cluster lists. What is
    * kept on purpose stays until its time has passed.
    * 
    * Meant for the last Task of the run, since it ends builds that are still at work. Finding nothing succeeds.
    * Errors: `unavailable` (`orka.leftovers`: some of it may still exist; each is named in `details`), `timed-out`.
    * Grant: `cluster.purge-run`.
    */
    purgeRun(): Purged;
    /**
    * Signs out. The host does the same at the end of the run for a session still open.
    * 
    * `conflict` (`run.vms-remain`) while VMs of this run exist. Errors: `unavailable`, `timed-out`.
    */
    signOut(): SignOut;
    [Symbol.dispose](): void;
  }
  
  export class Vm implements Disposable {
    /**
     * This type does not have a public constructor.
     */
    private constructor();
    /**
    * Where and what it is, as the deployment was answered.
    */
    info(): VmInfo;
    /**
    * Whether the cluster still lists it. Not a sign that macOS has booted.
    * 
    * Errors: `unavailable`, `timed-out`, `unauthenticated`. Grant: `cluster.read`.
    */
    exists(): boolean;
    /**
    * Keeps the VM on purpose after the run, for `lifetime-ms` milliseconds from now; on 2.x its config stays with it.
    * 
    * How to log in and until when it is kept are logged and recorded; then a reaper deletes it. The run's outcome
    * is the same as without. A later call changes the time. Errors: `denied` (not granted, or above the grant's
    * `keep-max`), `invalid` (no lifetime), `not-found` (deleted already), `other` (`files.…`: it could not be
    * recorded). Grant: `cluster.keep`.
    */
    keep(lifetimeMs: bigint, reason: string): KeptVm;
    /**
    * Leaves the VM to the last Task of the pipeline run, which deletes it with `session.purge-run`; on 2.x its
    * config, unless adopted, goes with it. The host does not delete it any more.
    * 
    * Errors: `not-found` (deleted already), `other` (`files.…`). Grant: `cluster.hand-over`.
    */
    handOver(): void;
    /**
    * Deletes the VM; its config stays (2.x). Deleting what is gone already succeeds.
    * 
    * Errors: `unavailable`, `timed-out`: the host tries again when the run ends. Grant: `cluster.deploy`.
    */
    'delete'(): void;
    [Symbol.dispose](): void;
  }
  
  export class VmConfig implements Disposable {
    /**
     * This type does not have a public constructor.
     */
    private constructor();
    /**
    * The name the host chose.
    */
    name(): string;
    /**
    * Deploys a VM and waits until Orka reports where it is. macOS may still be booting then.
    * 
    * Errors: `no-capacity` (`orka.no-capacity`, or `run.vm-limit` at the grant's ceiling), `invalid`, `denied`,
    * `not-found` (the image), `timed-out` and `unavailable` (the VM may exist; the host will delete it).
    * Grant: `cluster.deploy`.
    */
    deploy(options: DeployOptions): Vm;
    /**
    * Begins a deployment and returns at once, for several VMs side by side. Errors, grant: as `deploy`.
    */
    startDeploy(options: DeployOptions): Deployment;
    /**
    * Leaves the config to other Tasks of the same pipeline run, which take it up with `session.adopt-config`, and
    * gives the text for them. The host does not delete it any more; `session.purge-run` does.
    * 
    * The text holds no secret and fits a result unless the spec has long options. On 3.x, which stores no configs,
    * the text is all there is. Errors: `conflict` (`run.config-in-use`: VMs were deployed from it;
    * `run.config-purged`; `run.config-adopted`), `other` (`files.…`). Grant: `cluster.hand-over`.
    */
    handOver(): string;
    /**
    * Deletes every VM that this run deployed from this config, and the config unless it was adopted. What is kept
    * stays, and its config with it. Deleting what is gone already succeeds.
    * 
    * Errors: `unavailable`, `timed-out`: the host tries again when the run ends. Grant: `cluster.deploy`.
    */
    purge(): void;
    [Symbol.dispose](): void;
  }
}
