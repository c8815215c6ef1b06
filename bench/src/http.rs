//! A blocking keep-alive HTTP/1.1 client, enough for loopback.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

pub struct Client {
    host: String,
    base: String,
    conn: Option<BufReader<TcpStream>>,
    /// Header lines sent with every request, each ended by CRLF (authorization).
    pub extra: String,
}

fn bad(m: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, m)
}

impl Client {
    /// `url` is `http://host:port/path`; the path is returned by [`Client::path`].
    pub fn new(url: &str) -> io::Result<Self> {
        let rest = url.strip_prefix("http://").ok_or_else(|| bad("only http:// URLs"))?;
        let (host, path) = match rest.find('/') {
            Some(i) => (&rest[..i], &rest[i..]),
            None => (rest, "/"),
        };
        Ok(Client { host: host.to_string(), base: path.to_string(), conn: None, extra: String::new() })
    }

    pub fn path(&self) -> &str {
        &self.base
    }

    /// Sends one request and reads the whole answer. A broken connection is an error;
    /// the next call reconnects.
    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let r = self.try_send(method, path, headers, body);
        if r.is_err() {
            self.conn = None;
        }
        r
    }

    fn try_send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        if self.conn.is_none() {
            let s = TcpStream::connect(&self.host)?;
            s.set_nodelay(true)?;
            self.conn = Some(BufReader::with_capacity(64 << 10, s));
        }
        let c = self.conn.as_mut().expect("connected above");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{headers}{}\r\n",
            self.host,
            body.len(),
            self.extra
        );
        c.get_mut().write_all(head.as_bytes())?;
        c.get_mut().write_all(body)?;

        let mut line = String::new();
        if c.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let status: u16 = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| bad("status line"))?;
        let (mut len, mut chunked, mut close) = (None, false, false);
        loop {
            line.clear();
            if c.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let l = line.trim_end().to_ascii_lowercase();
            if l.is_empty() {
                break;
            }
            if let Some(v) = l.strip_prefix("content-length:") {
                len = Some(v.trim().parse::<usize>().map_err(|_| bad("content-length"))?);
            } else if l.starts_with("transfer-encoding:") && l.contains("chunked") {
                chunked = true;
            } else if l.starts_with("connection:") && l.contains("close") {
                close = true;
            }
        }
        let mut out = Vec::new();
        if chunked {
            loop {
                line.clear();
                c.read_line(&mut line)?;
                let n = usize::from_str_radix(line.trim(), 16).map_err(|_| bad("chunk size"))?;
                let at = out.len();
                out.resize(at + n, 0);
                c.read_exact(&mut out[at..])?;
                line.clear();
                c.read_line(&mut line)?;
                if n == 0 {
                    break;
                }
            }
        } else if let Some(n) = len {
            out.resize(n, 0);
            c.read_exact(&mut out)?;
        } else if status != 204 && status != 304 {
            c.read_to_end(&mut out)?;
            close = true;
        }
        if close {
            self.conn = None;
        }
        Ok((status, out))
    }
}

/// Percent-encodes a query value.
pub fn urlencode(s: &str) -> String {
    let mut o = String::with_capacity(s.len() * 3);
    for b in s.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            o.push(b as char);
        } else {
            o.push_str(&format!("%{b:02X}"));
        }
    }
    o
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn ask(answer: &'static str) -> io::Result<(u16, Vec<u8>)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/path", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /path HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let mut client = Client::new(&url).unwrap();
        let path = client.path().to_owned();
        let got = client.send("GET", &path, "", b"");
        server.join().unwrap();
        got
    }

    #[test]
    fn an_answer_may_have_a_length_or_chunks_or_an_end() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nhello",
        ] {
            assert_eq!(ask(answer).unwrap(), (200, b"hello".to_vec()), "{answer}");
        }
        assert_eq!(ask("HTTP/1.1 204 No Content\r\n\r\n").unwrap(), (204, Vec::new()));
    }

    #[test]
    fn what_is_no_http_is_an_error() {
        for answer in [
            "",
            "hello\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut",
        ] {
            assert!(ask(answer).is_err(), "{answer}");
        }
        assert!(Client::new("https://example.com").is_err());
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(urlencode("rate(a{b=\"c\"}[5m])"), "rate%28a%7Bb%3D%22c%22%7D%5B5m%5D%29");
    }
}
