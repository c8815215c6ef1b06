//! Warm stream detectors: their state is a snapshot, and a trap leaves the snapshot as it was.

use crate::world::{World, context};
use model::{Grant, Installation, LogRecord};
use plugin::{Batch, CallError};
use serde_json::json;

fn record(body: &str) -> LogRecord {
    LogRecord { body: body.into(), attributes: [("user".to_owned(), "ada".into())].into_iter().collect(), ..LogRecord::default() }
}

async fn installed(world: &World) -> Installation {
    let fixture = world.install("fixture").await;
    Installation { grant: Grant { state_bytes: 1_000, ..Grant::default() }, ..fixture }
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_do_not_depend_on_where_batches_are_cut_or_the_instance_restarts() {
    let world = World::new();
    let installation = installed(&world).await;
    let mut one = world.host.stream(&installation, json!({"field": "user"}), None).await.unwrap();
    let found = one.observe(context(), Batch::Logs(&[record("a"), record("b"), record("c")])).await.unwrap();
    assert_eq!((found[0].value, &found[0].evidence["fields"]), (Some(3.0), &json!([["user", "adaadaada"]])));
    let mut two = world.host.stream(&installation, json!({"field": "user"}), None).await.unwrap();
    two.observe(context(), Batch::Logs(&[record("a")])).await.unwrap();
    let mut three = world.host.stream(&installation, json!({"field": "user"}), Some(two.snapshot())).await.unwrap();
    let found = three.observe(context(), Batch::Logs(&[record("b"), record("c")])).await.unwrap();
    assert_eq!(found[0].value, Some(3.0));
    assert_eq!(three.tick(context()).await.unwrap()[0].value, Some(3.0));
    assert_eq!(one.snapshot().len(), three.snapshot().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_ends_the_instance_and_leaves_the_snapshot_as_it_was() {
    let world = World::new();
    let installation = installed(&world).await;
    let mut stream = world.host.stream(&installation, json!({}), None).await.unwrap();
    stream.observe(context(), Batch::Logs(&[record("a")])).await.unwrap();
    let before = stream.snapshot();
    let error = stream.observe(context(), Batch::Logs(&[record("trap")])).await.unwrap_err();
    assert!(matches!(error, CallError::Trap { .. }), "{error}");
    assert_eq!((stream.snapshot(), stream.is_alive()), (before, false));
    assert!(stream.tick(context()).await.is_err());
    let mut again = world.host.stream(&installation, json!({}), Some(stream.snapshot())).await.unwrap();
    assert_eq!(again.tick(context()).await.unwrap()[0].value, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_grant_there_is_no_state() {
    let world = World::new();
    let fixture = world.install("fixture").await;
    let mut stream = world.host.stream(&fixture, json!({}), None).await.unwrap();
    assert!(stream.observe(context(), Batch::Logs(&[record("a")])).await.is_err());
    assert!(world.host.stream(&fixture, json!({}), Some(b"rubbish".to_vec())).await.is_err());
}
