#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = ingest::remote_write::decode(ingest::remote_write::Version::V1, data);
    let _ = ingest::remote_write::decode(ingest::remote_write::Version::V2, data);
});
