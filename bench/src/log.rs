//! Log lines of thirty services: templates in Zipf's proportions, numbers, addresses, trace ids and attributes.

use crate::remote_write::{bytes_field, varint};
use std::{fmt::Write as _, io::Write as _};

const VERBS: [&str; 20] = [
    "received",
    "processed",
    "rejected",
    "retrying",
    "forwarded",
    "committed",
    "aborted",
    "scheduled",
    "evicted",
    "loaded",
    "parsed",
    "validated",
    "timed out on",
    "opened",
    "closed",
    "flushed",
    "replicated",
    "acquired",
    "released",
    "resolved",
];
const NOUNS: [&str; 20] = [
    "request",
    "payment",
    "session",
    "order",
    "cache entry",
    "connection",
    "message",
    "snapshot",
    "lease",
    "token",
    "upload",
    "invoice",
    "shipment",
    "webhook",
    "job",
    "transaction",
    "partition",
    "index",
    "certificate",
    "lookup",
];
const TAILS: [&str; 10] = [
    "for user {u} in {d} ms",
    "from {ip} with status {s}",
    "on shard {k} after {r} retries",
    "id={h} took {d}ms",
    "to upstream {svc} port {p}",
    "with key {h}",
    "queue depth {q} lag {d} ms",
    "path=/api/v1/{svc}/{u} code={s}",
    "because connection reset by peer {ip}",
    "size={q} bytes checksum {h}",
];
const SERVICES: [&str; 30] = [
    "checkout",
    "payments",
    "cart",
    "auth",
    "search",
    "catalog",
    "inventory",
    "shipping",
    "email",
    "gateway",
    "frontend",
    "billing",
    "ledger",
    "fraud",
    "recommend",
    "profile",
    "media",
    "notify",
    "orders",
    "pricing",
    "reviews",
    "scheduler",
    "ingest",
    "metrics",
    "audit",
    "config",
    "discovery",
    "session",
    "edge",
    "reports",
];
const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "ap-south-1"];
const STATUSES: [u64; 12] = [200, 200, 200, 201, 204, 301, 400, 404, 429, 500, 502, 503];
const HOSTS: u64 = 120;
const TEMPLATES: u64 = 200;

/// One log line before it is encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub time_ms: u64,
    pub service: &'static str,
    pub level: &'static str,
    pub host: u64,
    pub trace_id: [u8; 16],
    pub message: String,
    pub pod: u64,
    pub region: &'static str,
    pub status: u64,
    pub duration_ms: u64,
}

/// How lines travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Otlp,
}

/// Bodies of `batch` lines each until `lines` are sent.
pub fn bodies(format: Format, start_ms: u64, lines: u64, batch: u64) -> impl FnMut(&mut Vec<u8>) -> u64 + Send {
    let mut records = Records::new(start_ms);
    let mut record = Record::default();
    let mut left = lines;
    move |body| {
        let count = batch.min(left);
        left -= count;
        for _ in 0..count {
            records.fill(&mut record);
            match format {
                Format::Json => record.write_json(body),
                Format::Otlp => record.write_otlp(body),
            }
        }
        count
    }
}

/// An endless stream, about 50 lines a second of its own time.
pub struct Records {
    random: Xorshift,
    time_ms: u64,
    trace: (u64, u64),
    /// Lines that still belong to the trace.
    trace_lines: u64,
    /// Template numbers, each as often as it occurs.
    zipf: Vec<u64>,
    count: u64,
}

impl Records {
    pub fn new(start_ms: u64) -> Self {
        let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
        let trace = (random.next(), random.next());
        let often = |template: u64| std::iter::repeat_n(template, (400 / (template + 2)).max(1) as usize);
        Self { random, time_ms: start_ms, trace, trace_lines: 0, zipf: (0..TEMPLATES).flat_map(often).collect(), count: 0 }
    }

