//! The effect ledger: every change of the world that a plugin announced, was refused, or ended.
//!
//! Rows are only ever appended. Each carries the hash of the one before it in its tenant, so that a row
//! taken out or altered shows in [`Db::verify_ledger`]. Layout and recovery: `docs/formats/ledger.md`.

use crate::{Backend, Db, Error, Result, Tx};
use model::{RequestId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::{Row, any::AnyRow};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// The effect is about to happen.
    Begun,
    /// What became of it.
    Settled,
    /// A guardrail forbade it; nothing happened.
    Refused,
}

impl Entry {
    fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Settled => "settled",
            Self::Refused => "refused",
        }
    }
}

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerRow {
    pub id: i64,
    pub at: Timestamp,
    pub entry: Entry,
    /// The begun row that this one settles.
    pub begun: Option<i64>,
    pub request: Option<RequestId>,
    /// Effect, caller and outcome as the stage `action` wrote them.
    pub body: serde_json::Value,
    pub hash: String,
}

/// What a check of the chain found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub rows: u64,
    /// The first row whose hash does not follow from its content and the row before it.
    pub broken_at: Option<i64>,
}

/// Rows of one page when the whole chain is walked.
const PAGE_ROWS: i64 = 1_000;

impl Tx {
    pub async fn append_to_ledger(
        &mut self,
        tenant: &TenantId,
        at: Timestamp,
        entry: Entry,
        begun: Option<i64>,
        request: Option<RequestId>,
        body: &serde_json::Value,
    ) -> Result<i64> {
        if self.backend == Backend::Postgres {
            // The chain has one end: two hosts must not both append to it.
            sqlx::query("SELECT pg_advisory_xact_lock(CAST(hashtext($1) AS BIGINT))")
                .bind(format!("ledger {tenant}"))
                .execute(self.connection())
                .await?;
        }
        let previous: Option<String> = sqlx::query("SELECT hash FROM ledger WHERE tenant = $1 ORDER BY id DESC LIMIT 1")
            .bind(tenant.as_str())
            .fetch_optional(self.connection())
            .await?
            .map(|row| row.try_get(0))
            .transpose()?;
        let previous = previous.unwrap_or_default();
        let request = request.map(|r| r.to_string()).unwrap_or_default();
        let body = body.to_string();
        let hash = chain(&previous, tenant, at, entry.as_str(), begun.unwrap_or(0), &request, &body);
        let row = sqlx::query(
            "INSERT INTO ledger (tenant, at_ns, entry, begun, request, body, previous_hash, hash) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
        )
        .bind(tenant.as_str())
        .bind(at.nanos())
        .bind(entry.as_str())
        .bind(begun.unwrap_or(0))
        .bind(request)
        .bind(body)
        .bind(previous)
        .bind(hash)
        .fetch_one(self.connection())
        .await?;
        Ok(row.try_get(0)?)
    }

    /// Whether a begun row has its settled row already.
    pub async fn is_settled(&mut self, tenant: &TenantId, begun: i64) -> Result<bool> {
        let row = sqlx::query("SELECT COUNT(*) FROM ledger WHERE tenant = $1 AND begun = $2")
            .bind(tenant.as_str())
            .bind(begun)
            .fetch_one(self.connection())
            .await?;
        Ok(row.try_get::<i64, _>(0)? > 0)
    }
}

