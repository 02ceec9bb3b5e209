//! What stands for fetching in builds without it: [`PluginRef::parse`](crate::plugin::PluginRef::parse) refuses whatever would have to be fetched.

use super::Fetched;
use crate::cli::{PluginPlace, RunArgs};
use crate::config::Environment;
use crate::console::Console;
use crate::failure::Failure;
use crate::state::Stop;

/// Does nothing.
///
/// # Errors
///
/// None.
pub async fn bring(
    _: &mut PluginPlace,
    _: &[String],
    _: &Environment,
    _: &Console,
) -> Result<(), Failure> {
    Ok(())
}

/// Nothing is ever fetched.
pub async fn for_run(
    _: &RunArgs,
    _: &Environment,
    _: &Console,
    _: &Stop,
) -> Option<Result<Fetched, Failure>> {
    None
}
