//! Bindings generated from `wit/`, and the adapters between them and the SDK's own types.
//! One world for what is imported (componentizing drops what a plugin doesn't use) and one for each kind's exports.
#![allow(unsafe_code, clippy::all)]

pub mod imports {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package orchestrix:sdk;
            world imports {
                import orchestrix:plugin/config@0.1.0;
                import orchestrix:plugin/log@0.1.0;
                import orchestrix:plugin/self-metrics@0.1.0;
                import orchestrix:plugin/state@0.1.0;
                import orchestrix:plugin/invocation@0.1.0;
                import orchestrix:plugin/telemetry@0.1.0;
                import orchestrix:plugin/credentials@0.1.0;
                import orchestrix:plugin/effects@0.1.0;
                import orchestrix:plugin/net@0.1.0;
                import wasi:http/outgoing-handler@0.2.12;
                import wasi:clocks/monotonic-clock@0.2.12;
                import wasi:random/random@0.2.12;
            }
        ",
        world: "orchestrix:sdk/imports",
        generate_all,
    });
}

pub mod action {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package orchestrix:sdk;
            world action {
                export orchestrix:plugin/lifecycle@0.1.0;
                export orchestrix:plugin/action@0.1.0;
                export orchestrix:plugin/verification@0.1.0;
            }
        ",
        world: "orchestrix:sdk/action",
        with: { "orchestrix:plugin/types@0.1.0": super::imports::orchestrix::plugin::types },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_action",
        default_bindings_module: "orchestrix_sdk::bindings::action",
    });
}

pub mod detector {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package orchestrix:sdk;
            world detector {
                export orchestrix:plugin/detector@0.1.0;
            }
        ",
        world: "orchestrix:sdk/detector",
        with: {
            "orchestrix:plugin/types@0.1.0": super::imports::orchestrix::plugin::types,
            "orchestrix:plugin/telemetry@0.1.0": super::imports::orchestrix::plugin::telemetry,
        },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_detector",
        default_bindings_module: "orchestrix_sdk::bindings::detector",
    });
}

pub mod stream_detector {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package orchestrix:sdk;
            world stream-detector {
                export orchestrix:plugin/stream-detector@0.1.0;
            }
        ",
        world: "orchestrix:sdk/stream-detector",
        with: {
            "orchestrix:plugin/types@0.1.0": super::imports::orchestrix::plugin::types,
            "orchestrix:plugin/telemetry@0.1.0": super::imports::orchestrix::plugin::telemetry,
        },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_stream_detector",
        default_bindings_module: "orchestrix_sdk::bindings::stream_detector",
    });
}

use crate::{Action, Context, Detector, Error, Finding, Result, Retry, StreamDetector, Verdict, kind, telemetry};
use imports::orchestrix::plugin::{telemetry as wt, types as w};

/// Exports a plugin of the given kind from the crate that invokes it.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    (action $plugin:ty) => {
        #[doc(hidden)]
        #[allow(unsafe_code)]
        mod __orchestrix_export {
            use super::*;
            type Component = $crate::bindings::ActionComponent<$plugin>;
            $crate::bindings::action::export_action!(Component with_types_in $crate::bindings::action);
        }
    };
    (detector $plugin:ty) => {
        #[doc(hidden)]
        #[allow(unsafe_code)]
        mod __orchestrix_export {
            use super::*;
            type Component = $crate::bindings::DetectorComponent<$plugin>;
            $crate::bindings::detector::export_detector!(Component with_types_in $crate::bindings::detector);
        }
    };
    (stream_detector $plugin:ty) => {
        #[doc(hidden)]
        #[allow(unsafe_code)]
        mod __orchestrix_export {
            use super::*;
            type Component = $crate::bindings::StreamDetectorComponent<$plugin>;
            $crate::bindings::stream_detector::export_stream_detector!(Component with_types_in $crate::bindings::stream_detector);
        }
    };
}

pub struct ActionComponent<T>(std::marker::PhantomData<T>);
pub struct DetectorComponent<T>(std::marker::PhantomData<T>);
pub struct StreamDetectorComponent<T>(std::marker::PhantomData<T>);

impl<T: Action + 'static> action::exports::orchestrix::plugin::action::Guest for ActionComponent<T> {
    fn execute(ctx: w::CallContext, request: w::OperationRequest) -> Result<String, w::PluginError> {
        let ctx = enter(ctx);
        let run = || {
            let plugin: T = kind::config(&crate::host::config())?;
            Ok(plugin.execute(&ctx, &request.operation, kind::input(&request.operation, parse(&request.input)?)?)?.to_string())
        };
        run().map_err(lower_error)
    }
}

impl<T: Action + 'static> action::exports::orchestrix::plugin::verification::Guest for ActionComponent<T> {
    fn probe(
        ctx: w::CallContext,
        request: w::OperationRequest,
    ) -> Result<action::exports::orchestrix::plugin::verification::Verdict, w::PluginError> {
        let ctx = enter(ctx);
        let run = || {
            let plugin: T = kind::config(&crate::host::config())?;
            plugin.probe(&ctx, &request.operation, parse(&request.input)?)
        };
        let (status, output) = match run().map_err(lower_error)? {
            Verdict::Done(output) => ("done", Some(output.to_string())),
            Verdict::NotDone => ("not-done", None),
            Verdict::Unknown => ("unknown", None),
        };
        Ok(action::exports::orchestrix::plugin::verification::Verdict { status: status.into(), output })
    }
}

