//! A series' samples being gathered from several places, oldest source first.

use super::chunk;

/// Samples as columns. What is pushed later wins over what was pushed earlier for the same time: the last write counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    pub times: Vec<i64>,
    pub values: Vec<f64>,
    is_disordered: bool,
}

impl Columns {
    pub fn push(&mut self, t: i64, v: f64) {
        self.is_disordered |= self.times.last().is_some_and(|last| *last >= t);
        self.times.push(t);
        self.values.push(v);
    }

    /// Adds the samples between `start` and `end`, both included.
    pub fn push_range(&mut self, times: &[i64], values: &[f64], start: i64, end: i64) {
        for (t, v) in times.iter().zip(values) {
            if (start..=end).contains(t) {
                self.push(*t, *v);
            }
        }
    }

    /// Adds what a chunk holds between `start` and `end`; `None` if it doesn't decode.
    pub fn push_chunk(&mut self, bytes: &[u8], start: i64, end: i64) -> Option<()> {
        let before = self.times.len();
        let last = self.times.last().copied();
        chunk::decode(bytes, &mut self.times, &mut self.values)?;
        // A chunk is ascending by construction, so its range is a slice.
        let new = &self.times[before..];
        let keep = before + new.partition_point(|t| *t < start)..before + new.partition_point(|t| *t <= end);
        let keep = keep.start..keep.end.max(keep.start);
        self.times.truncate(keep.end);
        self.values.truncate(keep.end);
        self.times.drain(before..keep.start);
        self.values.drain(before..keep.start);
        self.is_disordered |= self.times.get(before).is_some_and(|first| last.is_some_and(|last| last >= *first));
        Some(())
    }

    pub fn len(&self) -> usize {
        self.times.len()
    }
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Puts the samples in order; of several with one time the last pushed stays.
    pub fn settle(&mut self) {
        if !self.is_disordered {
            return;
        }
        let mut order: Vec<usize> = (0..self.times.len()).collect();
        order.sort_by_key(|i| self.times[*i]); // stable: pushes keep their order within one time
        let (mut times, mut values) = (Vec::with_capacity(order.len()), Vec::with_capacity(order.len()));
        for i in order {
            if times.last() == Some(&self.times[i]) {
                *values.last_mut().expect("as long as times") = self.values[i];
            } else {
                times.push(self.times[i]);
                values.push(self.values[i]);
            }
        }
        (self.times, self.values, self.is_disordered) = (times, values, false);
    }

    pub fn clear(&mut self) {
        self.times.clear();
        self.values.clear();
        self.is_disordered = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_out_in_order_and_the_last_write_counts() {
        let mut columns = Columns::default();
        columns.push_chunk(&chunk::encode(&[10, 20, 30], &[1.0, 2.0, 3.0]), 0, 100).unwrap();
        columns.push_chunk(&chunk::encode(&[5, 20, 40], &[0.5, 2.5, 4.0]), 0, 100).unwrap();
        columns.push(30, 3.5);
        columns.settle();
        assert_eq!((columns.times, columns.values), (vec![5, 10, 20, 30, 40], vec![0.5, 1.0, 2.5, 3.5, 4.0]));
    }

    #[test]
    fn only_the_range_asked_for_is_taken_both_ends_included() {
        let bytes = chunk::encode(&[10, 20, 30], &[1.0, 2.0, 3.0]);
        for (start, end, expect) in [(10, 20, vec![10, 20]), (11, 29, vec![20]), (31, 99, vec![]), (25, 15, vec![])] {
            let mut columns = Columns::default();
            columns.push_chunk(&bytes, start, end).unwrap();
            assert_eq!(columns.times, expect, "{start}..={end}");
            assert_eq!(columns.len(), columns.values.len());
        }
    }
}
