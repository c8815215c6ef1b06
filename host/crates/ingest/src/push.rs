//! Text exposition pushed: `POST /api/v1/import/prometheus`, and the Pushgateway's paths for short jobs.

use crate::{
    Refusal, Report, State,
    auth::sender,
    body::{self, Packing},
    exposition::{self, Format, Line},
    series,
    state::Counted,
};
use axum::{
    Router,
    extract::{Path, RawQuery},
    response::Response,
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderMap;
use model::{MetricMetadata, limits::SAMPLES_PER_REQUEST_MAX};
use telemetry::MetricBatch;

pub(crate) fn routes() -> Router<State> {
    Router::new()
        .route("/api/v1/import/prometheus", post(import))
        .route("/metrics/job/{*rest}", post(gateway).put(gateway))
        .route("/metrics/job@base64/{*rest}", post(gateway_base64).put(gateway_base64))
}

/// What a pushed text holds. Labels of `grouping` replace the sample's own, as the Pushgateway does it.
pub fn decode(text: &[u8], format: Format, now_ms: i64, grouping: &[(String, String)]) -> Result<(MetricBatch, Report), Refusal> {
    let text =
        std::str::from_utf8(text).map_err(|e| Refusal::malformed(format!("the text is no UTF-8 at byte {}", e.valid_up_to())))?;
    let mut batch = MetricBatch::new();
    let mut report = Report::default();
    let mut metadata: Vec<MetricMetadata> = Vec::new();
    let mut samples = 0;
    let mut take = |line: Result<Line<'_>, exposition::LineError>| match line {
        Err(error) => report.refuse(format!("line {}", error.line), error.reason),
        Ok(Line::Type { name, kind }) => described(&mut metadata, &name).kind = kind,
        Ok(Line::Help { name, help }) => described(&mut metadata, &name).help = help,
        Ok(Line::Unit { name, unit }) => described(&mut metadata, &name).unit = unit.into(),
        Ok(Line::Sample(sample)) => {
            samples += 1;
            if samples > SAMPLES_PER_REQUEST_MAX {
                return;
            }
            let mut labels: Vec<(&str, &str)> = Vec::with_capacity(sample.labels.len() + grouping.len() + 1);
            labels.push(("__name__", &sample.name));
            labels.extend(
                sample
                    .labels
                    .iter()
                    .map(|(n, v)| (n.as_ref(), v.as_ref()))
                    .filter(|(n, _)| !grouping.iter().any(|(g, _)| g == n)),
            );
            labels.extend(grouping.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            match series::check(&mut labels) {
                Err(reason) => report.refuse(format!("line {}, {}", sample.line, series::show(&labels)), reason),
                Ok(()) => {
                    labels.iter().for_each(|(n, v)| batch.label(n, v));
                    batch.sample(sample.timestamp_ms.unwrap_or(now_ms), sample.value);
                    batch.end_series();
                }
            }
        }
    };
    exposition::parse(text, format, &mut take).map_err(|e| Refusal::malformed(format!("nothing was stored: {e}")))?;
    if samples > SAMPLES_PER_REQUEST_MAX {
        return Err(Refusal::too_large(format!("the text holds over {SAMPLES_PER_REQUEST_MAX} samples; send it in parts")));
    }
    metadata.into_iter().for_each(|m| batch.metadata(m));
    Ok((batch, report))
}

fn described<'m>(all: &'m mut Vec<MetricMetadata>, name: &str) -> &'m mut MetricMetadata {
    // Lines about one metric stand together: only the last needs a look.
    if all.last().is_none_or(|m| m.name != name) {
        all.push(MetricMetadata { name: name.into(), ..Default::default() });
    }
    all.last_mut().expect("pushed above if it was empty")
}

