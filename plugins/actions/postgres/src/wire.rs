//! The frontend's side of PostgreSQL's protocol 3.0: start, SCRAM-SHA-256, one statement at a time.

use base64::{Engine, prelude::BASE64_STANDARD};
use orchestrix_sdk::{prelude::*, random_bytes};
use std::io::{Read, Write};

/// Largest message taken from a server; an answer of several is bounded by [`TABLE_BYTES_MAX`].
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of values in one answer: an answer becomes the output of a step.
const TABLE_BYTES_MAX: usize = 1 << 20;
/// Messages that may come before the one waited for (notices, parameters), so that a server can't keep us forever.
const MESSAGES_MAX: usize = 10_000;

pub struct Session<C> {
    connection: C,
}

pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
    pub is_truncated: bool,
}

struct Message {
    kind: u8,
    body: Vec<u8>,
}

impl<C: Read + Write> Session<C> {
    /// Starts a session and proves who we are.
    pub fn open(connection: C, user: &str, database: &str, statement_timeout: Millis) -> Result<Self> {
        let mut session = Self { connection };
        let mut start = 196_608_i32.to_be_bytes().to_vec();
        let timeout = statement_timeout.0.to_string();
        for (name, value) in [
            ("user", user),
            ("database", database),
            ("application_name", "orchestrix"),
            ("client_encoding", "UTF8"),
            ("default_transaction_read_only", "on"),
            ("statement_timeout", &timeout),
        ] {
            if value.contains('\0') {
                return Err(Error::config(format!("{name} holds a zero byte")));
            }
            text(&mut start, name);
            text(&mut start, value);
        }
        start.push(0);
        session.connection.write_all(&i32_of(start.len() + 4))?;
        session.connection.write_all(&start)?;
        session.authenticate()?;
        session.wait_ready()?;
        Ok(session)
    }

    /// Runs one statement in a read-only transaction that is rolled back.
    pub fn read(&mut self, sql: &str, parameters: &[Value], rows_max: u32) -> Result<Table> {
        self.simple("BEGIN READ ONLY")?;
        let outcome = self.extended(sql, parameters, rows_max);
        // After a broken connection there is nothing to roll back.
        if !outcome.as_ref().is_err_and(|e| e.code == "remote.disconnected") {
            self.simple("ROLLBACK")?;
        }
        outcome
    }

    pub fn close(&mut self) {
        // The server closes when it reads this, or when the connection goes away: either is fine.
        let _ = self.send(b'X', &[]);
    }

