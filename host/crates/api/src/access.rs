//! The authorisation table: every endpoint, who may use it, and what it takes and gives.
//!
//! A route without a line here answers nobody. The OpenAPI document is generated from the same lines.

use model::Role;

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No token: health, and links that carry their own signature.
    Public,
    Role(Role),
}

#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    pub method: &'static str,
    pub path: &'static str,
    pub access: Access,
    pub summary: &'static str,
    /// Query parameters.
    pub query: &'static [&'static str],
    /// Name of a schema in `openapi.rs`, or a media type when the body is no JSON of ours.
    pub body: Option<&'static str>,
    pub answer: Option<&'static str>,
}

impl Endpoint {
    const fn new(method: &'static str, path: &'static str, access: Access, summary: &'static str) -> Self {
        Self { method, path, access, summary, query: &[], body: None, answer: None }
    }
    const fn query(mut self, names: &'static [&'static str]) -> Self {
        self.query = names;
        self
    }
    const fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self
    }
    const fn answer(mut self, schema: &'static str) -> Self {
        self.answer = Some(schema);
        self
    }
}

const PUBLIC: Access = Access::Public;
const VIEWER: Access = Access::Role(Role::Viewer);
const OPERATOR: Access = Access::Role(Role::Operator);
const ADMIN: Access = Access::Role(Role::Admin);

const fn get(path: &'static str, access: Access, summary: &'static str) -> Endpoint {
    Endpoint::new("GET", path, access, summary)
}
const fn post(path: &'static str, access: Access, summary: &'static str) -> Endpoint {
    Endpoint::new("POST", path, access, summary)
}
const fn put(path: &'static str, access: Access, summary: &'static str) -> Endpoint {
    Endpoint::new("PUT", path, access, summary)
}
const fn delete(path: &'static str, access: Access, summary: &'static str) -> Endpoint {
    Endpoint::new("DELETE", path, access, summary)
}

