//! Hand-off rows: how one stage gives work to the next without knowing it.
//!
//! A row is the truth; the wake-up after the commit is a hint. A consumer scans from its cursor on the
//! hint and on a slow timer, and moves the cursor in the transaction that stores what it made of the rows.

use crate::{Backend, Db, Error, Result, Tx};
use model::{TenantId, Timestamp};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::Row;
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    Finding,
    ActionRequest,
    ActionResult,
    Event,
}

impl Topic {
    const ALL: [Self; 4] = [Self::Finding, Self::ActionRequest, Self::ActionResult, Self::Event];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finding => "finding",
            Self::ActionRequest => "action_request",
            Self::ActionResult => "action_result",
            Self::Event => "event",
        }
    }

    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Finding => "handoff_finding",
            Self::ActionRequest => "handoff_action_request",
            Self::ActionResult => "handoff_action_result",
            Self::Event => "handoff_event",
        }
    }
}

/// A hand-off row as read.
#[derive(Clone, Debug)]
pub struct Handed<T> {
    pub id: i64,
    pub tenant: TenantId,
    pub at: Timestamp,
    pub payload: T,
}

#[derive(Debug)]
pub(crate) struct Wakes([watch::Sender<()>; Topic::ALL.len()]);

impl Default for Wakes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| watch::Sender::new(())))
    }
}

impl Wakes {
    pub(crate) fn wake(&self, topic: Topic) {
        self.0[topic as usize].send_replace(());
    }
}

/// Hints that a topic has new rows. A hint given while the consumer was busy is not lost.
#[derive(Debug)]
pub struct Wake(watch::Receiver<()>);

impl Wake {
    /// Resolves after a commit that handed off on the topic, or after `limits::HANDOFF_SCAN_MS`:
    /// a missed hint costs that much latency, never the work.
    pub async fn wait(&mut self) {
        let scan = std::time::Duration::from_millis(model::limits::HANDOFF_SCAN_MS);
        let _ = tokio::time::timeout(scan, self.0.changed()).await;
    }
}

impl Tx {
    /// Gives `payload` to whoever reads `topic`; they are woken after the commit. Answers the row's id.
    pub async fn hand_off<T: Serialize>(&mut self, topic: Topic, tenant: &TenantId, at: Timestamp, payload: &T) -> Result<i64> {
        if self.backend == Backend::Postgres {
            // Ids of one topic must become visible in order, or a cursor could pass one still uncommitted.
            sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(0x6f72_7800 + topic as i64).execute(self.connection()).await?;
        }
        let payload = serde_json::to_string(payload).map_err(|e| Error::Row { table: topic.table(), why: e.to_string() })?;
        let sql = format!("INSERT INTO {} (tenant, at_ns, payload) VALUES ($1, $2, $3) RETURNING id", topic.table());
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(at.nanos())
            .bind(payload)
            .fetch_one(self.connection())
            .await?;
        self.touched.push(topic);
        Ok(row.try_get(0)?)
    }

