//! Recordings of plugin calls, queued and stored many to a commit, and removed when old.

use db::{Db, recording::RecordingRow};
use model::{Clock, TenantId};
use plugin::{Outcome, RecordPort, Recording};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Recordings waiting for the disk, at most some MiB each and usually some KiB. Full: dropped and counted, because
/// a call must not wait for its own record.
const QUEUE_LEN: usize = 1_024;
const BATCH_LEN: usize = 64;
/// How long recordings are kept.
const KEPT_MS: i64 = 7 * 24 * 3_600_000;
const TRIM_EVERY: Duration = Duration::from_secs(600);

/// The port: cheap to clone.
#[derive(Clone)]
pub struct Recordings {
    queue: mpsc::Sender<Recording>,
    dropped: Arc<AtomicU64>,
}

/// The other end, to be run as a task.
pub struct Writer {
    db: Db,
    clock: Arc<dyn Clock>,
    queue: mpsc::Receiver<Recording>,
}

impl Recordings {
    pub fn new(db: Db, clock: Arc<dyn Clock>) -> (Self, Writer) {
        let (sender, queue) = mpsc::channel(QUEUE_LEN);
        (Self { queue: sender, dropped: Arc::default() }, Writer { db, clock, queue })
    }

    /// How many were not kept since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl RecordPort for Recordings {
    fn record(&self, recording: Recording) {
        if is_idle(&recording) {
            return;
        }
        if self.queue.try_send(recording).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Writer {
    /// Until cancelled; then what is queued is still stored.
    pub async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut trim = tokio::time::interval(TRIM_EVERY);
        let mut batch = Vec::with_capacity(BATCH_LEN);
        loop {
            tokio::select! {
                taken = self.queue.recv_many(&mut batch, BATCH_LEN) => {
                    if taken == 0 {
                        return Ok(());
                    }
                    self.store(&mut batch).await;
                }
                _ = trim.tick() => {
                    let before = self.clock.now().plus_millis(-KEPT_MS);
                    let done = self.db.write::<_, db::Error, _>(move |tx| Box::pin(async move { tx.trim_recordings(before).await })).await;
                    if let Err(error) = done {
                        tracing::warn!(error = super::chain(&error), "old recordings could not be removed yet");
                    }
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

    async fn store(&self, batch: &mut Vec<Recording>) {
        let rows: Vec<(TenantId, RecordingRow)> = batch.drain(..).map(|r| (r.tenant.clone(), row(&r))).collect();
        let stored = self
            .db
            .write::<_, db::Error, _>(move |tx| {
                Box::pin(async move {
                    for (tenant, row) in &rows {
                        tx.add_recording(tenant, row).await?;
                    }
                    Ok(())
                })
            })
            .await;
        if let Err(error) = stored {
            tracing::warn!(error = super::chain(&error), "recordings of plugin calls were lost");
        }
    }
}

/// A stream detector that saw nothing, each second: not worth a row.
fn is_idle(recording: &Recording) -> bool {
    let found_nothing = |value: &serde_json::Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    recording.function.starts_with("stream-detector.")
        && recording.calls.is_empty()
        && matches!(&recording.outcome, Outcome::Ok { value } if found_nothing(value))
}

fn row(recording: &Recording) -> RecordingRow {
    let clamp = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    RecordingRow {
        id: 0,
        invocation: recording.invocation,
        installation: recording.installation.clone(),
        plugin: recording.plugin.clone(),
        version: recording.version.clone(),
        digest: recording.digest.clone(),
        function: recording.function.clone(),
        run: recording.cause.run,
        status: match &recording.outcome {
            Outcome::Ok { .. } => "ok".into(),
            Outcome::Err { error } => error.code.clone(),
        },
        started: recording.started,
        wall_us: clamp(recording.wall_us),
        cpu_us: clamp(recording.cpu_us),
        memory_bytes: clamp(recording.memory_bytes_peak),
        body: serde_json::to_string(recording).expect("a recording has string keys only"),
    }
}
