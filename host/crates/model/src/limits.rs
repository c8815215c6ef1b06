//! Every bound of the host, each with the reason for its size.

/// Largest HTTP body an ingest endpoint takes, as sent. Prometheus and the collector send at most a few MiB.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Largest body after decompression: 8 times the above, so that a bomb is refused early and honest gzip passes.
pub const BODY_INFLATED_BYTES_MAX: usize = 128 << 20;
/// Labels of one series; Prometheus users stay under 30, and each costs index space.
pub const LABELS_MAX: usize = 64;
pub const LABEL_NAME_BYTES_MAX: usize = 1024;
/// A label value is an index key, not a document.
pub const LABEL_VALUE_BYTES_MAX: usize = 4096;
/// Series of one tenant alive in the head: about 1 KiB each, so 2 GiB.
pub const SERIES_PER_TENANT_MAX: usize = 2_000_000;
/// Samples of one write request.
pub const SAMPLES_PER_REQUEST_MAX: usize = 1_000_000;
/// A log line over this is kept to this length and marked `log.truncated`.
pub const LOG_LINE_BYTES_MAX: usize = 256 << 10;
/// Attributes of one log record or span.
pub const ATTRIBUTES_MAX: usize = 256;
/// One attribute's value: stack traces fit, documents belong elsewhere.
pub const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;
/// One log record, span or event as stored. A largest line and its attributes fit; reading one row stays cheap.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Spans one trace look-up returns; longer traces are runaway loops.
pub const TRACE_SPANS_MAX: usize = 20_000;
/// Metric names of one tenant with metadata; about 200 bytes each, kept in memory.
pub const METADATA_PER_TENANT_MAX: usize = 100_000;
/// Help text of a metric: a sentence or two.
pub const METADATA_TEXT_BYTES_MAX: usize = 4096;
/// How far in the future a sample may lie; beyond it a clock is wrong.
pub const FUTURE_MS_MAX: i64 = 10 * 60 * 1000;
/// Records one query page returns at most.
pub const PAGE_ROWS_MAX: usize = 5_000;
/// Samples a single PromQL query may load, as Prometheus' default.
pub const QUERY_SAMPLES_MAX: usize = 50_000_000;
/// Points per series of a range query, as Prometheus' 11,000.
pub const QUERY_STEPS_MAX: usize = 11_000;
/// How long a query may run.
pub const QUERY_WALL_MS_MAX: u64 = 30_000;
/// A PromQL text: the longest of public rule files have 4 KiB; generated dashboards more.
pub const PROMQL_BYTES_MAX: usize = 64 << 10;
/// Nesting of a PromQL expression: parser and evaluator recurse, and a stack of 2 MiB must suffice.
pub const PROMQL_DEPTH_MAX: u32 = 160;
/// PromQL's look-back.
pub const LOOKBACK_MS: i64 = 5 * 60 * 1000;

/// A component's size: Rust plugins are 15 to 200 KB, JavaScript ones up to 14 MB, Python ones 19 MB.
pub const COMPONENT_BYTES_MAX: usize = 32 << 20;
/// Guest memory: detectors look at columns, actions may carry a JavaScript or Python runtime.
pub const DETECTOR_MEMORY_BYTES_MAX: usize = 64 << 20;
pub const ACTION_MEMORY_BYTES_MAX: usize = 128 << 20;
pub const DETECTOR_CPU_MS_MAX: u64 = 100;
pub const DETECTOR_WALL_MS_MAX: u64 = 1_000;
pub const ACTION_CPU_MS_MAX: u64 = 2_000;
pub const ACTION_WALL_MS_MAX: u64 = 30_000;
/// What a manifest may ask at most for an action that waits (`wait-ready`).
pub const ACTION_WALL_MS_CEILING: u64 = 15 * 60 * 1000;
/// A message from a guest, and one to it.
pub const GUEST_MESSAGE_BYTES_MAX: usize = 4 << 20;
pub const HOST_MESSAGE_BYTES_MAX: usize = 16 << 20;
/// A plugin's log: lines a second and bytes a line, then sampled with a counter.
pub const PLUGIN_LOG_LINES_PER_S: u32 = 100;
pub const PLUGIN_LOG_LINE_BYTES_MAX: usize = 8 << 10;
/// Bytes kept of one recorded host call's arguments or result, and of one whole recording.
pub const RECORDED_VALUE_BYTES_MAX: usize = 64 << 10;
pub const RECORDING_BYTES_MAX: usize = 4 << 20;

/// A workflow definition, as text.
pub const DEFINITION_BYTES_MAX: usize = 1 << 20;
/// Input, output or context of one step.
pub const STEP_PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Steps one run may take before it is stopped as a runaway loop.
pub const RUN_STEPS_MAX: u64 = 100_000;
/// Depth of `run: workflow` inside `run: workflow`.
pub const RUN_DEPTH_MAX: u32 = 16;
/// Rows a stage takes from a hand-off table at once: one transaction stays short.
pub const HANDOFF_BATCH_ROWS: i64 = 256;
/// How often a stage scans from its cursor without a hint.
pub const HANDOFF_SCAN_MS: u64 = 1_000;

/// A CloudEvent from outside: webhooks of Git forges reach some hundred KiB, and each is a row in the database.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// Events, or alerts, of one request: one transaction holds them all and must stay short.
pub const EVENTS_PER_REQUEST_MAX: usize = 1_000;
