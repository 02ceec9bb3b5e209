//! Room on the volume: asked for before a file is written, so that a transfer that cannot fit ends before the disk is full.

use std::time::{Duration, Instant};

use cap_std::fs::Dir;

use super::volume::{Space, Volume};
use super::{Meter, printable_size};
use crate::Error;
use crate::quote::printable;

/// Kept back for the steps that come after this one, which may need to write too; never more than a hundredth of the
/// volume, or small ones could not be used at all.
const RESERVE_MAX: u64 = 64 << 20;
const RESERVE_SHARE: u64 = 100;

/// Others write to the volume too, so it is looked at again after so many bytes or so much time, and before giving up.
/// On a share a look is a round trip.
const LOOK_BYTES: u64 = 64 << 20;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What is left of the room at the last look.
pub(super) struct Room<'a> {
    volume: &'a dyn Volume,
    dir: &'a Dir,
    space: Option<Space>,
    looked: Instant,
    claimed: u64,
    claimed_entries: u64,
}

impl<'a> Room<'a> {
    pub(super) fn new(volume: &'a dyn Volume, dir: &'a Dir) -> Self {
        Self {
            volume,
            dir,
            space: volume.space(dir),
            looked: Instant::now(),
            claimed: 0,
            claimed_entries: 0,
        }
    }

    /// Takes room for an entry with so many bytes of contents.
    pub(super) fn claim(
        &mut self,
        bytes: u64,
        path: &[u8],
        meter: &Meter<'_>,
    ) -> Result<(), Error> {
        if self.claimed > LOOK_BYTES || self.looked.elapsed() > LOOK_INTERVAL {
            self.look();
        }
        if !self.fits(bytes) {
            self.look();
        }
        let Some(space) = self.space else {
            return Ok(());
        };
        if !self.fits(bytes) {
            return Err(self.lacking(bytes, path, meter, None));
        }
        self.claimed += in_blocks(bytes, space.block);
        self.claimed_entries += 1;
        Ok(())
    }

    /// The error for a write that failed for want of room.
    pub(super) fn full(
        &mut self,
        bytes: u64,
        path: &[u8],
        meter: &Meter<'_>,
        problem: std::io::Error,
    ) -> Error {
        self.look();
        self.lacking(bytes, path, meter, Some(problem))
    }

    fn look(&mut self) {
        self.space = self.volume.space(self.dir);
        self.looked = Instant::now();
        (self.claimed, self.claimed_entries) = (0, 0);
    }

    fn fits(&self, bytes: u64) -> bool {
        let Some(space) = self.space else { return true };
        let taken = self
            .claimed
            .saturating_add(in_blocks(bytes, space.block))
            .saturating_add(reserve(&space));
        taken <= space.free && space.entries.is_none_or(|left| self.claimed_entries < left)
    }

    fn lacking(
        &self,
        bytes: u64,
        path: &[u8],
        meter: &Meter<'_>,
        source: Option<std::io::Error>,
    ) -> Error {
        let room = match self.space {
            None => "its volume is full".to_owned(),
            Some(Space {
                entries: Some(left),
                ..
            }) if left <= self.claimed_entries => "its volume can hold no more files".to_owned(),
            Some(space) => format!(
                "its volume has {} free, of which {} are kept back",
                printable_size(space.free.saturating_sub(self.claimed)),
                printable_size(reserve(&space)),
            ),
        };
        Error::NoRoom {
            direction: meter.direction,
            entry: printable(path),
            needed: bytes,
            room,
            source,
        }
    }
}

fn reserve(space: &Space) -> u64 {
    RESERVE_MAX.min(space.total / RESERVE_SHARE)
}

fn in_blocks(bytes: u64, block: u64) -> u64 {
    bytes.div_ceil(block.max(1)).saturating_mul(block.max(1))
}
