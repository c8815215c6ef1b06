//! The seam to the plugin host. The other implementation is the tests' world that breaks on demand.

use crate::doubt::Repeat;
use async_trait::async_trait;
use model::Installation;
use plugin::{ActionCall, CallContext, CallError, Verdict};
use serde_json::Value;

/// What the manifest says of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub repeat: Repeat,
    pub can_probe: bool,
}

#[async_trait]
pub trait Executor: Send + Sync {
    /// None when the component or the operation is unknown; `execute` then says which.
    fn facts(&self, installation: &Installation, call: &ActionCall) -> Option<Facts>;
    async fn execute(&self, installation: &Installation, context: CallContext, call: &ActionCall) -> Result<Value, CallError>;
    async fn probe(&self, installation: &Installation, context: CallContext, call: &ActionCall) -> Result<Verdict, CallError>;
}

#[async_trait]
impl Executor for plugin::Host {
    fn facts(&self, installation: &Installation, call: &ActionCall) -> Option<Facts> {
        let package = self.package(&installation.digest)?;
        let operation = package.manifest.operations.iter().find(|o| o.name == call.operation)?;
        // Where it depends on the call (any HTTP request), the operation takes `repeatable` and whoever writes the
        // workflow says so.
        let says_so = operation.input.pointer("/properties/repeatable").is_some() && call.input["repeatable"] == true;
        let repeat = match (operation.idempotent, operation.repeatable || says_so) {
            (true, _) => Repeat::Idempotent,
            (false, true) => Repeat::Harmless,
            (false, false) => Repeat::Never,
        };
        // What the component exports counts: manifests name the kinds that people look for, and a probe is none.
        Some(Facts { repeat, can_probe: package.exports.contains(&plugin::manifest::Kind::Verification) })
    }

    async fn execute(&self, installation: &Installation, context: CallContext, call: &ActionCall) -> Result<Value, CallError> {
        plugin::Host::execute(self, installation, context, call).await
    }

    async fn probe(&self, installation: &Installation, context: CallContext, call: &ActionCall) -> Result<Verdict, CallError> {
        plugin::Host::probe(self, installation, context, call).await
    }
}
