use super::*;
use orchestrix_sdk::testing::World;
use std::{cell::RefCell, rc::Rc};

/// What a server answers to each message of ours, by its kind; 0 is the start.
type Script = Box<dyn FnMut(u8, &[u8]) -> Vec<u8>>;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &i32::try_from(body.len() + 4).unwrap().to_be_bytes(), body].concat()
}

fn auth(code: i32, body: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes()[..], body].concat())
}

fn error(state: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0C{state}\0M{text}\0\0").as_bytes())
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn description(columns: &[(&str, i32)]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for (name, kind) in columns {
        body.extend(name.as_bytes());
        body.extend([0; 7]);
        body.extend(kind.to_be_bytes());
        body.extend([0; 8]);
    }
    message(b'T', &body)
}

fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(value.as_bytes());
            }
        }
    }
    message(b'D', &body)
}

/// A world with a server on db:5432 that cuts the bytes it gets into messages.
fn world(script: impl Fn() -> Script + 'static) -> World {
    let world = World::new();
    world.bind_secret("password", |mechanism, challenge| {
        assert_eq!(mechanism, "scram-sha-256");
        let challenge = std::str::from_utf8(challenge).unwrap();
        assert!(challenge.starts_with("n=,r=") && challenge.contains(",r=") && challenge.contains(",c=biws,r="), "{challenge}");
        Ok([[7; 32], [8; 32]].concat())
    });
    world.on_connect("db:5432", move || {
        let mut script = script();
        let mut pending: Vec<u8> = Vec::new();
        let mut is_started = false;
        move |written: &[u8]| {
            pending.extend(written);
            let mut answer = Vec::new();
            loop {
                let head = usize::from(is_started);
                let Some(length) = pending.get(head..head + 4) else { return answer };
                let end = head + u32::from_be_bytes(length.try_into().unwrap()) as usize;
                if pending.len() < end {
                    return answer;
                }
                let body: Vec<u8> = pending.drain(..end).collect();
                answer.extend(script(if is_started { body[0] } else { 0 }, &body[head + 4..]));
                is_started = true;
            }
        }
    });
    world
}

