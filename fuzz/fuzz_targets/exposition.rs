#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    use ingest::exposition::{Format, parse};
    if let Ok(text) = std::str::from_utf8(data) {
        for format in [Format::Text, Format::OpenMetrics, Format::OpenMetricsStrict] {
            let _ = parse(text, format, |_| {});
        }
    }
});
