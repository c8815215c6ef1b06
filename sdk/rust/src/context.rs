//! What a call knows of itself.

use serde_json::Value;
use std::time::Duration;

use crate::host;

/// The call's context. There is deliberately nothing in it that tells a live call from a backtest,
/// a plan, a shadow run or a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    pub tenant: String,
    pub invocation: String,
    /// The same for every retry of the same step: pass it on to services that de-duplicate by such a key.
    pub idempotency_key: String,
    /// Nanoseconds since the Unix epoch when the call began; virtual in a backtest.
    pub now: u64,
    pub deadline: Option<u64>,
    /// W3C trace context; the HTTP client sends it along.
    pub traceparent: String,
}

impl Context {
    pub fn now_ms(&self) -> i64 {
        i64::try_from(self.now / 1_000_000).unwrap_or(i64::MAX)
    }

    /// Whether the host wants this call to end soon. Long operations look at it between their steps.
    pub fn is_cancelled(&self) -> bool {
        host::is_cancelled()
    }

    /// Waits on the host's clock.
    pub fn sleep(&self, duration: Duration) {
        host::sleep(duration);
    }

    /// Nanoseconds on a clock that only rises; differences of it are durations.
    pub fn monotonic_ns(&self) -> u64 {
        host::monotonic_ns()
    }

    /// Says how far a long operation is, and leaves what the next attempt needs to go on after a crash.
    pub fn heartbeat(&self, progress: Option<f32>, checkpoint: Option<&Value>) {
        host::heartbeat(progress, checkpoint.map(Value::to_string));
    }

    /// What the attempt before this one left behind.
    pub fn last_checkpoint(&self) -> Option<Value> {
        host::last_checkpoint().and_then(|text| serde_json::from_str(&text).ok())
    }
}

/// Random bytes from the host; in a backtest or replay they are the same each time.
pub fn random_bytes(count: usize) -> Vec<u8> {
    host::random(count)
}
