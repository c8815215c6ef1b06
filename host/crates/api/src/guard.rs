//! The one gate of all routes: looks the route up in the authorisation table and checks the caller.

use crate::{
    access::{Access, endpoint},
    error::{Code, Problem},
    state::State,
};
use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// Refuses a route that has no line in the table: forgetting one must not open it.
pub async fn check(state: axum::extract::State<State>, mut request: Request, next: Next) -> Response {
    match authorise(&state, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn authorise(state: &State, request: &mut Request) -> Result<(), Problem> {
    let path = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned()).unwrap_or_default();
    let Some(endpoint) = endpoint(request.method().as_str(), &path) else {
        if crate::access::ENDPOINTS.iter().any(|e| e.path == path) {
            return Err(method_problem(request.method()));
        }
        return Err(Problem::new(Code::Internal, format!("{} {path} has no line in the authorisation table", request.method())));
    };
    let Access::Role(wanted) = endpoint.access else { return Ok(()) };
    let who = state.auth.principal(request.headers()).await?;
    if who.role < wanted {
        return Err(Problem::new(
            Code::Role,
            format!("token {:?} has the role {}, this needs {}", who.name, who.role.as_str(), wanted.as_str()),
        ));
    }
    request.extensions_mut().insert(who);
    Ok(())
}

pub async fn wrong_method(method: http::Method) -> Problem {
    method_problem(&method)
}

fn method_problem(method: &http::Method) -> Problem {
    Problem::new(Code::Method, format!("{method} is not offered here; /api/v1/openapi.json lists what is"))
}

/// A handler that panicked is our bug: say so, and go on serving.
pub fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    let problem = Problem {
        inward: Some(format!("handler panicked: {message}")),
        ..Problem::new(Code::Internal, "the host has a bug here; its log says where")
    };
    problem.into_response()
}
