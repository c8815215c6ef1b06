//! What a span is to the store. Its stream is service, name, kind and status, so that the listings
//! of services and operations come from the splits' footers.

use crate::logs::{admit_attributes, admit_id, admit_time, attribute_terms, truncate};
use crate::store::codec::{Malformed, Reader, put_attributes, put_bytes, put_i64, put_u64};
use crate::store::{Kind, decode_record};
use model::{LabelSet, Span, SpanEvent, SpanKind, SpanLink, SpanStatus, Timestamp, limits};
use std::borrow::Cow;

/// Events or links of one span.
const PARTS_MAX: usize = 1_024;

#[derive(Debug)]
pub enum SpanKindOf {}

const KINDS: [(SpanKind, &str); 6] = [
    (SpanKind::Unspecified, "unspecified"),
    (SpanKind::Internal, "internal"),
    (SpanKind::Server, "server"),
    (SpanKind::Client, "client"),
    (SpanKind::Producer, "producer"),
    (SpanKind::Consumer, "consumer"),
];
const STATUSES: [(SpanStatus, &str); 3] = [(SpanStatus::Unset, "unset"), (SpanStatus::Ok, "ok"), (SpanStatus::Error, "error")];

pub fn kind_text(kind: SpanKind) -> &'static str {
    KINDS[place(&KINDS, kind)].1
}
pub fn status_text(status: SpanStatus) -> &'static str {
    STATUSES[place(&STATUSES, status)].1
}

/// The number on disk of a kind or status: its place in the list above, which only grows at its end.
fn place<T: PartialEq>(list: &[(T, &str)], value: T) -> usize {
    list.iter().position(|(v, _)| *v == value).expect("every variant is listed")
}

fn pick<T: Copy>(r: &mut Reader<'_>, list: &[(T, &str)]) -> Result<T, Malformed> {
    let i = usize::from(r.byte()?);
    list.get(i).map(|(v, _)| *v).ok_or(r.fail("unknown kind or status"))
}

impl Kind for SpanKindOf {
    type Record = Span;
    const NAME: &'static str = "traces";

    fn admit(span: &mut Span, arrival: Timestamp) -> Result<(), String> {
        admit_id(&mut span.trace_id, 16, "trace id")?;
        admit_id(&mut span.span_id, 8, "span id")?;
        admit_id(&mut span.parent_span_id, 8, "parent span id")?;
        if span.trace_id.is_empty() || span.span_id.is_empty() {
            return Err("it has no trace id or no span id".into());
        }
        admit_time(span.start, arrival)?;
        if span.end < span.start {
            return Err("it ends before it starts".into());
        }
        if span.events.len() > PARTS_MAX || span.links.len() > PARTS_MAX {
            let (events, links) = (span.events.len(), span.links.len());
            return Err(format!("{events} events and {links} links; at most {PARTS_MAX} of each are taken"));
        }
        admit_attributes(&[("resource", &span.resource), ("span", &span.attributes)])?;
        for event in &span.events {
            admit_attributes(&[("event", &event.attributes)])?;
        }
        for link in &mut span.links {
            admit_id(&mut link.trace_id, 16, "a link's trace id")?;
            admit_id(&mut link.span_id, 8, "a link's span id")?;
            admit_attributes(&[("link", &link.attributes)])?;
        }
        for text in [&mut span.name, &mut span.scope, &mut span.status_message, &mut span.trace_state] {
            truncate(text, limits::LABEL_VALUE_BYTES_MAX);
        }
        Ok(())
    }

    fn describe(span: &Span) -> String {
        let short = |text: &str| text.chars().take(60).collect::<String>();
        format!("{}: {:?}", short(span.service()), short(&span.name))
    }

    fn time(span: &Span) -> i64 {
        span.start.0
    }
    fn number(span: &Span) -> u64 {
        u64::try_from(span.end.0.saturating_sub(span.start.0)).unwrap_or(0)
    }

    fn encode(s: &Span, out: &mut Vec<u8>) {
        put_i64(out, s.start.0);
        put_i64(out, s.end.0.wrapping_sub(s.start.0));
        out.push(place(&KINDS, s.kind) as u8);
        out.push(place(&STATUSES, s.status) as u8);
        for bytes in [&s.trace_id, &s.span_id, &s.parent_span_id] {
            put_bytes(out, bytes);
        }
        for text in [&s.trace_state, &s.name, &s.status_message, &s.scope] {
            put_bytes(out, text.as_bytes());
        }
        put_attributes(out, &s.resource);
        put_attributes(out, &s.attributes);
        put_u64(out, s.events.len() as u64);
        for event in &s.events {
            put_i64(out, event.time.0.wrapping_sub(s.start.0));
            put_bytes(out, event.name.as_bytes());
            put_attributes(out, &event.attributes);
        }
        put_u64(out, s.links.len() as u64);
        for link in &s.links {
            put_bytes(out, &link.trace_id);
            put_bytes(out, &link.span_id);
            put_attributes(out, &link.attributes);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Span, Malformed> {
        decode_record(bytes, |r| {
            let start = r.i64()?;
            let after = |r: &mut Reader<'_>| Ok(Timestamp(r.i64()?.wrapping_add(start)));
            let mut span = Span {
                start: Timestamp(start),
                end: after(r)?,
                kind: pick(r, &KINDS)?,
                status: pick(r, &STATUSES)?,
                trace_id: r.bytes()?.to_vec(),
                span_id: r.bytes()?.to_vec(),
                parent_span_id: r.bytes()?.to_vec(),
                trace_state: r.string()?,
                name: r.string()?,
                status_message: r.string()?,
                scope: r.string()?,
                resource: r.attributes()?,
                attributes: r.attributes()?,
                ..Span::default()
            };
            for _ in 0..r.count()? {
                span.events.push(SpanEvent { time: after(r)?, name: r.string()?, attributes: r.attributes()? });
            }
            for _ in 0..r.count()? {
                let (trace_id, span_id) = (r.bytes()?.to_vec(), r.bytes()?.to_vec());
                span.links.push(SpanLink { trace_id, span_id, attributes: r.attributes()? });
            }
            Ok(span)
        })
    }

    fn stream_key(span: &Span, out: &mut Vec<u8>) {
        put_bytes(out, span.service().as_bytes());
        put_bytes(out, span.name.as_bytes());
        out.push(place(&KINDS, span.kind) as u8);
        out.push(place(&STATUSES, span.status) as u8);
    }

    fn stream(span: &Span) -> LabelSet {
        LabelSet::from_pairs([
            ("service", span.service()),
            ("name", &span.name),
            ("kind", kind_text(span.kind)),
            ("status", status_text(span.status)),
        ])
    }

    fn ids(span: &Span) -> [&[u8]; 2] {
        [&span.trace_id, &span.span_id]
    }
    fn text(span: &Span) -> Cow<'_, str> {
        Cow::Borrowed(&span.name)
    }
    fn terms(span: &Span, emit: &mut dyn FnMut(&str, &str)) {
        attribute_terms(&span.attributes, emit);
        attribute_terms(&span.resource, emit);
    }
}
