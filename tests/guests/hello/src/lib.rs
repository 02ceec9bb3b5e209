//! The first plugin of the README.

use orka_plugin_sdk::{Error, Plugin, Verdict, cluster, params, phase, ssh};

struct Hello;

impl Plugin for Hello {
    fn run() -> Result<Verdict, Error> {
        let session = phase("sign in", cluster::sign_in)?;
        let spec = cluster::VmSpec::from_image(params::required_text("base-image")?);
        let config = phase("create VM config", || session.create_config(&spec))?;
        let vm = phase("deploy VM", || {
            config.deploy(&cluster::DeployOptions::default())
        })?;
        let connection = phase("wait for SSH", || {
            ssh::connect(&vm, &ssh::ConnectOptions::default())
        })?;
        let exit = ssh::run(&connection, "uname", &["-a"], &ssh::ExecOptions::default())?;
        Ok(Verdict::from(exit))
    }
}

orka_plugin_sdk::register!(Hello);
