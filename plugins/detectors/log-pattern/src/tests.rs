use super::*;
use orchestrix_sdk::{telemetry::TextColumn, testing::World};

const SECOND: u64 = 1_000_000_000;

/// Second, severity number, body, and the attribute `service_name`.
type Record<'a> = (u64, u8, &'a str, &'a str);

fn batch(records: &[Record]) -> Batch {
    Batch::Logs(LogBatch {
        times: records.iter().map(|r| r.0 * SECOND).collect(),
        severities: records.iter().map(|r| r.1).collect(),
        bodies: records.iter().map(|r| r.2).collect(),
        fields: vec![("service_name".into(), records.iter().map(|r| r.3).collect())],
    })
}

fn params(json: Value) -> LogPattern {
    orchestrix_sdk::kind::params(&json.to_string()).unwrap()
}

fn observe(world: &World, plugin: &LogPattern, records: &[Record]) -> Vec<Finding> {
    world.run(|| plugin.observe(&at(10_000), &batch(records))).unwrap()
}

fn tick(world: &World, plugin: &LogPattern, second: u64) -> Vec<Finding> {
    world.run(|| plugin.tick(&at(second))).unwrap()
}

fn at(second: u64) -> Context {
    Context { now: second * SECOND, ..Context::default() }
}

#[test]
fn the_count_in_the_window_fires_once_and_quiet_resolves() {
    let plugin = params(json!({ "contains": "timeout", "count": 3, "window": "1m" }));
    let world = World::new();
    assert!(
        observe(&world, &plugin, &[(10, 17, "Database connection timeout", ""), (20, 17, "timeout", ""), (25, 9, "fine", "")])
            .is_empty()
    );
    let fired = observe(&world, &plugin, &[(30, 17, "timeout again", ""), (31, 17, "timeout more", "")]);
    assert_eq!(fired.len(), 1);
    assert_eq!((fired[0].status, fired[0].value), (Status::Firing, Some(3.0)));
    assert_eq!(fired[0].summary, "3 matches in 1m: timeout again");
    assert!(tick(&world, &plugin, 32).is_empty());
    let resolved = tick(&world, &plugin, 91);
    assert_eq!((resolved.len(), resolved[0].status), (1, Status::Ok));
    assert!(tick(&world, &plugin, 200).is_empty());
}

#[test]
fn matches_further_apart_than_the_window_never_fire() {
    let plugin = params(json!({ "contains": "x", "count": 2, "window": "10s" }));
    let world = World::new();
    assert!(observe(&world, &plugin, &[(0, 0, "x", ""), (10, 0, "x", ""), (20, 0, "x", "")]).is_empty());
    assert_eq!(observe(&world, &plugin, &[(29, 0, "x", "")]).len(), 1);
}

#[test]
fn named_groups_and_chosen_attributes_become_labels() {
    let plugin = params(
        json!({ "regex": r"timeout to (?P<db>\w+)", "labels": ["service_name"], "summary": "{{labels.db}} for {{labels.service_name}}: {{line}}" }),
    );
    let world = World::new();
    let fired = observe(
        &world,
        &plugin,
        &[(1, 17, "timeout to orders", "shop"), (2, 17, "timeout to users {{count}}", "shop"), (3, 17, "no match", "shop")],
    );
    let labels: Vec<_> = fired.iter().map(|f| f.labels.clone()).collect();
    let expected = |db: &str| vec![("db".to_owned(), db.to_owned()), ("service_name".to_owned(), "shop".to_owned())];
    assert_eq!(labels, [expected("orders"), expected("users")]);
    assert_eq!(fired[1].summary, "users for shop: timeout to users {{count}}");
}

#[test]
fn a_field_and_a_level_narrow_the_match() {
    let plugin = params(json!({ "equals": "shop", "field": "service_name", "level": "error" }));
    let world = World::new();
    assert!(observe(&world, &plugin, &[(1, 9, "a", "shop"), (2, 17, "b", "cart"), (3, 17, "c", "")]).is_empty());
    assert_eq!(observe(&world, &plugin, &[(4, 17, "d", "shop")]).len(), 1);
}

