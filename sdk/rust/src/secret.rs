//! Secrets by handle. The bytes stay with the host; what a protocol needs of them, the host computes.

use crate::{Result, host, net::Connection};

/// A secret that the manifest declares and an admin bound.
pub struct Secret(host::Secret);

/// Finds a secret by the name the manifest gives it.
pub fn get(name: &str) -> Result<Secret> {
    host::secret(name).map(Secret)
}

impl Secret {
    /// Text that the host replaces by the secret in an outgoing header, query or body,
    /// toward hosts that the secret is bound to. Anywhere else it is just this text.
    pub fn placeholder(&self) -> String {
        self.0.placeholder()
    }

    /// `hmac-sha256`, …: the signature of `data` under the secret.
    pub fn sign(&self, algorithm: &str, data: &[u8]) -> Result<Vec<u8>> {
        self.0.sign(algorithm, data)
    }

    /// The client's proof of a challenge: `scram-sha-256`, …
    pub fn prove(&self, mechanism: &str, challenge: &[u8]) -> Result<Vec<u8>> {
        self.0.prove(mechanism, challenge)
    }

    /// Writes the secret itself into a connection that it is bound to.
    pub fn send(&self, to: &mut Connection) -> Result<()> {
        self.0.send(&mut to.0)
    }

    /// The bytes themselves. Needs the `reveal` permission, which is shown as high risk; every call is audited.
    pub fn reveal(&self) -> Result<Vec<u8>> {
        self.0.reveal()
    }
}
