//! The OpenAPI document, generated from the authorisation table and the wire types.

use crate::{
    access::{Access, ENDPOINTS, Endpoint},
    approval, audit, error, host, plugin, run, secret, silence,
    state::State,
    token,
};
use axum::{Json, Router, routing};
use serde_json::{Value, json};
use utoipa::{
    OpenApi,
    openapi::{
        Content, HttpMethod, OpenApi as Document, Ref, RefOr, Required, Schema, SecurityRequirement,
        path::{OperationBuilder, ParameterBuilder, ParameterIn, PathItem},
        request_body::RequestBodyBuilder,
        response::ResponseBuilder,
        schema::{ObjectBuilder, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Orchestrix", description = "Watches systems and repairs them.", license(name = "Apache-2.0")),
    components(schemas(
        error::ProblemBody,
        error::FieldProblem,
        token::Me,
        token::TokenNew,
        token::TokenMade,
        token::TokenShown,
        token::TokenList,
        audit::AuditShown,
        audit::AuditList,
        secret::SecretNew,
        secret::SecretShown,
        secret::SecretList,
        plugin::PluginSpec,
        silence::SilenceSpec,
        run::Reason,
        run::Retry,
        run::Answer,
        approval::LinkNew,
        host::Status,
    ))
)]
struct Schemas;

pub fn routes() -> Router<State> {
    Router::new().route("/api/v1/openapi.json", routing::get(|| async { Json(document()) }))
}

/// The document as JSON: what `docs/openapi.json` holds and the host serves.
pub fn document() -> Value {
    let mut document = Schemas::openapi();
    let components = document.components.get_or_insert_default();
    components
        .security_schemes
        .insert("token".into(), RefOr::T(SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build())));
    for endpoint in ENDPOINTS {
        add(&mut document, endpoint);
    }
    let mut value = serde_json::to_value(&document).expect("the document has text keys only");
    value["components"]["schemas"]["Object"] = json!({ "type": "object", "additionalProperties": true });
    value
}

fn add(document: &mut Document, endpoint: &Endpoint) {
    let mut operation = OperationBuilder::new()
        .operation_id(Some(operation_id(endpoint)))
        .tag(tag(endpoint.path))
        .summary(Some(endpoint.summary))
        .response("default", answer("What went wrong", "application/problem+json", "Problem"))
        .response(
            "200",
            match endpoint.answer {
                Some(schema) => answer("Done", "application/json", schema),
                None => ResponseBuilder::new().description("Done").build(),
            },
        );
    for name in endpoint.path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name) {
        operation = operation.parameter(parameter(name, ParameterIn::Path, Required::True));
    }
    for name in endpoint.query {
        operation = operation.parameter(parameter(name, ParameterIn::Query, Required::False));
    }
    if let Some(body) = endpoint.body {
        let (media, schema) = match body.contains('/') {
            true => (body, text()),
            false => ("application/json", reference(body)),
        };
        operation = operation.request_body(Some(RequestBodyBuilder::new().content(media, Content::new(Some(schema))).build()));
    }
    operation = match endpoint.access {
        Access::Public => operation.description(Some("Needs no token.")),
        Access::Role(role) => operation
            .description(Some(format!("Needs the role {}.", role.as_str())))
            .security(SecurityRequirement::new("token", Vec::<String>::new())),
    };
    let method = match endpoint.method {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    };
    let item = PathItem::new(method, operation.build());
    match document.paths.paths.get_mut(endpoint.path) {
        Some(existing) => existing.merge_operations(item),
        None => drop(document.paths.paths.insert(endpoint.path.into(), item)),
    }
}

fn answer(description: &str, media: &str, schema: &str) -> utoipa::openapi::Response {
    ResponseBuilder::new().description(description).content(media, Content::new(Some(reference(schema)))).build()
}

fn reference(schema: &str) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(schema))
}

fn text() -> RefOr<Schema> {
    RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(Type::String).build()))
}

fn parameter(name: &str, place: ParameterIn, required: Required) -> utoipa::openapi::path::Parameter {
    ParameterBuilder::new().name(name).parameter_in(place).required(required).schema(Some(text())).build()
}

/// `GET /api/v1/tokens/{id}` → `get_tokens_id`
fn operation_id(endpoint: &Endpoint) -> String {
    let words: String = endpoint.path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let words = words.strip_prefix("_api_v1_").unwrap_or(&words);
    let words: Vec<&str> = words.split('_').filter(|w| !w.is_empty()).collect();
    format!("{}_{}", endpoint.method.to_lowercase(), words.join("_"))
}

fn tag(path: &str) -> &str {
    let path = path.strip_prefix("/api/v1/").unwrap_or(path.trim_start_matches('/'));
    path.split('/').next().unwrap_or("host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_that_an_endpoint_names_exists() {
        let document = document();
        for e in ENDPOINTS {
            for name in [e.body, e.answer].into_iter().flatten().filter(|n| !n.contains('/')) {
                assert!(document["components"]["schemas"].get(name).is_some(), "{} {} names the schema {name}", e.method, e.path);
            }
        }
    }

    #[test]
    fn the_document_is_openapi_3_1_with_one_operation_an_endpoint() {
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
        let mut ids = std::collections::HashSet::new();
        for e in ENDPOINTS {
            let operation = &document["paths"][e.path][e.method.to_lowercase()];
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{} {} is missing", e.method, e.path));
            assert!(ids.insert(id.to_owned()), "{id} twice");
        }
    }

    #[test]
    fn the_committed_document_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/openapi.json");
        let committed: Value = serde_json::from_slice(&std::fs::read(path).unwrap_or_default()).unwrap_or_default();
        assert!(committed == document(), "docs/openapi.json is out of date: run `orchestrix schema openapi > docs/openapi.json`");
    }
}
