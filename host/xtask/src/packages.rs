//! Programs from the system's package manager.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process;

/// A program that tests drive, and the package that has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Needed {
    /// The program that has to be found.
    pub(crate) program: &'static str,
    /// What for.
    pub(crate) reason: &'static str,
    apt: &'static str,
    dnf: &'static str,
    pacman: &'static str,
    brew: &'static str,
}

/// Every program that the tests drive. The simulated VMs run real ones, so that the tests meet real behaviour.
const PROGRAMS: [Needed; 8] = [
    Needed {
        program: "sshd",
        reason: "the SSH client is tested against OpenSSH's server",
        apt: "openssh-server",
        dnf: "openssh-server",
        pacman: "openssh",
        brew: "openssh",
    },
    Needed {
        program: "ssh-keygen",
        reason: "tests make keys of every kind with it",
        apt: "openssh-client",
        dnf: "openssh-clients",
        pacman: "openssh",
        brew: "openssh",
    },
    Needed {
        program: "zsh",
        reason: "it is the login shell of macOS, and of the simulated VMs",
        apt: "zsh",
        dnf: "zsh",
        pacman: "zsh",
        brew: "zsh",
    },
    Needed {
        program: "bsdtar",
        reason: "it is the `tar` of macOS, and of the simulated VMs",
        apt: "libarchive-tools",
        dnf: "bsdtar",
        pacman: "libarchive",
        brew: "libarchive",
    },
    Needed {
        program: "rsync",
        reason: "scripts on simulated VMs copy with it",
        apt: "rsync",
        dnf: "rsync",
        pacman: "rsync",
        brew: "rsync",
    },
    Needed {
        program: "dropbear",
        reason: "the SSH client is tested against a server that is not OpenSSH's",
        apt: "dropbear-bin",
        dnf: "dropbear",
        pacman: "dropbear",
        brew: "dropbear",
    },
    Needed {
        program: "sshpass",
        reason: "tests log into the simulated VMs with `ssh` and a password",
        apt: "sshpass",
        dnf: "sshpass",
        pacman: "sshpass",
        brew: "sshpass",
    },
    Needed {
        program: "docker-registry",
        reason: "plugins are pushed to and fetched from it",
        apt: "docker-registry",
        dnf: "docker-distribution",
        pacman: "docker-registry",
        brew: "docker-registry",
    },
];

/// Packs images without a daemon.
pub(crate) const BUILDAH: Needed = everywhere("buildah", "it packs the image", "buildah");
/// Runs them.
pub(crate) const RUNC: Needed = everywhere("runc", "it runs the image to check it", "runc");
/// Compiles C for static programs of this machine's architecture.
pub(crate) const MUSL_GCC: Needed = Needed {
    apt: "musl-tools",
    dnf: "musl-gcc",
    pacman: "musl",
    ..everywhere("musl-gcc", "it compiles the image's C code", "musl-cross")
};
/// The same for AArch64.
pub(crate) const AARCH64_GCC: Needed = Needed {
    apt: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    ..everywhere(
        "aarch64-linux-gnu-gcc",
        "it compiles the image's C code for arm64",
        "gcc-aarch64-linux-gnu",
    )
};
/// The same for x86-64.
pub(crate) const X86_64_GCC: Needed = Needed {
    apt: "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
    ..everywhere(
        "x86_64-linux-gnu-gcc",
        "it compiles the image's C code for amd64",
        "gcc-x86-64-linux-gnu",
    )
};
/// Runs programs of AArch64 on another machine.
pub(crate) const QEMU_AARCH64: Needed = everywhere(
    "qemu-aarch64-static",
    "it runs the arm64 program, which compiles the plugins",
    "qemu-user-static",
);
/// Runs programs of x86-64 on another machine.
pub(crate) const QEMU_X86_64: Needed = everywhere(
    "qemu-x86_64-static",
    "it runs the amd64 program, which compiles the plugins",
    "qemu-user-static",
);

const fn everywhere(program: &'static str, reason: &'static str, package: &'static str) -> Needed {
    Needed {
        program,
        reason,
        apt: package,
        dnf: package,
        pacman: package,
        brew: package,
    }
}

/// Installs those of the programs that are not there, or says what to install.
pub(crate) fn require(programs: &[&Needed]) -> Result<()> {
    let missing: Vec<_> = programs
        .iter()
        .copied()
        .filter(|needed| !is_usable(needed.program))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        install(&missing)
    }
}

