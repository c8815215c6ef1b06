#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest as Request;
    if let Ok(request) = <Request as prost::Message>::decode(data) {
        ingest::otlp::decode_traces(request, model::Timestamp(0));
    }
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        ingest::otlp::decode_traces(request, model::Timestamp(0));
    }
});
