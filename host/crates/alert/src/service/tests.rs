use super::*;
use db::silence::Silence;
use model::{Finding, FindingStatus, ManualClock, Matcher, MonitorId, NoDataPolicy};

struct Stage {
    _dir: tempfile::TempDir,
    db: Db,
    clock: Arc<ManualClock>,
    service: Service,
    tenant: TenantId,
}

impl Stage {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("a.db").display())).await.unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1000)));
        let service = Service::new(db.clone(), clock.clone());
        Self { _dir: dir, db, clock, service, tenant: TenantId::default_tenant() }
    }

    async fn report(&self, tenant: &TenantId, hosts: &[(&str, FindingStatus)]) {
        let at = self.clock.now();
        let findings = hosts
            .iter()
            .map(|(host, status)| Finding {
                labels: LabelSet::from_pairs([("host", *host)]),
                status: *status,
                score: 1.0,
                severity: "critical".into(),
                summary: format!("{host} is hot"),
                value: Some(95.0),
                evidence: serde_json::Value::Null,
            })
            .collect();
        let report = FindingReport {
            monitor: MonitorId::from_uuid(uuid::Uuid::from_u128(7)),
            monitor_name: "cpu".into(),
            at,
            is_complete: true,
            findings,
            for_ms: 0,
            keep_firing_for_ms: 0,
            stale_after_ms: None,
            labels: LabelSet::default(),
            annotations: LabelSet::default(),
            no_data: NoDataPolicy::Ok,
        };
        let tenant = tenant.clone();
        self.db
            .write::<_, Error, _>(move |tx| {
                Box::pin(async move { Ok(tx.hand_off(Topic::Finding, &tenant, at, &report).await.map(|_| ())?) })
            })
            .await
            .unwrap();
        while self.service.consume().await.unwrap() > 0 {}
    }

    async fn silence(&self, from_s: i64, to_s: i64) {
        let silence = Silence {
            id: "5f0c3f1e-0000-4000-8000-000000000001".into(),
            matchers: vec![Matcher::equal("host", "a")],
            starts: Timestamp::from_secs(from_s),
            ends: Timestamp::from_secs(to_s),
            created_by: "ann".into(),
            comment: "moving racks".into(),
            updated: self.clock.now(),
        };
        let tenant = self.tenant.clone();
        self.db
            .write::<_, Error, _>(move |tx| Box::pin(async move { Ok(tx.put_silence(&tenant, &silence).await?) }))
            .await
            .unwrap();
    }

    async fn bus(&self) -> Vec<String> {
        let events = self.db.handed::<Event>(Topic::Event, 0, 100).await.unwrap();
        events.iter().map(|e| format!("{} {} {}", e.tenant, e.payload.kind, e.payload.data["alert"]["labels"]["host"])).collect()
    }
}

#[tokio::test]
async fn a_thing_no_longer_reported_resolves_and_its_timeline_says_so() {
    let stage = Stage::start().await;
    stage.report(&stage.tenant, &[("a", FindingStatus::Firing), ("b", FindingStatus::Firing)]).await;
    stage.clock.advance_millis(15_000);
    stage.report(&stage.tenant, &[("b", FindingStatus::Firing)]).await;
    let open = stage.db.open_alerts(&stage.tenant).await.unwrap();
    assert_eq!(open.iter().map(|a| a.labels.get("host").unwrap()).collect::<Vec<_>>(), ["b"]);
    let resolved = stage.db.alerts(&stage.tenant, Some(AlertState::Resolved), 10).await.unwrap();
    let timeline = stage.db.alert_timeline(&stage.tenant, resolved[0].id).await.unwrap();
    assert_eq!(timeline.iter().map(|e| e.to).collect::<Vec<_>>(), [AlertState::Firing, AlertState::Resolved]);
    assert_eq!(
        stage.bus().await,
        [
            r#"default io.orchestrix.alert.firing "a""#,
            r#"default io.orchestrix.alert.firing "b""#,
            r#"default io.orchestrix.alert.resolved "a""#
        ]
    );
}

