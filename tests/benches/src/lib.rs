//! What the measurements share: a server of their own, a table of medians, and the file the tables are kept in.
//!
//! Each program measures one thing beside the programs others use for it, in one run, in turns, against one `sshd`.

pub mod machine;
pub mod medians;
pub mod results;
pub mod sshd;