    /// Overwrites `record` with the next line, so that a million lines need no million allocations.
    pub fn fill(&mut self, record: &mut Record) {
        let random = &mut self.random;
        self.time_ms += if self.count.is_multiple_of(3) { random.below(110) } else { random.below(3) };
        self.count += 1;
        if self.trace_lines == 0 {
            self.trace = (random.next(), random.next());
            self.trace_lines = 1 + random.below(9);
        }
        self.trace_lines -= 1;
        // The smaller of two: a few services write most.
        record.service = SERVICES[random.below(30).min(random.below(30)) as usize];
        let template = self.zipf[random.below(self.zipf.len() as u64) as usize];
        record.level = match random.below(100) {
            0..78 => "INFO",
            78..86 => "DEBUG",
            86..95 => "WARN",
            95..99 => "ERROR",
            _ => "FATAL",
        };
        record.host = random.below(HOSTS);
        message(&mut record.message, template, random);
        record.time_ms = self.time_ms;
        record.trace_id[..8].copy_from_slice(&self.trace.0.to_be_bytes());
        record.trace_id[8..].copy_from_slice(&self.trace.1.to_be_bytes());
        record.pod = (record.host * 7919 + record.service.len() as u64 * 31) % 0xfffff;
        record.region = REGIONS[(record.host % 3) as usize];
        record.status = [200, 200, 200, 404, 500][random.below(5) as usize];
        record.duration_ms = random.below(3000);
    }
}

impl Record {
    /// One JSON object and a line feed.
    pub fn write_json(&self, buffer: &mut Vec<u8>) {
        let trace = u128::from_be_bytes(self.trace_id);
        writeln!(
            buffer,
            r#"{{"ts":{},"service":"{}","level":"{}","host":"node-{:03}","trace_id":"{trace:032x}","message":"{}","attributes":{{"k8s.pod":"{}-{:05x}","region":"{}","http.status":{},"duration_ms":{}}}}}"#,
            self.time_ms,
            self.service,
            self.level,
            self.host,
            self.message,
            self.service,
            self.pod,
            self.region,
            self.status,
            self.duration_ms
        )
        .expect("a vector takes every byte");
    }

    /// One `ResourceLogs` of an OTLP `ExportLogsServiceRequest` with this one record: as an agent sends the lines of many sources.
    pub fn write_otlp(&self, buffer: &mut Vec<u8>) {
        let mut resource = Vec::new();
        attribute(&mut resource, 0x0a, "service.name", Value::Text(self.service));
        attribute(&mut resource, 0x0a, "host.name", Value::Text(&format!("node-{:03}", self.host)));
        let mut record = Vec::new();
        record.push(0x09);
        record.extend_from_slice(&(self.time_ms * 1_000_000).to_le_bytes());
        record.push(0x10);
        varint(&mut record, self.severity());
        bytes_field(&mut record, 0x1a, self.level.as_bytes());
        let mut body = Vec::new();
        bytes_field(&mut body, 0x0a, self.message.as_bytes());
        bytes_field(&mut record, 0x2a, &body);
        attribute(&mut record, 0x32, "k8s.pod", Value::Text(&format!("{}-{:05x}", self.service, self.pod)));
        attribute(&mut record, 0x32, "region", Value::Text(self.region));
        attribute(&mut record, 0x32, "http.status", Value::Number(self.status));
        attribute(&mut record, 0x32, "duration_ms", Value::Number(self.duration_ms));
        bytes_field(&mut record, 0x4a, &self.trace_id);
        let mut scope_logs = Vec::new();
        bytes_field(&mut scope_logs, 0x12, &record);
        let mut resource_logs = Vec::new();
        bytes_field(&mut resource_logs, 0x0a, &resource);
        bytes_field(&mut resource_logs, 0x12, &scope_logs);
        bytes_field(buffer, 0x0a, &resource_logs);
    }

    fn severity(&self) -> u64 {
        match self.level {
            "DEBUG" => 5,
            "INFO" => 9,
            "WARN" => 13,
            "ERROR" => 17,
            _ => 21,
        }
    }
}

enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

