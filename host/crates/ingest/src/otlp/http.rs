//! OTLP over HTTP: `/v1/metrics`, `/v1/logs`, `/v1/traces`.

use super::{Export, export, status};
use crate::{
    Refusal, State,
    auth::sender,
    body::{self, Packing},
};
use ::http::{HeaderMap, StatusCode, header};
use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::post,
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use serde::{Serialize, de::DeserializeOwned};

/// What listens on port 4318.
pub fn http(state: State) -> Router {
    Router::new()
        .route("/v1/metrics", post(receive::<ExportMetricsServiceRequest>))
        .route("/v1/logs", post(receive::<ExportLogsServiceRequest>))
        .route("/v1/traces", post(receive::<ExportTraceServiceRequest>))
        .with_state(state)
}

#[derive(Clone, Copy, PartialEq)]
enum Encoding {
    Protobuf,
    Json,
}

async fn receive<E>(
    axum::extract::State(state): axum::extract::State<State>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Response
where
    E: Export + prost::Message + Default + DeserializeOwned,
    E::Answer: prost::Message + Serialize,
{
    let (encoding, result) = match encoding(&headers) {
        // A sender of something else gets the refusal in JSON, which a person can read.
        Err(refusal) => (Encoding::Json, Err(refusal)),
        Ok(encoding) => (encoding, take::<E>(&state, encoding, &headers, body).await),
    };
    match (state.count(result), encoding) {
        (Ok(answer), Encoding::Protobuf) => {
            ([(header::CONTENT_TYPE, "application/x-protobuf")], prost::Message::encode_to_vec(&answer)).into_response()
        }
        (Ok(answer), Encoding::Json) => axum::Json(answer_json(&answer)).into_response(),
        (Err(refusal), encoding) => refused(&refusal, encoding),
    }
}

async fn take<E>(state: &State, encoding: Encoding, headers: &HeaderMap, body: axum::body::Body) -> Result<E::Answer, Refusal>
where
    E: Export + prost::Message + Default + DeserializeOwned,
{
    let principal = sender(state, headers).await?;
    let packing = Packing::of(headers, &[Packing::Gzip])?;
    let packed = body::read(headers, body).await?;
    let request = body::decode(packed, packing, move |bytes| match encoding {
        Encoding::Protobuf => {
            E::decode_bytes(&bytes).map_err(|e| Refusal::malformed(format!("the body is no OTLP protobuf message: {e}")))
        }
        Encoding::Json => serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(&bytes))
            .map_err(|e| Refusal::malformed(format!("the body is no OTLP JSON message: {e}"))),
    })
    .await?;
    export(state, &principal.tenant, request).await
}

trait DecodeBytes: Sized {
    fn decode_bytes(bytes: &[u8]) -> Result<Self, prost::DecodeError>;
}
impl<M: prost::Message + Default> DecodeBytes for M {
    fn decode_bytes(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        M::decode(bytes)
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    match body::media_type(headers).as_str() {
        "application/x-protobuf" => Ok(Encoding::Protobuf),
        "application/json" => Ok(Encoding::Json),
        other => Err(Refusal::unsupported(format!(
            "content-type {other:?} is not OTLP; use application/x-protobuf or application/json"
        ))),
    }
}

/// Full success is the empty object, as the specification wants; the library would write a null.
fn answer_json(answer: &impl Serialize) -> serde_json::Value {
    let mut value = serde_json::to_value(answer).expect("an answer has string keys only");
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    value
}

fn refused(refusal: &Refusal, encoding: Encoding) -> Response {
    let (_, status) = status(refusal);
    // OTLP clients repeat 429, 502, 503 and 504 only.
    let shown = if refusal.status == StatusCode::INSUFFICIENT_STORAGE {
        Refusal { status: StatusCode::SERVICE_UNAVAILABLE, ..refusal.clone() }
    } else {
        refusal.clone()
    };
    match encoding {
        Encoding::Protobuf => shown.respond("application/x-protobuf", prost::Message::encode_to_vec(&status)),
        Encoding::Json => {
            shown.respond("application/json", serde_json::json!({ "code": status.code, "message": status.message }).to_string())
        }
    }
}
