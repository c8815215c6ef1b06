//! Metrics, logs, traces and events on local disk: write-ahead log, heads, immutable segments, retention.
//!
//! Nothing is acknowledged before its record is synced; each signal has a log, a head in memory and segments of its own.
//! Ground state are the logs and the segments; indexes are derived and may be deleted at any time.
//! The bytes are described in `docs/formats/`.

mod error;
mod events;
mod lock;
pub mod logs;
pub mod metrics;
mod store;
mod traces;
pub mod wal;

pub use error::{Appended, Corruption, Error, Refusal, Result};
pub use events::{EventQuery, Events};
pub use logs::{Direction, LineFilter, LineOp, LogBucket, LogPage, LogQuery, Logs};
pub use metrics::{MetricBatch, MetricHint, MetricReader, Metrics, MetricsConfig, MetricsStats, SeriesData};
pub use store::{SignalConfig, SignalStats, TailBatch};
pub use traces::{SpanQuery, Traces};
pub use wal::Lsn;

use cap_std::fs::Dir;
use model::Clock;
use std::{path::Path, sync::Arc};

/// How the store behaves; the defaults fit a laptop and a small server.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub metrics: MetricsConfig,
    pub logs: SignalConfig,
    pub traces: SignalConfig,
    pub events: SignalConfig,
}

/// The open store. Clones share it; the folder stays locked until the last is gone.
#[derive(Clone, Debug)]
pub struct Telemetry {
    pub metrics: Metrics,
    pub logs: Logs,
    pub traces: Traces,
    pub events: Events,
}

impl Telemetry {
    /// Opens the folder, creating it if needed, locks it, loads segments and replays the logs.
    pub async fn open(dir: &Path, config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = dir.to_owned();
        let (root, lock) = blocking(move || open_root(&path)).await?;
        let lock = Arc::new(lock);
        let metrics = {
            let (dir, lock, clock) = (subfolder(&root, "metrics")?, lock.clone(), clock.clone());
            blocking(move || Metrics::open(dir, config.metrics, clock, Some(lock))).await?
        };
        let logs = Logs::open(subfolder(&root, "logs")?, config.logs, clock.clone(), Some(lock.clone())).await?;
        let traces = Traces::open(subfolder(&root, "traces")?, config.traces, clock.clone(), Some(lock.clone())).await?;
        let events = Events::open(subfolder(&root, "events")?, config.events, clock, Some(lock)).await?;
        Ok(Self { metrics, logs, traces, events })
    }

    /// Fails once any of the logs has stopped for good; the host must then stop too, since it can't take anything in.
    pub fn check_alive(&self) -> Result<()> {
        self.metrics.check_alive()?;
        self.logs.check_alive()?;
        self.traces.check_alive()?;
        self.events.check_alive()
    }

    /// Writes heads out and stops the background work. Not needed for safety, only for a quick next start.
    pub async fn close(&self) {
        self.metrics.close().await;
        self.logs.close().await;
        self.traces.close().await;
        self.events.close().await;
    }
}

/// Runs `f` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(Error::Closed),
    }
}

/// Opens `name` under `root`, creating it if needed.
pub(crate) fn subfolder(root: &Dir, name: &str) -> Result<Dir> {
    let is_new = !root.exists(name);
    let dir = root.create_dir_all(name).and_then(|()| root.open_dir(name));
    let dir = dir.map_err(|e| Error::io(format!("opening the folder {name}"), e))?;
    if is_new {
        // Or a power failure could take the folder together with what was synced inside it.
        wal::sync_dir(root)?;
    }
    Ok(dir)
}

fn open_root(path: &Path) -> Result<(Dir, lock::FolderLock)> {
    let shown = path.display().to_string();
    let fail = |e| Error::io(format!("opening the data folder {shown}"), e);
    std::fs::create_dir_all(path).map_err(fail)?;
    let root = Dir::open_ambient_dir(path, cap_std::ambient_authority()).map_err(fail)?;
    let lock = lock::FolderLock::acquire(&root, &shown)?;
    Ok((root, lock))
}