fn attribute(buffer: &mut Vec<u8>, tag: u8, key: &str, value: Value) {
    let mut any = Vec::new();
    match value {
        Value::Text(text) => bytes_field(&mut any, 0x0a, text.as_bytes()),
        Value::Number(number) => {
            any.push(0x18);
            varint(&mut any, number);
        }
    }
    let mut pair = Vec::new();
    bytes_field(&mut pair, 0x0a, key.as_bytes());
    bytes_field(&mut pair, 0x12, &any);
    bytes_field(buffer, tag, &pair);
}

fn message(text: &mut String, template: u64, random: &mut Xorshift) {
    text.clear();
    text.push_str(NOUNS[(template % 20) as usize]);
    text.push(' ');
    text.push_str(VERBS[((template / 20 * 7 + template) % 20) as usize]);
    text.push(' ');
    let mut rest = TAILS[(template / 20) as usize];
    while let Some((before, after)) = rest.split_once('{') {
        let (hole, after) = after.split_once('}').expect("each hole of a template is closed");
        text.push_str(before);
        let written = match hole {
            "u" => write!(text, "{}", random.below(200_000)),
            "d" => {
                let digits = random.below(4) as u32 + 1;
                write!(text, "{}", random.below(10u64.pow(digits)))
            }
            "ip" => write!(text, "10.{}.{}.{}", random.below(4), random.below(256), random.below(256)),
            "s" => write!(text, "{}", STATUSES[random.below(12) as usize]),
            "k" => write!(text, "{}", random.below(64)),
            "r" => write!(text, "{}", random.below(6)),
            "h" => write!(text, "{:08x}", random.below(1 << 32)),
            "svc" => write!(text, "{}", SERVICES[random.below(30) as usize]),
            "p" => write!(text, "{}", 8000 + random.below(20)),
            _ => write!(text, "{}", random.below(5000)),
        };
        written.expect("a string takes every character");
        rest = after;
    }
    text.push_str(rest);
}

struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_same_each_time_and_its_time_goes_forward() {
        let (mut one, mut other) = (Records::new(1_000), Records::new(1_000));
        let (mut a, mut b) = (Record::default(), Record::default());
        let mut before = 0;
        for _ in 0..1_000 {
            one.fill(&mut a);
            other.fill(&mut b);
            assert_eq!(a, b);
            assert!(a.time_ms >= before && !a.message.contains(['{', '}', '"', '\\']), "{a:?}");
            before = a.time_ms;
        }
    }

    #[test]
    fn bodies_end_after_the_last_line() {
        let mut next = bodies(Format::Json, 0, 5, 2);
        let counts: Vec<_> = std::iter::from_fn(|| {
            let mut body = Vec::new();
            let count = next(&mut body);
            assert_eq!(body.iter().filter(|byte| **byte == b'\n').count() as u64, count);
            (count > 0).then_some(count)
        })
        .collect();
        assert_eq!(counts, [2, 2, 1]);
    }

    #[test]
    fn a_line_is_one_object_with_its_fields() {
        let mut record = Record::default();
        Records::new(1_760_000_000_000).fill(&mut record);
        let mut line = Vec::new();
        record.write_json(&mut line);
        let line = String::from_utf8(line).unwrap();
        assert!(line.starts_with(r#"{"ts":17600000000"#) && line.ends_with("}}\n"), "{line}");
        assert!(line.contains(&format!(r#""message":"{}""#, record.message)), "{line}");
    }

    #[test]
    fn otlp_holds_message_and_trace_within_lengths_that_fit() {
        let mut record = Record::default();
        Records::new(1_760_000_000_000).fill(&mut record);
        let mut bytes = Vec::new();
        record.write_otlp(&mut bytes);
        let (length, head) = match bytes[1] {
            low if low < 0x80 => (usize::from(low), 2),
            low => (usize::from(low & 0x7f) | usize::from(bytes[2]) << 7, 3),
        };
        assert_eq!((bytes[0], bytes.len()), (0x0a, head + length));
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(has(record.message.as_bytes()) && has(&record.trace_id) && has(b"service.name"));
    }
}
