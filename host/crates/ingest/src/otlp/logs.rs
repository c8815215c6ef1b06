//! Log records.

use super::convert;
use crate::{Report, json_lines};
use model::{AttributeValue, Attributes, LogRecord, Timestamp};
use opentelemetry_proto::tonic::{collector::logs::v1::ExportLogsServiceRequest, logs::v1::LogRecord as Wire};

/// The request's records in the model's shape; those that can't be kept are in the report.
pub fn decode(request: ExportLogsServiceRequest, now: Timestamp) -> (Vec<LogRecord>, Report) {
    let mut records = Vec::new();
    let mut report = Report::default();
    for (r, resource_logs) in request.resource_logs.into_iter().enumerate() {
        let count: usize = resource_logs.scope_logs.iter().map(|s| s.log_records.len()).sum();
        let resource = match convert::resource(resource_logs.resource) {
            Ok(resource) => resource,
            Err(reason) => {
                report.refuse_many(count as u64, format!("resourceLogs[{r}]"), reason);
                continue;
            }
        };
        for (s, scope_logs) in resource_logs.scope_logs.into_iter().enumerate() {
            let scope = convert::scope(scope_logs.scope);
            for (i, wire) in scope_logs.log_records.into_iter().enumerate() {
                match record(wire, &resource, &scope, now) {
                    Ok(record) => records.push(record),
                    Err(reason) => report.refuse(format!("resourceLogs[{r}].scopeLogs[{s}].logRecords[{i}]"), reason),
                }
            }
        }
    }
    (records, report)
}

fn record(wire: Wire, resource: &Attributes, scope: &str, now: Timestamp) -> Result<LogRecord, String> {
    let observed = if wire.observed_time_unix_nano == 0 { now } else { convert::time(wire.observed_time_unix_nano) };
    let mut attributes = convert::attributes(wire.attributes);
    if !wire.event_name.is_empty() {
        attributes.insert("event.name".into(), AttributeValue::String(wire.event_name));
    }
    convert::check_count(attributes.len(), "it")?;
    let severity_number = u8::try_from(wire.severity_number).ok().filter(|n| *n <= 24);
    let mut record = LogRecord {
        time: if wire.time_unix_nano == 0 { observed } else { convert::time(wire.time_unix_nano) },
        observed,
        severity_number: severity_number.ok_or_else(|| format!("its severity number {} is not 0 to 24", wire.severity_number))?,
        severity_text: wire.severity_text,
        body: wire.body.and_then(convert::value).map(|body| body.to_text()).unwrap_or_default(),
        resource: resource.clone(),
        scope: scope.to_owned(),
        attributes,
        trace_id: convert::id(wire.trace_id, 16, "trace id")?,
        span_id: convert::id(wire.span_id, 8, "span id")?,
    };
    json_lines::check_time(record.time, now)?;
    json_lines::cut_body(&mut record);
    Ok(record)
}
