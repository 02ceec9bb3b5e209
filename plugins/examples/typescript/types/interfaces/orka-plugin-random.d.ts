declare module 'orka:plugin/random@0.1.0' {
  /**
   * So many bytes, at most 4,096.
   */
  export function bytes(count: number): Uint8Array;
}
