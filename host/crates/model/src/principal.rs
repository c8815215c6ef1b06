//! Who is asking, and what that role may do.

use crate::TenantId;
use serde::{Deserialize, Serialize};

/// Each role may do what the one before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sends telemetry and events; reads nothing.
    Ingest,
    /// Reads everything of the tenant but secrets.
    Viewer,
    /// Starts, answers, pauses and cancels runs; silences alerts.
    Operator,
    /// Installs plugins, grants, writes definitions, secrets, guardrails and tokens.
    Admin,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        [Self::Ingest, Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|r| r.as_str() == s)
            .ok_or_else(|| format!("role {s:?} is none of ingest, viewer, operator, admin"))
    }
}

/// An authenticated caller. `name` is the token's name, for the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub tenant: TenantId,
    pub name: String,
    pub role: Role,
}
