//! Drives a load at a server from several connections until it is all taken, and tells what that took.

use crate::http::Client;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://HOST:PORT/PATH`
    pub url: String,
    /// Header lines, each ended by CRLF.
    pub headers: String,
    /// How often a request is sent again after 429 or 5xx.
    pub retries: u32,
}

#[derive(Debug, Default)]
pub struct Outcome {
    /// Samples or lines that the server has acknowledged.
    pub items: u64,
    pub requests: u64,
    pub retried: u64,
    pub bytes: u64,
    pub wall: Duration,
    /// Of each request, retries included.
    pub latencies: Vec<Duration>,
    pub errors: Vec<String>,
}

/// Runs one connection for each of `sources`. A source fills the buffer with a body and answers how many items it holds; 0 ends it.
pub fn push<S>(target: &Target, sources: Vec<S>, stop: &AtomicBool) -> Outcome
where
    S: FnMut(&mut Vec<u8>) -> u64 + Send,
{
    let begin = Instant::now();
    let parts: Vec<Outcome> = std::thread::scope(|scope| {
        let workers: Vec<_> = sources.into_iter().map(|source| scope.spawn(move || one(target, source, stop))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a source doesn't panic")).collect()
    });
    let mut all = Outcome { wall: begin.elapsed(), ..Outcome::default() };
    for part in parts {
        all.items += part.items;
        all.requests += part.requests;
        all.retried += part.retried;
        all.bytes += part.bytes;
        all.latencies.extend(part.latencies);
        all.errors.extend(part.errors);
    }
    all
}

fn one(target: &Target, mut source: impl FnMut(&mut Vec<u8>) -> u64, stop: &AtomicBool) -> Outcome {
    let mut outcome = Outcome::default();
    let mut client = match Client::new(&target.url) {
        Ok(client) => client,
        Err(error) => {
            outcome.errors.push(error.to_string());
            return outcome;
        }
    };
    client.extra.clone_from(&target.headers);
    let mut body = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        body.clear();
        let items = source(&mut body);
        if items == 0 {
            break;
        }
        let begin = Instant::now();
        match send(&mut client, &body, target.retries, &mut outcome.retried) {
            Ok(()) => {
                outcome.latencies.push(begin.elapsed());
                outcome.requests += 1;
                outcome.items += items;
                outcome.bytes += body.len() as u64;
            }
            Err(error) => {
                outcome.errors.push(error);
                break;
            }
        }
    }
    outcome
}

fn send(client: &mut Client, body: &[u8], retries: u32, retried: &mut u64) -> Result<(), String> {
    let path = client.path().to_owned();
    let mut tries = 0;
    loop {
        match client.send("POST", &path, "", body) {
            Ok((200..=299, _)) => return Ok(()),
            Ok((429 | 500..=599, _)) if tries < retries => {
                tries += 1;
                *retried += 1;
                std::thread::sleep(Duration::from_millis(50 << tries.min(5)));
            }
            Ok((status, answer)) => return Err(format!("status {status}: {}", excerpt(&answer))),
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn excerpt(answer: &[u8]) -> String {
    String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    /// Answers one request a connection with each status in turn.
    fn push_against(statuses: Vec<&'static str>, retries: u32) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            for status in statuses {
                let (mut stream, _) = listener.accept().unwrap();
                let mut seen = Vec::new();
                let mut buffer = [0; 1024];
                while !seen.ends_with(b"data") {
                    let read = stream.read(&mut buffer).unwrap();
                    seen.extend_from_slice(&buffer[..read]);
                }
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            }
        });
        let mut bodies = 2;
        let source = move |body: &mut Vec<u8>| {
            bodies -= 1;
            body.extend_from_slice(b"data");
            if bodies >= 0 { 10 } else { 0 }
        };
        let target = Target { url, headers: String::new(), retries };
        let outcome = push(&target, vec![source], &AtomicBool::new(false));
        server.join().unwrap();
        outcome
    }

    #[test]
    fn only_what_was_acknowledged_counts() {
        let outcome = push_against(vec!["204 No Content", "400 Bad Request"], 3);
        assert_eq!((outcome.items, outcome.requests, outcome.retried), (10, 1, 0));
        assert!(outcome.errors[0].starts_with("status 400"), "{:?}", outcome.errors);
    }

    #[test]
    fn a_busy_server_is_asked_again() {
        let outcome = push_against(vec!["429 Too Many Requests", "200 OK", "200 OK"], 1);
        assert_eq!((outcome.items, outcome.requests, outcome.retried), (20, 2, 1));
        assert!(outcome.errors.is_empty());
    }

    #[test]
    fn a_load_that_is_stopped_sends_nothing_more() {
        let target = Target { url: "http://127.0.0.1:1/".into(), headers: String::new(), retries: 0 };
        let source = |_: &mut Vec<u8>| 1;
        let outcome = push(&target, vec![source], &AtomicBool::new(true));
        assert_eq!((outcome.items, outcome.errors.len()), (0, 0));
    }
}