impl Db {
    /// Rows after `after`, oldest first.
    pub async fn ledger(&self, tenant: &TenantId, after: i64, rows_max: i64) -> Result<Vec<LedgerRow>> {
        let rows = sqlx::query(
            "SELECT id, at_ns, entry, begun, request, body, hash FROM ledger WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(after)
        .bind(rows_max)
        .fetch_all(self.read())
        .await?;
        rows.iter().map(read).collect()
    }

    /// The newest rows, newest first.
    pub async fn ledger_newest(&self, tenant: &TenantId, before: i64, rows_max: i64) -> Result<Vec<LedgerRow>> {
        let rows = sqlx::query(
            "SELECT id, at_ns, entry, begun, request, body, hash FROM ledger WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(before)
        .bind(rows_max)
        .fetch_all(self.read())
        .await?;
        rows.iter().map(read).collect()
    }

    /// All rows that one action request caused, oldest first.
    pub async fn ledger_of_request(&self, tenant: &TenantId, request: RequestId) -> Result<Vec<LedgerRow>> {
        let rows = sqlx::query(
            "SELECT id, at_ns, entry, begun, request, body, hash FROM ledger WHERE tenant = $1 AND request = $2 ORDER BY id",
        )
        .bind(tenant.as_str())
        .bind(request.to_string())
        .fetch_all(self.read())
        .await?;
        rows.iter().map(read).collect()
    }

    /// Walks the tenant's whole chain.
    pub async fn verify_ledger(&self, tenant: &TenantId) -> Result<Verified> {
        let (mut previous, mut after, mut verified) = (String::new(), 0, 0);
        loop {
            let rows = sqlx::query(
                "SELECT id, at_ns, entry, begun, request, body, previous_hash, hash FROM ledger \
                 WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3",
            )
            .bind(tenant.as_str())
            .bind(after)
            .bind(PAGE_ROWS)
            .fetch_all(self.read())
            .await?;
            for row in &rows {
                let id: i64 = row.try_get(0)?;
                let (entry, request, body): (String, String, String) = (row.try_get(2)?, row.try_get(4)?, row.try_get(5)?);
                let (stated_previous, stated): (String, String) = (row.try_get(6)?, row.try_get(7)?);
                let hash = chain(&previous, tenant, Timestamp(row.try_get(1)?), &entry, row.try_get(3)?, &request, &body);
                if stated_previous != previous || stated != hash {
                    return Ok(Verified { rows: verified, broken_at: Some(id) });
                }
                (previous, after, verified) = (hash, id, verified + 1);
            }
            if (rows.len() as i64) < PAGE_ROWS {
                return Ok(Verified { rows: verified, broken_at: None });
            }
        }
    }
}

/// SHA-256 over the fields, each behind its length, so that no two rows can be cut differently.
fn chain(previous: &str, tenant: &TenantId, at: Timestamp, entry: &str, begun: i64, request: &str, body: &str) -> String {
    let (at, begun) = (at.nanos().to_string(), begun.to_string());
    let mut hasher = Sha256::new();
    for field in [previous, tenant.as_str(), &at, entry, &begun, request, body] {
        hasher.update((field.len() as u64).to_be_bytes());
        hasher.update(field.as_bytes());
    }
    hex::encode(hasher.finalize())
}

fn read(row: &AnyRow) -> Result<LedgerRow> {
    let bad = |why: String| Error::Row { table: "ledger", why };
    let (entry, request, body): (String, String, String) = (row.try_get(2)?, row.try_get(4)?, row.try_get(5)?);
    let begun: i64 = row.try_get(3)?;
    Ok(LedgerRow {
        id: row.try_get(0)?,
        at: Timestamp(row.try_get(1)?),
        entry: [Entry::Begun, Entry::Settled, Entry::Refused]
            .into_iter()
            .find(|e| e.as_str() == entry)
            .ok_or_else(|| bad(format!("entry {entry:?} is unknown")))?,
        begun: (begun != 0).then_some(begun),
        request: match request.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|e: model::IdError| bad(e.to_string()))?),
        },
        body: serde_json::from_str(&body).map_err(|e| bad(e.to_string()))?,
        hash: row.try_get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn with_rows(dir: &tempfile::TempDir) -> (Db, TenantId) {
        let db = Db::open(&format!("sqlite:{}", dir.path().join("l.db").display())).await.unwrap();
        let tenant = TenantId::default_tenant();
        for n in 0..5 {
            let tenant = tenant.clone();
            db.write::<_, Error, _>(move |tx| {
                Box::pin(async move {
                    let body = serde_json::json!({ "n": n });
                    tx.append_to_ledger(&tenant, Timestamp(n), Entry::Begun, None, None, &body).await
                })
            })
            .await
            .unwrap();
        }
        (db, tenant)
    }

    async fn tamper(db: &Db, sql: &'static str) {
        db.write::<_, Error, _>(move |tx| {
            Box::pin(async move { Ok(sqlx::query(sql).execute(tx.connection()).await.map(|_| ())?) })
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn an_untouched_ledger_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let (db, tenant) = with_rows(&dir).await;
        assert_eq!(db.verify_ledger(&tenant).await.unwrap(), Verified { rows: 5, broken_at: None });
    }

    #[tokio::test]
    async fn an_altered_row_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (db, tenant) = with_rows(&dir).await;
        tamper(&db, "UPDATE ledger SET body = '{\"n\":9}' WHERE id = 3").await;
        assert_eq!(db.verify_ledger(&tenant).await.unwrap(), Verified { rows: 2, broken_at: Some(3) });
    }

    #[tokio::test]
    async fn a_row_taken_out_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (db, tenant) = with_rows(&dir).await;
        tamper(&db, "DELETE FROM ledger WHERE id = 2").await;
        assert_eq!(db.verify_ledger(&tenant).await.unwrap(), Verified { rows: 1, broken_at: Some(3) });
    }
}
