//! The label index of a head shard or a segment: for each name and value the series that have it, as roaring bitmaps.
//! Derived: it can be rebuilt from the series.

use super::{
    batch::{pairs, put_text, take_text},
    matching::Compiled,
    varint,
};
use roaring::RoaringBitmap;
use std::collections::BTreeMap;

/// Series are numbered from 0 within the shard or segment.
#[derive(Debug, Default, PartialEq)]
pub struct LabelIndex {
    count: u32,
    names: BTreeMap<Box<str>, BTreeMap<Box<str>, RoaringBitmap>>,
}

impl LabelIndex {
    /// Adds the next series.
    pub fn push(&mut self, canonical: &[u8]) {
        self.insert(self.count, canonical);
    }

    /// Adds series `id`; ids between stay empty.
    pub fn insert(&mut self, id: u32, canonical: &[u8]) {
        self.count = self.count.max(id + 1);
        for (name, value) in pairs(canonical) {
            if !self.names.contains_key(name) {
                self.names.insert(name.into(), BTreeMap::new());
            }
            let values = self.names.get_mut(name).expect("just inserted");
            match values.get_mut(value) {
                Some(ids) => drop(ids.insert(id)),
                None => drop(values.insert(value.into(), RoaringBitmap::from_iter([id]))),
            }
        }
    }

    /// The series that all matchers select.
    pub fn select(&self, matchers: &[Compiled]) -> RoaringBitmap {
        // First what needs a label to be present: it narrows most.
        let mut selected: Option<RoaringBitmap> = None;
        for matcher in matchers.iter().filter(|m| !m.matches_empty) {
            let ids = self.with_value(matcher);
            match &mut selected {
                Some(s) => *s &= ids,
                None => selected = Some(ids),
            }
            if selected.as_ref().is_some_and(RoaringBitmap::is_empty) {
                return RoaringBitmap::new();
            }
        }
        let mut selected = selected.unwrap_or_else(|| self.everything());
        // Then what an absent label satisfies too: take away those whose value doesn't match.
        for matcher in matchers.iter().filter(|m| m.matches_empty) {
            for (value, ids) in self.names.get(matcher.name.as_str()).into_iter().flatten() {
                if !matcher.is_match(value) {
                    selected -= ids;
                }
            }
        }
        selected
    }

    fn everything(&self) -> RoaringBitmap {
        (0..self.count).collect()
    }

    fn with_value(&self, matcher: &Compiled) -> RoaringBitmap {
        let Some(values) = self.names.get(matcher.name.as_str()) else { return RoaringBitmap::new() };
        match matcher.exact_values() {
            Some(exact) => exact.iter().filter_map(|v| values.get(v.as_str())).fold(RoaringBitmap::new(), |all, ids| all | ids),
            None => values.iter().filter(|(v, _)| matcher.is_match(v)).fold(RoaringBitmap::new(), |all, (_, ids)| all | ids),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        varint::write(&mut out, u64::from(self.count));
        varint::write(&mut out, self.names.len() as u64);
        for (name, values) in &self.names {
            put_text(&mut out, name);
            varint::write(&mut out, values.len() as u64);
            for (value, ids) in values {
                put_text(&mut out, value);
                varint::write(&mut out, ids.serialized_size() as u64);
                ids.serialize_into(&mut out).expect("writing to memory doesn't fail");
            }
        }
        out
    }

    /// `None` if the bytes are no whole index: it will be rebuilt.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let count = u32::try_from(varint::read(bytes)?).ok()?;
        let mut names = BTreeMap::new();
        for _ in 0..varint::read(bytes)? {
            let name = take_text(bytes)?;
            let mut values = BTreeMap::new();
            for _ in 0..varint::read(bytes)? {
                let value = take_text(bytes)?;
                let length = usize::try_from(varint::read(bytes)?).ok()?;
                let ids = RoaringBitmap::deserialize_from(bytes.split_off(..length)?).ok()?;
                if ids.max().is_some_and(|id| id >= count) {
                    return None;
                }
                values.insert(value.into(), ids);
            }
            names.insert(name.into(), values);
        }
        bytes.is_empty().then_some(Self { count, names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MetricBatch;
    use model::{LabelSet, MatchOp, Matcher};
    use proptest::prelude::*;

    fn index(series: &[&[(&str, &str)]]) -> LabelIndex {
        let mut index = LabelIndex::default();
        for labels in series {
            let mut batch = MetricBatch::new();
            batch.series(&LabelSet::from_pairs(labels.iter().copied()), []);
            index.push(&batch.labels);
        }
        index
    }

    fn check(index: &LabelIndex, matchers: &[(&str, MatchOp, &str)], expect: &[u32]) {
        let matchers: Vec<_> = matchers.iter().map(|(n, op, v)| Matcher::new(*n, *op, *v)).collect();
        let found: Vec<u32> = index.select(&Compiled::all(&matchers).unwrap()).iter().collect();
        assert_eq!(found, expect, "{matchers:?}");
    }

    #[test]
    fn matchers_select_as_in_prometheus() {
        use MatchOp::{Equal, NotEqual, NotRegex, Regex};
        let index = index(&[&[("n", "a"), ("env", "prod")], &[("n", "b"), ("env", "dev")], &[("n", "a")]]);
        check(&index, &[], &[0, 1, 2]);
        check(&index, &[("n", Equal, "a")], &[0, 2]);
        check(&index, &[("n", Equal, "a"), ("env", Equal, "")], &[2]);
        check(&index, &[("env", NotEqual, "prod")], &[1, 2]);
        check(&index, &[("env", NotEqual, "")], &[0, 1]);
        check(&index, &[("env", Regex, ".+")], &[0, 1]);
        check(&index, &[("env", Regex, ".*")], &[0, 1, 2]);
        check(&index, &[("env", Regex, "dev|")], &[1, 2]);
        check(&index, &[("env", NotRegex, "d.*"), ("n", Regex, "a|b")], &[0, 2]);
        check(&index, &[("missing", Equal, "x")], &[]);
        check(&index, &[("missing", NotEqual, "x")], &[0, 1, 2]);
    }

    #[test]
    fn an_index_reads_back_and_a_cut_one_is_refused() {
        let index = index(&[&[("n", "a"), ("env", "prod")], &[("n", "b")]]);
        let bytes = index.encode();
        assert_eq!(LabelIndex::decode(&bytes), Some(index));
        for cut in 0..bytes.len() {
            assert_eq!(LabelIndex::decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic_the_index_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = LabelIndex::decode(&bytes);
        }
    }
}
