//! `invocation`: heartbeat, cancellation and checkpoints of long actions.

use crate::{bindings::import::invocation, error::refuse, port::StateWrite, store::State};
use serde_json::{Value, json};
use std::{sync::atomic::Ordering::Relaxed, time::Instant};
use wasmtime::Result;

const CHECKPOINT_BYTES_MAX: usize = 64 << 10;
/// A retry after this long starts afresh.
const CHECKPOINT_MS_MAX: i64 = 24 * 60 * 60 * 1_000;
/// All checkpoints of an installation together.
const CHECKPOINTS_BYTES_MAX: u64 = 16 << 20;

impl invocation::Host for State {
    async fn is_cancelled(&mut self) -> Result<bool> {
        Ok(self.call.is_cancelled.load(Relaxed))
    }

    async fn heartbeat(&mut self, progress: Option<f32>, checkpoint: Option<String>) -> Result<()> {
        let (call, began) = (self.call.clone(), Instant::now());
        let arguments = json!({ "progress": progress, "checkpoint": checkpoint });
        let result = match checkpoint {
            Some(text) if text.len() > CHECKPOINT_BYTES_MAX => {
                Err(refuse("invocation.checkpoint_too_large", format!("a checkpoint has at most {CHECKPOINT_BYTES_MAX} bytes")))
            }
            Some(text) => {
                let write = StateWrite {
                    key: key(&call.context.idempotency_key),
                    value: text.into_bytes(),
                    expect: None,
                    expires: Some(call.shared.ports.clock.now().plus_millis(CHECKPOINT_MS_MAX)),
                    bytes_max: CHECKPOINTS_BYTES_MAX,
                };
                call.shared.ports.state.put(&call.context.tenant, &call.installation.name, write).await.map(|_| Value::Null)
            }
            None => Ok(Value::Null),
        };
        if let Err(error) = &result {
            call.log("warn", &format!("checkpoint not kept: {}", error.message), vec![]);
        }
        call.record("invocation.heartbeat", began, arguments, result);
        Ok(())
    }

    async fn last_checkpoint(&mut self) -> Result<Option<String>> {
        let (call, began) = (self.call.clone(), Instant::now());
        let key = key(&call.context.idempotency_key);
        let result = call.shared.ports.state.get(&call.context.tenant, &call.installation.name, &key).await;
        let text = result.as_ref().ok().and_then(|e| e.as_ref()).and_then(|e| String::from_utf8(e.value.clone()).ok());
        call.record("invocation.last-checkpoint", began, Value::Null, result.map(|_| json!(text)));
        Ok(text)
    }
}

fn key(idempotency_key: &str) -> String {
    format!("{}checkpoint/{idempotency_key}", super::state::RESERVED)
}
