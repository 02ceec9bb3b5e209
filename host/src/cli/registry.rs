//! How plugins are fetched.

use std::path::{Path, PathBuf};

use clap::Args;

use super::path_or_nothing;

/// Who one is to registries and whom to trust, for `--plugin oci://…` and `--plugin https://…`.
#[derive(Args, Clone, Debug, Default)]
pub struct RegistryArgs {
    /// Logins for registries: a `config.json` of Docker, or a directory with one or with the `.dockerconfigjson` of a Secret
    /// of the type `kubernetes.io/dockerconfigjson`. Without it `$DOCKER_CONFIG/config.json`, where that exists.
    #[arg(
        long,
        env = "ORKA_REGISTRY_CREDENTIALS",
        hide_env_values = true,
        value_name = "DIR|FILE",
        value_parser = path_or_nothing(),
        help_heading = "Plugin"
    )]
    pub registry_credentials: Option<PathBuf>,

    /// A PEM file of certificate authorities to trust beside the system's when plugins are fetched.
    #[arg(
        long,
        env = "ORKA_REGISTRY_CA",
        hide_env_values = true,
        value_name = "FILE",
        value_parser = path_or_nothing(),
        help_heading = "Plugin"
    )]
    pub registry_ca: Option<PathBuf>,
}

impl RegistryArgs {
    /// Where logins are; an empty path counts as none, since a Task's parameter can be empty, but not absent.
    pub fn credentials(&self) -> Option<&Path> {
        given(self.registry_credentials.as_deref())
    }

    /// Whom to trust beside the system's authorities.
    pub fn ca(&self) -> Option<&Path> {
        given(self.registry_ca.as_deref())
    }
}

fn given(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| !path.as_os_str().is_empty())
}