    fn authenticate(&mut self) -> Result<()> {
        let (mut scram, mut expected) = (None, None);
        let (mut is_begun, mut is_proven) = (false, false);
        for _ in 0..MESSAGES_MAX {
            let message = self.receive()?;
            if message.kind != b'R' {
                continue;
            }
            let mut body = Reader(&message.body);
            match body.i32()? {
                // Trust without a password is the server's choice; SCRAM begun must also be ended.
                0 if is_proven || !is_begun => return Ok(()),
                0 => return Err(Error::new("remote.unauthorized", "the server ended SCRAM without proving itself")),
                10 => {
                    let mechanisms: Vec<_> = body.0.split(|b| *b == 0).collect();
                    if !mechanisms.contains(&&b"SCRAM-SHA-256"[..]) {
                        return Err(Error::new("remote.unauthorized", "the server offers no SCRAM-SHA-256"));
                    }
                    let nonce = BASE64_STANDARD.encode(random_bytes(18));
                    let first_bare = format!("n=,r={nonce}");
                    let first = format!("n,,{first_bare}");
                    let mut reply = b"SCRAM-SHA-256\0".to_vec();
                    reply.extend(i32_of(first.len()));
                    reply.extend(first.as_bytes());
                    self.send(b'p', &reply)?;
                    scram = Some((nonce, first_bare));
                    is_begun = true;
                }
                11 => {
                    let (nonce, first_bare) = scram.take().ok_or_else(|| Error::protocol("SCRAM goes on before it began"))?;
                    let server_first =
                        std::str::from_utf8(body.0).map_err(|_| Error::protocol("the SCRAM challenge is no text"))?;
                    let server_nonce = server_first.split(',').find_map(|part| part.strip_prefix("r=")).unwrap_or("");
                    if !server_nonce.starts_with(&nonce) || server_nonce.len() == nonce.len() {
                        return Err(Error::new("remote.unauthorized", "the server's nonce doesn't continue ours"));
                    }
                    let without_proof = format!("c=biws,r={server_nonce}");
                    let challenge = format!("{first_bare},{server_first},{without_proof}");
                    // The client's proof, and then what only a server that knows the password can answer.
                    let answer = secret::get("password")?.prove("scram-sha-256", challenge.as_bytes())?;
                    let halves = answer.split_at_checked(32).filter(|(_, signature)| signature.len() == 32);
                    let (proof, signature) = halves.ok_or_else(|| Error::protocol("the host's SCRAM answer has not 64 bytes"))?;
                    expected = Some(format!("v={}", BASE64_STANDARD.encode(signature)));
                    let reply = format!("{without_proof},p={}", BASE64_STANDARD.encode(proof));
                    self.send(b'p', reply.as_bytes())?;
                }
                12 => {
                    let expected = expected.take().ok_or_else(|| Error::protocol("SCRAM ends before it went on"))?;
                    if body.0 != expected.as_bytes() {
                        return Err(Error::new(
                            "remote.unauthorized",
                            "the server doesn't know the password: is it the right one?",
                        ));
                    }
                    is_proven = true;
                }
                other => {
                    let message = format!(
                        "the server asks for authentication method {other}; only SCRAM-SHA-256 keeps the password with the host"
                    );
                    return Err(Error::new("remote.unauthorized", message));
                }
            }
        }
        Err(endless())
    }

    fn simple(&mut self, sql: &str) -> Result<()> {
        let mut body = Vec::new();
        text(&mut body, sql);
        self.send(b'Q', &body)?;
        self.wait_ready()
    }

    fn extended(&mut self, sql: &str, parameters: &[Value], rows_max: u32) -> Result<Table> {
        let count = u16::try_from(parameters.len()).map_err(|_| Error::input("too many parameters"))?.to_be_bytes();
        let mut parse = vec![0];
        text(&mut parse, sql);
        parse.extend([0, 0]);
        let mut bind = vec![0, 0, 0, 0];
        bind.extend(count);
        for parameter in parameters {
            match as_text(parameter) {
                None => bind.extend((-1_i32).to_be_bytes()),
                Some(value) => {
                    bind.extend(i32_of(value.len()));
                    bind.extend(value.as_bytes());
                }
            }
        }
        bind.extend([0, 0]);
        let mut execute = vec![0];
        execute.extend(rows_max.to_be_bytes());
        self.send(b'P', &parse)?;
        self.send(b'B', &bind)?;
        self.send(b'D', b"P\0")?;
        self.send(b'E', &execute)?;
        self.send(b'S', &[])?;
        self.table()
    }

    /// The answer to one statement, up to ReadyForQuery.
    fn table(&mut self) -> Result<Table> {
        let mut table = Table { columns: Vec::new(), rows: Vec::new(), is_truncated: false };
        let (mut types, mut failure, mut bytes) = (Vec::new(), None, 0);
        for _ in 0..MESSAGES_MAX {
            let message = self.receive_or(&mut failure)?;
            match message.kind {
                b'T' => (table.columns, types) = columns(&message.body)?,
                b'D' => {
                    bytes += message.body.len();
                    if bytes > TABLE_BYTES_MAX {
                        table.is_truncated = true;
                    } else {
                        table.rows.push(row(&message.body, &types)?);
                    }
                }
                b's' => table.is_truncated = true,
                b'Z' => return failure.map_or(Ok(table), Err),
                _ => {}
            }
        }
        Err(endless())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let mut failure = None;
        for _ in 0..MESSAGES_MAX {
            if self.receive_or(&mut failure)?.kind == b'Z' {
                return failure.map_or(Ok(()), Err);
            }
        }
        Err(endless())
    }

