//! What the host's actions reach: answers every request and tells when it came.

use anyhow::{Context, Result};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Instant,
};

/// Bytes of a request body; the host's actions send little.
const BODY_BYTES_MAX: u64 = 1 << 20;

pub struct Receiver {
    pub address: SocketAddr,
    /// Moment and path of each request.
    pub arrivals: mpsc::Receiver<(Instant, String)>,
    is_closed: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Receiver {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for the receiver")?;
        let address = listener.local_addr()?;
        let (says, arrivals) = mpsc::channel();
        let is_closed = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&is_closed);
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if closed.load(Ordering::Relaxed) {
                    break;
                }
                let says = says.clone();
                // A client that breaks off ends its own thread only.
                thread::spawn(move || serve(&stream, &says));
            }
        });
        Ok(Self { address, arrivals, is_closed, acceptor: Some(acceptor) })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Wakes the acceptor.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn serve(stream: &TcpStream, says: &mpsc::Sender<(Instant, String)>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let now = Instant::now();
        let path = line.split(' ').nth(1)?.to_owned();
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim_end().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        if length > BODY_BYTES_MAX {
            return None;
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?;
        // Nobody may be listening any more.
        let _ = says.send((now, path));
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}").ok()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bench_load::http::Client;

    #[test]
    fn each_request_is_answered_and_told() {
        let receiver = Receiver::start().unwrap();
        let mut client = Client::new(&format!("http://{}/", receiver.address)).unwrap();
        for path in ["/one", "/two"] {
            assert_eq!(client.send("POST", path, "", b"body").unwrap(), (200, b"{}".to_vec()));
            assert_eq!(receiver.arrivals.recv().unwrap().1, path);
        }
    }

    #[test]
    fn what_breaks_off_or_is_no_http_disturbs_nobody() {
        let receiver = Receiver::start().unwrap();
        for garbage in [
            "",
            "nonsense\r\n\r\n",
            "POST /a HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            "POST /a HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        ] {
            TcpStream::connect(receiver.address).unwrap().write_all(garbage.as_bytes()).unwrap();
        }
        let mut client = Client::new(&format!("http://{}/", receiver.address)).unwrap();
        assert_eq!(client.send("GET", "/well", "", b"").unwrap().0, 200);
        assert_eq!(receiver.arrivals.recv().unwrap().1, "/well");
    }
}
