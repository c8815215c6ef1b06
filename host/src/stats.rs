//! The stages' counters as the host's own metrics.

use api::Metric;

/// One line a counter: name, help, value.
macro_rules! counters {
    ($all:ident, $($name:literal, $help:literal, $value:expr;)*) => {
        $($all.push(Metric { name: $name.into(), help: $help, is_counter: true, labels: Vec::new(), value: $value as f64 });)*
    };
}
macro_rules! gauges {
    ($all:ident, $($name:literal, $help:literal, $value:expr;)*) => {
        $($all.push(Metric { name: $name.into(), help: $help, is_counter: false, labels: Vec::new(), value: $value as f64 });)*
    };
}

pub fn read(
    telemetry: &telemetry::Telemetry,
    ingest: &ingest::State,
    detect: &detect::Handle,
    alert: &alert::Service,
    workflow: &workflow::Handle,
    action: &action::Service,
    plugin_dropped: u64,
) -> Vec<Metric> {
    let mut all = Vec::new();
    let i = ingest.stats();
    counters!(all,
        "orx_ingest_requests_total", "requests that brought data", i.requests;
        "orx_ingest_requests_refused_total", "requests refused as a whole", i.requests_refused;
        "orx_ingest_requests_shed_total", "requests refused because the store could not keep up", i.requests_shed;
        "orx_ingest_samples_total", "samples taken in", i.samples;
        "orx_ingest_logs_total", "log records taken in", i.logs;
        "orx_ingest_spans_total", "spans taken in", i.spans;
        "orx_ingest_events_total", "events taken in", i.events;
        "orx_ingest_items_refused_total", "items refused inside accepted requests", i.items_refused;
    );
    let m = telemetry.metrics.stats();
    counters!(all,
        "orx_telemetry_metric_samples_stored_total", "samples stored", m.samples_stored;
        "orx_telemetry_metric_samples_rejected_total", "samples rejected", m.samples_rejected;
        "orx_telemetry_metric_queries_total", "reads of metrics", m.queries;
        "orx_telemetry_wal_syncs_total", "syncs of the metrics log", m.wal_syncs;
        "orx_telemetry_metric_flushes_total", "heads written out", m.flushes;
        "orx_telemetry_metric_corruptions_total", "damaged places found", m.corruptions;
    );
    gauges!(all,
        "orx_telemetry_head_series", "series in the head", m.head_series;
        "orx_telemetry_metric_segment_bytes", "bytes of metric segments", m.segment_bytes;
        "orx_telemetry_metric_wal_bytes", "bytes of the metrics log", m.wal_bytes;
    );
    for (signal, s) in
        [("logs", telemetry.logs.stats()), ("traces", telemetry.traces.stats()), ("events", telemetry.events.stats())]
    {
        let mut add = |name: &str, help, is_counter, value: u64| {
            all.push(Metric {
                name: name.into(),
                help,
                is_counter,
                labels: vec![("signal", signal.into())],
                value: value as f64,
            });
        };
        add("orx_telemetry_records_stored_total", "records stored", true, s.records_stored);
        add("orx_telemetry_records_rejected_total", "records rejected", true, s.records_rejected);
        add("orx_telemetry_searches_total", "searches", true, s.searches);
        add("orx_telemetry_damages_total", "damaged places found", true, s.damages);
        add("orx_telemetry_splits", "splits on disk", false, s.splits);
        add("orx_telemetry_split_bytes", "bytes of splits", false, s.split_bytes);
        add("orx_telemetry_log_bytes", "bytes of the log", false, s.log_bytes);
    }
    let d = detect.stats();
    counters!(all,
        "orx_detect_evaluations_total", "evaluations of monitors", d.evaluations;
        "orx_detect_evaluations_early_total", "evaluations because a sample arrived", d.evaluations_early;
        "orx_detect_failures_total", "evaluations that failed", d.failures;
        "orx_detect_reports_total", "reports written", d.reports;
    );
    let a = alert.stats();
    counters!(all,
        "orx_alert_reports_total", "reports taken in", a.reports;
        "orx_alert_transitions_total", "changes of alerts", a.transitions;
        "orx_alert_failures_total", "batches tried again", a.failures;
    );
    let w = workflow.stats();
    counters!(all,
        "orx_workflow_runs_started_total", "runs started", w.runs_started;
        "orx_workflow_runs_completed_total", "runs completed", w.runs_completed;
        "orx_workflow_runs_faulted_total", "runs faulted", w.runs_faulted;
        "orx_workflow_runs_cancelled_total", "runs cancelled", w.runs_cancelled;
        "orx_workflow_steps_total", "steps taken", w.steps;
        "orx_workflow_commits_total", "commits", w.commits;
        "orx_workflow_requests_total", "action requests sent", w.requests_sent;
    );
    let c = action.stats();
    counters!(all,
        "orx_action_requests_total", "requests taken over", c.requests;
        "orx_action_done_total", "requests done", c.done;
        "orx_action_failed_total", "requests failed", c.failed;
        "orx_action_in_doubt_total", "requests in doubt", c.in_doubt;
        "orx_plugin_records_dropped_total", "recordings and log lines of plugins that found no room", plugin_dropped;
    );
    all
}
