#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(alerts) = ingest::alertmanager::decode_alerts(data) {
        ingest::alertmanager::to_reports(&alerts, model::Timestamp(0), None);
    }
    let _ = ingest::alertmanager::decode_notification(data);
});