pub const ENDPOINTS: &[Endpoint] = &[
    // Health
    get("/healthz", PUBLIC, "Whether the process lives"),
    get("/readyz", PUBLIC, "Whether it can serve; 503 with the reasons until then"),
    get("/metrics", VIEWER, "The host's own metrics, as Prometheus text"),
    get("/api/v1/openapi.json", PUBLIC, "This document"),
    get("/api/v1/me", Access::Role(Role::Ingest), "Who the token belongs to").answer("Me"),
    get("/api/v1/status", VIEWER, "Version, uptime, counts of the tenant").answer("Status"),
    // Tokens and audit
    get("/api/v1/tokens", ADMIN, "Lists the tenant's tokens").answer("TokenList"),
    post("/api/v1/tokens", ADMIN, "Makes a token and shows it once").body("TokenNew").answer("TokenMade"),
    delete("/api/v1/tokens/{id}", ADMIN, "Revokes a token"),
    get("/api/v1/audit", ADMIN, "Who changed what, newest first").query(&["before", "limit"]).answer("AuditList"),
    // Secrets
    get("/api/v1/secrets", ADMIN, "Lists secrets; never their values").answer("SecretList"),
    get("/api/v1/secrets/{name}", ADMIN, "Shows a secret's hosts; never its value").answer("SecretShown"),
    put("/api/v1/secrets/{name}", ADMIN, "Stores a secret").body("SecretNew").answer("SecretShown"),
    delete("/api/v1/secrets/{name}", ADMIN, "Deletes a secret"),
    // Plugins
    get("/api/v1/packages", VIEWER, "Lists uploaded components"),
    post("/api/v1/packages", ADMIN, "Uploads a component").body("application/wasm"),
    get("/api/v1/plugins", VIEWER, "Lists installed plugins"),
    get("/api/v1/plugins/{name}", VIEWER, "Shows an installation with its manifest, grants and meters"),
    put("/api/v1/plugins/{name}", ADMIN, "Installs or changes a plugin").body("Plugin"),
    delete("/api/v1/plugins/{name}", ADMIN, "Removes an installation"),
    get("/api/v1/invocations", VIEWER, "Recorded calls of plugins, newest first").query(&["plugin", "run", "before", "limit"]),
    get("/api/v1/invocations/{id}", VIEWER, "One recorded call, with every host call it made"),
    post("/api/v1/plugins/{name}/check", OPERATOR, "Lets the plugin check its connection"),
    // Monitors, scrape targets, webhooks, guardrails, silences
    get("/api/v1/monitors", VIEWER, "Lists monitors"),
    get("/api/v1/monitors/{name}", VIEWER, "Shows a monitor"),
    put("/api/v1/monitors/{name}", ADMIN, "Creates or changes a monitor").body("Object"),
    delete("/api/v1/monitors/{name}", ADMIN, "Deletes a monitor; its alerts resolve"),
    get("/api/v1/scrapes", VIEWER, "Lists scrape jobs"),
    get("/api/v1/scrapes/{name}", VIEWER, "Shows a scrape job"),
    put("/api/v1/scrapes/{name}", ADMIN, "Creates or changes a scrape job").body("Object"),
    delete("/api/v1/scrapes/{name}", ADMIN, "Deletes a scrape job"),
    get("/api/v1/webhooks", VIEWER, "Lists webhooks"),
    get("/api/v1/webhooks/{name}", VIEWER, "Shows a webhook"),
    put("/api/v1/webhooks/{name}", ADMIN, "Creates or changes a webhook").body("Object"),
    delete("/api/v1/webhooks/{name}", ADMIN, "Deletes a webhook"),
    get("/api/v1/guardrails", VIEWER, "Lists guardrails with what their budgets have spent"),
    get("/api/v1/guardrails/{name}", VIEWER, "Shows a guardrail"),
    put("/api/v1/guardrails/{name}", ADMIN, "Creates or changes a guardrail").body("Object"),
    delete("/api/v1/guardrails/{name}", ADMIN, "Deletes a guardrail"),
    get("/api/v1/silences", VIEWER, "Lists silences"),
    get("/api/v1/silences/{name}", VIEWER, "Shows a silence"),
    put("/api/v1/silences/{name}", OPERATOR, "Creates or changes a silence by name").body("Silence"),
    delete("/api/v1/silences/{name}", OPERATOR, "Ends a silence"),
    // Alerts
    get("/api/v1/alerts", VIEWER, "Alerts as Prometheus shapes them, with more fields").query(&["state", "limit"]),
    get("/api/v1/alerts/{id}", VIEWER, "One alert with its timeline"),
    get("/api/v2/status", VIEWER, "Alertmanager's status"),
    get("/api/v2/alerts", VIEWER, "Alerts as Alertmanager shapes them").query(&["active", "silenced", "filter"]),
    get("/api/v2/alerts/groups", VIEWER, "Alerts in groups, as Alertmanager shapes them").query(&["filter"]),
    get("/api/v2/receivers", VIEWER, "Alertmanager's receivers"),
    get("/api/v2/silences", VIEWER, "Silences as Alertmanager shapes them").query(&["filter"]),
    post("/api/v2/silences", OPERATOR, "Creates or changes a silence, as Alertmanager does").body("Object"),
    get("/api/v2/silence/{id}", VIEWER, "One silence, as Alertmanager shapes it"),
    delete("/api/v2/silence/{id}", OPERATOR, "Ends a silence"),
    // Workflows and runs
    get("/api/v1/workflows", VIEWER, "Lists workflow definitions"),
    get("/api/v1/workflows/{name}", VIEWER, "Shows a definition, as text").query(&["version"]),
    put("/api/v1/workflows/{name}", ADMIN, "Stores a definition, in YAML or JSON").body("application/yaml"),
    delete("/api/v1/workflows/{name}", ADMIN, "Deletes a definition; runs in flight go on"),
    post("/api/v1/workflows/validate", VIEWER, "Checks a definition without storing it").body("application/yaml"),
    post("/api/v1/workflows/{name}/runs", OPERATOR, "Starts a run with the body as input").body("Object"),
    get("/api/v1/runs", VIEWER, "Lists runs, newest first").query(&["workflow", "status", "alert", "asks", "limit"]),
    get("/api/v1/runs/{id}", VIEWER, "A run with its steps"),
    post("/api/v1/runs/{id}/cancel", OPERATOR, "Cancels a run").body("Reason"),
    post("/api/v1/runs/{id}/pause", OPERATOR, "Pauses a run"),
    post("/api/v1/runs/{id}/resume", OPERATOR, "Resumes a paused run"),
    post("/api/v1/runs/{id}/retry", OPERATOR, "Retries a failed or doubtful step").body("Retry"),
    post("/api/v1/runs/{id}/answer", OPERATOR, "Answers an approval step").body("Answer"),
    post("/api/v1/runs/{id}/link", OPERATOR, "Makes a signed link that answers an approval step").body("LinkNew"),
    get("/approve/{token}", PUBLIC, "The page behind a signed approval link"),
    post("/approve/{token}", PUBLIC, "Answers by a signed approval link").body("application/x-www-form-urlencoded"),
    // Ledger
    get("/api/v1/ledger", VIEWER, "The effect ledger, newest first").query(&["before", "limit", "request"]),
    get("/api/v1/ledger/verify", VIEWER, "Walks the ledger's hash chain"),
    // Events
    get("/api/v1/events", VIEWER, "Searches events").query(&["type", "source", "subject", "start", "end", "limit"]),
    get("/api/v1/events/stream", VIEWER, "Events as they happen (SSE); resumes after Last-Event-ID").query(&["type", "after"]),
    // Prometheus
    get("/api/v1/query", VIEWER, "PromQL at one time").query(&["query", "time", "timeout"]),
    post("/api/v1/query", VIEWER, "PromQL at one time, as a form").body("application/x-www-form-urlencoded"),
    get("/api/v1/query_range", VIEWER, "PromQL over a range").query(&["query", "start", "end", "step", "timeout"]),
    post("/api/v1/query_range", VIEWER, "PromQL over a range, as a form").body("application/x-www-form-urlencoded"),
    get("/api/v1/query_exemplars", VIEWER, "Exemplars; none are stored yet").query(&["query", "start", "end"]),
    post("/api/v1/query_exemplars", VIEWER, "Exemplars, as a form").body("application/x-www-form-urlencoded"),
    get("/api/v1/format_query", VIEWER, "A PromQL query, formatted").query(&["query"]),
    get("/api/v1/series", VIEWER, "Series that match").query(&["match[]", "start", "end", "limit"]),
    post("/api/v1/series", VIEWER, "Series that match, as a form").body("application/x-www-form-urlencoded"),
    get("/api/v1/labels", VIEWER, "Names of labels").query(&["match[]", "start", "end", "limit"]),
    post("/api/v1/labels", VIEWER, "Names of labels, as a form").body("application/x-www-form-urlencoded"),
    get("/api/v1/label/{name}/values", VIEWER, "Values of a label").query(&["match[]", "start", "end", "limit"]),
    get("/api/v1/metadata", VIEWER, "Kinds, units and help of metrics").query(&["metric", "limit"]),
    get("/api/v1/rules", VIEWER, "Monitors as Prometheus' alerting rules").query(&["type"]),
    get("/api/v1/targets", VIEWER, "Scrape targets"),
    get("/api/v1/status/buildinfo", VIEWER, "The version, as Prometheus tells it"),
    get("/api/v1/status/config", VIEWER, "The configuration, as Prometheus tells it"),
    get("/api/v1/status/flags", VIEWER, "Flags, as Prometheus tells them"),
    get("/api/v1/status/runtimeinfo", VIEWER, "Run-time facts, as Prometheus tells them"),
    get("/api/v1/status/tsdb", VIEWER, "Facts of the store, as Prometheus tells them"),
    // Loki and logs
    get("/loki/api/v1/query", VIEWER, "Log query, as Loki answers").query(&["query", "time", "limit", "direction"]),
    get("/loki/api/v1/query_range", VIEWER, "Log query over a range, as Loki answers").query(&[
        "query",
        "start",
        "end",
        "since",
        "limit",
        "direction",
        "step",
    ]),
    get("/loki/api/v1/labels", VIEWER, "Names of stream labels").query(&["start", "end"]),
    get("/loki/api/v1/label/{name}/values", VIEWER, "Values of a stream label").query(&["start", "end"]),
    get("/api/v1/logs", VIEWER, "Searches logs").query(&["query", "trace", "start", "end", "limit", "direction"]),
    get("/api/v1/logs/histogram", VIEWER, "Counts logs by time and severity").query(&["query", "trace", "start", "end", "step"]),
    // Traces
    get("/api/v1/traces", VIEWER, "Searches spans").query(&[
        "service",
        "name",
        "status",
        "minDuration",
        "maxDuration",
        "start",
        "end",
        "limit",
    ]),
    get("/api/v1/traces/{id}", VIEWER, "All spans of a trace"),
    get("/api/v1/services", VIEWER, "Services that sent spans").query(&["start", "end"]),
    get("/api/v1/services/{name}/operations", VIEWER, "Operations of a service").query(&["start", "end"]),
];

/// The line of a matched route.
pub fn endpoint(method: &str, path: &str) -> Option<&'static Endpoint> {
    // axum answers HEAD by the GET handler.
    let method = if method == "HEAD" { "GET" } else { method };
    ENDPOINTS.iter().find(|e| e.method == method && e.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_endpoint_is_listed_twice() {
        let mut seen = std::collections::HashSet::new();
        for e in ENDPOINTS {
            assert!(seen.insert((e.method, e.path)), "{} {}", e.method, e.path);
        }
    }

    #[test]
    fn whatever_changes_something_needs_an_operator() {
        // Reading by POST, as Prometheus' clients do, changes nothing.
        let reading = [
            "/api/v1/query",
            "/api/v1/query_range",
            "/api/v1/query_exemplars",
            "/api/v1/series",
            "/api/v1/labels",
            "/api/v1/workflows/validate",
        ];
        for e in ENDPOINTS.iter().filter(|e| e.method != "GET" && !reading.contains(&e.path)) {
            let allowed = matches!(e.access, Access::Role(role) if role >= Role::Operator);
            assert!(allowed || e.path == "/approve/{token}", "{} {}", e.method, e.path);
        }
    }
}
