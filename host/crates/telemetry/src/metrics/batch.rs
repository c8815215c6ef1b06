//! A write request as flat arenas: no allocation per sample, few per request. Its bytes in the log are the same arenas.
//!
//! A series' labels are kept in *canonical* form: sorted by name, each name once, no empty value; each pair as
//! length-prefixed name and value. Equal label sets are equal bytes, so look-up is a hash and a memcmp.

use super::varint;
use crate::{Error, Result};
use model::{LabelSet, MetricKind, MetricMetadata, TenantId};

/// Series with samples, and metadata, on their way into the store.
///
/// Use: `label`… `sample`… `end_series`, again for each series. Labels may come in any order.
#[derive(Clone, Debug, Default)]
pub struct MetricBatch {
    /// Canonical labels of all series, one after the other.
    pub(super) labels: Vec<u8>,
    pub(super) series: Vec<SeriesSpan>,
    pub(super) times: Vec<i64>,
    pub(super) values: Vec<f64>,
    pub(super) metadata: Vec<MetricMetadata>,
    /// The labels of the series being described: ends of name and value in `labels`.
    open: Vec<OpenLabel>,
    scratch: Vec<u8>,
    samples_before: usize,
}

/// One series of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeriesSpan {
    pub labels: std::ops::Range<usize>,
    pub samples: std::ops::Range<usize>,
    pub labels_count: u32,
    /// A name appeared twice: the sender must be told, as Prometheus does.
    pub has_repeated_name: bool,
}

#[derive(Clone, Debug)]
struct OpenLabel {
    name: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
}

impl MetricBatch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a label to the series being described.
    pub fn label(&mut self, name: &str, value: &str) {
        let begin = self.scratch.len();
        self.scratch.extend_from_slice(name.as_bytes());
        let middle = self.scratch.len();
        self.scratch.extend_from_slice(value.as_bytes());
        self.open.push(OpenLabel { name: begin..middle, value: middle..self.scratch.len() });
    }

    /// Adds a sample to the series being described; milliseconds since the epoch.
    pub fn sample(&mut self, t_ms: i64, value: f64) {
        self.times.push(t_ms);
        self.values.push(value);
    }

    /// Ends the series being described.
    pub fn end_series(&mut self) {
        let Self { labels, open, scratch, .. } = self;
        let name = |l: &OpenLabel| &scratch[l.name.clone()];
        if !open.is_sorted_by(|a, b| name(a) < name(b)) {
            open.sort_by(|a, b| name(a).cmp(name(b)));
        }
        let has_repeated_name = open.windows(2).any(|pair| name(&pair[0]) == name(&pair[1]));
        let begin = labels.len();
        let mut labels_count = 0;
        for label in open.iter().filter(|l| !l.value.is_empty()) {
            for part in [label.name.clone(), label.value.clone()] {
                varint::write(labels, part.len() as u64);
                labels.extend_from_slice(&scratch[part]);
            }
            labels_count += 1;
        }
        open.clear();
        scratch.clear();
        let span = SeriesSpan {
            labels: begin..self.labels.len(),
            samples: self.samples_before..self.times.len(),
            labels_count,
            has_repeated_name,
        };
        self.samples_before = self.times.len();
        self.series.push(span);
    }

    /// Adds what is known of a metric.
    pub fn metadata(&mut self, metadata: MetricMetadata) {
        self.metadata.push(metadata);
    }

    pub fn len_samples(&self) -> usize {
        self.times.len()
    }
    pub fn len_series(&self) -> usize {
        self.series.len()
    }
    pub fn is_empty(&self) -> bool {
        self.times.is_empty() && self.metadata.is_empty()
    }

    /// Adds a whole series.
    pub fn series(&mut self, labels: &LabelSet, samples: impl IntoIterator<Item = (i64, f64)>) {
        for (name, value) in labels.iter() {
            self.label(name, value);
        }
        for (t, v) in samples {
            self.sample(t, v);
        }
        self.end_series();
    }

    pub(super) fn labels_of(&self, span: &SeriesSpan) -> &[u8] {
        &self.labels[span.labels.clone()]
    }
}

