//! The part of the Kubernetes API that a repair touches: `apps/v1` Deployments and their scale.

use crate::{
    journal,
    world::{Deployment, World},
};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use std::sync::Arc;

pub fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/version", get(|| async { Json(json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.0+playground" })) }))
        .route("/apis/apps/v1/namespaces/{namespace}/deployments", get(list))
        .route("/apis/apps/v1/namespaces/{namespace}/deployments/{name}", get(read).patch(patch))
        .route(
            "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale",
            get(read_scale).put(write_scale).patch(write_scale),
        )
}

async fn list(State(world): State<Arc<World>>, Path(namespace): Path<String>, headers: HeaderMap) -> Response {
    if let Some(refused) = refuse(&world, &headers) {
        return refused;
    }
    let state = world.lock();
    let items: Vec<_> = state.deployments.iter().filter(|d| d.namespace == namespace).map(deployment).collect();
    Json(json!({ "kind": "DeploymentList", "apiVersion": "apps/v1", "metadata": {}, "items": items })).into_response()
}

async fn read(State(world): State<Arc<World>>, Path((namespace, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    if let Some(refused) = refuse(&world, &headers) {
        return refused;
    }
    match world.lock().deployments.iter().find(|d| d.namespace == namespace && d.name == name) {
        Some(found) => Json(deployment(found)).into_response(),
        None => not_found(&name),
    }
}

/// Strategic merge or JSON merge patch of the replicas and the pod template's annotations (`kubectl rollout restart`).
async fn patch(
    State(world): State<Arc<World>>,
    Path((namespace, name)): Path<(String, String)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    if let Some(refused) = refuse(&world, &headers) {
        return refused;
    }
    let kind = headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !["application/strategic-merge-patch+json", "application/merge-patch+json"].contains(&kind) {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: application/merge-patch+json, application/strategic-merge-patch+json, not {kind:?}"
        );
        return status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", &message);
    }
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return status(StatusCode::BAD_REQUEST, "BadRequest", "the body is no JSON object");
    };
    let mut state = world.lock();
    state.note(journal::write(&method, &uri, &headers, body.clone()));
    let Some(found) = state.deployments.iter_mut().find(|d| d.namespace == namespace && d.name == name) else {
        return not_found(&name);
    };
    if let Some(replicas) = body["spec"]["replicas"].as_u64() {
        found.replicas = u32::try_from(replicas).unwrap_or(u32::MAX);
    }
    if let Some(annotations) = body["spec"]["template"]["metadata"]["annotations"].as_object() {
        found.restarts += u32::from(annotations.contains_key("kubectl.kubernetes.io/restartedAt"));
        found.annotations.extend(annotations.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())));
    }
    changed(found);
    Json(deployment(found)).into_response()
}

async fn read_scale(
    State(world): State<Arc<World>>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = refuse(&world, &headers) {
        return refused;
    }
    match world.lock().deployments.iter().find(|d| d.namespace == namespace && d.name == name) {
        Some(found) => Json(scale(found)).into_response(),
        None => not_found(&name),
    }
}

async fn write_scale(
    State(world): State<Arc<World>>,
    Path((namespace, name)): Path<(String, String)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    if let Some(refused) = refuse(&world, &headers) {
        return refused;
    }
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return status(StatusCode::BAD_REQUEST, "BadRequest", "the body is no JSON object");
    };
    let mut state = world.lock();
    state.note(journal::write(&method, &uri, &headers, body.clone()));
    let Some(found) = state.deployments.iter_mut().find(|d| d.namespace == namespace && d.name == name) else {
        return not_found(&name);
    };
    let stated = body["metadata"]["resourceVersion"].as_str();
    if stated.is_some_and(|stated| stated != found.resource_version.to_string()) {
        let message = format!(
            "Operation cannot be fulfilled on deployments.apps \"{name}\": the object has been modified; please apply your changes to the latest version and try again"
        );
        return status(StatusCode::CONFLICT, "Conflict", &message);
    }
    let Some(replicas) = body["spec"]["replicas"].as_u64().and_then(|n| u32::try_from(n).ok()) else {
        return status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", "spec.replicas: Required value: a whole number from 0");
    };
    found.replicas = replicas;
    changed(found);
    Json(scale(found)).into_response()
}

fn changed(deployment: &mut Deployment) {
    deployment.generation += 1;
    deployment.resource_version += 1;
}

fn refuse(world: &World, headers: &HeaderMap) -> Option<Response> {
    let sent = headers.get("authorization").and_then(|v| v.to_str().ok());
    (sent != Some(&format!("Bearer {}", world.kubernetes_token)))
        .then(|| status(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized"))
}

fn not_found(name: &str) -> Response {
    status(StatusCode::NOT_FOUND, "NotFound", &format!("deployments.apps \"{name}\" not found"))
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response {
    let body = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code.as_u16() });
    (code, Json(body)).into_response()
}

fn metadata(d: &Deployment) -> Value {
    json!({ "name": d.name, "namespace": d.namespace, "generation": d.generation, "resourceVersion": d.resource_version.to_string(), "labels": { "app": d.name } })
}

fn deployment(d: &Deployment) -> Value {
    json!({
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": metadata(d),
        "spec": {
            "replicas": d.replicas,
            "selector": { "matchLabels": { "app": d.name } },
            "template": { "metadata": { "labels": { "app": d.name }, "annotations": d.annotations } },
        },
        "status": {
            "observedGeneration": d.generation,
            "replicas": d.replicas,
            "updatedReplicas": d.replicas,
            "readyReplicas": d.replicas,
            "availableReplicas": d.replicas,
            "conditions": [{ "type": "Available", "status": "True", "reason": "MinimumReplicasAvailable" }],
        },
    })
}

fn scale(d: &Deployment) -> Value {
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata(d),
        "spec": { "replicas": d.replicas },
        "status": { "replicas": d.replicas, "selector": format!("app={}", d.name) },
    })
}
