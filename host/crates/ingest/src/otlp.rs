//! OTLP 1.x: metrics, logs and traces over HTTP (protobuf and JSON) and gRPC, gzip or plain.
//!
//! Decoding to our own shapes is shared; the two transports differ in framing and in how they say no.
//! Items that can't be kept are counted in `partial_success`, with the first few named and the mend.

mod convert;
mod grpc;
mod http;
mod logs;
mod metrics;
mod naming;
mod traces;

pub use grpc::grpc;
pub use http::http;
pub use logs::decode as decode_logs;
pub use metrics::decode as decode_metrics;
pub use traces::decode as decode_traces;

use crate::{Refusal, Report, State, state::Counted};
use model::{TenantId, Timestamp};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
};

/// A signal's request: how it is stored, and how its answer is built.
#[async_trait::async_trait]
trait Export: Send + Sized + 'static {
    type Answer: Send;
    /// What its items are called in messages.
    const ITEMS: &str;
    const COUNTED: Counted;
    type Decoded: Send + 'static;

    fn decode(self, now: Timestamp) -> (Self::Decoded, Report);
    async fn store(state: &State, tenant: &TenantId, decoded: Self::Decoded) -> telemetry::Result<telemetry::Appended>;
    /// The answer; a message only when something was refused.
    fn answer(rejected: i64, message: String) -> Self::Answer;
}

async fn export<E: Export>(state: &State, tenant: &TenantId, request: E) -> Result<E::Answer, Refusal> {
    let now = state.now();
    let decoding = tokio::task::spawn_blocking(move || request.decode(now));
    let (decoded, mut report) = decoding
        .await
        .map_err(|_| Refusal::new(::http::StatusCode::INTERNAL_SERVER_ERROR, "the decoder failed; this is a bug of ours"))?;
    report.add_appended(E::store(state, tenant, decoded).await?);
    state.count_items(E::COUNTED, &report);
    let message = if report.is_clean() { String::new() } else { report.message(E::ITEMS) };
    Ok(E::answer(i64::try_from(report.refused).unwrap_or(i64::MAX), message))
}

#[async_trait::async_trait]
impl Export for ExportMetricsServiceRequest {
    type Answer = ExportMetricsServiceResponse;
    type Decoded = telemetry::MetricBatch;
    const ITEMS: &str = "data points";
    const COUNTED: Counted = Counted::Samples;

    fn decode(self, now: Timestamp) -> (Self::Decoded, Report) {
        metrics::decode(self, now)
    }
    async fn store(state: &State, tenant: &TenantId, decoded: Self::Decoded) -> telemetry::Result<telemetry::Appended> {
        state.telemetry().metrics.append(tenant, decoded).await
    }
    fn answer(rejected_data_points: i64, error_message: String) -> Self::Answer {
        let is_partial = rejected_data_points > 0;
        Self::Answer {
            partial_success: is_partial.then_some(ExportMetricsPartialSuccess { rejected_data_points, error_message }),
        }
    }
}

#[async_trait::async_trait]
impl Export for ExportLogsServiceRequest {
    type Answer = ExportLogsServiceResponse;
    type Decoded = Vec<model::LogRecord>;
    const ITEMS: &str = "log records";
    const COUNTED: Counted = Counted::Logs;

    fn decode(self, now: Timestamp) -> (Self::Decoded, Report) {
        logs::decode(self, now)
    }
    async fn store(state: &State, tenant: &TenantId, decoded: Self::Decoded) -> telemetry::Result<telemetry::Appended> {
        state.telemetry().logs.append(tenant, decoded).await
    }
    fn answer(rejected_log_records: i64, error_message: String) -> Self::Answer {
        let is_partial = rejected_log_records > 0;
        Self::Answer { partial_success: is_partial.then_some(ExportLogsPartialSuccess { rejected_log_records, error_message }) }
    }
}

#[async_trait::async_trait]
impl Export for ExportTraceServiceRequest {
    type Answer = ExportTraceServiceResponse;
    type Decoded = Vec<model::Span>;
    const ITEMS: &str = "spans";
    const COUNTED: Counted = Counted::Spans;

    fn decode(self, now: Timestamp) -> (Self::Decoded, Report) {
        traces::decode(self, now)
    }
    async fn store(state: &State, tenant: &TenantId, decoded: Self::Decoded) -> telemetry::Result<telemetry::Appended> {
        state.telemetry().traces.append(tenant, decoded).await
    }
    fn answer(rejected_spans: i64, error_message: String) -> Self::Answer {
        let is_partial = rejected_spans > 0;
        Self::Answer { partial_success: is_partial.then_some(ExportTracePartialSuccess { rejected_spans, error_message }) }
    }
}

/// `google.rpc.Status`, by which OTLP over HTTP says no.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<AnyMessage>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo { Duration retry_delay = 1; }`
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The refusal as both transports say it. A full disk is as passing as a busy one: OTLP clients give up on
/// any code that its specification does not list as retryable.
fn status(refusal: &Refusal) -> (tonic::Code, Status) {
    use tonic::Code;
    let code = match refusal.status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        413 => Code::ResourceExhausted,
        429 | 503 | 507 => Code::Unavailable,
        500 => Code::Internal,
        _ => Code::InvalidArgument,
    };
    let details = refusal.retry_after_ms.map(|ms| {
        let delay = Delay { seconds: (ms / 1000) as i64, nanos: (ms % 1000) as i32 * 1_000_000 };
        let info = RetryInfo { retry_delay: Some(delay) };
        AnyMessage { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: prost::Message::encode_to_vec(&info) }
    });
    (code, Status { code: code as i32, message: refusal.message.clone(), details: details.into_iter().collect() })
}
