//! The page, embedded in the binary. No cookies: the page keeps its token for the tab.

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use rust_embed::RustEmbed;

/// `host/web/dist`, or the page that says it was not built: see `build.rs`.
#[derive(RustEmbed)]
#[folder = "$ORX_WEB_DIST"]
struct Assets;

/// Scripts and styles only from here; charts set style attributes.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

pub async fn serve(method: Method, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    let is_api = ["api/", "loki/", "v1/"].iter().any(|prefix| path.starts_with(prefix));
    if is_api || !matches!(method, Method::GET | Method::HEAD) {
        return crate::error::Problem::not_found(format_args!(
            "endpoint {method} {}; /api/v1/openapi.json lists what there is",
            uri.path()
        ))
        .into_response();
    }
    // What is no file is a place inside the page, which its own router knows.
    let (name, is_page) = match Assets::get(path) {
        Some(_) if !path.is_empty() => (path, path.ends_with(".html")),
        _ if path.starts_with("assets/") => return StatusCode::NOT_FOUND.into_response(),
        _ => ("index.html", true),
    };
    let Some(file) = Assets::get(name) else { return StatusCode::NOT_FOUND.into_response() };
    let mut response = Response::new(Body::from(file.data));
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(file.metadata.mimetype()) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    // Assets carry a hash in their name; the page itself must always be asked for.
    let cache = if is_page { "no-cache" } else { "public, max-age=31536000, immutable" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}
