#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = ingest::loki::decode_json(data, model::Timestamp(0));
    let _ = ingest::loki::decode_protobuf(data, model::Timestamp(0));
});
