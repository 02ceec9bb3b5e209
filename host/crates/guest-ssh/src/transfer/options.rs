//! How a transfer is to be made.

use std::fmt;
use std::sync::Arc;

use super::{FileDigest, Limits};

/// What of the selected files comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compare {
    /// All of them.
    #[default]
    Always,
    /// Those whose size, permissions or time differ from the file of that name at the target. Times are compared to the
    /// fraction where both sides have one.
    SizeTime,
    /// Those whose contents differ, by SHA-256 on both sides: slower, and right whatever happened to times.
    Hash,
}

/// Whether the stream is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compress {
    /// Where the link turned out slow and the data compressible.
    #[default]
    Auto,
    /// Whenever the VM has `gzip`.
    Always,
    /// Never.
    Never,
}

/// Fresh starts after a lost connection. A VM that loses it more often has a problem that repeating does not mend.
const RETRIES: u32 = 3;

/// Looks at the files of a download once all of them are here, and before any takes its place.
#[derive(Clone)]
pub struct Review(Arc<Look>);

type Look = dyn Fn(&[FileDigest]) -> Result<Vec<usize>, String> + Send + Sync;

impl Review {
    /// A look that gives the positions of files to leave out, or a reason why none of them may come. It is called on a
    /// thread that may wait.
    pub fn new(
        look: impl Fn(&[FileDigest]) -> Result<Vec<usize>, String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(look))
    }

    pub(super) fn look(&self, files: &[FileDigest]) -> Result<Vec<usize>, String> {
        (self.0)(files)
    }
}

impl fmt::Debug for Review {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Review")
    }
}

/// How a transfer is to be made.
#[derive(Clone, Debug)]
pub struct TransferOptions {
    /// How much it may move.
    pub limits: Limits,
    /// What comes back; uploads send all that is selected.
    pub compare: Compare,
    /// Whether to compress.
    pub compress: Compress,
    /// How often a transfer whose connection is lost is begun again, whole, on a new one.
    pub retries: u32,
    /// Whether an upload finds out beside its work how much there is, for its progress. Every entry is looked at once more.
    pub totals: bool,
    /// Who looks at the files of a download before they take their place.
    pub review: Option<Review>,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            compare: Compare::default(),
            compress: Compress::default(),
            retries: RETRIES,
            totals: false,
            review: None,
        }
    }
}

impl From<Limits> for TransferOptions {
    fn from(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }
}

impl From<&Limits> for TransferOptions {
    fn from(limits: &Limits) -> Self {
        (*limits).into()
    }
}

impl From<&TransferOptions> for TransferOptions {
    fn from(options: &TransferOptions) -> Self {
        options.clone()
    }
}
