//! Each capability, and its denied twin.

use crate::world::{World, bind, code, context, full_grant, message};
use model::{Grant, Installation, LabelSet, Series};
use plugin::{ActionCall, CallContext, Evaluation, Verdict};
use serde_json::{Value, json};

async fn granted(world: &World) -> Installation {
    let fixture = world.install("fixture").await;
    Installation { grant: full_grant("http://127.0.0.1:1"), config: json!({"server": "http://127.0.0.1:1"}), ..fixture }
}

fn denied(installation: &Installation) -> Installation {
    Installation { grant: Grant::default(), ..installation.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_kept_compared_and_bounded() {
    let world = World::new();
    let fixture = granted(&world).await;
    let put = world.execute(&fixture, "state", json!({"put": ["k", "v", 0], "get": "k", "list": "k"})).await;
    assert_eq!(put, Ok(json!({"revision": 1, "value": "v", "keys": ["k"]})));
    assert_eq!(code(&world.execute(&fixture, "state", json!({"put": ["k", "w", 0]})).await), "state.conflict");
    assert_eq!(code(&world.execute(&fixture, "state", json!({"put": ["big", 60_000]})).await), "state.quota");
    assert_eq!(code(&world.execute(&fixture, "state", json!({"put": ["big", 2_000_000]})).await), "state.too_large");
    assert_eq!(code(&world.execute(&fixture, "state", json!({"get": "!checkpoint/x"})).await), "state.bad_key");
    let twin = world.execute(&denied(&fixture), "state", json!({"put": ["k", "v"]})).await;
    assert_eq!(code(&twin), "permission.denied");
    assert!(message(&twin).contains("grant.state_bytes"), "{}", message(&twin));
    assert_eq!(world.last_recording().calls[0].import, "state.put");
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_is_read_by_signal() {
    let world = World::new();
    let fixture = granted(&world).await;
    assert_eq!(world.execute(&fixture, "telemetry", json!({"metrics": "up"})).await, Ok(json!([[[10_000_000_000_u64], [42.0]]])));
    assert_eq!(world.execute(&fixture, "telemetry", json!({"logs": "{}"})).await, Ok(json!(["ab", "c"])));
    let spans = world.execute(&fixture, "telemetry", json!({"spans": "{}"})).await;
    assert!(message(&spans).contains("manifest doesn't ask to read traces"), "{}", message(&spans));
    let twin = world.execute(&denied(&fixture), "telemetry", json!({"metrics": "up"})).await;
    assert!(message(&twin).contains("add \"metrics\" to grant.telemetry"), "{}", message(&twin));
    assert_eq!(world.host.stats().iter().map(|(_, m)| m.denials).sum::<u64>(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_signs_and_proves_and_is_shown_only_with_leave() {
    let world = World::new();
    let mut fixture = granted(&world).await;
    for name in ["token", "clear"] {
        world.secret(name, "hunter2hunter2", &[]);
        bind(&mut fixture, name);
    }
    let ask = |name: &str, what: &str| json!({"name": name, "do": what, "algorithm": "hmac-sha256", "data": "n=,r=a,r=ab,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=10,c=biws,r=ab"});
    assert_eq!(world.execute(&fixture, "secret", ask("token", "sign")).await, Ok(json!(32)));
    assert_eq!(world.execute(&fixture, "secret", ask("token", "prove")).await, Ok(json!(64)));
    assert_eq!(world.execute(&fixture, "secret", ask("clear", "reveal")).await, Ok(json!("hunter2hunter2")));
    let not_asked = world.execute(&fixture, "secret", ask("token", "reveal")).await;
    assert!(message(&not_asked).contains("reveal = true"), "{}", message(&not_asked));
    let twin = world.execute(&denied(&fixture), "secret", ask("clear", "reveal")).await;
    assert!(message(&twin).contains("grant.reveal"), "{}", message(&twin));
    let unknown = world.execute(&fixture, "secret", ask("other", "")).await;
    assert!(message(&unknown).contains("declares no secret"), "{}", message(&unknown));
    fixture.secrets.clear();
    assert_eq!(code(&world.execute(&fixture, "secret", ask("token", "")).await), "config.secret_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_neither_in_the_log_nor_in_the_recording() {
    let world = World::new();
    let mut fixture = granted(&world).await;
    world.secret("clear", "hunter2hunter2", &[]);
    bind(&mut fixture, "clear");
    world.execute(&fixture, "secret", json!({"name": "clear", "do": "log"})).await.unwrap();
    assert_eq!(world.log_lines(), ["it is [redacted]"]);
    let recording = serde_json::to_string(&world.last_recording()).unwrap();
    assert!(!recording.contains("hunter2"), "{recording}");
    assert!(recording.contains("credentials.reveal"));
}

#[tokio::test(flavor = "multi_thread")]
async fn config_metrics_and_checkpoints_reach_the_guest_and_back() {
    let world = World::new();
    let fixture = granted(&world).await;
    let seen = world.execute(&fixture, "clock", json!({})).await.unwrap();
    assert_eq!(seen["config"], fixture.config.to_string());
    assert_eq!((world.host.self_metrics()[0].name.as_str(), world.host.self_metrics()[0].sum), ("clock_reads", 1.0));
    assert_eq!(world.execute(&fixture, "checkpoint", json!({})).await, Ok(json!({"last": null})));
    assert_eq!(world.execute(&fixture, "checkpoint", json!({})).await, Ok(json!({"last": "{\"page\":7}"})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_can_tidy_up() {
    let world = World::new();
    let fixture = granted(&world).await;
    let context = context();
    let invocation = context.invocation;
    let call = ActionCall { operation: "wait".into(), input: json!({}) };
    let running = world.host.execute(&fixture, context, &call);
    let cancel = async {
        while !world.host.cancel(invocation) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let (answer, ()) = tokio::join!(running, cancel);
    assert_eq!(answer, Ok(json!("cancelled")));
    assert!(!world.host.cancel(invocation));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_tells_done_not_done_or_unknown() {
    let world = World::new();
    let fixture = granted(&world).await;
    for (status, verdict) in
        [("done", Verdict::Done(json!({"found": true}))), ("not-done", Verdict::NotDone), ("who knows", Verdict::Unknown)]
    {
        let call = ActionCall { operation: "http".into(), input: json!({"status": status}) };
        assert_eq!(world.host.probe(&fixture, context(), &call).await, Ok(verdict));
    }
    let hostile = world.install("hostile").await;
    let call = ActionCall { operation: "well".into(), input: json!({}) };
    assert_eq!(world.host.probe(&hostile, context(), &call).await, Ok(Verdict::Unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detector_is_deterministic_and_has_no_exit() {
    let world = World::new();
    let mut fixture = granted(&world).await;
    world.secret("token", "hunter2hunter2", &["*"]);
    bind(&mut fixture, "token");
    let input = vec![Series { labels: LabelSet::from_pairs([("a", "b")]), times: vec![1, 2], values: vec![3.0, 4.0] }];
    let ask = |params: Value| Evaluation { monitor: "m".into(), params, input: input.clone() };
    let context = context();
    let first = world.host.evaluate(&fixture, context.clone(), ask(json!({}))).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let second = world.host.evaluate(&fixture, context.clone(), ask(json!({}))).await.unwrap();
    assert_eq!(first, second);
    assert_eq!((first[0].value, &first[0].evidence["points"]), (Some(4.0), &json!(2)));
    assert_eq!(first[0].evidence["wall"], json!(crate::world::NOW.nanos() / 1_000_000_000));
    let other = CallContext { invocation: model::InvocationId::generate(), ..context.clone() };
    let third = world.host.evaluate(&fixture, other, ask(json!({}))).await.unwrap();
    assert_ne!(first[0].evidence["random"], third[0].evidence["random"]);
    for escape in ["escape", "secret"] {
        let error = world.host.evaluate(&fixture, context.clone(), ask(json!({"do": escape}))).await.unwrap_err();
        assert!(error.to_string().contains("detectors and transforms have no"), "{error}");
    }
}
