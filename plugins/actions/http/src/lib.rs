//! `http`: one request, as a workflow's `call: http` describes it.
//!
//! GET, HEAD and OPTIONS read. Every other method is announced as `http.<method>` on its URL without the query.

use base64::{Engine, prelude::BASE64_STANDARD};
use orchestrix_sdk::prelude::*;
use std::collections::BTreeMap;

/// There is nothing to configure: the grant says what may be called.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Http {}

/// The `with` of the Serverless Workflow DSL's `call: http`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// `GET` when absent.
    #[serde(default = "get")]
    method: String,
    endpoint: Endpoint,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    #[serde(default)]
    query: BTreeMap<String, Value>,
    /// A text is sent as it is, everything else as JSON.
    #[serde(default)]
    body: Option<Value>,
    #[serde(default)]
    output: Output,
    /// Whether a 3xx answer is taken as one. Redirects are never followed: each hop would need its own grant.
    #[serde(default)]
    redirect: bool,
    /// Sending it twice does no harm: after a crash it is sent again instead of left to a person.
    #[serde(default)]
    #[allow(dead_code, reason = "the host reads it")]
    repeatable: bool,
    /// How to find out, after a crash, whether it happened.
    #[serde(default)]
    verify: Option<Verify>,
}

/// A GET whose answer shows the change.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    endpoint: Endpoint,
    /// JSON pointer into the answer; the whole answer when absent.
    #[serde(default)]
    pointer: String,
    /// What stands there once it happened.
    equals: Value,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Endpoint {
    Uri(String),
    Object(EndpointObject),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointObject {
    uri: String,
    #[serde(default)]
    authentication: Option<Authentication>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authentication {
    bearer: Bearer,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bearer {
    /// Name of a secret that the manifest declares; the plugin never sees it.
    #[serde(rename = "use")]
    secret: String,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// The body: parsed if it is JSON, else as text.
    #[default]
    Content,
    /// The body's bytes in base64.
    Raw,
    /// Request, status, headers and content.
    Response,
}

#[orchestrix_sdk::action]
impl Http {
    #[operation]
    fn request(&self, ctx: &Context, input: Call) -> Result<Value> {
        let request = build(ctx, &input)?;
        let read = |response: Response| -> Result<Value> {
            let is_accepted = response.is_success() || (input.redirect && (300..400).contains(&response.status));
            if !is_accepted {
                return Err(response.error());
            }
            Ok(shape(&request, &response, input.output))
        };
        if request.is_safe() {
            return read(request.clone().send()?);
        }
        let kind = format!("http.{}", request.method.to_ascii_lowercase());
        let target = http::Parts::of(&request.url)?.target();
        Effect::new(kind, &target)
            .summary(format!("{} {target}", request.method))
            .after(input.body.clone().unwrap_or(Value::Null))
            .perform(|| read(request.clone().send()?))
    }

    /// Only with `verify` can anybody tell. The answer of the lost call is not known: what is there now stands for it.
    #[probe(request)]
    fn probe_request(&self, _ctx: &Context, input: Call) -> Result<Verdict<Value>> {
        let Some(verify) = input.verify else { return Ok(Verdict::Unknown) };
        let seen = serde_json_or_text(&verify.endpoint.request("GET")?.send()?.success()?);
        let is_done = seen.pointer(&verify.pointer) == Some(&verify.equals);
        Ok(if is_done { Verdict::Done(seen) } else { Verdict::NotDone })
    }
}

impl Endpoint {
    /// A request to it, with the bearer token's placeholder where one is used.
    fn request(&self, method: &str) -> Result<Request> {
        let object = match self {
            Self::Uri(uri) => return Ok(Request::new(method, uri)),
            Self::Object(object) => object,
        };
        let request = Request::new(method, &object.uri);
        let Some(authentication) = &object.authentication else { return Ok(request) };
        let secret = secret::get(&authentication.bearer.secret)?;
        Ok(request.header("authorization", format!("Bearer {}", secret.placeholder())))
    }
}

fn build(ctx: &Context, call: &Call) -> Result<Request> {
    let method = call.method.to_ascii_uppercase();
    if !matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "POST" | "PUT" | "PATCH" | "DELETE") {
        return Err(Error::input(format!(
            "the method {:?} is not sent: use GET, HEAD, OPTIONS, POST, PUT, PATCH or DELETE",
            call.method
        )));
    }
    let mut request = call.endpoint.request(&method)?;
    for (name, value) in &call.query {
        request = request.query(name, text(value));
    }
    for (name, value) in &call.headers {
        request = request.header(name, text(value));
    }
    if !request.is_safe() && request.header_value("idempotency-key").is_none() && !ctx.idempotency_key.is_empty() {
        request = request.header("idempotency-key", &ctx.idempotency_key);
    }
    match &call.body {
        None | Some(Value::Null) => Ok(request),
        Some(_) if request.method == "GET" || request.method == "HEAD" => Err(Error::input("GET and HEAD carry no body")),
        Some(Value::String(body)) => Ok(request.body("text/plain; charset=utf-8", body.as_bytes())),
        Some(body) => request.json(body),
    }
}

fn shape(request: &Request, response: &Response, output: Output) -> Value {
    let content = || match serde_json_or_text(response) {
        Value::String(text) if text.is_empty() => Value::Null,
        content => content,
    };
    match output {
        Output::Content => content(),
        Output::Raw => BASE64_STANDARD.encode(&response.body).into(),
        Output::Response => {
            let headers: BTreeMap<_, _> =
                response.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
            json!({
                "request": { "method": request.method, "uri": request.url },
                "statusCode": response.status,
                "headers": headers,
                "content": content(),
            })
        }
    }
}

fn serde_json_or_text(response: &Response) -> Value {
    response.json().unwrap_or_else(|_| response.text().into_owned().into())
}

/// A header or query value of any scalar type.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

fn get() -> String {
    "GET".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrix_sdk::testing::{World, json as answer};

    fn ctx() -> Context {
        Context { idempotency_key: "run-1/step-2".into(), ..Context::default() }
    }

    fn call(world: &World, input: Value) -> Result<Value> {
        world.run(|| Http {}.execute(&ctx(), "request", input))
    }

    #[test]
    fn a_get_reads_without_an_effect() {
        let world = World::new();
        world.on_http(|_| Ok(answer(200, &json!({ "value": 42 }))));
        let input = json!({ "method": "get", "endpoint": "https://api.example/v1?x=1", "query": { "n": 2, "q": "a b" }, "headers": { "accept": "application/json" } });
        assert_eq!(call(&world, input), Ok(json!({ "value": 42 })));
        let request = &world.requests()[0];
        assert_eq!((request.method.as_str(), request.url.as_str()), ("GET", "https://api.example/v1?x=1&n=2&q=a%20b"));
        assert!(world.effects().is_empty());
    }

    #[test]
    fn a_post_is_an_effect_on_its_url_and_carries_the_idempotency_key() {
        let world = World::new();
        world.on_http(|_| Ok(answer(201, &json!({ "id": "INC-1" }))));
        let input =
            json!({ "method": "post", "endpoint": { "uri": "http://127.0.0.1:8090/tickets?x=1" }, "body": { "title": "t" } });
        assert_eq!(call(&world, input), Ok(json!({ "id": "INC-1" })));
        let effect = &world.effects()[0];
        assert_eq!((effect.effect.kind.as_str(), effect.effect.target.as_str()), ("http.post", "http://127.0.0.1:8090/tickets"));
        assert_eq!(effect.status.as_deref(), Some("done"));
        let request = &world.requests()[0];
        assert_eq!(request.header_value("idempotency-key"), Some("run-1/step-2"));
        assert_eq!(request.header_value("content-type"), Some("application/json"));
        assert_eq!(request.body, br#"{"title":"t"}"#);
    }

    #[test]
    fn the_output_has_the_shapes_of_the_workflow_language() {
        let shaped = |output: &str, body: &'static str| {
            let world = World::new();
            world.on_http(move |_| Ok(Response { status: 200, headers: vec![("X-A".into(), "1".into())], body: body.into() }));
            call(&world, json!({ "endpoint": "https://a/", "output": output })).unwrap()
        };
        assert_eq!(shaped("raw", "hi"), json!("aGk="));
        assert_eq!(shaped("content", "plain"), json!("plain"));
        assert_eq!(shaped("content", ""), Value::Null);
        let response = shaped("response", "{\"a\":1}");
        assert_eq!(response["statusCode"], 200);
        assert_eq!(response["headers"]["x-a"], "1");
        assert_eq!(response["content"], json!({ "a": 1 }));
    }

    #[test]
    fn a_refusal_fails_the_effect_and_a_lost_answer_leaves_it_in_doubt() {
        let status_of = |outcome: fn() -> Result<Response>| {
            let world = World::new();
            world.on_http(move |_| outcome());
            let error = call(&world, json!({ "method": "DELETE", "endpoint": "https://a/x" })).unwrap_err();
            (error.code.into_owned(), world.effects()[0].status.clone())
        };
        let refused = status_of(|| Ok(Response { status: 422, ..Response::default() }));
        assert_eq!(refused, ("remote.refused".into(), Some("failed".into())));
        let lost = status_of(|| Err(Error::new("remote.timeout", "no answer in time")));
        assert_eq!(lost, ("remote.timeout".into(), None));
    }

    #[test]
    fn a_redirect_is_an_error_unless_it_is_asked_for() {
        let with = |redirect: bool| {
            let world = World::new();
            world.on_http(|_| {
                Ok(Response { status: 302, headers: vec![("location".into(), "http://169.254.169.254/".into())], body: vec![] })
            });
            let outcome = call(&world, json!({ "endpoint": "https://a/", "redirect": redirect, "output": "response" }));
            assert_eq!(world.requests().len(), 1, "a redirect is never followed");
            outcome
        };
        assert_eq!(with(false).unwrap_err().code, "remote.refused");
        assert_eq!(with(true).unwrap()["statusCode"], 302);
    }

    #[test]
    fn a_bearer_token_goes_by_placeholder() {
        let world = World::new();
        world.bind_secret("token", |_, _| Ok(b"hush".to_vec()));
        world.on_http(|_| Ok(answer(200, &json!({}))));
        let input =
            |secret: &str| json!({ "endpoint": { "uri": "https://a/", "authentication": { "bearer": { "use": secret } } } });
        call(&world, input("token")).unwrap();
        let sent = world.requests()[0].header_value("authorization").unwrap().to_owned();
        assert!(sent.starts_with("Bearer ") && !sent.contains("hush"));
        assert_eq!(call(&world, input("other")).unwrap_err().code, "config.secret_missing");
    }

    #[test]
    fn a_probe_looks_where_verify_says() {
        let probe = |input: Value, now: &'static str| {
            let world = World::new();
            world.on_http(move |request| {
                assert_eq!((request.method.as_str(), request.url.as_str()), ("GET", "https://a/health"));
                Ok(answer(200, &json!({ "endpoint": now })))
            });
            world.run(|| Http {}.probe(&ctx(), "request", input))
        };
        let verify = json!({ "endpoint": "https://a/health", "pointer": "/endpoint", "equals": "replica" });
        let call = json!({ "method": "post", "endpoint": "https://a/failover", "verify": verify });
        assert_eq!(probe(call.clone(), "replica"), Ok(Verdict::Done(json!({ "endpoint": "replica" }))));
        assert_eq!(probe(call, "primary"), Ok(Verdict::NotDone));
        let blind = json!({ "method": "post", "endpoint": "https://a/failover", "repeatable": true });
        assert_eq!(probe(blind, "replica"), Ok(Verdict::Unknown));
    }

    #[test]
    fn hostile_input_is_refused_before_anything_is_sent() {
        let world = World::new();
        for input in [
            json!(null),
            json!({}),
            json!({ "endpoint": 3 }),
            json!({ "endpoint": "file:///etc/passwd" }),
            json!({ "endpoint": "https://user:pw@a/" }),
            json!({ "method": "POST", "endpoint": "nonsense" }),
            json!({ "method": "CONNECT", "endpoint": "https://a/" }),
            json!({ "method": "GET\r\nX: y", "endpoint": "https://a/" }),
            json!({ "endpoint": "https://a/", "body": { "x": 1 } }),
            json!({ "endpoint": "https://a/", "metod": "GET" }),
        ] {
            assert_eq!(call(&world, input.clone()).unwrap_err().code, "input.invalid", "{input}");
        }
        assert!(world.requests().is_empty());
        let error = world.run(|| Http {}.execute(&ctx(), "reqest", json!({}))).unwrap_err();
        assert!(error.message.contains("request"), "{error}");
    }
}
