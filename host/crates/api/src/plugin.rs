//! Plugins: components uploaded, installed, shown with what they asked and got.

use crate::{
    error::{Code, FieldProblem, Problem, Result},
    extract::{Body, Caller, Json, Path, Query, check_name},
    packages::Packages,
    resource::did_you_mean,
    state::State,
    time::rfc3339,
};
use ::plugin::Manifest;
use axum::{Router, extract::DefaultBodyLimit, http::StatusCode, routing};
use bytes::Bytes;
use db::{
    package::PackageRow,
    recording::{RecordingFilter, RecordingRow},
};
use model::{Grant, HttpGrant, Installation, SecretBinding, TenantId, limits};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

const LIST_MAX: i64 = 1_000;

/// What `kind: Plugin` takes.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = Plugin)]
pub struct PluginSpec {
    /// `orchestrix/kubernetes`
    pub plugin: String,
    /// The newest uploaded one without.
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    #[schema(value_type = Object)]
    pub config: Value,
    /// What is allowed; nothing without.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub grant: Option<Grant>,
    /// By the name the manifest declares: `{token: {secret: slack-token}}`.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub secrets: BTreeMap<String, SecretBinding>,
    #[serde(default)]
    pub enabled: Option<bool>,
}

pub fn routes() -> Router<State> {
    Router::new()
        .route(
            "/api/v1/packages",
            routing::get(packages).merge(routing::post(upload).layer(DefaultBodyLimit::max(limits::COMPONENT_BYTES_MAX))),
        )
        .route("/api/v1/plugins", routing::get(list))
        .route("/api/v1/plugins/{name}", routing::get(show).put(install).delete(remove))
        .route("/api/v1/plugins/{name}/check", routing::post(check))
        .route("/api/v1/invocations", routing::get(invocations))
        .route("/api/v1/invocations/{id}", routing::get(invocation))
}

async fn packages(state: axum::extract::State<State>, Caller(who): Caller) -> Result<axum::Json<Value>> {
    let rows = state.db.packages(&who.tenant, LIST_MAX).await?;
    let items: Vec<Value> = rows
        .iter()
        .map(|r| {
            json!({ "plugin": r.plugin, "version": r.version, "digest": r.digest, "bytes": r.bytes_count,
                    "uploaded": rfc3339(r.uploaded), "uploadedBy": r.uploaded_by, "manifest": r.manifest })
        })
        .collect();
    Ok(axum::Json(json!({ "items": items })))
}

async fn upload(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Body(bytes): Body,
) -> Result<(StatusCode, axum::Json<Value>)> {
    let (row, manifest) = keep(&state.packages, bytes, &who.name, state.now()).await?;
    let answer = json!({ "plugin": row.plugin, "version": row.version, "digest": row.digest, "bytes": row.bytes_count,
                         "manifest": row.manifest, "asked": asked(&manifest) });
    let (tenant, target) = (who.tenant.clone(), format!("{} {}", row.plugin, row.version));
    let detail = json!({ "digest": row.digest });
    state
        .change(&who, "upload package", &target, detail, move |tx| Box::pin(async move { tx.put_package(&tenant, &row).await }))
        .await?;
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

/// Judges a component and stores its bytes; the row is for the caller to write.
pub async fn keep(packages: &Packages, bytes: Bytes, who: &str, now: model::Timestamp) -> Result<(PackageRow, Manifest)> {
    let (packages, who) = (packages.clone(), who.to_owned());
    let kept = tokio::task::spawn_blocking(move || {
        let manifest = ::plugin::inspect(&bytes).map_err(component_problem)?;
        let digest = packages.put(&bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::StorageFull => Problem::new(Code::DiskFull, "the disk is full; free some space and upload again"),
            _ => Problem::internal(&e),
        })?;
        let row = PackageRow {
            digest,
            plugin: manifest.id.clone(),
            version: manifest.version.clone(),
            bytes_count: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            manifest: serde_json::to_value(&manifest).unwrap_or_default(),
            uploaded_by: who,
            uploaded: now,
        };
        Ok((row, manifest))
    });
    kept.await.map_err(|e| Problem::internal(&e))?
}

async fn list(state: axum::extract::State<State>, Caller(who): Caller) -> Result<axum::Json<Value>> {
    let installations = state.db.installations(&who.tenant).await?;
    let items: Vec<Value> = installations.iter().map(|i| shown(&state, i)).collect();
    Ok(axum::Json(json!({ "items": items })))
}

async fn show(state: axum::extract::State<State>, Caller(who): Caller, Path(name): Path<String>) -> Result<axum::Json<Value>> {
    let installation = state.db.installation(&who.tenant, &name).await?;
    let mut value = shown(&state, &installation);
    if let Ok(package) = state.db.package(&who.tenant, &installation.digest).await {
        value["manifest"] = package.manifest;
    }
    if let Some(manifest) = state.plugins.manifest(&installation.digest) {
        value["asked"] = json!(asked(&manifest));
    }
    value["meters"] = state
        .plugins
        .stats()
        .into_iter()
        .filter(|(key, _)| key.tenant == who.tenant && key.installation == name)
        .map(|(key, m)| {
            json!({ "function": key.function, "version": key.version, "calls": m.calls, "failures": m.failures, "faults": m.faults,
                    "cpuUs": m.cpu_us, "wallUs": m.wall_us, "memoryBytesPeak": m.memory_bytes_peak,
                    "httpBytesSent": m.http_bytes_sent, "httpBytesReceived": m.http_bytes_received,
                    "denials": m.denials, "logLines": m.log_lines, "logLinesDropped": m.log_lines_dropped })
        })
        .collect();
    Ok(axum::Json(value))
}

