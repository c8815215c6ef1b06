//! Plugins' own log lines, kept where all logs are: searchable under the service `plugin/<installation>`.

use ::telemetry::Telemetry;
use model::{Attributes, LogRecord, TenantId};
use plugin::{LogPort, PluginLog};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Lines waiting for the store. Full: dropped and counted; the sandbox already limits each installation.
const QUEUE_LEN: usize = 4_096;
const BATCH_LEN: usize = 256;

/// The port: cheap to clone.
#[derive(Clone)]
pub struct Log {
    queue: mpsc::Sender<PluginLog>,
    dropped: Arc<AtomicU64>,
}

/// The other end, to be run as a task.
pub struct Writer {
    telemetry: Telemetry,
    queue: mpsc::Receiver<PluginLog>,
}

impl Log {
    pub fn new(telemetry: Telemetry) -> (Self, Writer) {
        let (sender, queue) = mpsc::channel(QUEUE_LEN);
        (Self { queue: sender, dropped: Arc::default() }, Writer { telemetry, queue })
    }

    /// How many lines were not kept since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl LogPort for Log {
    fn emit(&self, line: PluginLog) {
        if self.queue.try_send(line).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Writer {
    /// Until cancelled; then what is queued is still stored.
    pub async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut batch = Vec::with_capacity(BATCH_LEN);
        loop {
            tokio::select! {
                taken = self.queue.recv_many(&mut batch, BATCH_LEN) => {
                    if taken == 0 {
                        return Ok(());
                    }
                    self.store(&mut batch).await;
                }
                () = cancel.cancelled() => break,
            }
        }
        self.queue.close();
        while self.queue.recv_many(&mut batch, BATCH_LEN).await > 0 {
            self.store(&mut batch).await;
        }
        Ok(())
    }

    async fn store(&self, batch: &mut Vec<PluginLog>) {
        let mut by_tenant: BTreeMap<TenantId, Vec<LogRecord>> = BTreeMap::new();
        for line in batch.drain(..) {
            by_tenant.entry(line.tenant.clone()).or_default().push(record(line));
        }
        for (tenant, records) in by_tenant {
            if let Err(error) = self.telemetry.logs.append(&tenant, records).await {
                tracing::warn!(error = super::chain(&error), "log lines of plugins were lost");
            }
        }
    }
}

fn record(line: PluginLog) -> LogRecord {
    let (severity_number, severity_text) = match line.level.as_str() {
        "trace" => (1, "TRACE"),
        "debug" => (5, "DEBUG"),
        "warn" => (13, "WARN"),
        "error" => (17, "ERROR"),
        _ => (9, "INFO"),
    };
    let mut resource = Attributes::new();
    resource.insert("service.name".into(), format!("plugin/{}", line.installation).into());
    resource.insert("orchestrix.plugin".into(), line.plugin.into());
    resource.insert("orchestrix.plugin.version".into(), line.version.into());
    let mut attributes: Attributes = line.attributes.into_iter().map(|(name, value)| (name, value.into())).collect();
    attributes.insert("orchestrix.invocation".into(), line.invocation.to_string().into());
    let (trace_id, span_id) = trace(&line.traceparent).unwrap_or_default();
    LogRecord {
        time: line.at,
        observed: line.at,
        severity_number,
        severity_text: severity_text.into(),
        body: line.message,
        resource,
        scope: "orchestrix.plugin".into(),
        attributes,
        trace_id,
        span_id,
    }
}

/// The two ids of a W3C `traceparent`.
fn trace(traceparent: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut parts = traceparent.split('-').skip(1);
    let trace_id = hex::decode(parts.next()?).ok().filter(|id| id.len() == 16)?;
    let span_id = hex::decode(parts.next()?).ok().filter(|id| id.len() == 8)?;
    Some((trace_id, span_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_gives_both_ids_or_none() {
        let (trace_id, span_id) = trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        assert_eq!((trace_id.len(), span_id[0]), (16, 0xb7));
        for bad in ["", "00", "00-0af7-b7ad6b7169203331-01", "00-zz-b7-01"] {
            assert_eq!(trace(bad), None, "{bad}");
        }
    }
}
