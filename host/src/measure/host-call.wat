;; Calls the host's clock as often as it is told. `wasm-tools parse host-call.wat -o host-call.wasm` assembles it.
(component
  (import "orka:plugin/clock@0.1.0" (instance (export "elapsed-ms" (func (result u64)))))
  (alias export 0 "elapsed-ms" (func))
  (core func (canon lower (func 0)))
  (core module
    (import "host" "elapsed-ms" (func (result i64)))
    (func (export "run") (param i32)
      (loop
        (drop (call 0))
        (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))
  (core instance (export "elapsed-ms" (func 0)))
  (core instance (instantiate 0 (with "host" (instance 0))))
  (func (export "run") (param "calls" u32) (canon lift (core func 1 "run"))))
