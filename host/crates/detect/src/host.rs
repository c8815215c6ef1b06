//! Detectors as they are in the product: installed plugins, called through the sandbox.

use crate::detector::{Detectors, Question, Stream};
use async_trait::async_trait;
use db::Db;
use model::{ErrorRecord, Finding, Installation, InvocationId, LogRecord, RetryAdvice, TenantId, Timestamp};
use plugin::{Batch, CallContext, Cause, Evaluation, Host, StreamInstance};
use serde_json::Value;

/// Looks the installation up at each call, so that an update or a withdrawn grant counts at once.
#[derive(Clone)]
pub struct Plugins {
    pub db: Db,
    pub host: Host,
}

impl Plugins {
    async fn installation(&self, tenant: &TenantId, name: &str) -> Result<Installation, ErrorRecord> {
        self.db.installation(tenant, name).await.map_err(|error| match error {
            db::Error::NotFound { .. } => ErrorRecord {
                code: "detector.not_installed".into(),
                message: format!("no plugin is installed as {name:?}: install it, or name another detector"),
                retry: RetryAdvice::Never,
                details: Value::Null,
            },
            other => ErrorRecord {
                code: "host.database".into(),
                message: other.to_string(),
                retry: RetryAdvice::Now,
                details: Value::Null,
            },
        })
    }
}

/// One call's context. The key names tenant, detector and time: the same question has the same key.
fn context(tenant: &TenantId, key: String, now: Timestamp) -> CallContext {
    let invocation = InvocationId::generate();
    let id = invocation.as_uuid().simple().to_string();
    CallContext {
        tenant: tenant.clone(),
        invocation,
        idempotency_key: key,
        now,
        deadline: None,
        traceparent: format!("00-{id}-{}-00", &id[16..]),
        cause: Cause::default(),
    }
}

#[async_trait]
impl Detectors for Plugins {
    async fn evaluate(&self, question: Question) -> Result<Vec<Finding>, ErrorRecord> {
        let Question { tenant, detector, monitor, params, now, input } = question;
        let installation = self.installation(&tenant, &detector).await?;
        let context = context(&tenant, format!("{monitor}@{}", now.nanos()), now);
        self.host.evaluate(&installation, context, Evaluation { monitor, params, input }).await.map_err(|e| e.to_record())
    }

    async fn stream(
        &self,
        tenant: &TenantId,
        detector: &str,
        params: &Value,
        snapshot: Option<Vec<u8>>,
    ) -> Result<Box<dyn Stream>, ErrorRecord> {
        let installation = self.installation(tenant, detector).await?;
        let instance = self.host.stream(&installation, params.clone(), snapshot).await.map_err(|e| e.to_record())?;
        Ok(Box::new(Warm { tenant: tenant.clone(), detector: detector.to_owned(), instance }))
    }
}

struct Warm {
    tenant: TenantId,
    detector: String,
    instance: StreamInstance,
}

impl Warm {
    fn context(&self, now: Timestamp) -> CallContext {
        context(&self.tenant, format!("{}@{}", self.detector, now.nanos()), now)
    }
}

#[async_trait]
impl Stream for Warm {
    async fn observe(&mut self, now: Timestamp, records: &[LogRecord]) -> Result<Vec<Finding>, ErrorRecord> {
        let context = self.context(now);
        self.instance.observe(context, Batch::Logs(records)).await.map_err(|e| e.to_record())
    }

    async fn tick(&mut self, now: Timestamp) -> Result<Vec<Finding>, ErrorRecord> {
        let context = self.context(now);
        self.instance.tick(context).await.map_err(|e| e.to_record())
    }

    fn snapshot(&self) -> Vec<u8> {
        self.instance.snapshot()
    }
}
