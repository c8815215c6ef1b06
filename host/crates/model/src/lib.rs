//! The domain's nouns, ids and limits. No I/O, no clock, no randomness of its own.
//!
//! # Glossary
//! * **tenant** – whose data it is. Every row, series, document and object has one.
//! * **monitor** – a configured use of a detector: which plugin, which parameters, how often.
//! * **finding** – a detector's claim about one thing at one time. Not yet an alert.
//! * **alert** – what findings with one fingerprint become: deduplicated, living, with a timeline.
//! * **alert event** – one change of an alert's state.
//! * **run** – one durable execution of a workflow definition.
//! * **action request / result** – what a run asks of a plugin, and what came back.
//! * **effect** – one change of the outside world, announced before it happens; the **ledger** holds them all.
//! * **installation** – a plugin version an admin installed for a tenant, with its config, grant and secret bindings.
//! * **grant** – what an admin allows an installation; effective rights are manifest ∩ grant ∩ host policy.
//! * **hand-off** – a durable row by which one stage gives work to the next, read by cursor.

mod action;
mod alert;
mod clock;
mod event;
mod finding;
mod id;
mod label;
pub mod limits;
mod plugin;
mod principal;
mod telemetry;

pub use action::{ActionOutcome, ActionRequest, ActionResult, ErrorRecord, RetryAdvice};
pub use alert::{Alert, AlertEvent, AlertState};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use event::Event;
pub use finding::{Finding, FindingReport, FindingStatus, NoDataPolicy};
pub use id::{AlertId, IdError, InvocationId, MonitorId, RequestId, RunId, TenantId};
pub use label::{Fingerprint, LabelSet, MatchOp, Matcher};
pub use plugin::{Grant, HttpGrant, Installation, SecretBinding};
pub use principal::{Principal, Role};
pub use telemetry::{
    AttributeValue, Attributes, LogRecord, MetricKind, MetricMetadata, STALE_NAN_BITS, Sample, Series, Signal, Span, SpanEvent,
    SpanKind, SpanLink, SpanStatus, service_name,
};
