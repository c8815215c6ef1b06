//! What leaves the sandbox: grants, addresses, permits and secrets at the door.

use crate::world::{Server, World, bind, code, full_grant, message};
use model::{Grant, HttpGrant, Installation};
use serde_json::{Value, json};

async fn granted(world: &World, server: &Server) -> Installation {
    let fixture = world.install("fixture").await;
    Installation { grant: full_grant(&server.origin()), config: json!({"server": server.origin()}), ..fixture }
}

fn get(server: &Server, path: &str) -> Value {
    json!({"method": "GET", "url": format!("{}{path}", server.origin())})
}

fn put(server: &Server, name: &str, target: &str) -> Value {
    json!({"method": "PUT", "url": format!("{}/things/{name}", server.origin()), "body": "{}", "settle": "done", "effect": {"kind": "thing.set", "target": target}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_request_goes_out_and_is_recorded() {
    let (world, server) = (World::new(), Server::start().await);
    let fixture = granted(&world, &server).await;
    let answer = world.execute(&fixture, "http", get(&server, "/a?b=c")).await.unwrap();
    assert_eq!(answer[0]["status"], 200);
    assert!(server.got()[0].starts_with("GET /a?b=c\n"), "{:?}", server.got());
    let recorded = world.last_recording();
    let call = recorded.calls.iter().find(|c| c.import == "http.send").unwrap();
    assert_eq!(call.arguments["url"], format!("{}/a?b=c", server.origin()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ungranted_host_method_or_path_is_told_the_line_to_add() {
    let (world, server) = (World::new(), Server::start().await);
    let mut fixture = granted(&world, &server).await;
    fixture.grant = Grant {
        http: vec![HttpGrant { hosts: vec![server.origin()], methods: vec![], path_prefix: "/open".into() }],
        ..Grant::default()
    };
    assert!(world.execute(&fixture, "http", get(&server, "/open/x")).await.is_ok());
    let closed = world.execute(&fixture, "http", get(&server, "/closed")).await;
    assert_eq!(code(&closed), "permission.denied");
    assert!(
        message(&closed).contains(&format!(
            r#"add {{"hosts":["{}"],"methods":["GET"],"path_prefix":"/closed"}} to grant.http"#,
            server.origin()
        )),
        "{}",
        message(&closed)
    );
    let dots = world.execute(&fixture, "http", get(&server, "/open/%2e%2e/closed")).await;
    assert!(message(&dots).contains("dot segments"), "{}", message(&dots));
    let other = world.execute(&fixture, "http", json!({"method": "GET", "url": "https://example.com/"})).await;
    assert!(message(&other).contains("manifest doesn't ask for GET https://example.com/"), "{}", message(&other));
    let delete = json!({"method": "DELETE", "url": format!("{}/open/x", server.origin())});
    assert!(message(&world.execute(&fixture, "http", delete).await).contains("manifest"));
    assert_eq!(server.got().len(), 1, "nothing that was refused went out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_and_the_metadata_address_is_closed_though_granted() {
    let (world, server) = (World::new(), Server::start().await);
    let mut fixture = granted(&world, &server).await;
    let answer = world.execute(&fixture, "http", get(&server, "/redirect")).await.unwrap();
    assert_eq!(answer[0]["status"], 302);
    fixture.grant.http.push(HttpGrant { hosts: vec!["*".into()], methods: vec![], path_prefix: "/".into() });
    let hop = world.execute(&fixture, "http", json!({"method": "GET", "url": "http://169.254.169.254/latest/meta-data"})).await;
    assert_eq!(code(&hop), "permission.address_denied");
    assert!(message(&hop).contains("metadata"), "{}", message(&hop));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_resolves_to_loopback_is_closed_unless_the_host_policy_names_it() {
    let server = Server::start().await;
    let ask = json!({"method": "GET", "url": format!("http://localhost:{}/", server.port)});
    for (policy, is_open) in [(&[][..], false), (&["127.0.0.1"][..], true)] {
        let world = World::with_policy(policy);
        let mut fixture = granted(&world, &server).await;
        fixture.grant.http.push(HttpGrant {
            hosts: vec![format!("http://localhost:{}", server.port)],
            methods: vec![],
            path_prefix: "/".into(),
        });
        let answer = world.execute(&fixture, "http", ask.clone()).await;
        assert_eq!(answer.is_ok(), is_open, "{answer:?}");
        if !is_open {
            assert_eq!(code(&answer), "permission.address_denied");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsafe_request_needs_a_permit_for_exactly_that() {
    let (world, server) = (World::new(), Server::start().await);
    let fixture = granted(&world, &server).await;
    let mut bare = put(&server, "a", "thing/a");
    bare.as_object_mut().unwrap().remove("effect");
    assert_eq!(code(&world.execute(&fixture, "http", bare).await), "effect.permit_required");
    let other = world.execute(&fixture, "http", put(&server, "a", "thing/b")).await;
    assert!(message(&other).contains("would change \"thing/a\", but the permit is for \"thing/b\""), "{}", message(&other));
    assert_eq!(server.got().len(), 0);
    assert!(world.execute(&fixture, "http", put(&server, "a", "thing/a")).await.is_ok());
    assert_eq!(world.settled(), ["not-done", "done"]);
    let (caller, effect) = world.seen.begun.lock().unwrap()[1].clone();
    assert_eq!(
        (effect.target.as_str(), caller.cause.step.as_deref(), effect.after),
        ("thing/a", Some("/do/0"), Some(json!({"n": 1})))
    );
    let detail = world.seen.settled.lock().unwrap()[1].2.clone();
    assert_eq!((&detail["host"]["http_status"], &detail["detail"]), (&json!(200), &json!({"by": "guest"})));
    let safe = json!({"method": "POST", "url": format!("{}/search", server.origin()), "body": "q"});
    assert!(world.execute(&fixture, "http", safe).await.is_ok(), "the manifest says that a search is safe");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_is_good_for_one_request() {
    let (world, server) = (World::new(), Server::start().await);
    let fixture = granted(&world, &server).await;
    let mut twice = put(&server, "a", "thing/a");
    twice["times"] = json!(2);
    let answer = world.execute(&fixture, "http", twice).await;
    assert!(message(&answer).contains("is spent"), "{}", message(&answer));
    assert_eq!((server.got().len(), world.settled()), (1, vec!["in-doubt".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_is_derived_from_the_body_and_a_guardrails_refusal_reaches_the_guest() {
    let (world, server) = (World::new(), Server::start().await);
    let fixture = granted(&world, &server).await;
    let note = |to: &str, target: &str| {
        json!({"method": "POST", "url": format!("{}/notes", server.origin()), "body": json!({"to": to}).to_string(), "settle": "done",
            "effect": {"kind": "note.add", "target": target}})
    };
    assert!(world.execute(&fixture, "http", note("ada", "note/ada")).await.is_ok());
    assert_eq!(code(&world.execute(&fixture, "http", note("bob", "note/ada")).await), "effect.permit_required");
    assert_eq!(code(&world.execute(&fixture, "http", note("x", "note/forbidden")).await), "guardrail.budget");
    let unknown = json!({"method": "GET", "url": server.origin() + "/", "effect": {"kind": "other.kind", "target": "x"}});
    assert!(message(&world.execute(&fixture, "http", unknown).await).contains("manifest knows no effect"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_after_the_effect_leaves_it_in_doubt() {
    let (world, server) = (World::new(), Server::start().await);
    let fixture = granted(&world, &server).await;
    let mut ask = put(&server, "a", "thing/a");
    ask["settle"] = Value::Null;
    ask["panic"] = json!(true);
    assert_eq!(code(&world.execute(&fixture, "http", ask).await), "plugin.trap");
    assert_eq!(world.settled(), ["in-doubt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_put_in_at_the_door_and_taken_out_of_the_answer() {
    let (world, server) = (World::new(), Server::start().await);
    let mut fixture = granted(&world, &server).await;
    world.secret("token", "hunter2/hunter2", &[&server.origin()]);
    bind(&mut fixture, "token");
    let ask = json!({"method": "POST", "url": format!("{}/search?key=$", server.origin()), "headers": [["authorization", "Bearer $"], ["content-type", "application/json"]],
        "body": "{\"k\":\"$\"}", "secret": "token"});
    let answer = world.execute(&fixture, "http", ask).await.unwrap();
    let got = server.got()[0].clone();
    for part in [
        "/search?key=hunter2%2Fhunter2",
        "authorization: Bearer hunter2/hunter2",
        "{\"k\":\"hunter2/hunter2\"}",
        "content-length: 23",
    ] {
        assert!(got.contains(part), "{part} in {got}");
    }
    let shown = answer.to_string();
    assert!(shown.contains("Bearer [redacted]") && !shown.contains("hunter2"), "{shown}");
    assert!(!serde_json::to_string(&world.last_recording()).unwrap().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placeholder_toward_another_host_is_refused() {
    let (world, server) = (World::new(), Server::start().await);
    let mut fixture = granted(&world, &server).await;
    world.secret("token", "hunter2hunter2", &["https://api.example.com"]);
    bind(&mut fixture, "token");
    let ask =
        json!({"method": "GET", "url": server.origin() + "/", "headers": [["authorization", "Bearer $"]], "secret": "token"});
    let answer = world.execute(&fixture, "http", ask).await;
    assert_eq!(code(&answer), "permission.secret_not_bound");
    assert!(message(&answer).contains(&format!("add {:?} to the secret's hosts", server.origin())), "{}", message(&answer));
    assert_eq!(server.got().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_injects_a_secret_without_the_guest_knowing() {
    let (world, server) = (World::new(), Server::start().await);
    let mut fixture = granted(&world, &server).await;
    world.secret("injected", "hunter2hunter2", &[&server.origin()]);
    bind(&mut fixture, "injected");
    let answer = world.execute(&fixture, "http", get(&server, "/")).await.unwrap().to_string();
    assert!(server.got()[0].contains("x-injected: Bearer hunter2hunter2"));
    assert!(!answer.contains("hunter2"), "{answer}");
    let unreadable = world.execute(&fixture, "http", get(&server, "/gzip")).await;
    assert_eq!(code(&unreadable), "remote.unreadable");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded_both_ways_and_an_absent_server_is_the_worlds_fault() {
    let (world, server) = (World::new(), Server::start().await);
    let mut fixture = granted(&world, &server).await;
    assert_eq!(code(&world.execute(&fixture, "http", get(&server, "/big")).await), "remote.answer_too_large");
    let big = json!({"method": "POST", "url": format!("{}/search", server.origin()), "body": "x".repeat(5 << 20)});
    assert_eq!(code(&world.execute(&fixture, "http", big).await), "http.request_too_large");
    fixture.config = json!({"server": "http://127.0.0.1:1"});
    fixture.grant = full_grant("http://127.0.0.1:1");
    let absent = world.execute(&fixture, "http", json!({"method": "GET", "url": "http://127.0.0.1:1/"})).await;
    assert_eq!(code(&absent), "remote.unreachable");
    assert_eq!(absent.unwrap_err().owner(), plugin::Owner::World);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_needs_a_grant_and_a_permit_unless_trusted_to_read() {
    let (world, server) = (World::new(), Server::start().await);
    let mut fixture = granted(&world, &server).await;
    let address = format!("tcp://127.0.0.1:{}", server.port);
    fixture.config["db"] = json!(address);
    let ask = json!({"host": "127.0.0.1", "port": server.port, "write": "GET / HTTP/1.0\r\n\r\n"});
    let twin = world.execute(&fixture, "net", ask.clone()).await;
    assert!(message(&twin).contains(&format!("add {address:?} to grant.sockets")), "{}", message(&twin));
    fixture.grant.sockets = vec![address.clone()];
    assert_eq!(code(&world.execute(&fixture, "net", ask.clone()).await), "effect.permit_required");
    let mut announced = ask.clone();
    announced["effect"] = json!(address);
    assert!(world.execute(&fixture, "net", announced).await.unwrap().as_str().unwrap().starts_with("HTTP/1.0 200"));
    fixture.grant.sockets = vec![format!("{address}?read-only=trusted")];
    assert!(world.execute(&fixture, "net", ask.clone()).await.is_ok());
    world.secret("token", "hunter2hunter2", &["https://api.example.com"]);
    bind(&mut fixture, "token");
    let mut sent = ask.clone();
    sent["secret"] = json!("token");
    assert_eq!(code(&world.execute(&fixture, "net", sent.clone()).await), "permission.secret_not_bound");
    world.secret("token", "hunter2hunter2", &[&address]);
    assert!(world.execute(&fixture, "net", sent).await.is_ok());
}
