//! Telemetry as it crosses to a plugin: in columns, because a record a row would cost over a microsecond each.

use crate::{Result, host};

/// One metric series; `times` in nanoseconds since the epoch, ascending, as long as `values`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    pub labels: Vec<(String, String)>,
    pub times: Vec<u64>,
    pub values: Vec<f64>,
}

impl Series {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Strings packed end to end: value `i` is `bytes[ends[i-1]..ends[i]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextColumn {
    pub bytes: Vec<u8>,
    pub ends: Vec<u32>,
}

impl TextColumn {
    pub fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(u32::try_from(self.bytes.len()).expect("a batch is far below 4 GiB"));
    }

    /// The value at `row`, or nothing when the row is absent, its bounds are wrong or it isn't UTF-8.
    pub fn get(&self, row: usize) -> Option<&str> {
        let end = *self.ends.get(row)? as usize;
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        std::str::from_utf8(self.bytes.get(start..end)?).ok()
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl<S: AsRef<str>> FromIterator<S> for TextColumn {
    fn from_iter<I: IntoIterator<Item = S>>(texts: I) -> Self {
        let mut column = Self::default();
        texts.into_iter().for_each(|text| column.push(text.as_ref()));
        column
    }
}

/// Log records; every column has one value a record. `fields` holds the attributes that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogBatch {
    pub times: Vec<u64>,
    pub severities: Vec<u8>,
    pub bodies: TextColumn,
    pub fields: Vec<(String, TextColumn)>,
}

impl LogBatch {
    pub fn len(&self) -> usize {
        self.times.len()
    }
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The value of an attribute at `row`; an absent one is empty.
    pub fn field(&self, name: &str, row: usize) -> &str {
        self.fields.iter().find(|(n, _)| n == name).and_then(|(_, column)| column.get(row)).unwrap_or("")
    }
}

/// Spans; trace ids are 16 bytes a span, span and parent ids 8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanBatch {
    pub starts: Vec<u64>,
    pub durations_ns: Vec<u64>,
    pub trace_ids: Vec<u8>,
    pub span_ids: Vec<u8>,
    pub parent_ids: Vec<u8>,
    pub names: TextColumn,
    pub services: TextColumn,
    pub kinds: Vec<u8>,
    pub statuses: Vec<u8>,
    pub fields: Vec<(String, TextColumn)>,
}

/// What a stream detector sees at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Batch {
    Metrics(Vec<Series>),
    Logs(LogBatch),
    Spans(SpanBatch),
}

/// Nanoseconds since the epoch, both ends included; `step_ms` 0 asks for one instant at `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    pub start: u64,
    pub end: u64,
    pub step_ms: u64,
}

/// Evaluates PromQL over the tenant's metrics.
pub fn query_metrics(promql: &str, range: TimeRange) -> Result<Vec<Series>> {
    host::query_metrics(promql, range)
}

/// The newest `limit` records that a log selector finds, with the attributes named in `fields`.
pub fn query_logs(query: &str, range: TimeRange, fields: &[&str], limit: u32) -> Result<LogBatch> {
    host::query_logs(query, range, fields, limit)
}
