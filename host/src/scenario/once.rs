//! A value that is made by whoever needs it first.

use std::sync::{Mutex, OnceLock, PoisonError};

/// As [`OnceLock`], for what is so much work that whoever comes meanwhile had better wait for it, and may fail.
pub(super) struct Once<T> {
    value: OnceLock<T>,
    making: Mutex<()>,
}

impl<T> Once<T> {
    pub(super) const fn new() -> Self {
        Self {
            value: OnceLock::new(),
            making: Mutex::new(()),
        }
    }

    /// The value, made with `make` if nobody has made it yet. After a failure the next one tries again.
    pub(super) fn get_or_make<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        if let Some(value) = self.value.get() {
            return Ok(value);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        match self.value.get() {
            Some(value) => Ok(value),
            None => make().map(|made| self.value.get_or_init(|| made)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn whoever_comes_while_it_is_made_waits_for_it_and_makes_none() {
        let once = Once::new();
        let made = AtomicUsize::new(0);
        let together = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    together.wait();
                    let value = once.get_or_make(|| {
                        // Others get as far as they can meanwhile.
                        (0..1000).for_each(|_| std::thread::yield_now());
                        Ok::<_, ()>(made.fetch_add(1, Ordering::Relaxed))
                    });
                    assert_eq!(value, Ok(&0));
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn after_a_failure_the_next_one_makes_it() {
        let once = Once::new();
        assert_eq!(once.get_or_make(|| Err("no")), Err("no"));
        assert_eq!(once.get_or_make(|| Ok::<_, &str>(1)), Ok(&1));
        assert_eq!(once.get_or_make(|| Err("not asked")), Ok(&1));
    }
}
