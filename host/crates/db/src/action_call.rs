//! Action requests that the stage `action` took over, until they are answered.

use crate::{Db, Error, Result, Tx};
use model::{ActionOutcome, ActionRequest, RequestId, TenantId, Timestamp};
use sqlx::Row;

/// A request and, once there is one, its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionCall {
    pub tenant: TenantId,
    pub request: ActionRequest,
    pub taken: Timestamp,
    pub outcome: Option<ActionOutcome>,
}

impl Tx {
    /// Takes a request over; answers false when it was taken before.
    pub async fn take_action(&mut self, tenant: &TenantId, request: &ActionRequest, now: Timestamp) -> Result<bool> {
        let body = serde_json::to_string(request).map_err(unreadable)?;
        let done = sqlx::query(
            "INSERT INTO action_call (request, tenant, is_done, taken_ns, done_ns, body, outcome) \
             VALUES ($1, $2, 0, $3, 0, $4, '') ON CONFLICT (request) DO NOTHING",
        )
        .bind(request.id.to_string())
        .bind(tenant.as_str())
        .bind(now.nanos())
        .bind(body)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Stores the answer; answers false when there was one already, which then stands.
    pub async fn answer_action(
        &mut self,
        tenant: &TenantId,
        request: RequestId,
        outcome: &ActionOutcome,
        now: Timestamp,
    ) -> Result<bool> {
        let outcome = serde_json::to_string(outcome).map_err(unreadable)?;
        let done = sqlx::query(
            "UPDATE action_call SET is_done = 1, done_ns = $3, outcome = $4 WHERE tenant = $1 AND request = $2 AND is_done = 0",
        )
        .bind(tenant.as_str())
        .bind(request.to_string())
        .bind(now.nanos())
        .bind(outcome)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() > 0)
    }
}

impl Db {
    /// Requests of all tenants that were taken over and not answered: what a crash left behind.
    pub async fn open_actions(&self) -> Result<Vec<ActionCall>> {
        let rows =
            sqlx::query("SELECT tenant, taken_ns, body, outcome FROM action_call WHERE is_done = 0 ORDER BY taken_ns, request")
                .fetch_all(self.read())
                .await?;
        rows.iter().map(read).collect()
    }

    pub async fn action_call(&self, tenant: &TenantId, request: RequestId) -> Result<ActionCall> {
        let row = sqlx::query("SELECT tenant, taken_ns, body, outcome FROM action_call WHERE tenant = $1 AND request = $2")
            .bind(tenant.as_str())
            .bind(request.to_string())
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(read).transpose()?.ok_or_else(|| Error::not_found(format!("action request {request}")))
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Row { table: "action_call", why: error.to_string() }
}

fn read(row: &sqlx::any::AnyRow) -> Result<ActionCall> {
    let (tenant, body, outcome): (String, String, String) = (row.try_get(0)?, row.try_get(2)?, row.try_get(3)?);
    Ok(ActionCall {
        tenant: tenant.parse().map_err(|e: model::IdError| Error::Row { table: "action_call", why: e.to_string() })?,
        request: serde_json::from_str(&body).map_err(unreadable)?,
        taken: Timestamp(row.try_get(1)?),
        outcome: if outcome.is_empty() { None } else { Some(serde_json::from_str(&outcome).map_err(unreadable)?) },
    })
}
