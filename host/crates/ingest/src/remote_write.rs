//! Prometheus remote write 1.0 and 2.0: snappy-packed protobuf at `POST /api/v1/write`.
//!
//! Decoded without building messages: labels and samples go from the unpacked body straight into the
//! batch's arenas. Answers 204 after the WAL; 400 when series were refused (the rest is stored, as the
//! specification wants), 429 or 5xx when the sender shall repeat the request as it is.

use crate::{
    Refusal, Report, State,
    auth::sender,
    body::{self, Packing},
    protobuf::{Fields, Value, WireError, varint},
    series,
    state::Counted,
};
use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::post,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use model::{MetricKind, MetricMetadata, limits::SAMPLES_PER_REQUEST_MAX};
use telemetry::MetricBatch;

/// What a request held.
#[derive(Default)]
pub struct Decoded {
    pub batch: MetricBatch,
    /// Series that were refused; `stored` is still 0.
    pub report: Report,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

pub(crate) fn routes() -> Router<State> {
    Router::new().route("/api/v1/write", post(write))
}

/// Decodes an unpacked `prometheus.WriteRequest` or `io.prometheus.write.v2.Request`.
pub fn decode(version: Version, bytes: &[u8]) -> Result<Decoded, Refusal> {
    let mut decoder = Decoder::default();
    let walked = match version {
        Version::V1 => decoder.request_v1(bytes),
        Version::V2 => decoder.request_v2(bytes),
    };
    match walked {
        Ok(()) => Ok(decoder.out),
        Err(Stop::Wire(error)) => Err(Refusal::malformed(format!("the body is no remote-write {version:?} message: {error}"))),
        Err(Stop::TooMany) => Err(Refusal::too_large(format!(
            "the request holds over {SAMPLES_PER_REQUEST_MAX} samples; lower max_samples_per_send"
        ))),
    }
}

async fn write(axum::extract::State(state): axum::extract::State<State>, headers: HeaderMap, body: axum::body::Body) -> Response {
    let result = write_all(&state, &headers, body).await;
    let stored = result.as_ref().map_or(0, |report| report.stored);
    let mut response = match state.count(result) {
        Ok(report) if report.is_clean() => StatusCode::NO_CONTENT.into_response(),
        Ok(report) => Refusal::malformed(report.message("samples")).plain(),
        Err(refusal) => refusal.plain(),
    };
    for (name, written) in [
        ("x-prometheus-remote-write-samples-written", stored),
        ("x-prometheus-remote-write-histograms-written", 0),
        ("x-prometheus-remote-write-exemplars-written", 0),
    ] {
        response.headers_mut().insert(name, HeaderValue::from(written));
    }
    response
}

async fn write_all(state: &State, headers: &HeaderMap, body: axum::body::Body) -> Result<Report, Refusal> {
    let principal = sender(state, headers).await?;
    let version = version(headers)?;
    let packing = Packing::of(headers, &[Packing::Snappy])?;
    if packing == Packing::Plain {
        return Err(Refusal::unsupported("remote write is packed with snappy; set content-encoding: snappy"));
    }
    let packed = body::read(headers, body).await?;
    let Decoded { batch, mut report } = body::decode(packed, packing, move |bytes| decode(version, &bytes)).await?;
    report.add_appended(state.telemetry().metrics.append(&principal.tenant, batch).await?);
    state.count_items(Counted::Samples, &report);
    Ok(report)
}

fn version(headers: &HeaderMap) -> Result<Version, Refusal> {
    let media = body::media_type(headers);
    // Senders of the time before content types were checked leave it out.
    if media != "application/x-protobuf" && !media.is_empty() {
        return Err(Refusal::unsupported(format!("content-type {media:?} is not remote write; use application/x-protobuf")));
    }
    match body::media_parameter(headers, "proto").as_deref() {
        None | Some("prometheus.WriteRequest") => Ok(Version::V1),
        Some("io.prometheus.write.v2.Request") => Ok(Version::V2),
        Some(other) => Err(Refusal::unsupported(format!(
            "protobuf message {other:?} is not taken; use prometheus.WriteRequest or io.prometheus.write.v2.Request"
        ))),
    }
}

enum Stop {
    Wire(WireError),
    TooMany,
}
impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

#[derive(Default)]
struct Decoder {
    out: Decoded,
    samples: usize,
}

impl Decoder {
    fn request_v1(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let mut labels = Vec::with_capacity(32);
        for field in Fields::new(bytes) {
            let field = field?;
            match field.number {
                1 => {
                    let series = field.bytes()?;
                    labels.clear();
                    for part in Fields::new(series) {
                        let part = part?;
                        if part.number == 1 {
                            labels.push(label_v1(part.bytes()?)?);
                        }
                    }
                    self.series(&mut labels, series, &V1)?;
                }
                3 => self.metadata_v1(field.bytes()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn request_v2(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        // Symbols may come after the series that use them: gather them first.
        let mut symbols = Vec::with_capacity(256);
        for field in Fields::new(bytes) {
            let field = field?;
            if field.number == 4 {
                symbols.push(field.text()?);
            }
        }
        let mut labels = Vec::with_capacity(32);
        let mut refs = Vec::with_capacity(64);
        for field in Fields::new(bytes) {
            let field = field?;
            if field.number != 5 {
                continue;
            }
            let series = field.bytes()?;
            refs.clear();
            labels.clear();
            let mut metadata = None;
            for part in Fields::new(series) {
                let part = part?;
                match (part.number, part.value) {
                    (1, Value::Bytes(packed)) => {
                        let mut at = 0;
                        while at < packed.len() {
                            refs.push(varint(packed, &mut at)?);
                        }
                    }
                    (1, _) => refs.push(part.varint()?),
                    (5, _) => metadata = Some(part.bytes()?),
                    _ => {}
                }
            }
            let symbol = |index: u64| usize::try_from(index).ok().and_then(|i| symbols.get(i)).copied();
            let is_whole = refs.len() % 2 == 0
                && refs.chunks_exact(2).all(|pair| {
                    let pair = symbol(pair[0]).zip(symbol(pair[1]));
                    labels.extend(pair);
                    pair.is_some()
                });
            if !is_whole {
                let samples = count_samples(series, &V2)?;
                self.out.report.refuse_many(
                    samples,
                    series::show(&labels),
                    "its label references point outside the request's symbols",
                );
                continue;
            }
            if let (Some(metadata), Some((_, name))) = (metadata, labels.iter().find(|(n, _)| *n == "__name__")) {
                self.metadata_v2(name, metadata, symbol)?;
            }
            self.series(&mut labels, series, &V2)?;
        }
        Ok(())
    }

    fn series<'a>(&mut self, labels: &mut Vec<(&'a str, &'a str)>, series: &'a [u8], shape: &Shape) -> Result<(), Stop> {
        let samples = count_samples(series, shape)?;
        self.samples += samples as usize;
        if self.samples > SAMPLES_PER_REQUEST_MAX {
            return Err(Stop::TooMany);
        }
        if let Err(reason) = series::check(labels) {
            self.out.report.refuse_many(samples.max(1), series::show(labels), reason);
            return Ok(());
        }
        let mut histograms = 0;
        let mut is_open = false;
        for part in Fields::new(series) {
            let part = part?;
            if part.number == shape.samples {
                let (t, v) = sample(part.bytes()?)?;
                if !is_open {
                    labels.iter().for_each(|(name, value)| self.out.batch.label(name, value));
                    is_open = true;
                }
                self.out.batch.sample(t, v);
            } else if part.number == shape.histograms {
                histograms += 1;
            }
        }
        if is_open {
            self.out.batch.end_series();
        }
        if histograms > 0 {
            let reason = "native histograms are not stored yet; send classic buckets (send_native_histograms: false)";
            self.out.report.refuse_many(histograms, series::show(labels), reason);
        }
        Ok(())
    }

    fn metadata_v1(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let mut metadata = MetricMetadata::default();
        for field in Fields::new(bytes) {
            let field = field?;
            match field.number {
                1 => metadata.kind = kind(field.varint()?),
                2 => metadata.name = field.text()?.into(),
                4 => metadata.help = field.text()?.into(),
                5 => metadata.unit = field.text()?.into(),
                _ => {}
            }
        }
        if !metadata.name.is_empty() {
            self.out.batch.metadata(metadata);
        }
        Ok(())
    }

    fn metadata_v2<'s>(&mut self, name: &str, bytes: &[u8], symbol: impl Fn(u64) -> Option<&'s str>) -> Result<(), Stop> {
        let mut metadata = MetricMetadata { name: name.into(), ..Default::default() };
        for field in Fields::new(bytes) {
            let field = field?;
            match field.number {
                1 => metadata.kind = kind(field.varint()?),
                3 => metadata.help = symbol(field.varint()?).unwrap_or("").into(),
                4 => metadata.unit = symbol(field.varint()?).unwrap_or("").into(),
                _ => {}
            }
        }
        if metadata.kind != MetricKind::Unknown || !metadata.help.is_empty() || !metadata.unit.is_empty() {
            self.out.batch.metadata(metadata);
        }
        Ok(())
    }
}

/// Field numbers that differ between the versions' TimeSeries.
struct Shape {
    samples: u32,
    histograms: u32,
}
const V1: Shape = Shape { samples: 2, histograms: 4 };
const V2: Shape = Shape { samples: 2, histograms: 3 };

fn count_samples(series: &[u8], shape: &Shape) -> Result<u64, WireError> {
    Fields::new(series).try_fold(0, |n, part| Ok(n + u64::from(part?.number == shape.samples)))
}

fn label_v1(bytes: &[u8]) -> Result<(&str, &str), WireError> {
    let (mut name, mut value) = ("", "");
    for field in Fields::new(bytes) {
        let field = field?;
        match field.number {
            1 => name = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    Ok((name, value))
}

/// `Sample { double value = 1; int64 timestamp = 2; }`, the same in both versions.
fn sample(bytes: &[u8]) -> Result<(i64, f64), WireError> {
    let (mut t, mut v) = (0, 0.0);
    for field in Fields::new(bytes) {
        let field = field?;
        match field.number {
            1 => v = field.double()?,
            2 => t = field.varint()? as i64,
            _ => {}
        }
    }
    Ok((t, v))
}

/// `MetricMetadata.MetricType`, the same numbers in both versions.
fn kind(number: u64) -> MetricKind {
    match number {
        1 => MetricKind::Counter,
        2 => MetricKind::Gauge,
        3 => MetricKind::Histogram,
        4 => MetricKind::GaugeHistogram,
        5 => MetricKind::Summary,
        6 => MetricKind::Info,
        7 => MetricKind::StateSet,
        _ => MetricKind::Unknown,
    }
}
