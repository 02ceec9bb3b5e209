//! The contract's host side, generated from `wit/`.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from wit/, where every item is documented"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "plugin",
    imports: { default: async | trappable },
    exports: { default: async },
    trappable_error_type: { "orka:plugin/types.error" => crate::state::CallError },
    with: {
        "orka:plugin/cluster.session": crate::capability::cluster::Session,
        "orka:plugin/cluster.vm-config": crate::capability::cluster::VmConfig,
        "orka:plugin/cluster.deployment": crate::capability::cluster::Deployment,
        "orka:plugin/cluster.vm": crate::capability::cluster::Vm,
        "orka:plugin/ssh.connecting": crate::capability::ssh::Connecting,
        "orka:plugin/ssh.connection": crate::capability::ssh::Connection,
        "orka:plugin/ssh.command": crate::capability::ssh::Command,
        "orka:plugin/secrets.secret": crate::capability::secrets::Secret,
        "orka:plugin/wait.waitable": crate::capability::wait::Waitable,
        "orka:plugin/console.group": crate::capability::console::Group,
    },
    require_store_data_send: true,
});
