#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = ingest::json_lines::decode(data, model::Timestamp(0));
});
