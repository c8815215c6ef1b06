//! What can go wrong, by what the caller can do about it, and whose fault it is.

use crate::schema::FieldError;
use model::{ErrorRecord, RetryAdvice};

/// Loading and inspecting components.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the component is {bytes} bytes, more than {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("this is no WebAssembly component: {0}")]
    NotAComponent(String),
    #[error(
        "the component has no manifest (custom section `orchestrix:manifest`): build it with the SDK or `cargo xtask plugins`"
    )]
    NoManifest,
    #[error("the manifest is wrong: {}", .0.join("; "))]
    Manifest(Vec<String>),
    #[error("the component doesn't fit this host: {0}")]
    Incompatible(String),
    #[error("the component could not be compiled: {0}")]
    Compile(String),
    #[error("the sandbox could not be set up: {0}")]
    Engine(String),
    #[error("the compilation cache failed: {0}")]
    Cache(#[source] std::io::Error),
    #[error("the host policy is wrong: {0}")]
    Policy(String),
}

/// Who has to mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    User,
    World,
    Plugin,
    Host,
}

/// One call of a plugin that gave no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallError {
    #[error("no plugin with digest {digest} is loaded for installation {installation:?}")]
    NotLoaded { installation: String, digest: String },
    #[error("installation {0:?} is disabled")]
    Disabled(String),
    #[error("{plugin} exports no {interface}")]
    NotExported { plugin: String, interface: &'static str },
    #[error("{plugin} has no operation {operation:?}{}", hint(.nearest))]
    UnknownOperation { plugin: String, operation: String, nearest: Option<String> },
    #[error("the input of {function} is invalid: {}", list(.errors))]
    InvalidInput { function: String, errors: Vec<FieldError> },
    #[error("the config of installation {installation:?} is invalid: {}", list(.errors))]
    InvalidConfig { installation: String, errors: Vec<FieldError> },
    #[error("what {function} answered is invalid: {}", list(.errors))]
    InvalidOutput { function: String, errors: Vec<FieldError> },
    #[error("{message}")]
    Denied { message: String },
    #[error("the plugin trapped: {message}")]
    Trap { message: String },
    #[error("the plugin used more than its {limit_ms} ms of {}", if *.is_cpu { "CPU" } else { "wall time" })]
    OutOfTime { is_cpu: bool, limit_ms: u64 },
    #[error("the plugin needs more than its {limit_bytes} bytes of memory")]
    OutOfMemory { limit_bytes: usize },
    #[error("the plugin answered with more than {limit_bytes} bytes")]
    OutputTooLarge { limit_bytes: usize },
    #[error("the input of the call is more than {limit_bytes} bytes")]
    InputTooLarge { limit_bytes: usize },
    #[error("{} ({})", .0.message, .0.code)]
    Plugin(ErrorRecord),
    #[error("all instances of installation {0:?} are busy")]
    Busy(String),
    #[error("{plugin} failed {failures} times in a row: its calls are refused for {open_ms} ms")]
    BreakerOpen { plugin: String, failures: u32, open_ms: u64 },
    #[error("the call was cancelled")]
    Cancelled,
    #[error("the sandbox failed: {0}")]
    Host(String),
}

impl CallError {
    pub fn owner(&self) -> Owner {
        match self {
            Self::NotLoaded { .. }
            | Self::Disabled(_)
            | Self::NotExported { .. }
            | Self::UnknownOperation { .. }
            | Self::InvalidInput { .. }
            | Self::InvalidConfig { .. }
            | Self::InputTooLarge { .. }
            | Self::Denied { .. }
            | Self::Cancelled => Owner::User,
            Self::InvalidOutput { .. }
            | Self::Trap { .. }
            | Self::OutOfTime { is_cpu: true, .. }
            | Self::OutOfMemory { .. }
            | Self::OutputTooLarge { .. }
            | Self::BreakerOpen { .. } => Owner::Plugin,
            // Waiting is nearly always waiting for somebody else.
            Self::OutOfTime { is_cpu: false, .. } => Owner::World,
            Self::Plugin(record) => match record.code.split('.').next().unwrap_or_default() {
                "remote" | "egress" => Owner::World,
                "plugin" => Owner::Plugin,
                _ => Owner::User,
            },
            Self::Busy(_) | Self::Host(_) => Owner::Host,
        }
    }

    /// A code of the open, documented set.
    pub fn code(&self) -> &str {
        match self {
            Self::NotLoaded { .. } => "plugin.not_loaded",
            Self::Disabled(_) => "plugin.disabled",
            Self::NotExported { .. } => "plugin.not_exported",
            Self::UnknownOperation { .. } => "input.unknown_operation",
            Self::InvalidInput { .. } => "input.invalid",
            Self::InvalidConfig { .. } => "config.invalid",
            Self::InvalidOutput { .. } => "plugin.invalid_output",
            Self::Denied { .. } => "permission.denied",
            Self::Trap { .. } => "plugin.trap",
            Self::OutOfTime { is_cpu: true, .. } => "plugin.out_of_cpu",
            Self::OutOfTime { .. } => "plugin.timeout",
            Self::OutOfMemory { .. } => "plugin.out_of_memory",
            Self::OutputTooLarge { .. } => "plugin.output_too_large",
            Self::InputTooLarge { .. } => "input.too_large",
            Self::Plugin(record) => &record.code,
            Self::Busy(_) => "host.busy",
            Self::BreakerOpen { .. } => "plugin.breaker_open",
            Self::Cancelled => "call.cancelled",
            Self::Host(_) => "host.internal",
        }
    }

    pub fn to_record(&self) -> ErrorRecord {
        if let Self::Plugin(record) = self {
            return record.clone();
        }
        let retry = match self {
            Self::Busy(_) => RetryAdvice::AfterMs(100),
            Self::BreakerOpen { open_ms, .. } => RetryAdvice::AfterMs(*open_ms),
            Self::OutOfTime { is_cpu: false, .. } => RetryAdvice::Now,
            _ => RetryAdvice::Never,
        };
        let details = match self {
            Self::InvalidInput { errors, .. } | Self::InvalidConfig { errors, .. } | Self::InvalidOutput { errors, .. } => {
                serde_json::json!({ "errors": errors })
            }
            _ => serde_json::Value::Null,
        };
        ErrorRecord { code: self.code().into(), message: self.to_string(), retry, details }
    }
}

/// A refusal that goes to the guest and to the recording.
pub(crate) fn refuse(code: &str, message: impl Into<String>) -> ErrorRecord {
    ErrorRecord { code: code.into(), message: message.into(), retry: RetryAdvice::Never, details: serde_json::Value::Null }
}

/// A failure of the world that may pass.
pub(crate) fn remote(code: &str, message: impl Into<String>) -> ErrorRecord {
    ErrorRecord { retry: RetryAdvice::AfterMs(1_000), ..refuse(code, message) }
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |n| format!(", did you mean {n:?}?"))
}

fn list(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