async fn install(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(name): Path<String>,
    Json(spec): Json<PluginSpec>,
) -> Result<axum::Json<Value>> {
    check_name(&name)?;
    let row = find_package(&state, &who.tenant, &spec.plugin, spec.version.as_deref()).await?;
    let package = load(&state.plugins, &state.packages, &row.digest).await?;
    let config = if spec.config.is_null() { json!({}) } else { spec.config };
    let errors = fields("/config", package.config_errors(&config));
    if !errors.is_empty() {
        return Err(refused(errors));
    }
    check_secrets(&state, &who.tenant, &package.manifest, &spec.secrets).await?;
    let installation = Installation {
        tenant: who.tenant.clone(),
        name: name.clone(),
        plugin: row.plugin,
        version: row.version,
        digest: row.digest,
        config,
        grant: spec.grant.unwrap_or_default(),
        secrets: spec.secrets,
        is_enabled: spec.enabled.unwrap_or(true),
    };
    let errors = state.plugins.validate_config(&installation).await.map_err(call_problem)?;
    if !errors.is_empty() {
        return Err(refused(fields("/config", errors)));
    }
    let answer = shown(&state, &installation);
    let detail = json!({ "plugin": installation.plugin, "version": installation.version, "digest": installation.digest, "grant": installation.grant });
    let now = state.now();
    state
        .change(&who, "install plugin", &name, detail, move |tx| {
            Box::pin(async move { tx.put_installation(&installation, now).await })
        })
        .await?;
    Ok(axum::Json(answer))
}