/// Whether a program is installed; of a C compiler, whether the C library's headers are as well, which are a package of
/// their own.
fn is_usable(program: &str) -> bool {
    let Some(path) = process::find_program(program) else {
        return false;
    };
    let compiles = [
        "-fsyntax-only",
        "-include",
        "stdint.h",
        "-x",
        "c",
        "/dev/null",
    ];
    !program.ends_with("gcc") || process::succeeds(Command::new(path).args(compiles))
}

/// The programs that are not installed.
pub(crate) fn missing() -> Vec<&'static Needed> {
    PROGRAMS
        .iter()
        .filter(|needed| process::find_program(needed.program).is_none())
        .collect()
}

/// Installs what the programs need, or says what to install.
pub(crate) fn install(missing: &[&Needed]) -> Result<()> {
    let packages = packages_by(missing, |needed| needed.apt);
    let why: Vec<_> = missing
        .iter()
        .map(|it| format!("`{}` ({})", it.program, it.reason))
        .collect();
    let explain = || format!("missing: {}; {}", why.join(", "), advice(missing));
    apt_install(&packages).with_context(explain)
}

/// Installs Debian packages, where that is possible without asking anyone.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    if process::find_program("apt-get").is_none() {
        bail!("there is no apt-get here, and other package managers are left to you");
    }
    let Some(prefix) = privilege() else {
        bail!("installing packages takes root or passwordless sudo");
    };
    eprintln!("installing {}", packages.join(" "));
    // A stale or half-reachable list is not fatal yet: the packages may still be found.
    if let Err(error) = process::run(apt_get(prefix).args(["update", "-qq"])) {
        eprintln!("warning: {error}");
    }
    process::run(
        apt_get(prefix)
            .args(["install", "-qq", "-y", "--no-install-recommends"])
            .args(packages),
    )
}

/// The words before a command that make it run as root: none, or sudo.
fn privilege() -> Option<&'static [&'static str]> {
    let is_root = process::output(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0");
    if is_root {
        Some(&[])
    } else if process::succeeds(Command::new("sudo").args(["-n", "true"])) {
        Some(&["sudo", "-n"])
    } else {
        None
    }
}

fn apt_get(prefix: &[&str]) -> Command {
    let words = prefix
        .iter()
        .copied()
        .chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    let mut words = words.collect::<Vec<_>>().into_iter();
    let mut command = Command::new(words.next().unwrap_or("apt-get"));
    command.args(words);
    command
}

/// The command that installs the programs on this machine, as a hint.
fn advice(missing: &[&Needed]) -> String {
    type PackageOf = fn(&Needed) -> &'static str;
    let managers: [(&str, &str, PackageOf); 4] = [
        ("apt-get", "apt-get install", |it| it.apt),
        ("dnf", "dnf install", |it| it.dnf),
        ("pacman", "pacman -S", |it| it.pacman),
        ("brew", "brew install", |it| it.brew),
    ];
    let manager = managers
        .iter()
        .find(|(program, ..)| process::find_program(program).is_some());
    match manager {
        Some((_, command, package)) => format!(
            "run `{command} {}`",
            packages_by(missing, package).join(" ")
        ),
        None => "install them with the system's package manager".to_owned(),
    }
}

fn packages_by(
    missing: &[&Needed],
    package: impl Fn(&Needed) -> &'static str,
) -> Vec<&'static str> {
    let mut packages: Vec<_> = missing
        .iter()
        .flat_map(|needed| package(needed).split(' '))
        .collect();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests {
    use super::{PROGRAMS, apt_get, is_usable, packages_by};
    use crate::process::shown;

    #[test]
    fn each_package_is_named_once() {
        let all: Vec<_> = PROGRAMS.iter().collect();
        let apt = [
            "openssh-server",
            "openssh-client",
            "zsh",
            "libarchive-tools",
            "rsync",
            "dropbear-bin",
            "sshpass",
            "docker-registry",
        ];
        assert_eq!(packages_by(&all, |needed| needed.apt), apt);
        assert_eq!(
            packages_by(&all, |needed| needed.pacman)[..2],
            ["openssh", "zsh"]
        );
    }

    #[test]
    fn a_program_counts_that_is_there() {
        assert!(is_usable("sh"));
        assert!(!is_usable("no-such-program-anywhere"));
        assert!(!is_usable("no-such-architecture-gcc"));
    }

    #[test]
    fn apt_never_asks_and_uses_sudo_only_without_a_password() {
        assert_eq!(
            shown(&apt_get(&[])),
            "`env DEBIAN_FRONTEND=noninteractive apt-get`"
        );
        assert_eq!(
            shown(&apt_get(&["sudo", "-n"])),
            "`sudo -n env DEBIAN_FRONTEND=noninteractive apt-get`"
        );
    }
}
