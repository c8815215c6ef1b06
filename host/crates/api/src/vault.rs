//! Sealing secrets: AES-256-GCM, a random nonce each, tenant and name bound in as associated data, so that a
//! row copied to another tenant or name does not open.

use aes_gcm::KeyInit;
use aes_gcm::{
    Aes256Gcm,
    aead::{Aead, Key, Nonce, Payload},
};
use model::TenantId;
use rand::Rng as _;

pub const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;

/// Why a secret did not open.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VaultError {
    #[error(
        "the master key must be {KEY_BYTES} bytes, as 64 hexadecimal digits or base64; generate one with `openssl rand -hex 32`"
    )]
    Key,
    #[error(
        "secret {0:?} does not open with this master key; set ORCHESTRIX_MASTER_KEY to the key it was stored under, or store it again"
    )]
    Sealed(String),
}

/// Holds the master key. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    cipher: std::sync::Arc<Aes256Gcm>,
    link_key: [u8; 32],
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(…)")
    }
}

pub struct Sealed {
    pub nonce: Vec<u8>,
    pub bytes: Vec<u8>,
}

impl Vault {
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        use hmac::{Hmac, Mac};
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(b"orchestrix approval links v1");
        let link_key = mac.finalize().into_bytes().into();
        let cipher = std::sync::Arc::new(Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key)));
        Self { cipher, link_key }
    }

    /// From text as an operator gives it: 64 hexadecimal digits or base64.
    pub fn from_text(text: &str) -> Result<Self, VaultError> {
        use base64::Engine as _;
        let text = text.trim();
        let bytes =
            hex::decode(text).or_else(|_| base64::engine::general_purpose::STANDARD.decode(text)).map_err(|_| VaultError::Key)?;
        let key: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| VaultError::Key)?;
        Ok(Self::new(&key))
    }

    /// A fresh key, as text to store.
    pub fn generate_key() -> String {
        let mut key = [0; KEY_BYTES];
        rand::rng().fill_bytes(&mut key);
        hex::encode(key)
    }

    pub fn seal(&self, tenant: &TenantId, name: &str, clear: &[u8]) -> Sealed {
        let mut nonce = [0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let bytes = self
            .cipher
            .encrypt(&Nonce::<Aes256Gcm>::from(nonce), Payload { msg: clear, aad: &bound(tenant, name) })
            .expect("GCM seals any message under 64 GiB, and a secret has at most 64 KiB");
        Sealed { nonce: nonce.to_vec(), bytes }
    }

    pub fn open(&self, tenant: &TenantId, name: &str, nonce: &[u8], sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        let refused = || VaultError::Sealed(name.into());
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| refused())?;
        self.cipher
            .decrypt(&Nonce::<Aes256Gcm>::from(nonce), Payload { msg: sealed, aad: &bound(tenant, name) })
            .map_err(|_| refused())
    }

    /// Key of the signed approval links, derived from the master key.
    pub fn link_key(&self) -> [u8; 32] {
        self.link_key
    }
}

/// A tenant's name holds no NUL, so the pair can't be cut differently.
fn bound(tenant: &TenantId, name: &str) -> Vec<u8> {
    [tenant.as_str().as_bytes(), b"\0", name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantId {
        TenantId::default_tenant()
    }

    #[test]
    fn a_secret_opens_under_its_own_tenant_and_name_only() {
        let vault = Vault::new(&[7; 32]);
        let sealed = vault.seal(&tenant(), "db", b"hunter2");
        assert_eq!(vault.open(&tenant(), "db", &sealed.nonce, &sealed.bytes).unwrap(), b"hunter2");
        let refused = Err(VaultError::Sealed("db2".into()));
        assert_eq!(vault.open(&tenant(), "db2", &sealed.nonce, &sealed.bytes), refused);
        assert!(vault.open(&TenantId::new("other").unwrap(), "db", &sealed.nonce, &sealed.bytes).is_err());
        assert!(Vault::new(&[8; 32]).open(&tenant(), "db", &sealed.nonce, &sealed.bytes).is_err());
    }

    #[test]
    fn altered_or_cut_bytes_do_not_open() {
        let vault = Vault::new(&[7; 32]);
        let mut sealed = vault.seal(&tenant(), "db", b"hunter2");
        assert!(vault.open(&tenant(), "db", &sealed.nonce[..5], &sealed.bytes).is_err());
        assert!(vault.open(&tenant(), "db", &sealed.nonce, &sealed.bytes[..3]).is_err());
        sealed.bytes[0] ^= 1;
        assert!(vault.open(&tenant(), "db", &sealed.nonce, &sealed.bytes).is_err());
    }

    #[test]
    fn the_same_secret_never_looks_the_same_twice() {
        let vault = Vault::new(&[7; 32]);
        assert_ne!(vault.seal(&tenant(), "a", b"x").bytes, vault.seal(&tenant(), "a", b"x").bytes);
    }

    #[test]
    fn a_master_key_of_the_wrong_length_is_refused_with_the_mend() {
        for bad in ["", "abcd", "not hex nor base64!"] {
            let error = Vault::from_text(bad).unwrap_err();
            assert!(error.to_string().contains("openssl rand -hex 32"), "{error}");
        }
        assert!(Vault::from_text(&Vault::generate_key()).is_ok());
    }
}
