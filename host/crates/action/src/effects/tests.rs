use super::*;
use db::guardrail::GuardrailRow;
use model::{InvocationId, ManualClock, TenantId};

struct Stage {
    _dir: tempfile::TempDir,
    db: Db,
    clock: Arc<ManualClock>,
    effects: Effects,
}

impl Stage {
    async fn start(guardrails: &[(&str, Value)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("e.db").display())).await.unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(10_000)));
        for (name, spec) in guardrails {
            let row = GuardrailRow { name: (*name).into(), spec: spec.clone(), updated: Timestamp(0) };
            db.write::<_, db::Error, _>(move |tx| {
                Box::pin(async move { tx.put_guardrail(&TenantId::default_tenant(), &row).await })
            })
            .await
            .unwrap();
        }
        Self { _dir: dir, effects: Effects::new(db.clone(), clock.clone()), db, clock }
    }

    async fn begin(&self, tenant: &str, target: &str) -> Result<PermitId, ErrorRecord> {
        let who = Caller {
            tenant: TenantId::new(tenant).unwrap(),
            installation: "kubernetes".into(),
            plugin: "orchestrix/kubernetes".into(),
            version: "0.1.0".into(),
            digest: "sha256:0".into(),
            invocation: InvocationId::generate(),
            idempotency_key: "k".into(),
            cause: plugin::Cause::default(),
        };
        let effect = Effect {
            kind: "kubernetes.deployment.restart".into(),
            target: target.into(),
            summary: "restart".into(),
            before: None,
            after: None,
            undo: None,
            idempotent: false,
        };
        EffectPort::begin(&self.effects, &who, &effect).await
    }
}

#[tokio::test]
async fn a_budget_holds_across_callers_and_frees_itself_with_time() {
    let stage = Stage::start(&[("two-an-hour", json!({ "targets": ["prod/**"], "budget": { "max": 2, "window": "1h" } }))]).await;
    let together = futures_join(&stage).await;
    assert_eq!(together, 2, "of five asked at once");
    let refused = stage.begin("default", "prod/a").await.unwrap_err();
    assert_eq!(refused.code, "guardrail.budget");
    assert!(stage.begin("default", "test/a").await.is_ok(), "another target");
    assert!(stage.begin("other", "prod/a").await.is_ok(), "another tenant");
    stage.clock.advance_millis(3_600_000);
    assert!(stage.begin("default", "prod/a").await.is_ok());
}

async fn futures_join(stage: &Stage) -> usize {
    let (a, b, c, d, e) = tokio::join!(
        stage.begin("default", "prod/a"),
        stage.begin("default", "prod/b"),
        stage.begin("default", "prod/c"),
        stage.begin("default", "prod/d"),
        stage.begin("default", "prod/e")
    );
    [a, b, c, d, e].iter().filter(|r| r.is_ok()).count()
}

#[tokio::test]
async fn a_refusal_is_in_the_ledger_and_on_the_bus() {
    let stage = Stage::start(&[("freeze", json!({ "deny": true, "why": "release week" }))]).await;
    let refused = stage.begin("default", "prod/a").await.unwrap_err();
    assert_eq!((refused.code.as_str(), &refused.details["guardrail"]), ("guardrail.denied", &json!("freeze")));
    let tenant = TenantId::default_tenant();
    let rows = stage.db.ledger(&tenant, 0, 10).await.unwrap();
    assert_eq!(rows.iter().map(|r| r.entry).collect::<Vec<_>>(), [Entry::Refused]);
    let events = stage.db.handed::<Event>(Topic::Event, 0, 10).await.unwrap();
    assert_eq!(events[0].payload.kind, "io.orchestrix.effect.refused");
    assert!(stage.db.verify_ledger(&tenant).await.unwrap().broken_at.is_none());
}

#[tokio::test]
async fn a_guardrail_that_can_not_be_read_forbids_rather_than_allows() {
    let stage = Stage::start(&[("broken", json!({ "budget": { "max": 1, "window": "soon" } }))]).await;
    let refused = stage.begin("default", "prod/a").await.unwrap_err();
    assert_eq!(refused.code, "guardrail.unreadable");
    assert!(refused.message.contains("broken"), "{}", refused.message);
}

#[tokio::test]
async fn a_permit_is_settled_once_and_the_first_word_stands() {
    let stage = Stage::start(&[]).await;
    let permit = stage.begin("default", "prod/a").await.unwrap();
    let who = Caller {
        tenant: TenantId::default_tenant(),
        installation: "kubernetes".into(),
        plugin: "orchestrix/kubernetes".into(),
        version: "0.1.0".into(),
        digest: "sha256:0".into(),
        invocation: InvocationId::generate(),
        idempotency_key: "k".into(),
        cause: plugin::Cause::default(),
    };
    for status in ["done", "failed"] {
        EffectPort::settle(&stage.effects, &who, permit, status, Value::Null).await;
    }
    let rows = stage.db.ledger(&TenantId::default_tenant(), 0, 10).await.unwrap();
    let said: Vec<_> = rows.iter().filter(|r| r.entry == Entry::Settled).map(|r| r.body["status"].clone()).collect();
    assert_eq!(said, [json!("done")]);
}
