declare module 'orka:plugin/params@0.1.0' {
  /**
   * The value given, else the manifest's default; none for one that has neither or is not in the manifest.
   */
  export function get(name: string): Value | undefined;
  /**
   * The build script, if the step got one as a file of its own (`orka-step run SCRIPT`). A first line that names
   * `orka-step` as the interpreter is gone already.
   */
  export function script(): Uint8Array | undefined;
  /**
   * A parameter's value, in the type the manifest gives it.
   */
  export type Value = ValueText | ValueBoolean | ValueInteger | ValueList;
  /**
   * `string` and `choice`.
   */
  export interface ValueText {
    tag: 'text',
    val: string,
  }
  /**
   * `boolean`.
   */
  export interface ValueBoolean {
    tag: 'boolean',
    val: boolean,
  }
  /**
   * `integer`.
   */
  export interface ValueInteger {
    tag: 'integer',
    val: bigint,
  }
  /**
   * `list`.
   */
  export interface ValueList {
    tag: 'list',
    val: Array<string>,
  }
}