#[tokio::test]
async fn the_same_finding_again_is_the_same_alert_and_tells_nobody() {
    let stage = Stage::start().await;
    for _ in 0..3 {
        stage.report(&stage.tenant, &[("a", FindingStatus::Firing)]).await;
        stage.clock.advance_millis(15_000);
    }
    assert_eq!(stage.db.alerts(&stage.tenant, None, 10).await.unwrap().len(), 1);
    assert_eq!(stage.bus().await.len(), 1);
}

#[tokio::test]
async fn after_it_resolved_the_same_thing_is_a_new_episode() {
    let stage = Stage::start().await;
    for status in [FindingStatus::Firing, FindingStatus::Ok, FindingStatus::Firing] {
        stage.report(&stage.tenant, &[("a", status)]).await;
        stage.clock.advance_millis(15_000);
    }
    let alerts = stage.db.alerts(&stage.tenant, None, 10).await.unwrap();
    assert_eq!(alerts.iter().map(|a| a.state).collect::<Vec<_>>(), [AlertState::Firing, AlertState::Resolved]);
    assert_ne!(alerts[0].id, alerts[1].id);
    assert_eq!(alerts[0].fingerprint, alerts[1].fingerprint);
}

#[tokio::test]
async fn a_silence_keeps_the_bus_quiet_until_it_ends() {
    let stage = Stage::start().await;
    stage.silence(900, 1100).await;
    stage.report(&stage.tenant, &[("a", FindingStatus::Firing)]).await;
    stage.service.tick().await.unwrap();
    assert_eq!(stage.bus().await, [r#"default io.orchestrix.alert.silenced "a""#]);
    assert!(stage.db.open_alerts(&stage.tenant).await.unwrap()[0].is_silenced);
    stage.clock.set(Timestamp::from_secs(1100));
    stage.service.tick().await.unwrap();
    stage.service.tick().await.unwrap();
    assert_eq!(stage.bus().await[1..], [r#"default io.orchestrix.alert.firing "a""#.to_owned()]);
}

#[tokio::test]
async fn what_was_announced_before_a_silence_does_not_start_again_after_it() {
    let stage = Stage::start().await;
    stage.report(&stage.tenant, &[("a", FindingStatus::Firing)]).await;
    stage.silence(1010, 1020).await;
    for now in [1010, 1020] {
        stage.clock.set(Timestamp::from_secs(now));
        stage.service.tick().await.unwrap();
    }
    assert_eq!(
        stage.bus().await[1..],
        [r#"default io.orchestrix.alert.silenced "a""#.to_owned(), r#"default io.orchestrix.alert.unsilenced "a""#.to_owned()]
    );
}

#[tokio::test]
async fn a_tenant_neither_sees_nor_ends_the_alerts_of_another() {
    let stage = Stage::start().await;
    let other = TenantId::new("other").unwrap();
    stage.report(&stage.tenant, &[("a", FindingStatus::Firing)]).await;
    stage.report(&other, &[]).await;
    assert_eq!(stage.db.open_alerts(&stage.tenant).await.unwrap().len(), 1);
    assert_eq!(stage.db.open_alerts(&other).await.unwrap().len(), 0);
    let id = stage.db.open_alerts(&stage.tenant).await.unwrap()[0].id;
    assert!(matches!(stage.db.alert(&other, id).await, Err(db::Error::NotFound { .. })));
}

#[tokio::test]
async fn a_report_is_applied_once_even_if_the_stage_restarts() {
    let stage = Stage::start().await;
    stage.report(&stage.tenant, &[("a", FindingStatus::Firing)]).await;
    let again = Service::new(stage.db.clone(), stage.clock.clone());
    assert_eq!(again.consume().await.unwrap(), 0);
    assert_eq!(stage.bus().await.len(), 1);
}
