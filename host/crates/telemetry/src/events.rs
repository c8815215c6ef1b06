//! Events: an archive of the event bus for search, by type, source and subject.

use crate::lock::FolderLock;
use crate::logs::{admit_time, truncate};
use crate::store::codec::{Malformed, put_bytes, put_i64};
use crate::store::{Clause, Kind, Plan, SignalConfig, SignalStats, Store, StreamMatch, decode_record};
use crate::{Appended, Corruption, Result, blocking};
use cap_std::fs::Dir;
use model::{Clock, Event, LabelSet, TenantId, Timestamp, limits};
use std::borrow::Cow;
use std::sync::Arc;

/// Which events; all parts must hold. Events are placed by when the host took them in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// The CloudEvent's `type`; with `*` at its end, all types that begin so.
    pub kind: Option<String>,
    /// The same.
    pub source: Option<String>,
    /// The same.
    pub subject: Option<String>,
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
    /// 0 takes the most, `limits::PAGE_ROWS_MAX`.
    pub limit: usize,
}

/// The events' store. Clones share it.
#[derive(Clone, Debug)]
pub struct Events(Store<EventKind>);

impl Events {
    /// Opens the folder and replays the log. Must run inside a tokio runtime.
    pub async fn open(dir: Dir, config: SignalConfig, clock: Arc<dyn Clock>, lock: Option<Arc<FolderLock>>) -> Result<Self> {
        blocking(move || Store::open(dir, config, clock, lock)).await.map(Self)
    }

    /// Returns once the events are synced and searchable. An unset `received` becomes now. The same
    /// event twice is stored twice: whoever copies from the bus keeps a cursor.
    pub async fn append(&self, tenant: &TenantId, events: Vec<Event>) -> Result<Appended> {
        self.0.append(tenant, events).await
    }

    /// Newest first.
    pub async fn search(&self, tenant: &TenantId, query: &EventQuery) -> Result<Vec<Event>> {
        Ok(self.0.search(tenant, query.plan()).await?.records)
    }

    pub async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }

    pub async fn maintain(&self) -> Result<()> {
        self.0.maintain().await
    }

    pub async fn verify(&self) -> Result<Vec<Corruption>> {
        self.0.verify().await
    }

    /// Fails once the log has stopped for good.
    pub fn check_alive(&self) -> Result<()> {
        self.0.check_alive()
    }

    pub fn stats(&self) -> SignalStats {
        self.0.stats()
    }

    pub async fn close(&self) {
        self.0.close().await;
    }
}

impl EventQuery {
    fn plan(&self) -> Plan<EventKind> {
        let (kind, source, subject) = (self.kind.clone(), self.source.clone(), self.subject.clone());
        let streams: StreamMatch = Arc::new(move |labels: &LabelSet| {
            holds(kind.as_deref(), labels.get("type")) && holds(source.as_deref(), labels.get("source"))
        });
        let mut clauses = Vec::new();
        if self.kind.is_some() || self.source.is_some() {
            clauses.push(Clause::Streams(streams.clone()));
        }
        // `*` alone also takes events without a subject, which the index doesn't list.
        if let Some(wanted) = subject.clone().filter(|wanted| !holds(Some(wanted), None)) {
            clauses.push(Clause::TermWhere { name: "subject".into(), matches: Arc::new(move |v| holds(Some(&wanted), Some(v))) });
        }
        Plan {
            start: self.start.0,
            end: self.end.0,
            limit: if self.limit == 0 { limits::PAGE_ROWS_MAX } else { self.limit.min(limits::PAGE_ROWS_MAX) },
            is_backward: true,
            number: None,
            streams,
            is_exact: subject.is_none(),
            record: Box::new(move |event: &Event, _: &LabelSet| holds(subject.as_deref(), event.subject.as_deref())),
            clauses,
        }
    }
}

fn holds(wanted: Option<&str>, value: Option<&str>) -> bool {
    let Some(wanted) = wanted else { return true };
    let value = value.unwrap_or("");
    wanted.strip_suffix('*').map_or(value == wanted, |prefix| value.starts_with(prefix))
}

#[derive(Debug)]
pub enum EventKind {}

impl Kind for EventKind {
    type Record = Event;
    const NAME: &'static str = "events";

    fn admit(event: &mut Event, arrival: Timestamp) -> Result<(), String> {
        if event.received.0 <= 0 {
            event.received = arrival;
        }
        admit_time(event.received, arrival)?;
        if event.id.is_empty() || event.source.is_empty() || event.kind.is_empty() {
            return Err("a CloudEvent needs id, source and type".into());
        }
        for text in [&mut event.kind, &mut event.source] {
            truncate(text, limits::LABEL_VALUE_BYTES_MAX);
        }
        // An extension named like a standard attribute, or data nested beyond what the reader takes,
        // would be stored and never be read again.
        let mut bytes = Vec::new();
        Self::encode(event, &mut bytes);
        Self::decode(&bytes)
            .map(drop)
            .map_err(|_| "it can't be read back: an extension repeats an attribute, or data nest too deep".into())
    }

    fn describe(event: &Event) -> String {
        event.id.chars().take(60).collect()
    }

    fn time(event: &Event) -> i64 {
        event.received.0
    }
    fn number(_: &Event) -> u64 {
        0
    }

    fn encode(event: &Event, out: &mut Vec<u8>) {
        put_i64(out, event.received.0);
        let json = serde_json::to_vec(event).expect("an event has string keys only");
        put_bytes(out, &json);
    }

    fn decode(bytes: &[u8]) -> Result<Event, Malformed> {
        decode_record(bytes, |r| {
            let received = Timestamp(r.i64()?);
            let event: Event = serde_json::from_slice(r.bytes()?).map_err(|_| r.fail("no CloudEvent"))?;
            Ok(Event { received, ..event })
        })
    }

    fn stream_key(event: &Event, out: &mut Vec<u8>) {
        put_bytes(out, event.kind.as_bytes());
        put_bytes(out, event.source.as_bytes());
    }

    fn stream(event: &Event) -> LabelSet {
        LabelSet::from_pairs([("type", &*event.kind), ("source", &*event.source)])
    }

    fn ids(_: &Event) -> [&[u8]; 2] {
        [&[], &[]]
    }
    fn text(event: &Event) -> Cow<'_, str> {
        Cow::Borrowed(event.data.as_str().unwrap_or(""))
    }
    fn terms(event: &Event, emit: &mut dyn FnMut(&str, &str)) {
        emit("id", &event.id);
        if let Some(subject) = &event.subject {
            emit("subject", subject);
        }
    }
}

#[cfg(test)]
mod tests;
