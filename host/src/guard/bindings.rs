//! The host's side of the world `guard`, generated from `wit/`.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from wit/, where every item is documented"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "guard",
    imports: { default: trappable },
    exports: { default: async },
    require_store_data_send: true,
    additional_derives: [PartialEq, Eq],
});
