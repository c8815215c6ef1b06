//! The effect port: guardrails, budgets and the ledger row in one transaction.

use crate::{
    Error,
    guardrail::{self, Guardrail, Refusal},
};
use async_trait::async_trait;
use db::{Db, Topic, Tx, ledger::Entry};
use model::{Clock, ErrorRecord, Event, RetryAdvice, Timestamp};
use plugin::{Caller, Effect, EffectPort, PermitId};
use serde_json::{Value, json};
use std::sync::Arc;

/// Writes the ledger on behalf of plugins.
#[derive(Clone, Debug)]
pub struct Effects {
    db: Db,
    clock: Arc<dyn Clock>,
}

impl Effects {
    pub fn new(db: Db, clock: Arc<dyn Clock>) -> Self {
        Self { db, clock }
    }

    async fn begin(&self, who: &Caller, effect: &Effect) -> Result<Result<i64, Refusal>, Error> {
        let (who, effect, now) = (who.clone(), effect.clone(), self.clock.now());
        // A refusal is committed too: its row and its event are what people look for.
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    match judge(tx, &who, &effect, now).await? {
                        Ok(budgets) => {
                            let row = append(tx, &who, Entry::Begun, None, json!({ "effect": effect }), now).await?;
                            for budget in budgets {
                                tx.spend_budget(&who.tenant, &budget, now, row).await?;
                            }
                            Ok(Ok(row))
                        }
                        Err(refusal) => {
                            let said = json!({ "effect": effect, "guardrail": refusal.guardrail, "reason": refusal.message });
                            let row = append(tx, &who, Entry::Refused, None, said, now).await?;
                            tx.hand_off(Topic::Event, &who.tenant, now, &refused_event(row, &who, &effect, &refusal)).await?;
                            Ok(Err(refusal))
                        }
                    }
                })
            })
            .await
    }

    async fn settle(&self, who: &Caller, begun: i64, status: &str, detail: Value) -> Result<(), Error> {
        let (who, status, now) = (who.clone(), status.to_owned(), self.clock.now());
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    // A permit is settled once; the first word stands.
                    if !tx.is_settled(&who.tenant, begun).await? {
                        append(tx, &who, Entry::Settled, Some(begun), json!({ "status": status, "detail": detail }), now).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

#[async_trait]
impl EffectPort for Effects {
    async fn begin(&self, who: &Caller, effect: &Effect) -> Result<PermitId, ErrorRecord> {
        match Effects::begin(self, who, effect).await {
            Ok(Ok(row)) => Ok(PermitId(row)),
            Ok(Err(refusal)) => Err(ErrorRecord {
                code: refusal.code.into(),
                message: refusal.message,
                retry: refusal.retry_after_ms.map_or(RetryAdvice::Never, RetryAdvice::AfterMs),
                details: json!({ "guardrail": refusal.guardrail, "effect": { "kind": effect.kind, "target": effect.target } }),
            }),
            // Without a ledger row nothing may happen.
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, kind = effect.kind, "no ledger row, effect refused");
                Err(ErrorRecord {
                    code: "host.ledger_unavailable".into(),
                    message: "the effect ledger can't be written, so the effect was not allowed".into(),
                    retry: RetryAdvice::AfterMs(1_000),
                    details: Value::Null,
                })
            }
        }
    }

    async fn settle(&self, who: &Caller, permit: PermitId, status: &str, detail: Value) {
        if let Err(error) = Effects::settle(self, who, permit.0, status, detail).await {
            // The begun row stays open: after a restart the effect counts as in doubt, which is the truth.
            tracing::error!(
                error = &error as &dyn std::error::Error,
                ledger = permit.0,
                status,
                "an effect could not be settled"
            );
        }
    }
}

async fn judge(tx: &mut Tx, who: &Caller, effect: &Effect, now: Timestamp) -> Result<Result<Vec<String>, Refusal>, Error> {
    let mut guardrails = Vec::new();
    for row in tx.lock_guardrails(&who.tenant).await? {
        let compiled =
            serde_json::from_value(row.spec).map_err(|e| e.to_string()).and_then(|spec| Guardrail::compile(&row.name, &spec));
        match compiled {
            Ok(guardrail) => guardrails.push(guardrail),
            // One that can't be read might have forbidden this: refuse rather than guess.
            Err(why) => {
                let message = format!("guardrail {:?} can't be read ({why}); mend or delete it", row.name);
                return Ok(Err(Refusal { guardrail: row.name, code: "guardrail.unreadable", message, retry_after_ms: None }));
            }
        }
    }
    let due = match guardrail::judge(&guardrails, &effect.kind, &effect.target) {
        Ok(due) => due,
        Err(refusal) => return Ok(Err(refusal)),
    };
    for budget in &due {
        let used = tx.budget_used(&who.tenant, &budget.guardrail, budget.since(now)).await?;
        if let Err(refusal) = budget.check(used) {
            return Ok(Err(refusal));
        }
    }
    Ok(Ok(due.into_iter().map(|budget| budget.guardrail).collect()))
}

async fn append(
    tx: &mut Tx,
    who: &Caller,
    entry: Entry,
    begun: Option<i64>,
    mut body: Value,
    now: Timestamp,
) -> Result<i64, Error> {
    body["caller"] = json!({
        "installation": who.installation,
        "plugin": who.plugin,
        "version": who.version,
        "digest": who.digest,
        "invocation": who.invocation,
        "idempotencyKey": who.idempotency_key,
        "run": who.cause.run,
        "step": who.cause.step,
        "alert": who.cause.alert,
        "approval": who.cause.approval,
    });
    Ok(tx.append_to_ledger(&who.tenant, now, entry, begun, who.cause.request, &body).await?)
}

fn refused_event(row: i64, who: &Caller, effect: &Effect, refusal: &Refusal) -> Event {
    let data = json!({
        "effect": effect, "guardrail": refusal.guardrail, "reason": refusal.message,
        "installation": who.installation, "run": who.cause.run, "step": who.cause.step,
    });
    let mut event =
        Event::new(format!("ledger-{row}"), format!("/plugins/{}", who.installation), "io.orchestrix.effect.refused", data);
    event.subject = Some(effect.target.clone());
    event
}

#[cfg(test)]
mod tests;
