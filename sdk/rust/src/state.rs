//! Durable state: small values by key, one namespace for each installation of the plugin.

use crate::{Result, host};
use serde::{Serialize, de::DeserializeOwned};

/// A stored value, with the revision that a conditional write names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub value: Vec<u8>,
    pub revision: u64,
}

/// When a write takes place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    #[default]
    Anything,
    Absent,
    Revision(u64),
}

pub fn get(key: &str) -> Result<Option<Entry>> {
    host::state_get(key)
}

pub fn put(key: &str, value: &[u8], expect: Expect, ttl_ms: Option<u64>) -> Result<u64> {
    let expect = match expect {
        Expect::Anything => None,
        Expect::Absent => Some(0),
        Expect::Revision(revision) => Some(revision),
    };
    host::state_put(key, value, expect, ttl_ms)
}

pub fn delete(key: &str) -> Result<()> {
    host::state_delete(key)
}

/// Keys that begin with `prefix`, in order, after `after`.
pub fn list(prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
    host::state_list(prefix, after, limit)
}

/// A value kept as JSON.
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>> {
    Ok(get(key)?.map(|entry| serde_json::from_slice(&entry.value)).transpose()?)
}

pub fn put_json<T: Serialize>(key: &str, value: &T) -> Result<u64> {
    put(key, &serde_json::to_vec(value)?, Expect::Anything, None)
}