async fn import(
    axum::extract::State(state): axum::extract::State<State>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Response {
    let result = async {
        let mut extra = Vec::new();
        for (key, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match (key.as_ref(), value.split_once('=')) {
                ("extra_label", Some((name, value))) => extra.push((name.to_owned(), value.to_owned())),
                (key, _) => {
                    return Err(Refusal::malformed(format!("unknown parameter {key:?}; extra_label=NAME=VALUE is known")));
                }
            }
        }
        push(&state, &headers, body, extra).await
    };
    answer(&state, result.await)
}

async fn gateway(
    axum::extract::State(state): axum::extract::State<State>,
    Path(rest): Path<String>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Response {
    let result = match grouping(&rest, false) {
        Ok(grouping) => push(&state, &headers, body, grouping).await,
        Err(refusal) => Err(refusal),
    };
    answer(&state, result)
}

async fn gateway_base64(
    axum::extract::State(state): axum::extract::State<State>,
    Path(rest): Path<String>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Response {
    let result = match grouping(&rest, true) {
        Ok(grouping) => push(&state, &headers, body, grouping).await,
        Err(refusal) => Err(refusal),
    };
    answer(&state, result)
}

fn answer(state: &State, result: Result<Report, Refusal>) -> Response {
    match state.count(result) {
        Ok(report) => report.answer("samples"),
        Err(refusal) => refusal.problem(),
    }
}

async fn push(
    state: &State,
    headers: &HeaderMap,
    body: axum::body::Body,
    grouping: Vec<(String, String)>,
) -> Result<Report, Refusal> {
    let principal = sender(state, headers).await?;
    let format = format(headers)?;
    let packing = Packing::of(headers, &[Packing::Gzip, Packing::Snappy])?;
    let packed = body::read(headers, body).await?;
    let now_ms = state.now().millis();
    let (batch, mut report) = body::decode(packed, packing, move |text| decode(&text, format, now_ms, &grouping)).await?;
    report.add_appended(state.telemetry().metrics.append(&principal.tenant, batch).await?);
    state.count_items(Counted::Samples, &report);
    Ok(report)
}

fn format(headers: &HeaderMap) -> Result<Format, Refusal> {
    match body::media_type(headers).as_str() {
        // The last is what curl says when it is told nothing.
        "" | "text/plain" | "application/octet-stream" | "application/x-www-form-urlencoded" => Ok(Format::Text),
        "application/openmetrics-text" => Ok(Format::OpenMetricsStrict),
        other => Err(Refusal::unsupported(format!(
            "content-type {other:?} is not taken; use text/plain (Prometheus text 0.0.4) or application/openmetrics-text"
        ))),
    }
}

/// `JOB[/NAME/VALUE]*`, where `NAME@base64` has its value in URL-safe base64.
fn grouping(path: &str, is_job_base64: bool) -> Result<Vec<(String, String)>, Refusal> {
    let parts: Vec<_> = path.trim_end_matches('/').split('/').collect();
    if parts.len() % 2 == 0 {
        return Err(Refusal::malformed("after the job the path must have pairs of label and value: /metrics/job/JOB/NAME/VALUE"));
    }
    let value = |name: &str, text: &str, is_base64: bool| {
        if !is_base64 {
            return Ok(text.to_owned());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        bytes
            .and_then(|b| String::from_utf8(b).ok())
            .ok_or_else(|| Refusal::malformed(format!("the value of {name:?} in the path is no base64 of a text")))
    };
    let mut labels = vec![("job".to_owned(), value("job", parts[0], is_job_base64)?)];
    if labels[0].1.is_empty() {
        return Err(Refusal::malformed("the job in the path is empty"));
    }
    for pair in parts[1..].chunks_exact(2) {
        let (name, is_base64) = pair[0].strip_suffix("@base64").map_or((pair[0], false), |n| (n, true));
        if name.is_empty() || name.starts_with("__") || labels.iter().any(|(n, _)| n == name) {
            return Err(Refusal::malformed(format!("{name:?} in the path can't be a grouping label, or is there twice")));
        }
        labels.push((name.to_owned(), value(name, pair[1], is_base64)?));
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_push_names_the_group() {
        let labels = grouping("backup/instance/db-1/path@base64/L3Zhci90bXA", false).unwrap();
        let labels: Vec<_> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(labels, [("job", "backup"), ("instance", "db-1"), ("path", "/var/tmp")]);
        for bad in ["job/instance", "job/a/1/a/2", "job/__x/1", "job/a@base64/!!", ""] {
            assert_eq!(grouping(bad, false).unwrap_err().status, 400, "{bad:?}");
        }
    }

    #[test]
    fn good_lines_are_kept_and_bad_ones_named() {
        let (batch, report) = decode(b"a 1\nb oops\nc 3 1000\n", Format::Text, 5, &[("job".into(), "j".into())]).unwrap();
        assert_eq!(batch.len_samples(), 2);
        assert_eq!(report.message("samples"), "1 of 1 samples refused: line 2: \"oops\" is no value");
        assert!(decode(b"a 1\xff\n", Format::Text, 5, &[]).unwrap_err().message.contains("byte 3"));
        assert!(decode(b"a 1\n", Format::OpenMetricsStrict, 5, &[]).unwrap_err().message.contains("# EOF"));
    }
}
