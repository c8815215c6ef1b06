//! `orchestrix query`

use super::Context;
use crate::{
    cli::{QueryCommand, Range},
    client::{Failure, Result, segment},
};
use serde_json::{Value, json};

/// How far back a range reaches that has no begin.
const BACK_MS: i64 = 3_600_000;

pub async fn run(context: &Context, command: &QueryCommand, now: model::Timestamp) -> Result<()> {
    match command {
        QueryCommand::Metrics { query, range, step } => {
            let answer = if range.start.is_some() || step.is_some() {
                let mut parameters = bounds(range, now)?;
                parameters.push(("query", query.clone()));
                parameters.push(("step", step.clone().unwrap_or_else(|| "60s".into())));
                context.client.get_with("/api/v1/query_range", &parameters).await?
            } else {
                let mut parameters = vec![("query", query.clone())];
                if let Some(end) = &range.end {
                    parameters.push(("time", time("end", end, now)?));
                }
                context.client.get_with("/api/v1/query", &parameters).await?
            };
            if context.format == crate::output::Format::Table {
                context.print(&rows(&answer), &["series", "time", "value"]);
            } else {
                context.print(&answer["data"], &[]);
            }
            Ok(())
        }
        QueryCommand::Logs { query, range, limit } => {
            let mut parameters = bounds(range, now)?;
            parameters.push(("query", query.clone()));
            parameters.push(("limit", limit.to_string()));
            let answer = context.client.get_with("/api/v1/logs", &parameters).await?;
            context.print(&answer, &["time", "severity", "service", "body"]);
            Ok(())
        }
        QueryCommand::Traces { id: Some(id), .. } => {
            let answer = context.client.get(&format!("/api/v1/traces/{}", segment(id))).await?;
            context.print(&answer, &["start", "durationMs", "service", "name", "status"]);
            Ok(())
        }
        QueryCommand::Traces { service, name, range, limit, .. } => {
            let mut parameters = bounds(range, now)?;
            parameters.extend(service.iter().map(|s| ("service", s.clone())));
            parameters.extend(name.iter().map(|n| ("name", n.clone())));
            parameters.push(("limit", limit.to_string()));
            let answer = context.client.get_with("/api/v1/traces", &parameters).await?;
            context.print(&answer, &["start", "durationMs", "service", "name", "status", "traceId"]);
            Ok(())
        }
    }
}

fn bounds(range: &Range, now: model::Timestamp) -> Result<Vec<(&'static str, String)>> {
    let start = match &range.start {
        Some(text) => time("start", text, now)?,
        None => api::rfc3339(now.plus_millis(-BACK_MS)),
    };
    let end = match &range.end {
        Some(text) => time("end", text, now)?,
        None => api::rfc3339(now),
    };
    Ok(vec![("start", start), ("end", end)])
}

/// `-1h` is back from now; all else as the API reads it.
fn time(name: &str, text: &str, now: model::Timestamp) -> Result<String> {
    let refused = |p: api::error::Problem| Failure::Refused(p.detail);
    let at = match text.strip_prefix('-') {
        Some(back) => now.plus_millis(-api::parse_duration_ms(name, back).map_err(refused)?),
        None => api::parse_time(name, text).map_err(refused)?,
    };
    Ok(api::rfc3339(at))
}

/// Prometheus' answer as rows of a table.
fn rows(answer: &Value) -> Value {
    let result = &answer["data"]["result"];
    if answer["data"]["resultType"] == "scalar" {
        return json!([{ "series": "", "time": result[0], "value": result[1] }]);
    }
    let mut rows = Vec::new();
    for series in result.as_array().into_iter().flatten() {
        let labels: model::LabelSet = serde_json::from_value(series["metric"].clone()).unwrap_or_default();
        let points = series["values"].as_array().cloned().unwrap_or_else(|| vec![series["value"].clone()]);
        rows.extend(points.into_iter().map(|p| json!({ "series": labels.to_string(), "time": p[0], "value": p[1] })));
    }
    Value::Array(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_be_counted_back_from_now() {
        let now = model::Timestamp::from_secs(1_764_000_000);
        assert_eq!(time("start", "-1h", now).unwrap(), "2025-11-24T15:00:00Z");
        assert_eq!(time("start", "2025-01-01T00:00:00Z", now).unwrap(), "2025-01-01T00:00:00Z");
        assert!(time("start", "yesterday", now).is_err());
    }

    #[test]
    fn series_become_rows() {
        let answer = json!({ "data": { "resultType": "vector", "result": [{ "metric": { "__name__": "up", "job": "a" }, "value": [1, "0"] }] } });
        assert_eq!(rows(&answer), json!([{ "series": "up{job=\"a\"}", "time": 1, "value": "0" }]));
    }
}
