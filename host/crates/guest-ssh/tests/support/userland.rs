//! What programs a VM offers: those of this machine, or a userland like that of macOS.
//!
//! macOS's own cannot run here. What matters of it can: `zsh` as the login shell, `bsdtar` as `tar`, a `PATH` on which
//! nothing of GNU's is found, and programs that refuse what theirs refuses (`macos.sh`).

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Whether the tests of this program meet macOS's userland: `macos.rs` holds all others once more.
pub const MACOS: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"macos");

/// Called through `macos.sh`: programs whose dialects differ.
const DIALECTS: &[&str] = &[
    "base64", "cat", "chmod", "cp", "date", "dd", "df", "du", "find", "grep", "head", "ln", "ls",
    "md5", "mkdir", "mktemp", "mv", "ps", "readlink", "rm", "rmdir", "sed", "shasum", "sort",
    "stat", "tail", "tee", "touch", "uname", "uniq", "wc", "xargs",
];

/// The same on both, as far as anybody uses them.
const SAME: &[&str] = &[
    "awk", "basename", "cut", "dirname", "env", "expr", "false", "gunzip", "gzip", "id", "kill",
    "mkfifo", "nice", "nohup", "od", "perl", "pkill", "printf", "pwd", "scp", "seq", "sleep",
    "stty", "test", "tr", "true", "tty", "which", "yes", "bash", "sh", "zsh",
];

/// A directory that is all of `PATH`.
pub struct Macos {
    bin: TempDir,
}

impl Macos {
    pub fn whole() -> Self {
        let bin = tempfile::tempdir().unwrap();
        let script = bin.path().join(".macos.sh");
        std::fs::write(&script, include_str!("macos.sh")).unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        for tool in DIALECTS {
            symlink(&script, bin.path().join(tool)).unwrap();
        }
        for tool in SAME {
            if let Some(program) = find(tool) {
                symlink(program, bin.path().join(tool)).unwrap();
            }
        }
        symlink(bsdtar(), bin.path().join("tar")).unwrap();
        Self { bin }
    }

    pub fn path(&self) -> &Path {
        self.bin.path()
    }

    /// Takes a program away.
    pub fn without(self, tool: &str) -> Self {
        std::fs::remove_file(self.bin.path().join(tool)).unwrap();
        self
    }
}

pub fn bsdtar() -> PathBuf {
    find("bsdtar").expect("these tests need `bsdtar`: install the package `libarchive-tools`")
}

pub fn zsh() -> PathBuf {
    find("zsh").expect("these tests need `zsh`: install the package `zsh`")
}

/// A program of this machine.
pub fn find(tool: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"]
        .iter()
        .map(|place| Path::new(place).join(tool))
        .find(|file| file.is_file())
}
