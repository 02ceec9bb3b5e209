//! Makes a VM config and hands it over: the first of three Tasks that share one.
//!
//! Parameters are those of the Tekton Task `orka-init` that are about the VM.

mod channel;

use orka_plugin_sdk::cluster::{self, VmSpec};
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::{Error, Plugin, Verdict, handoff, params, phase, results, workspace};

/// What the VM config is called in the handoff, and the result that holds it.
const VM_CONFIG: &str = "vm-config";

/// The default of `vcpu-count` in the Task, kept also where it cannot be meant.
const VCPU_DEFAULT: u32 = 3;

struct Init;

impl Plugin for Init {
    fn run() -> Result<Verdict, Error> {
        let spec = vm_spec()?;
        let channel = channel::channel()?;
        let session = phase("sign in", cluster::sign_in)?;
        let config = phase("create VM config", || {
            session.create_shared_config(&channel, &spec)
        })?;
        let text = phase("hand over", || config.hand_over())?;
        // Tasks find it by the run; the text is for those that cannot, since the cluster would not store it.
        if workspace::available() {
            handoff::put(VM_CONFIG, &text)?;
        }
        results::set(VM_CONFIG, &text)?;
        if let Err(error) = phase("sign out", || session.sign_out()) {
            // The VM config is there and handed over: a token left behind changes nothing about that.
            console::log(Level::Warn, &error.info().message);
        }
        Ok(Verdict::Succeeded)
    }
}

orka_plugin_sdk::register!(Init);

fn vm_spec() -> Result<VmSpec, Error> {
    let cores = count("cpu-count")?;
    let vcpus = count("vcpu-count")?;
    let fits = vcpus == cores || vcpus.checked_mul(2) == Some(cores);
    Ok(VmSpec {
        cpu_cores: Some(cores),
        vcpus: Some(if vcpus == VCPU_DEFAULT && !fits {
            cores
        } else {
            vcpus
        }),
        // On is what clusters do anyway; saying so would trouble Apple silicon.
        vnc_console: (!params::flag("vnc-console")?).then_some(false),
        tag: params::non_empty_text("tag")?,
        tag_required: params::flag("tag-required")?,
        scheduler: params::non_empty_text("scheduler")?,
        ..VmSpec::from_image(params::required_text("base-image")?)
    })
}

fn count(name: &str) -> Result<u32, Error> {
    let number = params::integer(name)?.unwrap_or(i64::from(VCPU_DEFAULT));
    u32::try_from(number).map_err(|_| Error::parameter(name, format!("is out of range: {number}")))
}
