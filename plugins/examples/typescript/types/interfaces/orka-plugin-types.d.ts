declare module 'orka:plugin/types@0.1.0' {
  /**
   * What went wrong, in a form that a policy can act on and a person can read.
   * 
   * New conditions are new `code` strings; the cases of `error` and the members of this record stay as they are.
   */
  export interface ErrorInfo {
    /**
     * Stable machine code, dotted, such as `orka.no-capacity` or `ssh.authentication-declined`.
     */
    code: string,
    /**
     * One sentence, lower-case, without a final stop. Never contains a secret.
     */
    message: string,
    /**
     * What to do next, if the host knows.
     */
    hint?: string,
    /**
     * Whether the same call may succeed later without anything being changed.
     */
    retryable: boolean,
    /**
     * How long to wait before trying again, in milliseconds, if the other side said so.
     */
    retryAfterMs?: bigint,
    /**
     * The request's identity at the other side, if it gave one.
     */
    requestId?: string,
    /**
     * Further facts as name and value.
     */
    details: Array<[string, string]>,
  }
  /**
   * Why a host call did not succeed. The cases say what a caller can do.
   */
  export type Error = ErrorInvalid | ErrorDenied | ErrorNotFound | ErrorConflict | ErrorNoCapacity | ErrorUnauthenticated | ErrorUnavailable | ErrorTimedOut | ErrorCancelled | ErrorOther;
  /**
   * An argument is wrong; calling again with the same one is useless.
   */
  export interface ErrorInvalid {
    tag: 'invalid',
    val: ErrorInfo,
  }
  /**
   * This run was not granted the call; `message` names the missing grant.
   */
  export interface ErrorDenied {
    tag: 'denied',
    val: ErrorInfo,
  }
  /**
   * No such thing, or not one of this run's.
   */
  export interface ErrorNotFound {
    tag: 'not-found',
    val: ErrorInfo,
  }
  /**
   * The thing is in a state that does not allow the call, or the name is taken.
   */
  export interface ErrorConflict {
    tag: 'conflict',
    val: ErrorInfo,
  }
  /**
   * No node has room, or a limit of this run is reached; later may work.
   */
  export interface ErrorNoCapacity {
    tag: 'no-capacity',
    val: ErrorInfo,
  }
  /**
   * Orka or the VM declined the credentials.
   */
  export interface ErrorUnauthenticated {
    tag: 'unauthenticated',
    val: ErrorInfo,
  }
  /**
   * The other side cannot be reached or is out of order.
   */
  export interface ErrorUnavailable {
    tag: 'unavailable',
    val: ErrorInfo,
  }
  /**
   * The limit of this call passed; the work may still have happened.
   */
  export interface ErrorTimedOut {
    tag: 'timed-out',
    val: ErrorInfo,
  }
  /**
   * The run is being stopped; only saying why still makes sense.
   */
  export interface ErrorCancelled {
    tag: 'cancelled',
    val: ErrorInfo,
  }
  /**
   * Anything else.
   */
  export interface ErrorOther {
    tag: 'other',
    val: ErrorInfo,
  }
  /**
   * The signal that ended a remote program (RFC 4254, section 6.10).
   */
  export interface ExitSignal {
    /**
     * The signal's name without `SIG`, such as `KILL`.
     */
    name: string,
    /**
     * Whether the remote side says that it dumped core.
     */
    coreDumped: boolean,
  }
  /**
   * How a remote program ended. Losing the connection is an `error`, never an exit.
   */
  export type Exit = ExitStatus | ExitSignal;
  /**
   * It ended by itself with this status; 0 is success by convention.
   */
  export interface ExitStatus {
    tag: 'status',
    val: number,
  }
  /**
   * A signal ended it.
   */
  export interface ExitSignal {
    tag: 'signal',
    val: ExitSignal,
  }
}
