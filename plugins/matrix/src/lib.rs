//! One script on several images or configurations at once, their ends combined.
//!
//! [`cells`] says which, [`board`] drives them side by side, [`cell`] is one of them, [`summary`] combines what came of all.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod board;
mod cell;
mod cells;
mod summary;

use orka_plugin_common::{Work, warn_of};
use orka_plugin_sdk::{Error, Plugin, Verdict, cluster, params, phase};

use board::{Board, Rules};

struct Matrix;

impl Plugin for Matrix {
    fn run() -> Result<Verdict, Error> {
        // All that can be wrong with parameters is found before anything exists.
        let wanted = cells::from_params()?;
        let work = Work::from_params()?;
        let rules = Rules {
            parallel_max: usize::try_from(params::integer("max-parallel")?.unwrap_or(1))
                .unwrap_or(1),
            is_fail_fast: params::flag("fail-fast")?,
        };
        let session = phase("sign in", cluster::sign_in)?;
        cells::check_images(&session, &wanted)?;
        let mut board = Board::new(&session, &work, rules, wanted);
        board.play()?;
        let is_settled = board.is_settled();
        let ends = board.into_ends();
        summary::tell(&ends);
        let verdict = summary::verdict(ends);
        // Nobody can sign out while VMs remain; the host does it once they are gone.
        if is_settled && !verdict.as_ref().is_err_and(Error::is_final) {
            warn_of(phase("sign out", || session.sign_out()));
        }
        verdict
    }
}

orka_plugin_sdk::register!(Matrix);
