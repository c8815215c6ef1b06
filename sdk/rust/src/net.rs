//! TCP to a granted host and port. The host resolves the name, checks the address and ends TLS.

use crate::{Result, host};
use std::io;

/// A connection; `Read` and `Write` block.
pub struct Connection(pub(crate) host::Connection);

pub fn connect(host_name: &str, port: u16, tls: bool) -> Result<Connection> {
    host::connect(host_name, port, tls).map(Connection)
}

impl io::Read for Connection {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl io::Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
