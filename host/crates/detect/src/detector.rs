//! How monitors reach detectors: plugins in the product, native ones in tests.

use async_trait::async_trait;
use model::{ErrorRecord, Finding, LogRecord, Series, TenantId, Timestamp};
use serde_json::Value;

/// One judgement to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub tenant: TenantId,
    /// Name of the installation that judges.
    pub detector: String,
    pub monitor: String,
    pub params: Value,
    /// What the detector's clock shows.
    pub now: Timestamp,
    pub input: Vec<Series>,
}

#[async_trait]
pub trait Detectors: Send + Sync {
    /// Judges columns. Every failure is a record: whose fault it is, stands in its code.
    async fn evaluate(&self, question: Question) -> Result<Vec<Finding>, ErrorRecord>;

    /// A warm detector with the state of the snapshot.
    async fn stream(
        &self,
        tenant: &TenantId,
        detector: &str,
        params: &Value,
        snapshot: Option<Vec<u8>>,
    ) -> Result<Box<dyn Stream>, ErrorRecord>;
}

/// A warm stream detector with one owner. After an error it is dropped.
#[async_trait]
pub trait Stream: Send {
    async fn observe(&mut self, now: Timestamp, records: &[LogRecord]) -> Result<Vec<Finding>, ErrorRecord>;
    /// Time has come to `now` without records.
    async fn tick(&mut self, now: Timestamp) -> Result<Vec<Finding>, ErrorRecord>;
    /// All it needs to go on from here, to be stored with its findings.
    fn snapshot(&self) -> Vec<u8>;
}
