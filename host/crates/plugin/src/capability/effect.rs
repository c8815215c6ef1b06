//! `effects`: said before it is done. A permit is spent on one request or socket.

use crate::{
    bindings::import::{effects, types::PluginError},
    call::{Call, OpenPermit, seen},
    convert::{optional_json, plugin_error},
    error::refuse,
    port::{Effect, PermitId},
    store::State,
};
use model::ErrorRecord;
use serde_json::{Value, json};
use std::{sync::Arc, time::Instant};
use wasmtime::{Result, component::Resource};

/// Permits of one call: a call that changes more things wants to be several steps.
const PERMITS_MAX: usize = 256;

/// The guest's handle on a row of the ledger.
pub struct Permit(PermitId);

impl effects::Host for State {
    async fn begin(&mut self, effect: effects::Effect) -> Result<Result<Resource<Permit>, PluginError>> {
        let (call, began) = (self.call.clone(), Instant::now());
        let arguments = json!({
            "kind": effect.kind, "target": effect.target, "summary": effect.summary, "before": effect.before,
            "after": effect.after, "undo": effect.undo, "idempotent": effect.idempotent,
        });
        let result = begin(&call, effect).await;
        call.record("effects.begin", began, arguments, result.clone().map(|id| json!(id.0)));
        match result {
            Ok(id) => Ok(Ok(self.table.push(Permit(id))?)),
            Err(error) => Ok(Err(plugin_error(&error))),
        }
    }
}

impl effects::HostPermit for State {
    async fn settle(&mut self, permit: Resource<Permit>, status: String, detail: Option<String>) -> Result<()> {
        let id = self.table.get(&permit)?.0;
        let (call, began) = (self.call.clone(), Instant::now());
        let arguments = json!({ "permit": id.0, "status": status, "detail": detail });
        // A detail that is no JSON is kept as text: the ledger's row matters more than its form.
        let detail = optional_json(detail.as_deref()).unwrap_or_else(|_| detail.map(Value::from));
        settle(&call, id, &status, detail).await;
        call.record("effects.settle", began, arguments, Ok(Value::Null));
        Ok(())
    }

    async fn drop(&mut self, permit: Resource<Permit>) -> Result<()> {
        let id = self.table.delete(permit)?.0;
        let call = self.call.clone();
        let was_used = call.permits.lock().iter().any(|p| p.id == id && p.used_for.is_some());
        settle(&call, id, if was_used { "in-doubt" } else { "not-done" }, None).await;
        Ok(())
    }
}

async fn begin(call: &Arc<Call>, effect: effects::Effect) -> Result<PermitId, ErrorRecord> {
    call.must_be_live("effects")?;
    if !call.package.manifest.effects.iter().any(|rule| rule.kind == effect.kind) {
        return Err(call.deny(
            "permission.denied",
            format!("the plugin's manifest knows no effect {:?}: its author must add it to [[effects]]", effect.kind),
        ));
    }
    if call.permits.lock().len() >= PERMITS_MAX {
        return Err(refuse("effect.too_many", format!("one call may announce {PERMITS_MAX} effects: split it into steps")));
    }
    let parse = |what: &str, text: &Option<String>| {
        optional_json(text.as_deref())
            .map_err(|e| refuse("effect.invalid", format!("{what} of effect {:?} is no JSON: {e}", effect.kind)))
    };
    let effect = Effect {
        before: parse("before", &effect.before)?,
        after: parse("after", &effect.after)?,
        undo: parse("undo", &effect.undo)?,
        kind: effect.kind,
        target: effect.target,
        summary: effect.summary,
        idempotent: effect.idempotent,
    };
    let id = call.shared.ports.effects.begin(&call.caller(), &effect).await?;
    call.permits.lock().push(OpenPermit {
        id,
        kind: effect.kind,
        target: effect.target,
        used_for: None,
        http_status: None,
        is_settled: false,
    });
    Ok(id)
}

async fn settle(call: &Arc<Call>, id: PermitId, status: &str, detail: Option<Value>) {
    let permit = {
        let mut permits = call.permits.lock();
        let Some(permit) = permits.iter_mut().find(|p| p.id == id && !p.is_settled) else { return };
        permit.is_settled = true;
        permit.clone()
    };
    // What was never sent was never done, whatever the guest says.
    let status = match status {
        _ if permit.used_for.is_none() => "not-done",
        "done" | "failed" | "not-done" => status,
        _ => "in-doubt",
    };
    call.shared.ports.effects.settle(&call.caller(), id, status, seen(&permit, detail)).await;
}
