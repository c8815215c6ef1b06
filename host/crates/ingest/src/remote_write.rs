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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::protobuf::write;

    /// A `WriteRequest` as Prometheus builds it.
    pub(crate) fn request_v1(series: &[(&[(&str, &str)], &[(i64, f64)])]) -> Vec<u8> {
        let mut request = Vec::new();
        for (labels, samples) in series {
            let mut message = Vec::new();
            for (name, value) in *labels {
                let mut label = Vec::new();
                write::bytes(&mut label, 1, name);
                write::bytes(&mut label, 2, value);
                write::bytes(&mut message, 1, label);
            }
            for (t, v) in *samples {
                write::bytes(&mut message, 2, sample_bytes(*t, *v));
            }
            write::bytes(&mut request, 1, message);
        }
        request
    }

    fn sample_bytes(t: i64, v: f64) -> Vec<u8> {
        let mut sample = Vec::new();
        write::double(&mut sample, 1, v);
        write::number(&mut sample, 2, t as u64);
        sample
    }

    fn request_v2(refs: &[u64]) -> Vec<u8> {
        let (mut request, mut series, mut packed, mut metadata) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        refs.iter().for_each(|r| write::varint(&mut packed, *r));
        write::number(&mut metadata, 1, 1);
        write::number(&mut metadata, 3, 5);
        write::bytes(&mut series, 1, packed);
        write::bytes(&mut series, 2, sample_bytes(1_000, 2.5));
        write::bytes(&mut series, 5, metadata);
        write::bytes(&mut request, 5, series);
        for symbol in ["", "__name__", "up_total", "job", "node", "How often."] {
            write::bytes(&mut request, 4, symbol);
        }
        request
    }

    #[test]
    fn a_request_of_version_1_keeps_good_series_and_names_bad_ones() {
        let request = request_v1(&[
            (&[("__name__", "up"), ("job", "a")], &[(1_000, 1.0), (2_000, f64::NAN)]),
            (&[("job", "nameless")], &[(1_000, 1.0), (2_000, 1.0)]),
            (&[("__name__", "up"), ("a", "1"), ("a", "2")], &[(1_000, 1.0)]),
            (&[("__name__", "up"), ("job", "b")], &[(-5, 0.5)]),
        ]);
        let decoded = decode(Version::V1, &request).unwrap();
        assert_eq!((decoded.batch.len_series(), decoded.batch.len_samples()), (2, 3));
        assert_eq!(decoded.report.refused, 3);
        assert!(decoded.report.items[0].reason.contains("__name__"), "{:?}", decoded.report);
        assert_eq!(decoded.report.items[1].item, r#"up{a="1", a="2"}"#);
    }

    #[test]
    fn a_request_of_version_2_finds_labels_by_reference_and_refuses_those_that_point_outside() {
        let decoded = decode(Version::V2, &request_v2(&[1, 2, 3, 4])).unwrap();
        assert_eq!((decoded.batch.len_series(), decoded.report.refused), (1, 0));
        for refs in [&[1, 2, 3, 99][..], &[1, 2, 3], &[1, u64::MAX]] {
            let decoded = decode(Version::V2, &request_v2(refs)).unwrap();
            assert_eq!((decoded.batch.len_series(), decoded.report.refused), (0, 1), "{refs:?}");
            assert!(decoded.report.items[0].reason.contains("outside"));
        }
    }

    #[test]
    fn native_histograms_are_refused_with_the_mend() {
        let mut series = Vec::new();
        let mut label = Vec::new();
        write::bytes(&mut label, 1, "__name__");
        write::bytes(&mut label, 2, "h");
        write::bytes(&mut series, 1, label);
        write::bytes(&mut series, 4, [1, 2, 3]);
        let mut request = Vec::new();
        write::bytes(&mut request, 1, series);
        let decoded = decode(Version::V1, &request).unwrap();
        assert!(decoded.report.items[0].reason.contains("send_native_histograms: false"), "{:?}", decoded.report);
    }

    #[test]
    fn a_request_cut_anywhere_never_gives_half_a_series() {
        let whole = request_v1(&[(&[("__name__", "up"), ("job", "a")], &[(1_000, 1.0)]), (&[("__name__", "x")], &[(1, 1.0)])]);
        for end in 0..whole.len() {
            if let Ok(decoded) = decode(Version::V1, &whole[..end]) {
                assert!(decoded.batch.len_series() < 2 && decoded.report.is_clean(), "cut at {end}");
            }
        }
        let whole = request_v2(&[1, 2, 3, 4]);
        for end in 0..whole.len() {
            if let Ok(decoded) = decode(Version::V2, &whole[..end]) {
                assert!(decoded.batch.len_series() == 0 || decoded.report.is_clean(), "cut at {end}");
            }
        }
    }

    #[test]
    fn lengths_that_lie_and_wrong_types_are_refused() {
        let mut lying = vec![0x0a];
        write::varint(&mut lying, u64::MAX);
        let mut wrong_type = Vec::new();
        write::number(&mut wrong_type, 1, 7);
        let mut bad_text = Vec::new();
        write::bytes(&mut bad_text, 4, [0xff]);
        for (version, bytes) in
            [(Version::V1, &lying), (Version::V1, &wrong_type), (Version::V2, &bad_text), (Version::V2, &lying)]
        {
            let Err(refusal) = decode(version, bytes) else { panic!("{bytes:?} was taken") };
            assert_eq!(refusal.status, 400);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            let _ = decode(Version::V1, &bytes);
            let _ = decode(Version::V2, &bytes);
        }
        #[test]
        fn no_damage_to_a_good_request_makes_it_panic(at in 0usize..60, byte: u8) {
            for (version, mut bytes) in [(Version::V1, request_v1(&[(&[("__name__", "up"), ("job", "a")], &[(1_000, 1.0)])])), (Version::V2, request_v2(&[1, 2, 3, 4]))] {
                let at = at % bytes.len();
                bytes[at] = byte;
                let _ = decode(version, &bytes);
            }
        }
    }
}
