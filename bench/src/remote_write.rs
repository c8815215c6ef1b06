//! Prometheus remote write 1.0: protobuf `WriteRequest`, encoded by hand so that the client costs little.

use crate::metric::{self, Spec};

/// Sent with every request.
pub const HEADERS: &str = "Content-Encoding: snappy\r\nContent-Type: application/x-protobuf\r\n\
    X-Prometheus-Remote-Write-Version: 0.1.0\r\nUser-Agent: bench-load\r\n";

pub fn varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

/// The `labels` fields of a `TimeSeries`, encoded once per series and reused.
pub fn encode_labels(labels: &[(&str, String)]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut one = Vec::new();
    for (name, value) in labels {
        one.clear();
        bytes_field(&mut one, 0x0a, name.as_bytes());
        bytes_field(&mut one, 0x12, value.as_bytes());
        bytes_field(&mut all, 0x0a, &one);
    }
    all
}

/// Appends a `timeseries` entry with one sample.
pub fn push_series(buffer: &mut Vec<u8>, labels: &[u8], time_ms: i64, value: f64) {
    let sample_bytes = 9 + 1 + varint_bytes(time_ms as u64);
    buffer.push(0x0a);
    varint(buffer, (labels.len() + 2 + sample_bytes) as u64);
    buffer.extend_from_slice(labels);
    buffer.push(0x12);
    buffer.push(sample_bytes as u8);
    buffer.push(0x09);
    buffer.extend_from_slice(&value.to_le_bytes());
    buffer.push(0x10);
    varint(buffer, time_ms as u64);
}

/// Bodies of one shard of a data set, packed and ready to send.
pub fn bodies(spec: &Spec, shard: usize, shards: usize, batch: usize) -> impl FnMut(&mut Vec<u8>) -> u64 + Send + use<> {
    let mut samples = spec.shard(shard, shards);
    let labels: Vec<_> =
        samples.series.iter().map(|&(host, metric)| encode_labels(&metric::labels(host, metric, spec.seed))).collect();
    let mut encoder = snap::raw::Encoder::new();
    let mut request = Vec::new();
    move |body| {
        request.clear();
        let mut count = 0;
        for (at, time_ms, value) in samples.by_ref().take(batch) {
            push_series(&mut request, &labels[at], time_ms, value);
            count += 1;
        }
        pack(&mut encoder, &request, body);
        count
    }
}

/// The whole body of a request that holds one sample.
pub fn one_sample(labels: &[(&str, String)], time_ms: i64, value: f64) -> Vec<u8> {
    let mut request = Vec::new();
    push_series(&mut request, &encode_labels(labels), time_ms, value);
    let mut body = Vec::new();
    pack(&mut snap::raw::Encoder::new(), &request, &mut body);
    body
}

fn pack(encoder: &mut snap::raw::Encoder, request: &[u8], body: &mut Vec<u8>) {
    body.resize(snap::raw::max_compress_len(request.len()), 0);
    let bytes = encoder.compress(request, body).expect("the buffer has the length snappy asks for");
    body.truncate(bytes);
}

pub(crate) fn bytes_field(buffer: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    buffer.push(tag);
    varint(buffer, bytes.len() as u64);
    buffer.extend_from_slice(bytes);
}

fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_has_the_bytes_of_the_protocol() {
        let labels = encode_labels(&[("__name__", "up".into())]);
        assert_eq!(labels, b"\x0a\x0e\x0a\x08__name__\x12\x02up");
        let mut request = Vec::new();
        push_series(&mut request, &labels, 300, 1.0);
        let mut expected = vec![0x0a, 16 + 2 + 12];
        expected.extend_from_slice(&labels);
        expected.extend_from_slice(b"\x12\x0c\x09\0\0\0\0\0\0\xf0\x3f\x10\xac\x02");
        assert_eq!(request, expected);
    }

    #[test]
    fn bodies_hold_every_sample_once() {
        let spec = Spec { hosts: 2, metrics: 10, start_ms: 0, interval_ms: 1_000, ticks: 3, jitter_ms: 0, seed: 42 };
        let mut next = bodies(&spec, 0, 1, 25);
        let mut counts = Vec::new();
        let mut body = Vec::new();
        loop {
            let count = next(&mut body);
            let request = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
            counts.push(count);
            if count == 0 {
                assert!(request.is_empty());
                break;
            }
            assert_eq!(request.windows(8).filter(|window| window == b"hostname").count() as u64, count);
        }
        assert_eq!(counts, [25, 25, 10, 0]);
    }

    #[test]
    fn a_varint_is_as_long_as_it_is_said_to_be() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 1_800_000_000_000, u64::MAX] {
            let mut bytes = Vec::new();
            varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_bytes(value), "{value}");
        }
    }
}
