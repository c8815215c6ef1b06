//! Opening a connection: resolve, judge the address, connect to exactly that one, end TLS.

use crate::{
    address::AddressPolicy,
    error::{refuse, remote},
    grant::Target,
};
use model::ErrorRecord;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// How long one address may take to answer.
pub(crate) const CONNECT_MS_MAX: u64 = 10_000;

/// A connection, with TLS or without.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection for T {}

/// What the admin's secrets add to TLS.
#[derive(Default)]
pub(crate) struct TlsExtras {
    pub ca_pem: Option<Vec<u8>>,
    pub client_pem: Option<Vec<u8>>,
    /// What is said before TLS begins.
    pub starttls: Option<String>,
}

/// The trust roots: Mozilla's, and the operator's own.
#[derive(Clone)]
pub(crate) struct Tls {
    roots: RootCertStore,
    plain: Arc<ClientConfig>,
}

impl Tls {
    pub(crate) fn new(extra_ca_pem: Option<&[u8]>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        if let Some(pem) = extra_ca_pem {
            add_certificates(&mut roots, pem)?;
        }
        let plain = Arc::new(client_config(roots.clone(), None)?);
        Ok(Self { roots, plain })
    }

    fn config(&self, extras: &TlsExtras) -> Result<Arc<ClientConfig>, String> {
        if extras.ca_pem.is_none() && extras.client_pem.is_none() {
            return Ok(self.plain.clone());
        }
        let mut roots = self.roots.clone();
        if let Some(pem) = &extras.ca_pem {
            add_certificates(&mut roots, pem)?;
        }
        client_config(roots, extras.client_pem.as_deref()).map(Arc::new)
    }
}

/// Connects to the first address that answers, of those the policy lets through.
pub(crate) async fn open(
    policy: &AddressPolicy,
    tls: &Tls,
    target: &Target,
    extras: Option<TlsExtras>,
    wait: Duration,
) -> Result<Box<dyn Connection>, ErrorRecord> {
    let mut last = String::new();
    for address in policy.resolve(target).await? {
        match tokio::time::timeout(wait, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return match extras {
                    None => Ok(Box::new(stream)),
                    Some(extras) => {
                        tokio::time::timeout(wait, start_tls(tls, target, extras, stream)).await.unwrap_or_else(|_| {
                            Err(remote(
                                "remote.timeout",
                                format!("TLS with {} took more than {} ms", target.host, wait.as_millis()),
                            ))
                        })
                    }
                };
            }
            Ok(Err(error)) => last = format!("{address}: {error}"),
            Err(_) => last = format!("{address}: no answer in {} ms", wait.as_millis()),
        }
    }
    Err(remote("remote.unreachable", format!("{} can't be reached: {last}", target.origin())))
}

async fn start_tls(
    tls: &Tls,
    target: &Target,
    extras: TlsExtras,
    mut stream: TcpStream,
) -> Result<Box<dyn Connection>, ErrorRecord> {
    if extras.starttls.as_deref() == Some("postgres") {
        // SSLRequest: length 8, code 80877103. The server says S or N, and nothing else may precede TLS.
        let asked = stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await;
        let mut answer = [0_u8; 1];
        let answered = stream.read_exact(&mut answer).await;
        if asked.is_err() || answered.is_err() || answer != *b"S" {
            return Err(refuse("remote.tls_failed", format!("the database at {} has no TLS: turn it on there", target.host)));
        }
    }
    let config = tls.config(&extras).map_err(|why| refuse("config.tls", why))?;
    let name = ServerName::try_from(target.host.clone())
        .map_err(|e| refuse("remote.tls_failed", format!("{:?} is no server name: {e}", target.host)))?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|e| refuse("remote.tls_failed", format!("TLS with {} failed: {e}", target.host)))?;
    Ok(Box::new(stream))
}

fn client_config(roots: RootCertStore, client_pem: Option<&[u8]>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    match client_pem {
        None => Ok(builder.with_no_client_auth()),
        Some(pem) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
                .collect::<Result<_, _>>()
                .map_err(|_| "the client certificate is no PEM".to_owned())?;
            let key =
                PrivateKeyDer::from_pem_slice(pem).map_err(|_| "the client certificate's PEM holds no private key".to_owned())?;
            builder.with_client_auth_cert(chain, key).map_err(|e| format!("the client certificate is unusable: {e}"))
        }
    }
}

fn add_certificates(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), String> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| "the CA bundle is no PEM".to_owned())?;
        roots.add(certificate).map_err(|e| format!("the CA bundle holds a certificate that can't be used: {e}"))?;
        count += 1;
    }
    if count == 0 { Err("the CA bundle holds no certificate in PEM".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_certificates_is_told() {
        assert!(Tls::new(None).is_ok());
        for bad in [&b""[..], b"nonsense", b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"] {
            assert!(Tls::new(Some(bad)).is_err(), "{bad:?}");
        }
        assert!(client_config(RootCertStore::empty(), Some(b"no key")).is_err());
    }
}
