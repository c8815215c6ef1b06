//! The record store under logs, traces and events: a write-ahead log, a head in memory per tenant
//! that is searchable at once, and immutable splits on disk. One tenant has one folder, so no
//! search can meet another tenant's rows, and deleting a tenant is deleting a folder.

mod block;
mod bloom;
mod bundle;
pub mod codec;
mod head;
mod index;
mod manifest;
mod search;
mod split;
mod tenant;
pub mod text;

pub use index::TERM_VALUE_BYTES_MAX;
pub use tenant::{SignalStats, Store, TailBatch};

use crate::wal::DiskFault;
use codec::{Malformed, Reader};
use model::{LabelSet, Timestamp};
use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// How one signal's store behaves; the defaults fit a laptop and a small server.
#[derive(Clone, Debug)]
pub struct SignalConfig {
    /// A tenant's head becomes a split when it holds this many bytes…
    pub split_bytes: usize,
    /// … or when its oldest record has waited this long.
    pub split_age_ms: i64,
    /// A tenant's head may grow to this while the disk is slow; beyond it appends are refused as busy.
    pub head_bytes_max: usize,
    /// The same for all tenants together.
    pub heads_bytes_max: usize,
    /// Records are removed this long after they arrived.
    pub retention_ms: i64,
    /// How long the log is kept for readers that follow it by cursor…
    pub log_keep_ms: i64,
    /// … unless it grows beyond this.
    pub log_keep_bytes: u64,
    /// How often heads are looked at. `None` leaves it to calls of `maintain`, for tests.
    pub tick_ms: Option<u64>,
    /// Splits whose files stay open for searches; two files each, and a process has 1,024 by default.
    pub open_splits_max: usize,
    /// Makes the log's disk fail, for tests.
    pub fault: Option<Arc<DiskFault>>,
}

impl Default for SignalConfig {
    fn default() -> Self {
        Self {
            split_bytes: 8 << 20,
            split_age_ms: 60_000,
            head_bytes_max: 64 << 20,
            heads_bytes_max: 256 << 20,
            retention_ms: 30 * 24 * 3_600_000,
            log_keep_ms: 10 * 60_000,
            log_keep_bytes: 128 << 20,
            tick_ms: Some(1_000),
            open_splits_max: 64,
            fault: None,
        }
    }
}

/// What a signal's records are to the store. Implemented by logs, spans and events.
pub trait Kind: Send + Sync + 'static {
    type Record: Clone + std::fmt::Debug + Send + Sync + 'static;
    /// The folder's name, and the log's in messages.
    const NAME: &'static str;

    /// Mends what can be mended and refuses the rest with a reason.
    fn admit(record: &mut Self::Record, arrival: Timestamp) -> Result<(), String>;
    /// What a refusal calls the record.
    fn describe(record: &Self::Record) -> String;
    /// Nanoseconds; the order of rows.
    fn time(record: &Self::Record) -> i64;
    /// A number for ranges and histograms: severity of logs, duration of spans.
    fn number(record: &Self::Record) -> u64;
    fn encode(record: &Self::Record, out: &mut Vec<u8>);
    fn decode(bytes: &[u8]) -> Result<Self::Record, Malformed>;
    /// Bytes that are equal exactly for records of one stream; cheaper than the labels.
    fn stream_key(record: &Self::Record, out: &mut Vec<u8>);
    fn stream(record: &Self::Record) -> LabelSet;
    /// Trace id and span id, or empty.
    fn ids(record: &Self::Record) -> [&[u8]; 2];
    /// What words are searched in.
    fn text(record: &Self::Record) -> Cow<'_, str>;
    /// Names and values of the fields.
    fn terms(record: &Self::Record, emit: &mut dyn FnMut(&str, &str));
}

pub type StreamMatch = Arc<dyn Fn(&LabelSet) -> bool + Send + Sync>;
pub type ValueMatch = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What the index can be asked. Each clause may leave too much, never too little.
pub enum Clause {
    Streams(StreamMatch),
    Trace(Vec<u8>),
    Span(Vec<u8>),
    Term {
        name: String,
        value: String,
    },
    TermWhere {
        name: String,
        matches: ValueMatch,
    },
    Word(String),
    Phrase(Vec<String>),
    Fragment(text::Fragment),
    Any(Vec<Clause>),
    /// Of exact clauses only: what leaves too much would, negated, leave too little.
    Not(Box<Clause>),
}

type RecordMatch<R> = Box<dyn Fn(&R, &LabelSet) -> bool + Send + Sync>;

/// A compiled query: the truth as functions, and what the index can do towards it.
pub struct Plan<K: Kind> {
    pub start: i64,
    /// Exclusive.
    pub end: i64,
    pub limit: usize,
    pub is_backward: bool,
    pub number: Option<RangeInclusive<u64>>,
    pub streams: StreamMatch,
    /// All that time, number and stream don't say.
    pub record: RecordMatch<K::Record>,
    pub clauses: Vec<Clause>,
    /// The clauses and the number say all: rows they leave need no look at the record.
    pub is_exact: bool,
}

/// A name as a label: what isn't a letter, digit or `_` becomes `_`, and a leading digit gets one before it.
pub fn label_name(name: &str) -> Cow<'_, str> {
    let is_label = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let leads_with_digit = name.as_bytes().first().is_some_and(u8::is_ascii_digit);
    if !leads_with_digit && name.bytes().all(is_label) {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len() + 1);
    if leads_with_digit {
        out.push('_');
    }
    out.extend(name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }));
    Cow::Owned(out)
}

/// Reads all of `bytes` as one record.
pub fn decode_record<T>(bytes: &[u8], read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>) -> Result<T, Malformed> {
    let mut reader = Reader::new(bytes);
    let value = read(&mut reader)?;
    reader.done()?;
    Ok(value)
}
