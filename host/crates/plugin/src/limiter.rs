//! Memory, tables and instances of one store.

use wasmtime::{ResourceLimiter, Result};

/// Table elements of one table: function pointers; SpiderMonkey has some thousands.
const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Core instances, memories and tables of one component; adapters and shims make a handful.
pub(crate) const PARTS_MAX: usize = 16;

/// Sums over all memories of the store, so that many small ones count like one large.
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes_max: usize,
    bytes: usize,
    bytes_peak: usize,
    /// A growth was refused: when the guest traps afterwards, this is why.
    was_refused: bool,
}

impl Limiter {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, bytes_peak: 0, was_refused: false }
    }
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }
    pub(crate) fn bytes_peak(&self) -> usize {
        self.bytes_peak
    }
    pub(crate) fn was_refused(&self) -> bool {
        self.was_refused
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let total = self.bytes.saturating_add(desired.saturating_sub(current));
        if total > self.bytes_max {
            self.was_refused = true;
            return Ok(false);
        }
        self.bytes = total;
        self.bytes_peak = self.bytes_peak.max(total);
        Ok(true)
    }
    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
    fn instances(&self) -> usize {
        PARTS_MAX
    }
    fn tables(&self) -> usize {
        PARTS_MAX
    }
    fn memories(&self) -> usize {
        PARTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_memories_count_like_one_large() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert!(!limiter.memory_growing(40, 41, None).unwrap());
        assert_eq!((limiter.bytes_peak(), limiter.was_refused()), (100, true));
        assert!(!limiter.table_growing(0, TABLE_ELEMENTS_MAX + 1, None).unwrap());
    }
}
