//! A part of the matrix that is quick and has everything in it: every call, every fault, every release.
#![allow(missing_docs, reason = "a test program has no users")]

use leak_matrix::{Call, Cell, Fault, Moment, World, play_all};

/// Whether a cell belongs to the part.
///
/// On Orka 2.1.0, where most can be left, every fault at the calls that make or remove something, and every call with the
/// faults of its guest; a line of each elsewhere.
fn is_in_the_part(cell: &Cell) -> bool {
    let makes = matches!(cell.call, Call::CreateConfig | Call::Deploy | Call::Purge);
    // A deploy without an answer is looked for as long as a clean-up may take.
    let slow = cell.fault == Fault::ApiTimeout;
    let first = cell.world == World::Orka210
        && (cell.fault == Fault::Trap || (makes && !slow && cell.moment != Moment::After));
    let others = cell.world != World::Orka210
        && cell.call == Call::Deploy
        && cell.moment != Moment::Before
        && !slow;
    first || others || (cell.call == Call::Wait && cell.world == World::Orka3 && !slow)
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_that_end_in_every_way_leave_nothing() {
    let cells: Vec<Cell> = Cell::all().into_iter().filter(is_in_the_part).collect();
    let matrix = play_all(cells, |_| {}).await;
    assert_eq!(matrix.totals().wrong, 0, "\n{}", matrix.text());
    assert!(matrix.totals().played > 60, "{}", matrix.sums());
}
