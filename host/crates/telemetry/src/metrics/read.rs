//! The way out: matchers over the indexes of segments and heads, samples merged, the last write counting.

use super::{
    SeriesData,
    batch::{label_set, pairs},
    columns::Columns,
    engine::{Shared, State},
    head::Head,
    matching::Compiled,
    segment::{Loaded, Segment},
};
use crate::{Corruption, Error, Result};
use ahash::{HashMap, HashMapExt};
use model::{LabelSet, Matcher, TenantId};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Segments whose series and index stay in memory between queries.
const LOADED_MAX: usize = 64;

impl Shared {
    pub fn select(&self, tenant: &TenantId, matchers: &[Matcher], start: i64, end: i64) -> Result<Vec<SeriesData>> {
        self.counters.queries.fetch_add(1, Relaxed);
        let matchers = Compiled::all(matchers)?;
        let start = start.max(self.oldest_ms());
        let state = self.snapshot();
        let mut found = Gathered { max: self.config.query_samples_max, ..Gathered::default() };
        for segment in segments(&state, tenant, start, end) {
            let loaded = self.load(segment)?;
            let mut reader = None;
            for id in loaded.index.select(&matchers) {
                let Some(series) = loaded.series.get(id as usize).and_then(Option::as_ref) else { continue };
                if series.t_min > end || series.t_max < start {
                    continue;
                }
                let reader = match &mut reader {
                    Some(reader) => reader,
                    none => none.insert(segment.reader()?),
                };
                found.add(
                    &series.labels,
                    || Arc::new(label_set(&series.labels)),
                    |out| reader.read_into(series, start, end, out, &mut |c| self.note(c)),
                )?;
            }
        }
        for head in heads(&state) {
            if let Some(head) = head.tenant(tenant) {
                head.visit(&matchers, start, end, |series| {
                    found.add(
                        series.labels,
                        || series.set.clone(),
                        |out| {
                            series.read_into(start, end, out);
                            Ok(())
                        },
                    )
                })?;
            }
        }
        self.counters.samples_read.fetch_add(found.total as u64, Relaxed);
        Ok(found.finish())
    }

    pub fn series(&self, tenant: &TenantId, matchers: &[Matcher], start: i64, end: i64) -> Result<Vec<Arc<LabelSet>>> {
        let mut found: HashMap<Box<[u8]>, Arc<LabelSet>> = HashMap::new();
        self.visit_labels(tenant, matchers, start, end, |labels| {
            if !found.contains_key(labels) {
                found.insert(labels.into(), Arc::new(label_set(labels)));
            }
        })?;
        let mut found: Vec<_> = found.into_values().collect();
        found.sort();
        Ok(found)
    }

    pub fn label_names(&self, tenant: &TenantId, matchers: &[Matcher], start: i64, end: i64) -> Result<Vec<String>> {
        let mut found = BTreeSet::new();
        self.visit_labels(tenant, matchers, start, end, |labels| {
            for (name, _) in pairs(labels) {
                if !found.contains(name) {
                    found.insert(name.to_owned());
                }
            }
        })?;
        Ok(found.into_iter().collect())
    }

    pub fn label_values(&self, tenant: &TenantId, name: &str, matchers: &[Matcher], start: i64, end: i64) -> Result<Vec<String>> {
        let mut found = BTreeSet::new();
        self.visit_labels(tenant, matchers, start, end, |labels| {
            if let Some((_, value)) = pairs(labels).find(|(n, _)| *n == name)
                && !found.contains(value)
            {
                found.insert(value.to_owned());
            }
        })?;
        Ok(found.into_iter().collect())
    }

    /// Reads every byte of every segment.
    pub fn verify(&self) -> Result<Vec<Corruption>> {
        let mut found = Vec::new();
        let state = self.snapshot();
        for segment in state.segments.values().flatten() {
            segment.verify(&mut |c| found.push(c))?;
        }
        found.iter().for_each(|c| self.note(c.clone()));
        Ok(found)
    }

    /// Shows the canonical labels of each selected series, some more than once.
    fn visit_labels(
        &self,
        tenant: &TenantId,
        matchers: &[Matcher],
        start: i64,
        end: i64,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<()> {
        self.counters.queries.fetch_add(1, Relaxed);
        let matchers = Compiled::all(matchers)?;
        let start = start.max(self.oldest_ms());
        let state = self.snapshot();
        for segment in segments(&state, tenant, start, end) {
            let loaded = self.load(segment)?;
            for id in loaded.index.select(&matchers) {
                if let Some(Some(series)) = loaded.series.get(id as usize)
                    && series.t_min <= end
                    && series.t_max >= start
                {
                    visit(&series.labels);
                }
            }
        }
        for head in heads(&state) {
            if let Some(head) = head.tenant(tenant) {
                head.visit::<Error>(&matchers, start, end, |series| {
                    visit(series.labels);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    fn load(&self, segment: &Segment) -> Result<Arc<Loaded>> {
        let seq = segment.footer.seq;
        {
            let mut cache = self.loaded.lock();
            if let Some(i) = cache.iter().position(|(s, _)| *s == seq) {
                let hit = cache.remove(i).expect("just found");
                let loaded = hit.1.clone();
                cache.push_back(hit);
                return Ok(loaded);
            }
        }
        let loaded = Arc::new(segment.load(&mut |c| self.note(c))?);
        let mut cache = self.loaded.lock();
        cache.push_back((seq, loaded.clone()));
        while cache.len() > LOADED_MAX {
            cache.pop_front();
        }
        Ok(loaded)
    }
}

/// Oldest writes first.
fn segments<'a>(state: &'a State, tenant: &TenantId, start: i64, end: i64) -> impl Iterator<Item = &'a Arc<Segment>> {
    state.segments.get(tenant).into_iter().flatten().filter(move |s| s.overlaps(start, end))
}

fn heads(state: &State) -> impl Iterator<Item = &Arc<Head>> {
    state.frozen.iter().chain(std::iter::once(&state.active))
}

/// Series gathered from several places, by canonical labels.
#[derive(Default)]
struct Gathered {
    by_labels: HashMap<Box<[u8]>, usize>,
    series: Vec<(Arc<LabelSet>, Columns)>,
    total: usize,
    max: usize,
}

impl Gathered {
    fn add(
        &mut self,
        labels: &[u8],
        set: impl FnOnce() -> Arc<LabelSet>,
        read: impl FnOnce(&mut Columns) -> Result<()>,
    ) -> Result<()> {
        let i = match self.by_labels.get(labels) {
            Some(i) => *i,
            None => {
                self.by_labels.insert(labels.into(), self.series.len());
                self.series.push((set(), Columns::default()));
                self.series.len() - 1
            }
        };
        let columns = &mut self.series[i].1;
        let before = columns.len();
        read(columns)?;
        self.total += columns.len() - before;
        if self.total > self.max {
            return Err(Error::TooLarge(format!(
                "the query loads more than {} samples; select fewer series or a shorter range",
                self.max
            )));
        }
        Ok(())
    }

    fn finish(self) -> Vec<SeriesData> {
        let settle = |(labels, mut columns): (_, Columns)| {
            columns.settle();
            SeriesData { labels, times: columns.times, values: columns.values }
        };
        let mut all: Vec<_> = self.series.into_iter().filter(|(_, c)| !c.is_empty()).map(settle).collect();
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        all
    }
}