/// The pairs of canonical labels. Stops at the first damage; what passed a checksum has none.
pub(super) fn pairs(mut canonical: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    std::iter::from_fn(move || Some((text(&mut canonical)?, text(&mut canonical)?)))
}

pub(super) fn label_set(canonical: &[u8]) -> LabelSet {
    LabelSet::from_pairs(pairs(canonical))
}

/// Whether the bytes are canonical labels: whole, UTF-8, names strictly ascending, nothing empty.
pub(super) fn is_canonical(mut canonical: &[u8]) -> bool {
    let mut before: Option<&str> = None;
    while !canonical.is_empty() {
        let (Some(name), Some(value)) = (text(&mut canonical), text(&mut canonical)) else { return false };
        if value.is_empty() || before.is_some_and(|b| b >= name) {
            return false;
        }
        before = Some(name);
    }
    true
}

fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(slice(bytes)?).ok()
}

fn slice<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint::read(bytes)?).ok()?;
    bytes.split_off(..length)
}

/// What a log record of the metrics log holds.
#[derive(Debug)]
pub(super) struct Record {
    pub tenant: TenantId,
    /// When the host took the request, milliseconds.
    pub arrival_ms: i64,
    pub batch: MetricBatch,
}

const RECORD_VERSION: u8 = 1;

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        let batch = &self.batch;
        let mut out = Vec::with_capacity(64 + batch.labels.len() + batch.series.len() * 4 + batch.times.len() * 16);
        out.push(RECORD_VERSION);
        put_text(&mut out, self.tenant.as_str());
        out.extend_from_slice(&self.arrival_ms.to_le_bytes());
        varint::write(&mut out, batch.series.len() as u64);
        for span in &batch.series {
            varint::write(&mut out, span.labels.len() as u64);
            out.extend_from_slice(batch.labels_of(span));
            varint::write(&mut out, span.samples.len() as u64);
            for t in &batch.times[span.samples.clone()] {
                out.extend_from_slice(&t.to_le_bytes());
            }
            for v in &batch.values[span.samples.clone()] {
                out.extend_from_slice(&v.to_bits().to_le_bytes());
            }
        }
        put_metadata(&mut out, &batch.metadata);
        out
    }

    /// Reads a record back. Damage is an error even though a checksum passed before: the bytes may come from a fuzzer.
    pub fn decode(mut bytes: &[u8]) -> Result<Self> {
        Self::parse(&mut bytes)
            .filter(|_| bytes.is_empty())
            .ok_or_else(|| Error::Invalid("a record of the metrics log doesn't parse; it may be of a newer version".into()))
    }

    fn parse(bytes: &mut &[u8]) -> Option<Self> {
        if *bytes.split_off_first()? != RECORD_VERSION {
            return None;
        }
        let tenant = TenantId::new(text(bytes)?).ok()?;
        let arrival_ms = i64::from_le_bytes(bytes.split_off(..8)?.try_into().ok()?);
        let mut batch = MetricBatch::new();
        for _ in 0..varint::read(bytes)? {
            let labels = slice(bytes)?;
            if !is_canonical(labels) {
                return None;
            }
            let count = usize::try_from(varint::read(bytes)?).ok()?;
            let times = bytes.split_off(..count.checked_mul(8)?)?;
            let values = bytes.split_off(..count * 8)?;
            let (begin, first) = (batch.labels.len(), batch.times.len());
            batch.labels.extend_from_slice(labels);
            let word = |w: &[u8]| u64::from_le_bytes(w.try_into().expect("chunks of eight"));
            batch.times.extend(times.chunks_exact(8).map(|w| word(w).cast_signed()));
            batch.values.extend(values.chunks_exact(8).map(|w| f64::from_bits(word(w))));
            batch.series.push(SeriesSpan {
                labels: begin..batch.labels.len(),
                samples: first..batch.times.len(),
                labels_count: 0,
                has_repeated_name: false,
            });
        }
        batch.samples_before = batch.times.len();
        batch.metadata = take_metadata(bytes)?;
        Some(Self { tenant, arrival_ms, batch })
    }
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    varint::write(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}
pub(super) fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    text(bytes)
}