#[test]
fn verdicts_do_not_depend_on_how_records_are_cut_into_batches() {
    // Irregular gaps, two services, records out of order by some seconds.
    let bodies: Vec<_> = (0..400_u64).map(|i| ((i * 7919 % 13) * 3 + i * 2, if i % 3 == 0 { "timeout" } else { "ok" })).collect();
    let records: Vec<Record> =
        bodies.iter().enumerate().map(|(i, (t, body))| (*t, 17, *body, if i % 2 == 0 { "a" } else { "b" })).collect();
    let run = |size: usize| {
        let plugin =
            params(json!({ "contains": "timeout", "count": 2, "window": "20s", "quiet": "9s", "labels": ["service_name"] }));
        let world = World::new();
        let mut verdicts: Vec<_> = records.chunks(size).flat_map(|chunk| observe(&world, &plugin, chunk)).collect();
        verdicts.extend(tick(&world, &plugin, 2_000));
        verdicts
    };
    let whole = run(records.len());
    assert!(whole.len() > 4, "the stream must both fire and resolve: {}", whole.len());
    for size in [1, 2, 3, 7, 50, 399] {
        assert_eq!(run(size), whole, "batches of {size}");
    }
}

#[test]
fn what_still_fires_is_said_again_now_and_then() {
    let plugin = params(json!({ "contains": "x", "window": "1m" }));
    let world = World::new();
    assert_eq!(observe(&world, &plugin, &[(100, 0, "x", "")]).len(), 1);
    let said: Vec<_> = (101..=112).map(|second| tick(&world, &plugin, second).len()).collect();
    assert_eq!(said, [0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn endless_label_values_are_bounded_and_said() {
    let plugin = params(json!({ "regex": "id=(?P<id>[0-9]+)" }));
    let world = World::new();
    let bodies: Vec<_> = (0..700).map(|i| format!("id={i}")).collect();
    let records: Vec<Record> = bodies.iter().map(|body| (5, 0, body.as_str(), "")).collect();
    assert_eq!(observe(&world, &plugin, &records).len(), 500);
    assert!(world.logs()[0].1.starts_with("200 matches"), "{:?}", world.logs());
}

#[test]
fn a_hostile_batch_is_read_as_far_as_it_makes_sense() {
    let plugin = params(json!({ "contains": "x" }));
    let world = World::new();
    let broken = LogBatch {
        times: vec![1, 2, 3, u64::MAX],
        severities: vec![],
        bodies: TextColumn { bytes: vec![0xff, b'x'], ends: vec![1, 0, 9_999, 2] },
        fields: vec![("a".into(), TextColumn::default())],
    };
    let findings = world.run(|| plugin.observe(&Context::default(), &Batch::Logs(broken))).unwrap();
    assert!(findings.len() <= 1);
    assert!(world.run(|| plugin.observe(&Context::default(), &Batch::Metrics(vec![]))).unwrap().is_empty());
}

#[test]
fn wrong_params_are_refused_with_the_mend() {
    for (json, said) in [
        (json!({}), "exactly one"),
        (json!({ "contains": "" }), "exactly one"),
        (json!({ "contains": "a", "regex": "b" }), "exactly one"),
        (json!({ "regex": "(" }), "regex"),
        (json!({ "regex": "(a{1000}){1000}" }), "regex"),
        (json!({ "equals": "a" }), "field"),
        (json!({ "contains": "a", "count": 0 }), "between 1"),
        (json!({ "contains": "a", "count": 100_000 }), "between 1"),
        (json!({ "contains": "a", "window": 0 }), "window"),
    ] {
        let error = World::new().run(|| params(json.clone()).tick(&Context::default())).unwrap_err();
        assert_eq!(error.code, "params.invalid");
        assert!(error.message.contains(said), "{json}: {error}");
    }
    assert!(orchestrix_sdk::kind::params::<LogPattern>("{\"contains\":\"a\",\"windw\":\"1m\"}").is_err());
}
