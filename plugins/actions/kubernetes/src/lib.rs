//! `kubernetes`: Deployments through the API server, by the paths and media types that `kubectl` uses.

use orchestrix_sdk::prelude::*;
use std::time::Duration;

/// What the rollout is restarted by, as `kubectl rollout restart` does it.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// Which step did it: makes the restart idempotent, and answers the probe.
const RESTARTED_BY: &str = "orchestrix.io/restarted-by";
/// Between two looks of `wait-ready`: quick enough for people, slow enough for the API server.
const POLL: Duration = Duration::from_secs(1);

/// The installation's configuration.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// The API server, such as `https://10.0.0.1:6443`.
    url: String,
    /// Namespace of inputs that name none.
    #[serde(default = "default_namespace")]
    namespace: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Which {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    /// How many there shall be.
    #[serde(default)]
    replicas: Option<i64>,
    /// How many more, or fewer when negative.
    #[serde(default)]
    by: Option<i64>,
    /// Never fewer than this.
    #[serde(default)]
    min: Option<i64>,
    /// Never more than this.
    #[serde(default)]
    max: Option<i64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    /// Gives up after so many seconds.
    #[serde(default = "five_minutes")]
    timeout_seconds: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentState {
    name: String,
    namespace: String,
    /// Wanted.
    replicas: i64,
    ready: i64,
    updated: i64,
    available: i64,
    is_ready: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scaled {
    name: String,
    namespace: String,
    before: i64,
    after: i64,
    changed: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Restarted {
    name: String,
    namespace: String,
    changed: bool,
}

/// The part of the API's Scale that matters here.
#[derive(Default, Deserialize)]
struct ScaleObject {
    #[serde(default)]
    spec: ReplicasWanted,
}

#[derive(Default, Deserialize)]
struct ReplicasWanted {
    #[serde(default)]
    replicas: i64,
}

#[orchestrix_sdk::action]
impl Kubernetes {
    #[operation]
    fn get(&self, _ctx: &Context, input: Which) -> Result<DeploymentState> {
        self.state(&self.deployment(&input.name, input.namespace.as_deref())?)
    }

    #[operation]
    fn scale(&self, _ctx: &Context, input: Scale) -> Result<Scaled> {
        let of = self.deployment(&input.name, input.namespace.as_deref())?;
        let url = self.url(&format!("{}/scale", of.path));
        let before = Request::get(&url).send()?.success()?.json::<ScaleObject>()?.spec.replicas;
        let after = wanted(&input, before)?;
        let scaled = |changed| Scaled { name: of.name.clone(), namespace: of.namespace.clone(), before, after, changed };
        if before == after {
            return Ok(scaled(false));
        }
        Effect::new("kubernetes.deployment.scale", &of.target)
            .summary(format!("scale {}/{} from {before} to {after}", of.namespace, of.name))
            .before(json!({ "replicas": before }))
            .after(json!({ "replicas": after }))
            .undo("scale", json!({ "name": of.name, "namespace": of.namespace, "replicas": before }))
            .idempotent()
            .perform(|| {
                let patch = json!({ "spec": { "replicas": after } });
                let body = patch.to_string();
                let answer: ScaleObject =
                    Request::patch(&url).body("application/merge-patch+json", body).send()?.success()?.json()?;
                if answer.spec.replicas == after {
                    Ok(scaled(true))
                } else {
                    Err(Error::protocol(format!(
                        "{after} replicas were asked for, the API server answered {}",
                        answer.spec.replicas
                    )))
                }
            })
    }

    /// With absolute replicas the present number tells; with `by` nobody can.
    #[probe(scale)]
    fn probe_scale(&self, _ctx: &Context, input: Scale) -> Result<Verdict<Scaled>> {
        let Some(replicas) = input.replicas else { return Ok(Verdict::Unknown) };
        let of = self.deployment(&input.name, input.namespace.as_deref())?;
        let url = self.url(&format!("{}/scale", of.path));
        let now = Request::get(url).send()?.success()?.json::<ScaleObject>()?.spec.replicas;
        if now != bounded(replicas, &input) {
            return Ok(Verdict::NotDone);
        }
        // What it was before is lost with the answer.
        Ok(Verdict::Done(Scaled { name: of.name, namespace: of.namespace, before: now, after: now, changed: true }))
    }

    #[operation]
    fn rollout_restart(&self, ctx: &Context, input: Which) -> Result<Restarted> {
        let of = self.deployment(&input.name, input.namespace.as_deref())?;
        let deployment = self.read(&of)?;
        let restarted = |changed| Restarted { name: of.name.clone(), namespace: of.namespace.clone(), changed };
        if restarted_by(&deployment) == Some(&ctx.idempotency_key) {
            return Ok(restarted(false));
        }
        let annotations = json!({ RESTARTED_AT: rfc3339(ctx.now), RESTARTED_BY: ctx.idempotency_key });
        Effect::new("kubernetes.deployment.restart", &of.target)
            .summary(format!("restart {}/{}", of.namespace, of.name))
            .before(json!({ "restartedAt": deployment.pointer("/spec/template/metadata/annotations").and_then(|a| a.get(RESTARTED_AT)) }))
            .after(annotations.clone())
            .idempotent()
            .perform(|| {
                let patch = json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
                let body = patch.to_string();
                Request::patch(self.url(&of.path)).body("application/strategic-merge-patch+json", body).send()?.success()?;
                Ok(restarted(true))
            })
    }

    #[probe(rollout_restart)]
    fn probe_restart(&self, ctx: &Context, input: Which) -> Result<Verdict<Restarted>> {
        let of = self.deployment(&input.name, input.namespace.as_deref())?;
        let is_done = restarted_by(&self.read(&of)?) == Some(&ctx.idempotency_key);
        Ok(if is_done {
            Verdict::Done(Restarted { name: of.name, namespace: of.namespace, changed: true })
        } else {
            Verdict::NotDone
        })
    }

    #[operation]
    fn wait_ready(&self, ctx: &Context, input: Wait) -> Result<DeploymentState> {
        let of = self.deployment(&input.name, input.namespace.as_deref())?;
        let begin = ctx.monotonic_ns();
        let limit_ns = input.timeout_seconds.saturating_mul(1_000_000_000);
        loop {
            let state = self.state(&of)?;
            if state.is_ready {
                return Ok(state);
            }
            let waited = ctx.monotonic_ns().saturating_sub(begin);
            if waited >= limit_ns || ctx.is_cancelled() {
                let message = format!(
                    "{}/{} is not ready after {} s: {} of {} replicas are updated and ready",
                    of.namespace,
                    of.name,
                    waited / 1_000_000_000,
                    state.ready.min(state.updated),
                    state.replicas
                );
                return Err(Error::new("kubernetes.not_ready", message).retry_after_ms(10_000));
            }
            ctx.heartbeat(None, None);
            ctx.sleep(POLL);
        }
    }

    #[check]
    fn check(&self, _ctx: &Context) -> Result<Value> {
        let version: Value = Request::get(self.url("/version")).send()?.success()?.json()?;
        Ok(json!({ "version": version["gitVersion"] }))
    }
}

/// A Deployment, its path under the API server, and the target of effects on it as the host derives it from the path.
struct Deployment {
    name: String,
    namespace: String,
    path: String,
    target: String,
}

impl Kubernetes {
    fn deployment(&self, name: &str, namespace: Option<&str>) -> Result<Deployment> {
        let namespace = namespace.unwrap_or(&self.namespace);
        for (what, text) in [("name", name), ("namespace", namespace)] {
            if !is_dns_name(text) {
                return Err(Error::input(format!(
                    "the {what} {text:?} is no Kubernetes name: a-z, 0-9, '-' and '.', at most 253"
                )));
            }
        }
        Ok(Deployment {
            name: name.into(),
            namespace: namespace.into(),
            path: format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}"),
            target: format!("{namespace}/deployment/{name}"),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url.trim_end_matches('/'))
    }

    fn read(&self, of: &Deployment) -> Result<Value> {
        Request::get(self.url(&of.path)).send()?.success()?.json()
    }

    /// Ready as `kubectl rollout status` judges it.
    fn state(&self, of: &Deployment) -> Result<DeploymentState> {
        let object = self.read(of)?;
        let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        let (ready, updated, available) =
            (number("/status/readyReplicas"), number("/status/updatedReplicas"), number("/status/availableReplicas"));
        let is_observed = number("/status/observedGeneration") >= number("/metadata/generation");
        let is_ready = is_observed && updated >= replicas && available >= replicas && number("/status/replicas") <= updated;
        Ok(DeploymentState {
            name: of.name.clone(),
            namespace: of.namespace.clone(),
            replicas,
            ready,
            updated,
            available,
            is_ready,
        })
    }
}

fn wanted(input: &Scale, before: i64) -> Result<i64> {
    if matches!((input.min, input.max), (Some(min), Some(max)) if min > max) {
        return Err(Error::input("min is over max"));
    }
    let replicas = match (input.replicas, input.by) {
        (Some(replicas), None) => replicas,
        (None, Some(by)) => before.saturating_add(by),
        _ => return Err(Error::input("say either replicas or by")),
    };
    let after = bounded(replicas, input);
    if !(0..=i64::from(i32::MAX)).contains(&after) {
        return Err(Error::input(format!("{after} is no number of replicas")));
    }
    Ok(after)
}

fn bounded(replicas: i64, input: &Scale) -> i64 {
    replicas.min(input.max.unwrap_or(i64::MAX)).max(input.min.unwrap_or(i64::MIN))
}

fn restarted_by(deployment: &Value) -> Option<&str> {
    deployment.pointer("/spec/template/metadata/annotations")?.get(RESTARTED_BY)?.as_str()
}

fn is_dns_name(text: &str) -> bool {
    let is_inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let is_edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 253 && text.bytes().all(is_inside) && is_edge(text.as_bytes().first()) && is_edge(text.as_bytes().last())
}

/// Nanoseconds since the epoch as `2026-01-31T12:00:00Z` (the civil-from-days algorithm of Howard Hinnant).
fn rfc3339(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

fn default_namespace() -> String {
    "default".into()
}

fn five_minutes() -> u64 {
    300
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrix_sdk::testing::{World, json as answer};
    use std::{cell::RefCell, rc::Rc};

    const SCALE: &str = "https://k8s:6443/apis/apps/v1/namespaces/shop/deployments/cart/scale";

    fn kubernetes() -> Kubernetes {
        Kubernetes { url: "https://k8s:6443/".into(), namespace: "shop".into() }
    }

    fn ctx() -> Context {
        Context { idempotency_key: "run-1/restart".into(), now: 1_769_860_800_000_000_000, ..Context::default() }
    }

    /// An API server with one Deployment; `step` is called before each answer.
    fn server(replicas: i64) -> (World, Rc<RefCell<Value>>) {
        let deployment = Rc::new(RefCell::new(json!({
            "metadata": { "name": "cart", "namespace": "shop", "generation": 1 },
            "spec": { "replicas": replicas, "template": { "metadata": {} } },
            "status": { "observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas },
        })));
        let world = World::new();
        let state = Rc::clone(&deployment);
        world.on_http(move |request| {
            let path = request.url.strip_prefix("https://k8s:6443").unwrap();
            let mut object = state.borrow_mut();
            let base = "/apis/apps/v1/namespaces/shop/deployments/cart";
            if path != base && path != format!("{base}/scale") {
                return Ok(answer(404, &json!({ "kind": "Status", "reason": "NotFound" })));
            }
            if request.method == "PATCH" {
                let patch: Value = std::str::from_utf8(&request.body).unwrap().parse().unwrap();
                if path.ends_with("/scale") {
                    assert_eq!(request.header_value("content-type"), Some("application/merge-patch+json"));
                    object["spec"]["replicas"] = patch["spec"]["replicas"].clone();
                } else {
                    assert_eq!(request.header_value("content-type"), Some("application/strategic-merge-patch+json"));
                    object["spec"]["template"] = patch["spec"]["template"].clone();
                }
                object["metadata"]["generation"] = 2.into();
            }
            let body = if path.ends_with("/scale") {
                json!({ "kind": "Scale", "spec": { "replicas": object["spec"]["replicas"] } })
            } else {
                object.clone()
            };
            Ok(answer(200, &body))
        });
        (world, deployment)
    }

    fn run(world: &World, operation: &str, input: Value) -> Result<Value> {
        world.run(|| kubernetes().execute(&ctx(), operation, input))
    }

    #[test]
    fn scaling_reads_then_announces_then_writes() {
        let (world, deployment) = server(2);
        let scaled = run(&world, "scale", json!({ "name": "cart", "by": 2, "max": 10 })).unwrap();
        assert_eq!(scaled, json!({ "name": "cart", "namespace": "shop", "before": 2, "after": 4, "changed": true }));
        assert_eq!(deployment.borrow()["spec"]["replicas"], 4);
        let methods: Vec<_> = world.requests().into_iter().map(|r| (r.method, r.url)).collect();
        assert_eq!(methods, [("GET".to_owned(), SCALE.to_owned()), ("PATCH".to_owned(), SCALE.to_owned())]);
        let row = &world.effects()[0];
        assert_eq!(
            (row.effect.kind.as_str(), row.effect.target.as_str()),
            ("kubernetes.deployment.scale", "shop/deployment/cart")
        );
        assert_eq!(
            (row.effect.before.clone(), row.effect.after.clone()),
            (Some(json!({ "replicas": 2 })), Some(json!({ "replicas": 4 })))
        );
        assert!(row.effect.is_idempotent && row.effect.undo.is_some());
        assert_eq!(row.status.as_deref(), Some("done"));
    }

    #[test]
    fn scaling_twice_to_the_same_number_changes_the_world_once() {
        let (world, _) = server(2);
        let input = json!({ "name": "cart", "replicas": 4 });
        assert_eq!(run(&world, "scale", input.clone()).unwrap()["changed"], true);
        assert_eq!(run(&world, "scale", input).unwrap()["changed"], false);
        assert_eq!(world.effects().len(), 1);
    }

    #[test]
    fn bounds_hold_and_impossible_scales_are_refused() {
        let (world, _) = server(2);
        let after = |input| run(&world, "scale", input).map(|scaled| scaled["after"].as_i64().unwrap());
        assert_eq!(after(json!({ "name": "cart", "by": 100, "max": 5 })), Ok(5));
        assert_eq!(after(json!({ "name": "cart", "replicas": 0, "min": 1 })), Ok(1));
        for input in [
            json!({ "name": "cart" }),
            json!({ "name": "cart", "replicas": 1, "by": 1 }),
            json!({ "name": "cart", "replicas": -1 }),
            json!({ "name": "cart", "by": i64::MIN }),
            json!({ "name": "cart", "replicas": i64::MAX }),
            json!({ "name": "cart", "replicas": 3, "min": 5, "max": 4 }),
            json!({ "name": "../secrets/x", "replicas": 1 }),
            json!({ "name": "cart", "namespace": "a/b", "replicas": 1 }),
            json!({ "name": "", "replicas": 1 }),
        ] {
            assert_eq!(after(input.clone()).unwrap_err().code, "input.invalid", "{input}");
        }
    }

    #[test]
    fn a_probe_tells_whether_an_interrupted_scale_happened() {
        let (world, deployment) = server(2);
        let probe = |input| world.run(|| kubernetes().probe(&ctx(), "scale", input)).unwrap();
        assert_eq!(probe(json!({ "name": "cart", "replicas": 4 })), Verdict::NotDone);
        deployment.borrow_mut()["spec"]["replicas"] = 4.into();
        assert!(matches!(probe(json!({ "name": "cart", "replicas": 4 })), Verdict::Done(_)));
        assert_eq!(probe(json!({ "name": "cart", "by": 2 })), Verdict::Unknown);
    }

    #[test]
    fn a_restart_happens_once_for_a_step_and_its_probe_knows() {
        let (world, deployment) = server(2);
        let probe = || world.run(|| kubernetes().probe(&ctx(), "rollout-restart", json!({ "name": "cart" }))).unwrap();
        assert_eq!(probe(), Verdict::NotDone);
        assert_eq!(run(&world, "rollout-restart", json!({ "name": "cart" })).unwrap()["changed"], true);
        let annotations = deployment.borrow()["spec"]["template"]["metadata"]["annotations"].clone();
        assert_eq!(annotations[RESTARTED_AT], "2026-01-31T12:00:00Z");
        assert_eq!(run(&world, "rollout-restart", json!({ "name": "cart" })).unwrap()["changed"], false);
        assert!(matches!(probe(), Verdict::Done(_)));
        assert_eq!(world.effects().len(), 1);
    }

    #[test]
    fn waiting_ends_when_all_replicas_are_ready_or_the_time_is_up() {
        let (world, deployment) = server(2);
        assert_eq!(run(&world, "wait-ready", json!({ "name": "cart" })).unwrap()["isReady"], true);
        deployment.borrow_mut()["status"]["availableReplicas"] = 1.into();
        let error = run(&world, "wait-ready", json!({ "name": "cart", "timeout_seconds": 5 })).unwrap_err();
        assert_eq!((error.code.as_ref(), error.retry), ("kubernetes.not_ready", Retry::AfterMs(10_000)));
        assert_eq!(world.elapsed(), Duration::from_secs(5));
        world.cancel();
        assert_eq!(run(&world, "wait-ready", json!({ "name": "cart" })).unwrap_err().code, "kubernetes.not_ready");
    }

    #[test]
    fn a_missing_deployment_and_a_garbled_answer_are_errors_without_effects() {
        let (world, _) = server(2);
        assert_eq!(run(&world, "get", json!({ "name": "nothing" })).unwrap_err().code, "remote.not_found");
        world.on_http(|_| Ok(answer(200, &json!({ "spec": { "replicas": "many" } }))));
        assert_eq!(run(&world, "scale", json!({ "name": "cart", "replicas": 3 })).unwrap_err().code, "remote.protocol");
        assert!(world.effects().is_empty());
    }
}
