//! Removing hand-off rows that everybody has read.

use crate::{Db, Result, Topic, Tx};
use model::Timestamp;

impl Tx {
    /// Deletes rows up to `last_id` that are older than `before`. Answers how many.
    pub async fn trim_handoff(&mut self, topic: Topic, last_id: i64, before: Timestamp) -> Result<u64> {
        let sql = format!("DELETE FROM {} WHERE id <= $1 AND at_ns < $2", topic.table());
        let done = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(last_id).bind(before.nanos()).execute(self.connection()).await?;
        Ok(done.rows_affected())
    }
}

impl Db {
    /// The id up to which all of `consumers` have read; 0 while one has read nothing.
    pub async fn read_by_all(&self, topic: Topic, consumers: &[&str]) -> Result<i64> {
        let mut least = i64::MAX;
        for consumer in consumers {
            least = least.min(self.cursor(consumer, topic).await?);
        }
        Ok(if consumers.is_empty() { 0 } else { least })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use model::TenantId;

    #[tokio::test]
    async fn a_row_stays_until_all_have_read_it_and_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
        db.write::<_, Error, _>(|tx| {
            Box::pin(async move {
                for n in 1..=4 {
                    tx.hand_off(Topic::Event, &TenantId::default_tenant(), Timestamp(n * 10), &n).await?;
                }
                tx.set_cursor("fast", Topic::Event, 4).await?;
                tx.set_cursor("slow", Topic::Event, 3).await
            })
        })
        .await
        .unwrap();
        assert_eq!(db.read_by_all(Topic::Event, &["fast", "new"]).await.unwrap(), 0);
        let read = db.read_by_all(Topic::Event, &["fast", "slow"]).await.unwrap();
        let gone = db
            .write::<_, Error, _>(move |tx| Box::pin(async move { tx.trim_handoff(Topic::Event, read, Timestamp(25)).await }))
            .await;
        assert_eq!((read, gone.unwrap()), (3, 2));
        assert_eq!(db.handed::<i64>(Topic::Event, 0, 10).await.unwrap().len(), 2);
    }
}