impl<T: Action + 'static> action::exports::orchestrix::plugin::lifecycle::Guest for ActionComponent<T> {
    fn validate_config(ctx: w::CallContext, config: String) -> Vec<action::exports::orchestrix::plugin::lifecycle::FieldError> {
        enter(ctx);
        match serde_json::from_str::<T>(&config) {
            Ok(_) => Vec::new(),
            Err(e) => vec![action::exports::orchestrix::plugin::lifecycle::FieldError {
                pointer: String::new(),
                message: e.to_string(),
            }],
        }
    }

    fn check(ctx: w::CallContext) -> Result<String, w::PluginError> {
        let ctx = enter(ctx);
        let run = || {
            let plugin: T = kind::config(&crate::host::config())?;
            Ok(plugin.check(&ctx)?.to_string())
        };
        run().map_err(lower_error)
    }
}

impl<T: Detector + 'static> detector::exports::orchestrix::plugin::detector::Guest for DetectorComponent<T> {
    fn evaluate(
        ctx: w::CallContext,
        request: detector::exports::orchestrix::plugin::detector::Evaluation,
    ) -> Result<Vec<w::Finding>, w::PluginError> {
        let ctx = enter(ctx);
        let run = || {
            let params: T = kind::params(&request.params)?;
            let input: Vec<_> = request.input.into_iter().map(lift_series).collect();
            params.evaluate(&ctx, &input)
        };
        run().map(lower_findings).map_err(lower_error)
    }
}

impl<T: StreamDetector + 'static> stream_detector::exports::orchestrix::plugin::stream_detector::Guest
    for StreamDetectorComponent<T>
{
    fn observe(
        ctx: w::CallContext,
        params: String,
        batch: stream_detector::exports::orchestrix::plugin::stream_detector::Batch,
    ) -> Result<Vec<w::Finding>, w::PluginError> {
        use stream_detector::exports::orchestrix::plugin::stream_detector::Batch;
        let ctx = enter(ctx);
        let run = || {
            let params: T = kind::params(&params)?;
            let batch = match batch {
                Batch::Metrics(series) => telemetry::Batch::Metrics(series.into_iter().map(lift_series).collect()),
                Batch::Logs(logs) => telemetry::Batch::Logs(lift_logs(logs)),
                Batch::Spans(spans) => telemetry::Batch::Spans(lift_spans(spans)),
            };
            params.observe(&ctx, &batch)
        };
        run().map(lower_findings).map_err(lower_error)
    }

    fn tick(ctx: w::CallContext, params: String) -> Result<Vec<w::Finding>, w::PluginError> {
        let ctx = enter(ctx);
        let run = || kind::params::<T>(&params)?.tick(&ctx);
        run().map(lower_findings).map_err(lower_error)
    }
}

/// Begins a call: the context, and a panic that says where before the trap.
fn enter(ctx: w::CallContext) -> Context {
    std::panic::set_hook(Box::new(|panic| crate::host::log("error", &panic.to_string(), &[])));
    let ctx = Context {
        tenant: ctx.tenant,
        invocation: ctx.invocation,
        idempotency_key: ctx.idempotency_key,
        now: ctx.now,
        deadline: ctx.deadline,
        traceparent: ctx.traceparent,
    };
    kind::enter(&ctx);
    ctx
}

fn parse(input: &str) -> Result<serde_json::Value> {
    serde_json::from_str(input).map_err(|e| Error::input(format!("the input is no JSON: {e}")))
}

pub(crate) fn lift_error(e: w::PluginError) -> Error {
    Error {
        code: e.code.into(),
        message: e.message,
        retry: match e.retry {
            w::RetryAdvice::Never => Retry::Never,
            w::RetryAdvice::Now => Retry::Now,
            w::RetryAdvice::AfterMs(ms) => Retry::AfterMs(ms),
        },
        details: e.details.and_then(|text| serde_json::from_str(&text).ok()),
    }
}

fn lower_error(e: Error) -> w::PluginError {
    w::PluginError {
        code: e.code.into_owned(),
        message: e.message,
        retry: match e.retry {
            Retry::Never => w::RetryAdvice::Never,
            Retry::Now => w::RetryAdvice::Now,
            Retry::AfterMs(ms) => w::RetryAdvice::AfterMs(ms),
        },
        details: e.details.map(|details| details.to_string()),
    }
}

fn lower_findings(findings: Vec<Finding>) -> Vec<w::Finding> {
    findings
        .into_iter()
        .map(|f| w::Finding {
            labels: f.labels.into_iter().map(|(name, value)| w::Label { name, value }).collect(),
            status: f.status.as_str().into(),
            score: f.score,
            severity: f.severity,
            summary: f.summary,
            value: f.value,
            evidence: f.evidence.to_string(),
        })
        .collect()
}

pub(crate) fn lift_series(s: wt::Series) -> telemetry::Series {
    telemetry::Series { labels: s.labels.into_iter().map(|l| (l.name, l.value)).collect(), times: s.times, values: s.values }
}

fn lift_text(c: wt::TextColumn) -> telemetry::TextColumn {
    telemetry::TextColumn { bytes: c.bytes, ends: c.ends }
}

fn lift_fields(fields: Vec<wt::FieldColumn>) -> Vec<(String, telemetry::TextColumn)> {
    fields.into_iter().map(|f| (f.name, lift_text(f.values))).collect()
}

pub(crate) fn lift_logs(b: wt::LogBatch) -> telemetry::LogBatch {
    telemetry::LogBatch { times: b.times, severities: b.severities, bodies: lift_text(b.bodies), fields: lift_fields(b.fields) }
}

fn lift_spans(b: wt::SpanBatch) -> telemetry::SpanBatch {
    telemetry::SpanBatch {
        starts: b.starts,
        durations_ns: b.durations_ns,
        trace_ids: b.trace_ids,
        span_ids: b.span_ids,
        parent_ids: b.parent_ids,
        names: lift_text(b.names),
        services: lift_text(b.services),
        kinds: b.kinds,
        statuses: b.statuses,
        fields: lift_fields(b.fields),
    }
}
