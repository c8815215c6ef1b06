//! Ids as types, so that a run can't be passed where an alert is meant.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};

/// Why a text is no id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    #[error("tenant {0:?} must be 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit")]
    Tenant(String),
    #[error("{0:?} is no UUID")]
    Uuid(String),
}

/// A tenant's name: a DNS label, because it appears in paths, metrics and host names.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Arc<str>);

impl TenantId {
    pub fn new(name: &str) -> Result<Self, IdError> {
        let first_ok = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest_ok = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if first_ok && rest_ok && name.len() <= 63 { Ok(Self(name.into())) } else { Err(IdError::Tenant(name.into())) }
    }

    /// The tenant of a fresh install.
    pub fn default_tenant() -> Self {
        Self("default".into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantId({})", self.0)
    }
}
impl FromStr for TenantId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::new(s)
    }
}
impl TryFrom<String> for TenantId {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        Self::new(&s)
    }
}
impl From<TenantId> for String {
    fn from(t: TenantId) -> String {
        t.0.to_string()
    }
}

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(uuid::Uuid);

        impl $name {
            pub fn from_uuid(id: uuid::Uuid) -> Self { Self(id) }
            pub fn as_uuid(&self) -> uuid::Uuid { self.0 }
            /// A fresh, time-ordered id. Called by loops, never by a pure `apply`.
            pub fn generate() -> Self { Self(uuid::Uuid::now_v7()) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!(stringify!($name), "({})"), self.0) }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                uuid::Uuid::parse_str(s).map(Self).map_err(|_| IdError::Uuid(s.into()))
            }
        }
    )*};
}

uuid_id! {
    /// One durable execution of a workflow.
    RunId,
    /// One living alert: from its first finding until it is resolved.
    AlertId,
    MonitorId,
    /// One call of a plugin, recorded.
    InvocationId,
    /// One action request, the same across retries of the hand-off.
    RequestId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_a_dns_label() {
        assert!(TenantId::new("team-a1").is_ok());
        for bad in ["", "-a", "A", "a_b", "a/b", "é", &"x".repeat(64)] {
            assert_eq!(TenantId::new(bad), Err(IdError::Tenant(bad.into())), "{bad:?}");
        }
    }

    #[test]
    fn ids_of_one_kind_round_trip_as_text() {
        let id = RunId::generate();
        assert_eq!(id.to_string().parse::<RunId>(), Ok(id));
        assert!("run-1".parse::<RunId>().is_err());
    }
}
