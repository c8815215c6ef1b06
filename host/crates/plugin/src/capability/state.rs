//! `state`: durable bytes with compare-and-set, a namespace for each tenant and installation.

use crate::{
    bindings::import::{state, types::PluginError},
    call::Call,
    convert::plugin_error,
    error::refuse,
    port::{StateEntry, StateWrite},
    record::bytes_value,
    store::State,
};
use model::ErrorRecord;
use serde_json::json;
use std::{sync::Arc, time::Instant};
use wasmtime::Result;

const KEY_BYTES_MAX: usize = 512;
const VALUE_BYTES_MAX: usize = 1 << 20;
const LIST_ROWS_MAX: u32 = 1_000;
/// Keys that the host keeps for itself (checkpoints).
pub(super) const RESERVED: char = '!';

impl state::Host for State {
    async fn get(&mut self, key: String) -> Result<Result<Option<state::Entry>, PluginError>> {
        let (call, began) = (self.call.clone(), Instant::now());
        let result = get(&call, &key).await;
        let shown =
            result.as_ref().map(|e| json!(e.as_ref().map(|e| json!({"value": bytes_value(&e.value), "revision": e.revision}))));
        call.record("state.get", began, json!({ "key": key }), shown.map_err(Clone::clone));
        Ok(result.map(|e| e.map(|e| state::Entry { value: e.value, revision: e.revision })).map_err(|e| plugin_error(&e)))
    }

    async fn put(
        &mut self,
        key: String,
        value: Vec<u8>,
        expect: Option<u64>,
        ttl_ms: Option<u64>,
    ) -> Result<Result<u64, PluginError>> {
        let (call, began) = (self.call.clone(), Instant::now());
        let arguments = json!({ "key": key, "value": bytes_value(&value), "expect": expect, "ttl_ms": ttl_ms });
        let result = put(&call, key, value, expect, ttl_ms).await;
        call.record("state.put", began, arguments, result.clone().map(|revision| json!(revision)));
        Ok(result.map_err(|e| plugin_error(&e)))
    }

    async fn delete(&mut self, key: String, expect: Option<u64>) -> Result<Result<(), PluginError>> {
        let (call, began) = (self.call.clone(), Instant::now());
        let result = async {
            allowed(&call, &key)?;
            match &call.state {
                Some(buffer) => buffer.lock().delete(&key, expect),
                None => call.shared.ports.state.delete(&call.context.tenant, &call.installation.name, &key, expect).await,
            }
        }
        .await;
        call.record("state.delete", began, json!({ "key": key, "expect": expect }), result.clone().map(|()| json!(null)));
        Ok(result.map_err(|e| plugin_error(&e)))
    }

    async fn list_keys(&mut self, prefix: String, after: Option<String>, limit: u32) -> Result<Result<Vec<String>, PluginError>> {
        let (call, began) = (self.call.clone(), Instant::now());
        let limit = limit.min(LIST_ROWS_MAX);
        let result = async {
            allowed(&call, &prefix)?;
            let mut keys = match &call.state {
                Some(buffer) => buffer.lock().list(&prefix, after.as_deref(), limit, call.context.now),
                None => {
                    call.shared
                        .ports
                        .state
                        .list(&call.context.tenant, &call.installation.name, &prefix, after.as_deref(), limit)
                        .await?
                }
            };
            keys.retain(|key| !key.starts_with(RESERVED));
            Ok(keys)
        }
        .await;
        call.record(
            "state.list-keys",
            began,
            json!({ "prefix": prefix, "after": after, "limit": limit }),
            result.clone().map(|keys| json!(keys)),
        );
        Ok(result.map_err(|e: ErrorRecord| plugin_error(&e)))
    }
}

/// The bytes the installation may hold.
fn allowed(call: &Call, key: &str) -> Result<u64, ErrorRecord> {
    let bytes = call.rights().state_bytes().map_err(|why| call.deny("permission.denied", why))?;
    if key.len() > KEY_BYTES_MAX || key.starts_with(RESERVED) || key.contains('\0') {
        return Err(refuse(
            "state.bad_key",
            format!("a key has at most {KEY_BYTES_MAX} bytes, no NUL, and doesn't begin with '{RESERVED}'"),
        ));
    }
    Ok(bytes)
}

async fn get(call: &Arc<Call>, key: &str) -> Result<Option<StateEntry>, ErrorRecord> {
    allowed(call, key)?;
    match &call.state {
        Some(buffer) => Ok(buffer.lock().get(key, call.context.now)),
        None => call.shared.ports.state.get(&call.context.tenant, &call.installation.name, key).await,
    }
}

async fn put(
    call: &Arc<Call>,
    key: String,
    value: Vec<u8>,
    expect: Option<u64>,
    ttl_ms: Option<u64>,
) -> Result<u64, ErrorRecord> {
    let bytes_max = allowed(call, &key)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(refuse("state.too_large", format!("a value has at most {VALUE_BYTES_MAX} bytes")));
    }
    let expires = ttl_ms.map(|ms| call.context.now.plus_millis(i64::try_from(ms).unwrap_or(i64::MAX)));
    let write = StateWrite { key, value, expect, expires, bytes_max };
    match &call.state {
        Some(buffer) => buffer.lock().put(write, call.context.now),
        None => call.shared.ports.state.put(&call.context.tenant, &call.installation.name, write).await,
    }
}
