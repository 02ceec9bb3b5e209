//! What an image is built for, and with what.

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::packages::{self, Needed};

/// A processor architecture, by the name that images use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Architecture {
    /// x86-64
    Amd64,
    /// AArch64
    Arm64,
}

impl Architecture {
    /// This machine's.
    pub(crate) fn own() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("images are built on x86_64 and aarch64, and this machine is {other}"),
        }
    }

    /// Whether this machine runs its programs.
    pub(crate) fn is_own(self) -> bool {
        Self::own().is_ok_and(|own| own == self)
    }

    /// As images and archives are named.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// What the program is compiled for: static, with a C library that resolves names without help.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// Compiles the few C files of `ring` and wasmtime.
    pub(crate) fn c_compiler(self) -> &'static Needed {
        match (self.is_own(), self) {
            (true, _) => &packages::MUSL_GCC,
            (false, Self::Amd64) => &packages::X86_64_GCC,
            (false, Self::Arm64) => &packages::AARCH64_GCC,
        }
    }

    /// Runs its programs on a machine of another architecture.
    pub(crate) fn emulator(self) -> Option<&'static Needed> {
        match (self.is_own(), self) {
            (true, _) => None,
            (false, Self::Amd64) => Some(&packages::QEMU_X86_64),
            (false, Self::Arm64) => Some(&packages::QEMU_AARCH64),
        }
    }
}