const KINDS: [MetricKind; 8] = [
    MetricKind::Unknown,
    MetricKind::Counter,
    MetricKind::Gauge,
    MetricKind::Histogram,
    MetricKind::GaugeHistogram,
    MetricKind::Summary,
    MetricKind::Info,
    MetricKind::StateSet,
];

pub(super) fn put_metadata(out: &mut Vec<u8>, all: &[MetricMetadata]) {
    varint::write(out, all.len() as u64);
    for metadata in all {
        let kind = KINDS.iter().position(|k| *k == metadata.kind).expect("all kinds are listed");
        out.push(u8::try_from(kind).expect("eight kinds"));
        for part in [&metadata.name, &metadata.help, &metadata.unit] {
            put_text(out, part);
        }
    }
}

pub(super) fn take_metadata(bytes: &mut &[u8]) -> Option<Vec<MetricMetadata>> {
    let mut all = Vec::new();
    for _ in 0..varint::read(bytes)? {
        let kind = *KINDS.get(usize::from(*bytes.split_off_first()?))?;
        let (name, help, unit) = (text(bytes)?.to_owned(), text(bytes)?.to_owned(), text(bytes)?.to_owned());
        all.push(MetricMetadata { name, kind, help, unit });
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_become_canonical_whatever_their_order() {
        let mut batch = MetricBatch::new();
        for labels in [[("b", "2"), ("__name__", "up"), ("e", "")], [("e", ""), ("b", "2"), ("__name__", "up")]] {
            labels.iter().for_each(|(n, v)| batch.label(n, v));
            batch.sample(1, 2.0);
            batch.end_series();
        }
        let [first, second] = &batch.series[..] else { panic!("two series") };
        assert_eq!(batch.labels_of(first), batch.labels_of(second));
        assert!(is_canonical(batch.labels_of(first)));
        assert_eq!(label_set(batch.labels_of(first)).to_string(), r#"up{b="2"}"#);
        assert_eq!((first.samples.clone(), second.samples.clone()), (0..1, 1..2));
    }

    #[test]
    fn a_repeated_name_is_noticed() {
        let mut batch = MetricBatch::new();
        batch.label("a", "1");
        batch.label("a", "2");
        batch.end_series();
        assert!(batch.series[0].has_repeated_name);
    }

    #[test]
    fn a_record_reads_back_with_every_bit_of_every_value() {
        let mut batch = MetricBatch::new();
        let stale = f64::from_bits(model::STALE_NAN_BITS);
        batch.series(
            &LabelSet::from_pairs([("__name__", "a"), ("é", "ü")]),
            [(1, -0.0), (i64::MIN, stale), (i64::MAX, f64::INFINITY)],
        );
        batch.metadata(MetricMetadata { name: "a".into(), kind: MetricKind::Gauge, help: "h".into(), unit: "s".into() });
        let record = Record { tenant: TenantId::default_tenant(), arrival_ms: -7, batch };
        let back = Record::decode(&record.encode()).unwrap();
        assert_eq!(back.batch.labels, record.batch.labels);
        assert_eq!(back.batch.times, record.batch.times);
        let bits = |b: &MetricBatch| b.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back.batch), bits(&record.batch));
        assert_eq!((back.batch.metadata, back.arrival_ms, back.tenant), (record.batch.metadata, -7, record.tenant));
    }

    #[test]
    fn a_record_cut_anywhere_is_refused() {
        let mut batch = MetricBatch::new();
        batch.series(&LabelSet::from_pairs([("__name__", "a")]), [(1, 1.0), (2, 2.0)]);
        let bytes = Record { tenant: TenantId::default_tenant(), arrival_ms: 0, batch }.encode();
        for cut in 0..bytes.len() {
            assert!(Record::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic_the_record_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::decode(&bytes);
            let mut seeded = vec![RECORD_VERSION, 1, b'a'];
            seeded.extend_from_slice(&bytes);
            let _ = Record::decode(&seeded);
        }
    }
}
