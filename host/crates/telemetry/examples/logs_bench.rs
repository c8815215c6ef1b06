//! Measures logs: `cargo run -p telemetry --example logs_bench [lines]`. Deterministic lines of about 275 bytes.

use model::{AttributeValue, LogRecord, Matcher, SystemClock, TenantId, Timestamp};
use std::sync::Arc;
use std::time::Instant;
use telemetry::{Config, LineFilter, LineOp, LogQuery, Telemetry};

const T0: i64 = 1_700_000_000_000;
const BATCH: i64 = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lines: i64 = std::env::args().nth(1).map_or(Ok(200_000), |n| n.parse())?;
    let folder = tempfile::tempdir()?;
    let store = Telemetry::open(folder.path(), Config::default(), Arc::new(SystemClock)).await?;
    let tenant = TenantId::default_tenant();

    let (wall, cpu) = (Instant::now(), cpu_seconds());
    let mut bytes = 0;
    for batch in 0..lines / BATCH {
        let records: Vec<LogRecord> = (batch * BATCH..(batch + 1) * BATCH).map(line).collect();
        bytes += records.iter().map(|r| r.body.len() + 160).sum::<usize>();
        store.logs.append(&tenant, records).await?;
    }
    store.logs.flush().await?;
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let stats = store.logs.stats();
    println!("append and index: {:.0} lines/s, {:.2} CPU s per million lines", lines as f64 / wall, cpu * 1e6 / lines as f64);
    println!(
        "                  {:.1} MB raw per CPU s, {} splits, rows {:.3} of raw",
        bytes as f64 / 1e6 / cpu,
        stats.splits,
        stats.split_bytes as f64 / bytes as f64
    );

    let all = LogQuery {
        start: Timestamp::from_millis(T0),
        end: Timestamp::from_millis(T0 + lines),
        limit: 100,
        ..LogQuery::default()
    };
    let contains = |text: &str| vec![LineFilter { op: LineOp::Contains, text: text.into() }];
    let cases = [
        ("100 newest of everything", all.clone()),
        ("100 newest of a level", LogQuery { streams: vec![Matcher::equal("level", "error")], ..all.clone() }),
        ("a word", LogQuery { text: Some("timeout".into()), ..all.clone() }),
        ("a phrase", LogQuery { text: Some("\"connection timeout\"".into()), ..all.clone() }),
        ("a substring", LogQuery { lines: contains("onnection time"), ..all.clone() }),
        ("an attribute", LogQuery { fields: vec![Matcher::equal("request_id", "r77777")], ..all.clone() }),
        ("nothing", LogQuery { lines: contains("not there"), ..all.clone() }),
    ];
    for (name, query) in cases {
        store.logs.search(&tenant, &query).await?;
        let began = Instant::now();
        let page = store.logs.search(&tenant, &query).await?;
        println!("{name:26} {:6} records  {:8.2} ms", page.records.len(), began.elapsed().as_secs_f64() * 1e3);
    }
    let began = Instant::now();
    let buckets = store.logs.histogram(&tenant, &all, (lines / 100).max(1)).await?;
    println!("{:26} {:6} buckets  {:8.2} ms", "histogram of everything", buckets.len(), began.elapsed().as_secs_f64() * 1e3);
    store.close().await;
    Ok(())
}

fn line(i: i64) -> LogRecord {
    let hash = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let text =
        ["GET /cart took", "POST /checkout took", "cache miss for", "database connection timeout after"][(hash % 4) as usize];
    LogRecord {
        time: Timestamp::from_millis(T0 + i),
        severity_number: if hash.is_multiple_of(10) { 17 } else { 9 },
        body: format!(
            "{text} {} ms, user {} from 10.0.{}.{}, trace {hash:016x}",
            hash % 997,
            hash % 5_003,
            hash % 251,
            hash % 241
        ),
        resource: [("service.name".to_owned(), format!("service-{}", hash % 12).into())].into_iter().collect(),
        attributes: [
            ("request_id".to_owned(), AttributeValue::String(format!("r{i}"))),
            ("http.status".to_owned(), AttributeValue::Int(200 + (hash % 5) as i64 * 75)),
            ("region".to_owned(), format!("eu-{}", hash % 3).into()),
        ]
        .into_iter()
        .collect(),
        trace_id: hash.to_be_bytes().repeat(2),
        ..LogRecord::default()
    }
}

/// User and system time of all threads so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: Vec<f64> = after_name.split(' ').skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
    ticks.iter().sum::<f64>() / 100.0
}