/// A well-behaved server; `answer` is what it gives to a statement, before it is ready.
fn server(statements: Rc<RefCell<Vec<String>>>, answer: fn() -> Vec<u8>) -> World {
    world(move || {
        let statements = Rc::clone(&statements);
        let mut steps = 0;
        Box::new(move |kind, body| match kind {
            0 => auth(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
            b'p' => {
                steps += 1;
                let text = String::from_utf8_lossy(body).into_owned();
                if steps == 1 {
                    let nonce = text.split("r=").nth(1).unwrap();
                    auth(11, format!("r={nonce}SERVER,s=c2FsdA==,i=4096").as_bytes())
                } else {
                    assert!(text.contains("SERVER,p=BwcHBwcH"), "{text}");
                    [
                        auth(12, b"v=CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg="),
                        auth(0, b""),
                        message(b'S', b"server_version\x0015\0"),
                        ready(),
                    ]
                    .concat()
                }
            }
            b'Q' | b'P' => {
                let text: Vec<u8> = body.iter().copied().skip_while(|b| *b == 0).take_while(|b| *b != 0).collect();
                statements.borrow_mut().push(String::from_utf8(text).unwrap());
                if kind == b'Q' { [message(b'C', b"OK\0"), ready()].concat() } else { message(b'1', b"") }
            }
            b'S' => [answer(), ready()].concat(),
            _ => Vec::new(),
        })
    })
}

fn postgres() -> Postgres {
    Postgres {
        host: "db".into(),
        port: 5432,
        database: "shop".into(),
        user: "watch".into(),
        tls: true,
        statement_timeout: Millis(5_000),
    }
}

fn run(world: &World, operation: &str, input: Value) -> Result<Value> {
    world.run(|| postgres().execute(&Context::default(), operation, input))
}

#[test]
fn a_question_is_asked_in_a_read_only_transaction_and_answered_with_types() {
    let statements = Rc::default();
    let world = server(Rc::clone(&statements), || {
        let columns = [("id", 20), ("name", 25), ("ok", 16), ("ratio", 701), ("data", 3802), ("price", 1700)];
        let rows = [
            row(&[Some("7"), Some("cart"), Some("t"), Some("0.5"), Some("{\"a\":1}"), Some("12.30")]),
            row(&[None, None, Some("f"), Some("NaN"), None, None]),
        ];
        [description(&columns), rows.concat(), message(b'C', b"SELECT 2\0")].concat()
    });
    let answer = run(&world, "query", json!({ "sql": "SELECT * FROM t WHERE id = $1", "parameters": [7] })).unwrap();
    assert_eq!(
        answer["rows"][0],
        json!({ "id": 7, "name": "cart", "ok": true, "ratio": 0.5, "data": { "a": 1 }, "price": "12.30" })
    );
    assert_eq!(answer["rows"][1], json!({ "id": null, "name": null, "ok": false, "ratio": "NaN", "data": null, "price": null }));
    assert_eq!(answer["truncated"], false);
    assert_eq!(*statements.borrow(), ["BEGIN READ ONLY", "SELECT * FROM t WHERE id = $1", "ROLLBACK"]);
    assert!(world.effects().is_empty());
}

#[test]
fn a_refused_statement_is_rolled_back_and_told() {
    for (state, code) in [
        ("42601", "postgres.refused"),
        ("25006", "postgres.read_only"),
        ("40001", "postgres.conflict"),
        ("57014", "postgres.unavailable"),
    ] {
        // The script is a function: the state goes by a table.
        let answer: fn() -> Vec<u8> = match state {
            "42601" => || error("42601", "syntax error"),
            "25006" => || error("25006", "cannot execute INSERT"),
            "40001" => || error("40001", "could not serialize"),
            _ => || error("57014", "statement timeout"),
        };
        let statements = Rc::default();
        let world = server(Rc::clone(&statements), answer);
        let failure = run(&world, "query", json!({ "sql": "x" })).unwrap_err();
        assert_eq!(failure.code, code);
        assert_eq!(failure.details, Some(json!({ "sqlstate": state })));
        assert_eq!(statements.borrow().last().unwrap(), "ROLLBACK");
    }
}

#[test]
fn more_rows_than_wanted_are_said() {
    let world = server(Rc::default(), || [description(&[("n", 23)]), row(&[Some("1")]), message(b's', b"")].concat());
    assert_eq!(run(&world, "query", json!({ "sql": "x", "max_rows": 1 })).unwrap()["truncated"], true);
}

#[test]
fn health_is_an_answer_even_when_the_database_is_gone() {
    let world = server(Rc::default(), || {
        let columns = [("r", 16), ("c", 20), ("m", 20)];
        [description(&columns), row(&[Some("f"), Some("12"), Some("100")]), message(b'C', b"SELECT 1\0")].concat()
    });
    let health = run(&world, "health-check", json!({})).unwrap();
    assert_eq!((&health["healthy"], &health["inRecovery"], &health["connections"]), (&json!(true), &json!(false), &json!(12)));
    let nobody = World::new();
    let health = run(&nobody, "health-check", json!({})).unwrap();
    assert_eq!(health["healthy"], false);
    assert!(health["error"].as_str().unwrap().contains("refused"));
    let starting = world_of(error("57P03", "the database system is starting up"));
    assert_eq!(run(&starting, "health-check", json!({})).unwrap()["healthy"], false);
}

#[test]
fn a_wrong_password_and_a_server_without_scram_are_errors() {
    for answer in [error("28P01", "password authentication failed"), auth(5, &[1, 2, 3, 4]), auth(3, b""), auth(10, b"OTHER\0\0")]
    {
        let world = world_of(answer);
        assert_eq!(run(&world, "health-check", json!({})).unwrap_err().code, "remote.unauthorized");
    }
}

#[test]
fn a_server_that_makes_up_the_nonce_gets_no_proof() {
    let world = world(|| {
        Box::new(|kind, _| match kind {
            0 => auth(10, b"SCRAM-SHA-256\0\0"),
            _ => auth(11, b"r=madeup,s=c2FsdA==,i=1"),
        })
    });
    assert_eq!(run(&world, "query", json!({ "sql": "x" })).unwrap_err().code, "remote.unauthorized");
}

#[test]
fn a_server_that_does_not_prove_itself_is_asked_nothing() {
    for last in [[auth(12, b"v=AAAA"), auth(0, b""), ready()].concat(), [auth(0, b""), ready()].concat()] {
        let world = world(move || {
            let (last, mut steps) = (last.clone(), 0);
            Box::new(move |kind, body| match kind {
                0 => auth(10, b"SCRAM-SHA-256\0\0"),
                b'p' if steps == 0 => {
                    steps = 1;
                    let nonce = String::from_utf8_lossy(body).split("r=").nth(1).unwrap().to_owned();
                    auth(11, format!("r={nonce}S,s=c2FsdA==,i=4096").as_bytes())
                }
                b'p' => last.clone(),
                _ => panic!("no statement may be sent"),
            })
        });
        assert_eq!(run(&world, "query", json!({ "sql": "x" })).unwrap_err().code, "remote.unauthorized");
    }
}

#[test]
fn garbage_cut_messages_and_impossible_lengths_never_panic() {
    let huge = [&b"R"[..], &i32::MAX.to_be_bytes(), b"x"].concat();
    let negative = [&b"R"[..], &(-5_i32).to_be_bytes()].concat();
    for answer in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        huge,
        negative,
        b"R".to_vec(),
        message(b'R', b"\0"),
        auth(11, b"r=x"),
        Vec::new(),
    ] {
        let error = run(&world_of(answer.clone()), "query", json!({ "sql": "x" })).unwrap_err();
        assert!(error.code.starts_with("remote."), "{answer:?}: {error}");
    }
    let answers: [fn() -> Vec<u8>; 4] = [
        || [description(&[("a", 23), ("b", 23)]), row(&[Some("1")])].concat(),
        || message(b'T', &[0x7f, 0xff, b'a']),
        || [description(&[("a", 23)]), message(b'D', &[0, 1, 0, 0, 0, 9, b'x'])].concat(),
        || [description(&[("a", 25)]), message(b'D', &[0, 1, 0, 0, 0, 1, 0xff])].concat(),
    ];
    for answer in answers {
        assert_eq!(run(&server(Rc::default(), answer), "query", json!({ "sql": "x" })).unwrap_err().code, "remote.protocol");
    }
}

#[test]
fn wrong_input_never_connects() {
    let world = World::new();
    for input in [
        json!({}),
        json!({ "sql": "" }),
        json!({ "sql": "a\u{0}b" }),
        json!({ "sql": "x", "max_rows": 0 }),
        json!({ "sql": "x", "max_rows": 5000 }),
        json!({ "sql": 1 }),
    ] {
        assert_eq!(run(&world, "query", input).unwrap_err().code, "input.invalid");
    }
}

/// A server that says the same to whatever starts a session.
fn world_of(answer: Vec<u8>) -> World {
    world(move || {
        let answer = answer.clone();
        Box::new(move |kind, _| if kind == 0 { answer.clone() } else { Vec::new() })
    })
}
