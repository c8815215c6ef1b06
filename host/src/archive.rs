//! Copies the bus's events into the searchable store, and removes hand-off rows that all have read.

use db::{Db, Error, Handed, Topic};
use model::{Clock, Event, TenantId, limits};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use telemetry::Telemetry;
use tokio_util::sync::CancellationToken;

const CONSUMER: &str = "archive";
/// The bus keeps a day, so that a page that was closed overnight still resumes its stream.
const EVENTS_KEPT_MS: i64 = 24 * 3_600_000;
/// The other topics keep an hour, for a person who looks after trouble.
const OTHERS_KEPT_MS: i64 = 3_600_000;
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// Who reads which topic: a row stays until all of them have.
const READERS: &[(Topic, &[&str], i64)] = &[
    (Topic::Finding, &["alert"], OTHERS_KEPT_MS),
    (Topic::ActionRequest, &["action"], OTHERS_KEPT_MS),
    (Topic::ActionResult, &["workflow"], OTHERS_KEPT_MS),
    (Topic::Event, &["workflow", CONSUMER], EVENTS_KEPT_MS),
];

/// Runs until cancelled. What can't be stored now is tried again: the cursor did not move.
pub async fn archive(db: Db, telemetry: Telemetry, cancel: CancellationToken) -> anyhow::Result<()> {
    let mut wake = db.subscribe(Topic::Event);
    loop {
        match step(&db, &telemetry).await {
            Ok(0) => {}
            Ok(_) => continue,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "events could not be archived yet"),
        }
        tokio::select! {
            () = wake.wait() => {}
            () = cancel.cancelled() => return Ok(()),
        }
    }
}

/// One batch; answers how many rows it moved.
async fn step(db: &Db, telemetry: &Telemetry) -> anyhow::Result<usize> {
    let after = db.cursor(CONSUMER, Topic::Event).await?;
    let rows: Vec<Handed<Event>> = db.handed(Topic::Event, after, limits::HANDOFF_BATCH_ROWS).await?;
    let Some(last) = rows.last().map(|r| r.id) else { return Ok(0) };
    let count = rows.len();
    let mut by_tenant: BTreeMap<TenantId, Vec<Event>> = BTreeMap::new();
    for row in rows {
        let mut event = row.payload;
        event.received = row.at;
        by_tenant.entry(row.tenant).or_default().push(event);
    }
    for (tenant, events) in by_tenant {
        telemetry.events.append(&tenant, events).await?;
    }
    db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.set_cursor(CONSUMER, Topic::Event, last).await })).await?;
    Ok(count)
}

pub async fn trim(db: Db, clock: Arc<dyn Clock>, cancel: CancellationToken) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(TRIM_EVERY) => {}
            () = cancel.cancelled() => return Ok(()),
        }
        for (topic, readers, kept_ms) in READERS {
            let (topic, before) = (*topic, clock.now().plus_millis(-kept_ms));
            let trimmed = async {
                let read = db.read_by_all(topic, readers).await?;
                db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.trim_handoff(topic, read, before).await })).await
            };
            if let Err(error) = trimmed.await {
                tracing::warn!(topic = topic.as_str(), error = %error, "hand-off rows could not be trimmed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_event_on_the_bus_becomes_searchable_once() {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(model::SystemClock);
        let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
        let telemetry = Telemetry::open(&dir.path().join("t"), telemetry::Config::default(), clock.clone()).await.unwrap();
        let (tenant, now) = (TenantId::default_tenant(), clock.now());
        let mut event = Event::new("1", "/test", "io.orchestrix.test", serde_json::json!({}));
        event.time = Some(api::rfc3339(now));
        let t = tenant.clone();
        db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.hand_off(Topic::Event, &t, now, &event).await }))
            .await
            .unwrap();
        assert_eq!(step(&db, &telemetry).await.unwrap(), 1);
        assert_eq!(step(&db, &telemetry).await.unwrap(), 0);
        let query = telemetry::EventQuery {
            kind: Some("io.orchestrix.test".into()),
            source: None,
            subject: None,
            start: now.plus_millis(-60_000),
            end: now.plus_millis(60_000),
            limit: 10,
        };
        assert_eq!(telemetry.events.search(&tenant, &query).await.unwrap().len(), 1);
    }
}
