//! Where things are in the VM, and how they get there.

use orka_plugin_sdk::ssh::{self, Connection, ExecOptions, TransferOptions};
use orka_plugin_sdk::{Error, ErrorInfo, workspace};

/// Where the workspace is in the VM: `~/workspace/orka`, as the Task has it.
pub const WORKSPACE: &str = "workspace/orka";
/// Where the script is in the VM: `~/workspace/build-script`, as the Task has it.
pub const SCRIPT: &str = "workspace/build-script";
/// The script as seen from [`WORKSPACE`], where it runs.
pub const SCRIPT_FROM_WORKSPACE: &str = "../build-script";
/// Everyone may read and run it; only its owner may change it.
const SCRIPT_MODE: u32 = 0o755;

/// Copies workspace and script in. Without a workspace the script's working directory is there all the same.
///
/// # Errors
///
/// As `connection.upload` and `connection.write-file`; `build.directory` where that directory cannot be made.
pub fn copy_in(
    connection: &Connection,
    script: &[u8],
    options: &TransferOptions,
) -> Result<(), Error> {
    if workspace::available() {
        connection.upload("", WORKSPACE, options)?;
    } else {
        let options = ExecOptions::default();
        let exit = ssh::run_aside(connection, "mkdir", &["-p", WORKSPACE], &options)?;
        if !exit.success() {
            let message = format!("`mkdir -p {WORKSPACE}` {exit} in the VM");
            return Err(Error::Other(ErrorInfo::new("build.directory", message)));
        }
    }
    connection.write_file(SCRIPT, script, SCRIPT_MODE)
}
