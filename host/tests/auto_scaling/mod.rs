//! CPU over 90 % → the team is told, the deployment is scaled, the metric is looked at, the team is told.

use crate::harness::{Host, Playground};

async fn scaled_by(host: &Host, playground: &Playground) {
    host.apply_example("auto-scaling", playground);
    // A detector must have seen the calm state, or nobody knows that it fired because of the fault.
    host.wait_for("a scraped sample", async || {
        let answer = host.get("/api/v1/query?query=cpu_usage").await;
        answer["data"]["result"].as_array().is_some_and(|r| !r.is_empty()).then_some(())
    })
    .await;
    playground.fault("cpu-spike").await;
}

async fn assert_solved(host: &Host, playground: &Playground) {
    let run = host
        .wait_for("the run to end", async || host.runs("scale-on-high-cpu").await.into_iter().find(|run| !run["ended"].is_null()))
        .await;
    assert_eq!((&run["status"], &run["output"]["solved"]), (&"completed".into(), &true.into()), "{run:#}");
    assert_eq!(run["output"]["replicas"], 4, "{run:#}");
    assert_eq!(host.runs("scale-on-high-cpu").await.len(), 1, "one alert, one run");
    let scalings = playground.writes("/deployments/cart/scale").await;
    assert_eq!(scalings.len(), 1, "scaled exactly once: {scalings:#?}");
    let messages = playground.messages().await;
    assert!(
        messages.iter().any(|m| m.contains(":fire:")) && messages.iter().any(|m| m.contains(":white_check_mark:")),
        "{messages:#?}"
    );
    host.wait_for("the alert to resolve", async || {
        let alerts = host.get("/api/v1/alerts?state=resolved").await;
        alerts["data"]["alerts"]
            .as_array()
            .is_some_and(|a| a.iter().any(|a| a["labels"]["alertname"] == "cpu-high"))
            .then_some(())
    })
    .await;
    let ledger = host.get("/api/v1/ledger/verify").await;
    assert!(ledger["brokenAt"].is_null() && ledger["rows"].as_u64() > Some(0), "{ledger}");
}

#[tokio::test]
async fn a_hot_deployment_is_scaled_and_the_team_is_told() {
    let host = Host::start().await;
    let playground = Playground::start(&host);
    scaled_by(&host, &playground).await;
    assert_solved(&host, &playground).await;
}

#[tokio::test]
async fn killed_at_every_stage_it_is_scaled_once_and_finishes() {
    let mut host = Host::start().await;
    let playground = Playground::start(&host);
    scaled_by(&host, &playground).await;
    // Each time as soon as the world has seen the effect, so that its answer is lost.
    host.wait_for("the first message", async || (!playground.messages().await.is_empty()).then_some(())).await;
    host.kill();
    host.resume().await;
    host.wait_for("the scaling", async || (!playground.writes("/scale").await.is_empty()).then_some(())).await;
    host.kill();
    host.resume().await;
    host.wait_for("the wait", async || {
        let runs = host.runs("scale-on-high-cpu").await;
        runs.iter().any(|run| run["waits"].to_string().contains("settle")).then_some(())
    })
    .await;
    host.kill();
    host.resume().await;
    assert_solved(&host, &playground).await;
    assert!(host.stop(), "a host that is told to stop ends cleanly");
}
