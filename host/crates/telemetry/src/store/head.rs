//! A tenant's fresh tail in memory: batches in the order of the log, found by a scan.

use super::codec::{Malformed, Reader, put_bytes, put_i64};
use super::index::StreamTable;
use super::{Kind, Plan};
use model::{LabelSet, TenantId, Timestamp, limits};
use std::collections::VecDeque;
use std::sync::Arc;

const PAYLOAD_VERSION: u8 = 1;

/// One request's records with their streams. Immutable.
pub struct Batch<K: Kind> {
    pub arrival: Timestamp,
    pub records: Vec<K::Record>,
    pub bytes: usize,
    streams: Vec<LabelSet>,
    stream_of: Vec<u32>,
    time_min: i64,
    time_max: i64,
}

impl<K: Kind> Batch<K> {
    pub fn new(arrival: Timestamp, records: Vec<K::Record>, bytes: usize) -> Self {
        let mut table = StreamTable::new();
        let mut streams = Vec::new();
        let number = |record| {
            table.number::<K>(record, |labels| {
                streams.push(labels);
                streams.len() as u32 - 1
            })
        };
        let stream_of = records.iter().map(number).collect();
        let time_min = records.iter().map(K::time).min().unwrap_or(i64::MAX);
        let time_max = records.iter().map(K::time).max().unwrap_or(i64::MIN);
        Self { arrival, records, bytes, streams, stream_of, time_min, time_max }
    }

    pub fn overlaps(&self, start: i64, end: i64) -> bool {
        self.time_min < end && self.time_max >= start
    }

    pub fn streams(&self) -> &[LabelSet] {
        &self.streams
    }

    /// Rows that match, by the same functions that verify rows of splits.
    pub fn matching<'a>(&'a self, plan: &'a Plan<K>) -> impl Iterator<Item = (u32, &'a K::Record)> {
        let chosen: Vec<bool> = self.streams.iter().map(|labels| (plan.streams)(labels)).collect();
        self.records.iter().zip(&self.stream_of).enumerate().filter_map(move |(row, (record, stream))| {
            let time = K::time(record);
            let is_match = chosen[*stream as usize]
                && time >= plan.start
                && time < plan.end
                && plan.number.as_ref().is_none_or(|range| range.contains(&K::number(record)))
                && (plan.record)(record, &self.streams[*stream as usize]);
            is_match.then_some((row as u32, record))
        })
    }
}

/// What goes into the log for one request: version, tenant, arrival, then each record with its length.
pub struct Payload {
    out: Vec<u8>,
    record: Vec<u8>,
}

impl Payload {
    pub fn new(tenant: &TenantId, arrival: Timestamp) -> Self {
        let mut out = vec![PAYLOAD_VERSION];
        put_bytes(&mut out, tenant.as_str().as_bytes());
        put_i64(&mut out, arrival.0);
        Self { out, record: Vec::new() }
    }

    pub fn push<K: Kind>(&mut self, record: &K::Record) -> Result<(), String> {
        self.record.clear();
        K::encode(record, &mut self.record);
        let (bytes, max) = (self.record.len(), limits::RECORD_BYTES_MAX);
        if bytes > max {
            return Err(format!("it takes {bytes} bytes; at most {max} are stored"));
        }
        put_bytes(&mut self.out, &self.record);
        Ok(())
    }

    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// A payload whose head is read; the records are still bytes.
pub struct Sealed<'a> {
    pub tenant: TenantId,
    pub arrival: Timestamp,
    reader: Reader<'a>,
}

impl<'a> Sealed<'a> {
    pub fn open(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if reader.byte()? != PAYLOAD_VERSION {
            return Err(reader.fail("unknown version of the payload"));
        }
        let tenant = TenantId::new(reader.str()?).map_err(|_| reader.fail("no tenant name"))?;
        Ok(Self { tenant, arrival: Timestamp(reader.i64()?), reader })
    }

    pub fn records<K: Kind>(mut self) -> Result<Vec<K::Record>, Malformed> {
        let mut records = Vec::new();
        while !self.reader.is_done() {
            records.push(K::decode(self.reader.bytes()?)?);
        }
        Ok(records)
    }
}

/// A batch on its way: in the head's order from the moment it has a number, seen once it is durable.
struct Slot<K: Kind> {
    lsn: u64,
    batch: Arc<Batch<K>>,
    is_durable: bool,
}

/// The head. Slots are ordered by number.
pub struct Head<K: Kind> {
    slots: VecDeque<Slot<K>>,
    pub bytes: usize,
}

impl<K: Kind> Default for Head<K> {
    fn default() -> Self {
        Self { slots: VecDeque::new(), bytes: 0 }
    }
}

impl<K: Kind> Head<K> {
    pub fn push(&mut self, lsn: u64, batch: Arc<Batch<K>>, is_durable: bool) {
        debug_assert!(self.slots.back().is_none_or(|s| s.lsn < lsn));
        self.bytes += batch.bytes;
        self.slots.push_back(Slot { lsn, batch, is_durable });
    }

    /// The log's word on a batch: durable, or never written.
    pub fn settle(&mut self, lsn: u64, is_durable: bool) {
        let Ok(i) = self.slots.binary_search_by_key(&lsn, |s| s.lsn) else { return };
        if is_durable {
            self.slots[i].is_durable = true;
        } else {
            let slot = self.slots.remove(i).expect("found just above");
            self.bytes -= slot.batch.bytes;
        }
    }

    pub fn durable(&self) -> impl Iterator<Item = &Arc<Batch<K>>> {
        self.slots.iter().filter(|s| s.is_durable).map(|s| &s.batch)
    }

    /// The batches that may move into a split: all from the front up to the first that isn't settled.
    pub fn settled_front(&self) -> (Vec<Arc<Batch<K>>>, u64) {
        let front = self.slots.iter().take_while(|s| s.is_durable);
        front.fold((Vec::new(), 0), |(mut batches, _), slot| {
            batches.push(slot.batch.clone());
            (batches, slot.lsn)
        })
    }

    pub fn remove_through(&mut self, lsn: u64) {
        while self.slots.front().is_some_and(|s| s.lsn <= lsn) {
            let slot = self.slots.pop_front().expect("front exists");
            self.bytes -= slot.batch.bytes;
        }
    }

    pub fn oldest_lsn(&self) -> Option<u64> {
        self.slots.front().map(|s| s.lsn)
    }
    pub fn oldest_arrival(&self) -> Option<Timestamp> {
        self.slots.front().map(|s| s.batch.arrival)
    }
}