async fn remove(state: axum::extract::State<State>, Caller(who): Caller, Path(name): Path<String>) -> Result<StatusCode> {
    let (tenant, target) = (who.tenant.clone(), name.clone());
    state
        .change(&who, "remove plugin", &target, json!({}), move |tx| {
            Box::pin(async move { tx.delete_installation(&tenant, &name).await })
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn check(state: axum::extract::State<State>, Caller(who): Caller, Path(name): Path<String>) -> Result<axum::Json<Value>> {
    let installation = state.db.installation(&who.tenant, &name).await?;
    load(&state.plugins, &state.packages, &installation.digest).await?;
    Ok(axum::Json(state.plugins.check(&installation).await.map_err(call_problem)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    plugin: Option<String>,
    run: Option<String>,
    before: Option<i64>,
    limit: Option<i64>,
}

async fn invocations(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Query(page): Query<Recorded>,
) -> Result<axum::Json<Value>> {
    let run = page.run.as_deref().map(crate::run::id_of).transpose()?;
    let filter = RecordingFilter { installation: page.plugin, run, before: page.before };
    let rows = state.db.recordings(&who.tenant, &filter, page.limit.unwrap_or(100).clamp(1, LIST_MAX)).await?;
    Ok(axum::Json(json!({ "items": rows.iter().map(recorded).collect::<Vec<_>>() })))
}

async fn invocation(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>> {
    let id = id.parse().map_err(|_| Problem::not_found(format_args!("invocation {id:?}")))?;
    let row = state.db.recording(&who.tenant, id).await?;
    let mut value = recorded(&row);
    value["recording"] = serde_json::from_str(&row.body).unwrap_or_default();
    Ok(axum::Json(value))
}

fn recorded(row: &RecordingRow) -> Value {
    json!({ "id": row.id, "invocation": row.invocation.to_string(), "plugin": row.installation, "package": row.plugin, "version": row.version,
            "digest": row.digest, "function": row.function, "run": row.run.map(|r| r.to_string()), "status": row.status,
            "started": rfc3339(row.started), "wallUs": row.wall_us, "cpuUs": row.cpu_us, "memoryBytes": row.memory_bytes })
}

async fn find_package(state: &State, tenant: &TenantId, plugin: &str, version: Option<&str>) -> Result<PackageRow> {
    if let Some(row) = state.db.package_of(tenant, plugin, version).await? {
        return Ok(row);
    }
    let all = state.db.packages(tenant, LIST_MAX).await?;
    let versions: Vec<&str> = all.iter().filter(|p| p.plugin == plugin).map(|p| p.version.as_str()).collect();
    if let (false, Some(version)) = (versions.is_empty(), version) {
        return Err(Problem::invalid("/version", format!("there is no {plugin} {version}; there is {}", versions.join(", "))));
    }
    let known: Vec<&str> = all.iter().map(|p| p.plugin.as_str()).collect();
    let hint = did_you_mean(plugin, &known);
    Err(Problem::invalid(
        "/plugin",
        format!("no component of {plugin:?} was uploaded{hint}; `orchestrix plugin install FILE` uploads one"),
    ))
}

/// Each bound secret must be one that the manifest declares and the tenant has.
async fn check_secrets(
    state: &State,
    tenant: &TenantId,
    manifest: &Manifest,
    bound: &BTreeMap<String, SecretBinding>,
) -> Result<()> {
    let declared: Vec<&str> = manifest.secrets.iter().map(|s| s.name.as_str()).collect();
    let stored = state.db.secrets(tenant).await?;
    for (name, binding) in bound {
        if !declared.contains(&name.as_str()) {
            let hint = did_you_mean(name, &declared);
            return Err(Problem::invalid(&format!("/secrets/{name}"), format!("the manifest declares no secret {name:?}{hint}")));
        }
        if !stored.iter().any(|s| s.name == binding.secret) {
            let known: Vec<&str> = stored.iter().map(|s| s.name.as_str()).collect();
            let hint = did_you_mean(&binding.secret, &known);
            return Err(Problem::invalid(
                &format!("/secrets/{name}/secret"),
                format!("there is no secret {:?}{hint}", binding.secret),
            ));
        }
    }
    for secret in manifest.secrets.iter().filter(|s| s.required) {
        if !bound.contains_key(&secret.name) {
            let why = format!(
                "the plugin needs its secret {:?} ({}): bind it with secrets: {{{}: {{secret: NAME}}}}",
                secret.name, secret.description, secret.name
            );
            return Err(Problem::invalid("/secrets", why));
        }
    }
    Ok(())
}

/// Loads a stored component unless it is loaded already.
pub async fn load(host: &::plugin::Host, packages: &Packages, digest: &str) -> Result<Arc<::plugin::Package>> {
    if let Some(package) = host.package(digest) {
        return Ok(package);
    }
    let (packages, wanted) = (packages.clone(), digest.to_owned());
    let bytes = tokio::task::spawn_blocking(move || packages.get(&wanted)).await.map_err(|e| Problem::internal(&e))?;
    let bytes = bytes.map_err(|e| Problem {
        inward: Some(e.to_string()),
        ..Problem::new(Code::Component, format!("the component {digest} cannot be read; upload it again"))
    })?;
    host.load(bytes.into()).await.map_err(component_problem)
}

/// All that a manifest asks for, as a grant that gives it.
pub fn asked(manifest: &Manifest) -> Grant {
    let permissions = &manifest.permissions;
    Grant {
        http: permissions
            .http
            .iter()
            .map(|p| HttpGrant { hosts: p.hosts.clone(), methods: p.methods.clone(), path_prefix: p.path_prefix.clone() })
            .collect(),
        sockets: permissions.sockets.iter().map(|s| s.address.clone()).collect(),
        telemetry: permissions.telemetry.clone(),
        state_bytes: permissions.state_bytes,
        reveal: manifest.secrets.iter().any(|s| s.reveal),
    }
}

fn component_problem(error: ::plugin::Error) -> Problem {
    use ::plugin::Error as E;
    match error {
        E::TooLarge { .. } => Problem::new(Code::TooLarge, error.to_string()),
        E::Engine(_) | E::Cache(_) | E::Policy(_) => Problem::internal(&error),
        E::Manifest(findings) => {
            let errors = findings.iter().map(|f| FieldProblem { message: f.clone(), ..FieldProblem::default() }).collect();
            Problem::new(Code::Component, format!("the manifest is wrong: {}", findings.join("; "))).with_errors(errors)
        }
        other => Problem::new(Code::Component, other.to_string()),
    }
}

fn call_problem(error: ::plugin::CallError) -> Problem {
    let code = match error.owner() {
        ::plugin::Owner::User => Code::PluginConfig,
        ::plugin::Owner::World | ::plugin::Owner::Plugin => Code::PluginCall,
        ::plugin::Owner::Host => return Problem::internal(&error),
    };
    Problem::new(code, format!("{} ({})", error, error.code()))
}

fn refused(errors: Vec<FieldProblem>) -> Problem {
    let first = errors.first().map(|e| format!("{}: {}", e.pointer, e.message)).unwrap_or_default();
    Problem::new(Code::PluginConfig, first).with_errors(errors)
}

fn fields(base: &str, errors: Vec<::plugin::FieldError>) -> Vec<FieldProblem> {
    errors
        .into_iter()
        .map(|e| FieldProblem { pointer: format!("{base}{}", e.pointer), message: e.message, ..FieldProblem::default() })
        .collect()
}

fn shown(state: &State, i: &Installation) -> Value {
    let is_loaded = state.plugins.package(&i.digest).is_some();
    json!({
        "name": i.name,
        "plugin": i.plugin,
        "version": i.version,
        "digest": i.digest,
        "config": i.config,
        "grant": i.grant,
        "secrets": i.secrets,
        "enabled": i.is_enabled,
        "isLoaded": is_loaded,
        "problem": (!is_loaded).then_some("the component is not loaded; the host's log says why"),
    })
}
