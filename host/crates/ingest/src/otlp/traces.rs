//! Spans.

use super::convert;
use crate::Report;
use model::{Attributes, Span, SpanEvent, SpanKind, SpanLink, SpanStatus, Timestamp};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span as Wire};

/// The request's spans in the model's shape; those that can't be kept are in the report.
pub fn decode(request: ExportTraceServiceRequest, now: Timestamp) -> (Vec<Span>, Report) {
    let mut spans = Vec::new();
    let mut report = Report::default();
    for (r, resource_spans) in request.resource_spans.into_iter().enumerate() {
        let count: usize = resource_spans.scope_spans.iter().map(|s| s.spans.len()).sum();
        let resource = match convert::resource(resource_spans.resource) {
            Ok(resource) => resource,
            Err(reason) => {
                report.refuse_many(count as u64, format!("resourceSpans[{r}]"), reason);
                continue;
            }
        };
        for (s, scope_spans) in resource_spans.scope_spans.into_iter().enumerate() {
            let scope = convert::scope(scope_spans.scope);
            for (i, wire) in scope_spans.spans.into_iter().enumerate() {
                match span(wire, &resource, &scope, now) {
                    Ok(span) => spans.push(span),
                    Err(reason) => report.refuse(format!("resourceSpans[{r}].scopeSpans[{s}].spans[{i}]"), reason),
                }
            }
        }
    }
    (spans, report)
}

fn span(wire: Wire, resource: &Attributes, scope: &str, now: Timestamp) -> Result<Span, String> {
    let status = wire.status.unwrap_or_default();
    let span = Span {
        trace_id: convert::id(wire.trace_id, 16, "trace id")?,
        span_id: convert::id(wire.span_id, 8, "span id")?,
        parent_span_id: convert::id(wire.parent_span_id, 8, "parent span id")?,
        trace_state: wire.trace_state,
        name: wire.name,
        kind: match wire.kind {
            1 => SpanKind::Internal,
            2 => SpanKind::Server,
            3 => SpanKind::Client,
            4 => SpanKind::Producer,
            5 => SpanKind::Consumer,
            _ => SpanKind::Unspecified,
        },
        start: convert::time(wire.start_time_unix_nano),
        end: convert::time(wire.end_time_unix_nano),
        status: match status.code {
            1 => SpanStatus::Ok,
            2 => SpanStatus::Error,
            _ => SpanStatus::Unset,
        },
        status_message: status.message,
        resource: resource.clone(),
        scope: scope.to_owned(),
        attributes: convert::attributes(wire.attributes),
        events: wire
            .events
            .into_iter()
            .map(|e| SpanEvent {
                time: convert::time(e.time_unix_nano),
                name: e.name,
                attributes: convert::attributes(e.attributes),
            })
            .collect(),
        links: wire
            .links
            .into_iter()
            .map(|l| SpanLink { trace_id: l.trace_id, span_id: l.span_id, attributes: convert::attributes(l.attributes) })
            .collect(),
    };
    if span.trace_id.is_empty() || span.span_id.is_empty() {
        return Err("its trace id or span id is missing or all zeros".into());
    }
    convert::check_count(span.attributes.len(), "it")?;
    convert::check_count(span.events.len(), "its list of events, counted as attributes,")?;
    convert::check_count(span.links.len(), "its list of links, counted as attributes,")?;
    if span.start.nanos() == 0 {
        return Err("its start time is missing".into());
    }
    crate::json_lines::check_time(span.start, now)?;
    Ok(span)
}
