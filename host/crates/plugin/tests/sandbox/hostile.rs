//! Each misbehaviour is stopped, named and charged, while the host and a neighbour go on.

use crate::world::{World, context};
use model::{LabelSet, Series};
use plugin::{CallError, Evaluation, Outcome, Owner};
use serde_json::json;

/// Runs the misbehaviour beside a well-behaved call of a neighbour, and looks at what it left.
async fn misbehave(operation: &str) -> (World, CallError) {
    let world = World::new();
    let hostile = world.install("hostile").await;
    let neighbour = model::Installation { name: "neighbour".into(), ..hostile.clone() };
    let (bad, good) =
        tokio::join!(world.execute(&hostile, operation, json!({})), world.execute(&neighbour, "well", json!({"n": 7})));
    assert_eq!(good, Ok(json!({"n": 7})), "the neighbour's call goes on");
    let error = bad.unwrap_err();
    let again = world.execute(&hostile, "well", json!({"n": 8})).await;
    assert_eq!(again, Ok(json!({"n": 8})), "a fresh instance knows nothing of the last");
    (world, error)
}

fn charged(world: &World) -> (u64, u64) {
    let stats = world.host.stats();
    let hostile = stats.iter().filter(|(key, _)| key.installation == "hostile");
    hostile.fold((0, 0), |(calls, faults), (_, meter)| (calls + meter.calls, faults + meter.faults))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_is_out_of_cpu() {
    let (world, error) = misbehave("loop").await;
    assert_eq!(error, CallError::OutOfTime { is_cpu: true, limit_ms: model::limits::ACTION_CPU_MS_MAX });
    assert_eq!((error.owner(), charged(&world)), (Owner::Plugin, (2, 1)));
    let recordings = world.seen.recordings.lock().unwrap();
    let looped = recordings.iter().find(|r| r.function == "action.execute loop").unwrap();
    assert!(looped.cpu_us >= 2_000_000, "{}", looped.cpu_us);
    assert!(matches!(&looped.outcome, Outcome::Err { error } if error.code == "plugin.out_of_cpu"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detector_has_a_detectors_budget() {
    let world = World::new();
    let hostile = world.install("hostile").await;
    let ask = |monitor: &str| Evaluation { monitor: monitor.into(), params: json!({}), input: vec![] };
    let looped = world.host.evaluate(&hostile, context(), ask("loop")).await.unwrap_err();
    assert_eq!(looped, CallError::OutOfTime { is_cpu: true, limit_ms: model::limits::DETECTOR_CPU_MS_MAX });
    let filled = world.host.evaluate(&hostile, context(), ask("memory")).await.unwrap_err();
    let limit_bytes = model::limits::DETECTOR_MEMORY_BYTES_MAX;
    assert!(
        matches!(filled, CallError::OutOfMemory { limit_bytes: l } if l == limit_bytes)
            || matches!(filled, CallError::OutOfTime { is_cpu: true, .. }),
        "{filled}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_input_is_refused_before_the_guest_sees_it() {
    let world = World::new();
    let hostile = world.install("hostile").await;
    let series = Series { labels: LabelSet::default(), times: vec![0; 2 << 20], values: vec![0.0; 2 << 20] };
    let ask = Evaluation { monitor: "m".into(), params: json!({}), input: vec![series] };
    assert!(matches!(world.host.evaluate(&hostile, context(), ask).await, Err(CallError::InputTooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeper_is_out_of_time() {
    let (_, error) = misbehave("sleep").await;
    assert_eq!(error, CallError::OutOfTime { is_cpu: false, limit_ms: 300 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_bomb_is_out_of_memory() {
    let (world, error) = misbehave("memory").await;
    assert_eq!(error, CallError::OutOfMemory { limit_bytes: model::limits::ACTION_MEMORY_BYTES_MAX });
    assert_eq!(charged(&world), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_without_end_are_stopped() {
    let (_, error) = misbehave("many-handles").await;
    assert_eq!(error.owner(), Owner::Plugin, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_recursion_traps() {
    let (_, error) = misbehave("recurse").await;
    // Which of the two stacks ends first is the guest compiler's matter; the trap names the function.
    assert!(matches!(&error, CallError::Trap { message } if message.contains("recurse")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panics_message_and_place_reach_the_plugins_log() {
    let (world, error) = misbehave("panic").await;
    assert!(matches!(error, CallError::Trap { .. }), "{error}");
    let lines = world.log_lines();
    assert!(lines.iter().any(|l| l.contains("boom on purpose") && l.contains("lib.rs:")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_100_mb_never_enters_the_host() {
    let (_, error) = misbehave("big-answer").await;
    assert!(matches!(error, CallError::OutputTooLarge { .. } | CallError::OutOfMemory { .. }), "{error}");
    let (_, error) = misbehave("big-log").await;
    assert!(matches!(error, CallError::OutputTooLarge { .. } | CallError::OutOfMemory { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_lines_is_thinned_and_counted() {
    let world = World::new();
    let hostile = world.install("hostile").await;
    world.execute(&hostile, "log-flood", json!({})).await.unwrap();
    assert_eq!(world.log_lines().len(), model::limits::PLUGIN_LOG_LINES_PER_S as usize);
    world.clock.advance_millis(1_000);
    world.execute(&hostile, "log-flood", json!({})).await.unwrap();
    let logs = world.seen.logs.lock().unwrap();
    let told = logs[model::limits::PLUGIN_LOG_LINES_PER_S as usize]
        .attributes
        .iter()
        .find(|(name, _)| name == "orchestrix.lines_dropped");
    assert_eq!(told.map(|(_, dropped)| dropped.as_str()), Some("9900"));
    assert_eq!(world.host.stats()[0].1.log_lines_dropped, 19_800);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_json_or_breaks_its_schema_is_the_plugins_fault() {
    for operation in ["no-json", "wrong-output"] {
        let (_, error) = misbehave(operation).await;
        assert!(matches!(&error, CallError::InvalidOutput { .. }), "{error}");
        assert_eq!(error.owner(), Owner::Plugin);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_files_no_environment_and_stdout_is_the_plugins_log() {
    let world = World::new();
    let hostile = world.install("hostile").await;
    assert_eq!(world.execute(&hostile, "files", json!({})).await, Ok(json!([0, 0, 0])));
    assert_eq!(world.log_lines(), ["a line on stdout", "and half a one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_mistakes_are_told_as_such() {
    let world = World::new();
    let hostile = world.install("hostile").await;
    let error = world.execute(&hostile, "wel", json!({})).await.unwrap_err();
    assert!(error.to_string().contains("did you mean \"well\"") && error.owner() == Owner::User, "{error}");
    let error = world.execute(&hostile, "well", json!({"n": "x"})).await.unwrap_err();
    assert!(error.to_string().contains("/n"), "{error}");
    let disabled = model::Installation { is_enabled: false, ..hostile.clone() };
    assert!(matches!(world.execute(&disabled, "well", json!({})).await, Err(CallError::Disabled(_))));
    let absent = model::Installation { digest: "sha256:0".into(), ..hostile };
    assert!(matches!(world.execute(&absent, "well", json!({})).await, Err(CallError::NotLoaded { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_past_its_deadline_ends_at_once() {
    let world = World::new();
    let hostile = world.install("hostile").await;
    let late = plugin::CallContext { deadline: Some(crate::world::NOW.plus_millis(50)), ..context() };
    let call = plugin::ActionCall { operation: "loop".into(), input: json!({}) };
    let error = world.host.execute(&hostile, late, &call).await.unwrap_err();
    assert_eq!(error, CallError::OutOfTime { is_cpu: false, limit_ms: 50 });
}
