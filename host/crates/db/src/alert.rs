//! Alerts: one row an episode, and their timelines.

use crate::{Db, Error, Result, Tx};
use model::{Alert, AlertEvent, AlertId, AlertState, TenantId, Timestamp};
use sqlx::{Row, any::AnyRow};

/// An alert with what the state machine keeps beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertRow {
    pub alert: Alert,
    /// What names the thing within its monitor: the fingerprint of the finding's own labels.
    pub thing: model::Fingerprint,
    /// The reporting monitor; for alerts from outside, an id derived from their name.
    pub reporter: model::MonitorId,
    /// Whether the last finding said "firing".
    pub verdict: bool,
    /// When the verdict changed lately, oldest first.
    pub flips: Vec<Timestamp>,
    pub is_announced: bool,
    pub stale_at: Option<Timestamp>,
}

const COLUMNS: &str = "body, thing, monitor, verdict, flips, is_announced, stale_at_ns";

impl Tx {
    /// The newest episode of each thing that `reporter` ever reported.
    pub async fn current_alerts(&mut self, tenant: &TenantId, reporter: model::MonitorId) -> Result<Vec<AlertRow>> {
        let sql = format!("SELECT {COLUMNS} FROM alert WHERE tenant = $1 AND monitor = $2 AND is_current = 1");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(reporter.to_string())
            .fetch_all(self.connection())
            .await?;
        rows.iter().map(read).collect()
    }

    /// Inserts the episode or replaces its row. A new episode takes the place of the one before it.
    pub async fn put_alert(&mut self, tenant: &TenantId, row: &AlertRow, now: Timestamp) -> Result<()> {
        let (id, thing) = (row.alert.id.to_string(), row.thing.to_string());
        sqlx::query(
            "UPDATE alert SET is_current = 0 WHERE tenant = $1 AND monitor = $2 AND thing = $3 AND is_current = 1 AND id <> $4",
        )
        .bind(tenant.as_str())
        .bind(row.reporter.to_string())
        .bind(&thing)
        .bind(&id)
        .execute(self.connection())
        .await?;
        sqlx::query(
            "INSERT INTO alert (id, tenant, monitor, thing, state, is_current, verdict, flips, is_announced, stale_at_ns, updated_ns, body) \
             VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, $9, $10, $11) \
             ON CONFLICT (id) DO UPDATE SET state = excluded.state, verdict = excluded.verdict, flips = excluded.flips, \
             is_announced = excluded.is_announced, stale_at_ns = excluded.stale_at_ns, updated_ns = excluded.updated_ns, body = excluded.body",
        )
        .bind(id)
        .bind(tenant.as_str())
        .bind(row.reporter.to_string())
        .bind(thing)
        .bind(row.alert.state.as_str())
        .bind(i64::from(row.verdict))
        .bind(json(&row.flips)?)
        .bind(i64::from(row.is_announced))
        .bind(row.stale_at.map_or(0, Timestamp::nanos))
        .bind(now.nanos())
        .bind(json(&row.alert)?)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    pub async fn add_to_timeline(&mut self, tenant: &TenantId, event: &AlertEvent) -> Result<()> {
        sqlx::query("INSERT INTO alert_timeline (tenant, alert, at_ns, body) VALUES ($1, $2, $3, $4)")
            .bind(tenant.as_str())
            .bind(event.alert.id.to_string())
            .bind(event.at.nanos())
            .bind(json(event)?)
            .execute(self.connection())
            .await?;
        Ok(())
    }
}

impl Db {
    /// Open alerts of all tenants, for the state machine's timer.
    pub async fn open_alerts_of_all(&self) -> Result<Vec<(TenantId, AlertRow)>> {
        let sql = format!("SELECT {COLUMNS}, tenant FROM alert WHERE is_current = 1 AND state IN ('pending', 'firing')");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(self.read()).await?;
        rows.iter()
            .map(|row| {
                let tenant: String = row.try_get(7)?;
                Ok((tenant.parse().map_err(|e: model::IdError| unreadable(e.to_string()))?, read(row)?))
            })
            .collect()
    }

    /// The tenant's alerts, newest change first; of one state, or of all.
    pub async fn alerts(&self, tenant: &TenantId, state: Option<AlertState>, rows_max: i64) -> Result<Vec<Alert>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM alert WHERE tenant = $1 AND ($2 = '' OR state = $2) ORDER BY updated_ns DESC, id DESC LIMIT $3"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(state.map_or("", AlertState::as_str))
            .bind(rows_max)
            .fetch_all(self.read())
            .await?;
        rows.iter().map(|row| Ok(read(row)?.alert)).collect()
    }

    /// Everything that is wrong now.
    pub async fn open_alerts(&self, tenant: &TenantId) -> Result<Vec<Alert>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM alert WHERE tenant = $1 AND is_current = 1 AND state IN ('pending', 'firing') ORDER BY updated_ns DESC, id DESC"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).fetch_all(self.read()).await?;
        rows.iter().map(|row| Ok(read(row)?.alert)).collect()
    }

    pub async fn alert(&self, tenant: &TenantId, id: AlertId) -> Result<Alert> {
        let sql = format!("SELECT {COLUMNS} FROM alert WHERE tenant = $1 AND id = $2");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(id.to_string())
            .fetch_optional(self.read())
            .await?
            .ok_or_else(|| Error::not_found(format!("alert {id}")))?;
        Ok(read(&row)?.alert)
    }

    /// All changes of an alert, oldest first.
    pub async fn alert_timeline(&self, tenant: &TenantId, id: AlertId) -> Result<Vec<AlertEvent>> {
        let rows = sqlx::query("SELECT body FROM alert_timeline WHERE tenant = $1 AND alert = $2 ORDER BY id")
            .bind(tenant.as_str())
            .bind(id.to_string())
            .fetch_all(self.read())
            .await?;
        rows.iter()
            .map(|row| {
                let body: String = row.try_get(0)?;
                serde_json::from_str(&body).map_err(|e| Error::Row { table: "alert_timeline", why: e.to_string() })
            })
            .collect()
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| unreadable(e.to_string()))
}

fn unreadable(why: String) -> Error {
    Error::Row { table: "alert", why }
}

fn read(row: &AnyRow) -> Result<AlertRow> {
    let (body, thing, monitor): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let stale_at: i64 = row.try_get(6)?;
    Ok(AlertRow {
        alert: serde_json::from_str(&body).map_err(|e| unreadable(e.to_string()))?,
        thing: thing.parse().map_err(|_| unreadable(format!("{thing:?} is no fingerprint")))?,
        reporter: monitor.parse().map_err(|e: model::IdError| unreadable(e.to_string()))?,
        verdict: row.try_get::<i64, _>(3)? != 0,
        flips: serde_json::from_str(&row.try_get::<String, _>(4)?).map_err(|e| unreadable(e.to_string()))?,
        is_announced: row.try_get::<i64, _>(5)? != 0,
        stale_at: (stale_at != 0).then_some(Timestamp(stale_at)),
    })
}