    /// A message; an error of the server is kept until it is ready again, unless the session ends with it.
    fn receive_or(&mut self, failure: &mut Option<Error>) -> Result<Message> {
        match self.receive() {
            Err(e) if e.code.starts_with("postgres.") => {
                *failure = Some(e);
                Ok(Message { kind: b'E', body: Vec::new() })
            }
            Err(e) => Err(failure.take().unwrap_or(e)),
            message => message,
        }
    }

    fn receive(&mut self) -> Result<Message> {
        let mut head = [0; 5];
        self.connection.read_exact(&mut head)?;
        let length = i32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
        let length = length.filter(|length| *length <= MESSAGE_BYTES_MAX);
        let length =
            length.ok_or_else(|| Error::protocol("the server sent a message of an impossible length: is this PostgreSQL?"))?;
        let mut body = vec![0; length];
        self.connection.read_exact(&mut body)?;
        if head[0] == b'E' { Err(server_error(&body)) } else { Ok(Message { kind: head[0], body }) }
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let mut message = vec![kind];
        message.extend(i32_of(body.len() + 4));
        message.extend(body);
        Ok(self.connection.write_all(&message)?)
    }
}

/// The server's error fields, as the errors that workflows know.
fn server_error(body: &[u8]) -> Error {
    let field = |wanted: u8| {
        let mut fields = body.split(|b| *b == 0).filter(|field| !field.is_empty());
        fields.find(|field| field[0] == wanted).map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    let (state, message) = (field(b'C'), field(b'M'));
    let said = format!("the server answered {state}: {message}");
    let error = match state.get(..2) {
        Some("28") => Error::new("remote.unauthorized", said),
        Some("08" | "53" | "57" | "58") => Error::new("postgres.unavailable", said).retry_after_ms(1_000),
        Some("40") => Error::new("postgres.conflict", said).retry_now(),
        _ if state == "25006" => Error::new("postgres.read_only", format!("{said}; statements run in read-only transactions")),
        _ => Error::new("postgres.refused", said),
    };
    error.details(json!({ "sqlstate": state }))
}

/// Names and type ids of a RowDescription.
fn columns(body: &[u8]) -> Result<(Vec<String>, Vec<i32>)> {
    let mut body = Reader(body);
    let count = body.i16()?;
    let mut names = Vec::new();
    let mut types = Vec::new();
    for _ in 0..count {
        names.push(body.text()?);
        body.take(6)?;
        types.push(body.i32()?);
        body.take(8)?;
    }
    Ok((names, types))
}

fn row(body: &[u8], types: &[i32]) -> Result<Vec<Value>> {
    let mut body = Reader(body);
    let count = usize::try_from(body.i16()?).unwrap_or(0);
    if count != types.len() {
        return Err(Error::protocol("a row doesn't have the columns that were announced"));
    }
    types.iter().map(|kind| Ok(body.value()?.map_or(Value::Null, |text| typed(text, *kind)))).collect()
}

/// A value in text format as JSON. What JSON can't hold exactly (numeric, times) stays text.
fn typed(text: &str, kind: i32) -> Value {
    let json = match kind {
        16 => Some(Value::Bool(text == "t")),
        20 | 21 | 23 | 26 => text.parse::<i64>().ok().map(Into::into),
        700 | 701 => text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Into::into),
        114 | 3802 => text.parse().ok(),
        _ => None,
    };
    json.unwrap_or_else(|| text.into())
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn text(into: &mut Vec<u8>, text: &str) {
    into.extend(text.as_bytes());
    into.push(0);
}

fn i32_of(length: usize) -> [u8; 4] {
    i32::try_from(length).expect("what we send is far below 2 GiB").to_be_bytes()
}

fn endless() -> Error {
    Error::protocol("the server sends without end")
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or_else(|| Error::protocol("a message of the server is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }
    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into().expect("two bytes were taken")))
    }
    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }
    fn text(&mut self) -> Result<String> {
        let end = self.0.iter().position(|b| *b == 0).ok_or_else(|| Error::protocol("a text of the server has no end"))?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
    fn value(&mut self) -> Result<Option<&'a str>> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| Error::protocol("a value of negative length"))?;
        std::str::from_utf8(self.take(length)?).map(Some).map_err(|_| Error::protocol("a value is no UTF-8"))
    }
}
