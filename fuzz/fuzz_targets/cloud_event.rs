#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    use ingest::cloud_event::{Mode, decode};
    for mode in [Mode::Structured, Mode::Batch, Mode::Binary] {
        let _ = decode(mode, &http::HeaderMap::new(), data);
    }
});