    /// Moves a consumer's cursor forward; never back.
    pub async fn set_cursor(&mut self, consumer: &str, topic: Topic, last_id: i64) -> Result<()> {
        sqlx::query(
            "INSERT INTO cursor (consumer, topic, last_id) VALUES ($1, $2, $3) \
             ON CONFLICT (consumer, topic) DO UPDATE SET last_id = excluded.last_id WHERE cursor.last_id < excluded.last_id",
        )
        .bind(consumer)
        .bind(topic.as_str())
        .bind(last_id)
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

impl Db {
    /// Rows after `after`, oldest first. A row that can't be read is an error, not a gap.
    pub async fn handed<T: DeserializeOwned>(&self, topic: Topic, after: i64, rows_max: i64) -> Result<Vec<Handed<T>>> {
        let sql = format!("SELECT id, tenant, at_ns, payload FROM {} WHERE id > $1 ORDER BY id LIMIT $2", topic.table());
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(after).bind(rows_max).fetch_all(self.read()).await?;
        rows.iter()
            .map(|row| {
                let bad = |why: String| Error::Row { table: topic.table(), why };
                Ok(Handed {
                    id: row.try_get(0)?,
                    tenant: row.try_get::<String, _>(1)?.parse().map_err(|e: model::IdError| bad(e.to_string()))?,
                    at: Timestamp(row.try_get(2)?),
                    payload: serde_json::from_str(&row.try_get::<String, _>(3)?).map_err(|e| bad(e.to_string()))?,
                })
            })
            .collect()
    }

    /// Where a consumer stands; 0 at first.
    pub async fn cursor(&self, consumer: &str, topic: Topic) -> Result<i64> {
        let row = sqlx::query("SELECT last_id FROM cursor WHERE consumer = $1 AND topic = $2")
            .bind(consumer)
            .bind(topic.as_str())
            .fetch_optional(self.read())
            .await?;
        Ok(row.map(|r| r.try_get(0)).transpose()?.unwrap_or(0))
    }

    /// The id of the newest row of a topic; 0 when there is none.
    pub async fn newest(&self, topic: Topic) -> Result<i64> {
        let sql = format!("SELECT COALESCE(MAX(id), 0) FROM {}", topic.table());
        Ok(sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(self.read()).await?.try_get(0)?)
    }

    /// Subscribe before the first scan, then scan and [`Wake::wait`] in turn.
    pub fn subscribe(&self, topic: Topic) -> Wake {
        Wake(self.wakes.0[topic as usize].subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(dir: &tempfile::TempDir) -> Db {
        Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap()
    }

    #[tokio::test]
    async fn rows_come_back_in_order_and_the_cursor_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir).await;
        let tenant = TenantId::default_tenant();
        for n in 0..3 {
            let tenant = tenant.clone();
            db.write::<_, Error, _>(move |tx| {
                Box::pin(async move { tx.hand_off(Topic::Event, &tenant, Timestamp(n), &serde_json::json!({ "n": n })).await })
            })
            .await
            .unwrap();
        }
        let rows = db.handed::<serde_json::Value>(Topic::Event, 1, 10).await.unwrap();
        assert_eq!(rows.iter().map(|r| r.payload["n"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 2]);
        for id in [2, 1] {
            db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.set_cursor("c", Topic::Event, id).await })).await.unwrap();
        }
        assert_eq!(db.cursor("c", Topic::Event).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_failed_write_takes_nobody_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir).await;
        let tenant = TenantId::default_tenant();
        let writes = (0..20).map(|n| {
            let (db, tenant) = (db.clone(), tenant.clone());
            async move {
                db.write::<_, Error, _>(move |tx| {
                    Box::pin(async move {
                        tx.hand_off(Topic::Event, &tenant, Timestamp(n), &n).await?;
                        if n % 2 == 0 { Err(Error::not_found("even number")) } else { Ok(()) }
                    })
                })
                .await
                .is_ok()
            }
        });
        let kept = futures::future::join_all(writes).await.into_iter().filter(|ok| *ok).count();
        assert_eq!(kept, 10);
        let rows = db.handed::<i64>(Topic::Event, 0, 100).await.unwrap();
        assert!(rows.len() == 10 && rows.iter().all(|r| r.payload % 2 == 1), "{rows:?}");
    }

    #[tokio::test]
    async fn a_consumer_is_woken_by_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir).await;
        let mut wake = db.subscribe(Topic::Finding);
        let started = std::time::Instant::now();
        let tenant = TenantId::default_tenant();
        db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.hand_off(Topic::Finding, &tenant, Timestamp(0), &1).await }))
            .await
            .unwrap();
        wake.wait().await;
        let waited = started.elapsed();
        assert!(waited < std::time::Duration::from_millis(model::limits::HANDOFF_SCAN_MS), "woke only by the timer: {waited:?}");
    }

    #[tokio::test]
    async fn after_close_a_write_is_refused_and_what_was_answered_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir).await;
        let tenant = TenantId::default_tenant();
        let t = tenant.clone();
        db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.hand_off(Topic::Event, &t, Timestamp(0), &7).await }))
            .await
            .unwrap();
        db.close().await;
        let refused = db.write::<(), Error, _>(|_| Box::pin(async { Ok(()) })).await;
        assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
        let db = open(&dir).await;
        assert_eq!(db.handed::<i64>(Topic::Event, 0, 10).await.unwrap().len(), 1);
    }
}
