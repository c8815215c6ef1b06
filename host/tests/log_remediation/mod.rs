//! `ERROR: Database connection timeout` in the logs → checked, pool restarted, failed over, ticket, people told.

use crate::harness::{Host, Playground};
use serde_json::Value;

async fn broken_by(fault: &str, host: &Host, playground: &Playground) {
    host.apply_example("log-remediation", playground);
    playground.fault(fault).await;
}

async fn ended(host: &Host) -> Value {
    host.wait_for("the run to end", async || {
        host.runs("repair-database-timeouts").await.into_iter().find(|run| !run["ended"].is_null())
    })
    .await
}

#[tokio::test]
async fn a_stuck_pool_is_restarted_and_nothing_is_failed_over() {
    let host = Host::start().await;
    let playground = Playground::start(&host);
    broken_by("db-pool-stuck", &host, &playground).await;
    let run = ended(&host).await;
    assert_eq!(run["output"]["done"], serde_json::json!(["restarted the connection pool"]), "{run:#}");
    assert_eq!(playground.writes("/db/failover").await.len(), 0);
    assert_eq!(playground.get("/tickets").await.as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn killed_in_the_middle_a_dead_primary_is_failed_over_once() {
    let mut host = Host::start().await;
    let playground = Playground::start(&host);
    broken_by("db-primary-down", &host, &playground).await;
    host.wait_for("the restart", async || (!playground.writes("/db/pool/restart").await.is_empty()).then_some(())).await;
    host.kill();
    host.resume().await;
    host.wait_for("the fail-over", async || (!playground.writes("/db/failover").await.is_empty()).then_some(())).await;
    host.kill();
    host.resume().await;
    let run = ended(&host).await;
    assert_eq!((&run["output"]["healthy"], &run["output"]["endpoint"]), (&true.into(), &"replica".into()), "{run:#}");
    assert_eq!(playground.writes("/db/failover").await.len(), 1, "failed over exactly once");
    assert_eq!(playground.get("/tickets").await.as_array().map(Vec::len), Some(1), "one incident, one ticket");
    let messages = playground.messages().await;
    assert!(messages.iter().any(|m| m.contains("failed over to the replica")), "{messages:#?}");
}
