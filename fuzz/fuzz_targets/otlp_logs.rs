#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest as Request;
    if let Ok(request) = <Request as prost::Message>::decode(data) {
        ingest::otlp::decode_logs(request, model::Timestamp(0));
    }
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        ingest::otlp::decode_logs(request, model::Timestamp(0));
    }
});
