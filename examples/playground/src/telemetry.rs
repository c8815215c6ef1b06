//! The shop's own telemetry through the OpenTelemetry SDK: a span and a log record a checkout.

use opentelemetry::{
    KeyValue,
    logs::{AnyValue, LogRecord as _, Logger, LoggerProvider, Severity},
    trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::{LogExporter, SpanExporter, WithExportConfig, WithTonicConfig, tonic_types::metadata::MetadataMap};
use opentelemetry_sdk::{
    Resource,
    logs::{BatchConfigBuilder, BatchLogProcessor, SdkLoggerProvider},
    trace::SdkTracerProvider,
};
use std::time::Duration;

/// Batches leave this often: the playground is watched by people.
const DELAY: Duration = Duration::from_millis(200);

#[derive(Clone)]
pub struct Telemetry(Option<(SdkLoggerProvider, SdkTracerProvider)>);

pub fn start(otlp: Option<&str>, token: &str) -> anyhow::Result<Telemetry> {
    let Some(endpoint) = otlp else { return Ok(Telemetry(None)) };
    let resource = Resource::builder()
        .with_service_name("shop")
        .with_attributes([KeyValue::new("service.namespace", "playground"), KeyValue::new("deployment.environment.name", "demo")])
        .build();
    let mut metadata = MetadataMap::new();
    if !token.is_empty() {
        metadata.insert("authorization", format!("Bearer {token}").parse()?);
    }
    let logs = LogExporter::builder().with_tonic().with_endpoint(endpoint).with_metadata(metadata.clone()).build()?;
    let spans = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_metadata(metadata).build()?;
    let batch = BatchConfigBuilder::default().with_scheduled_delay(DELAY).build();
    let logs = SdkLoggerProvider::builder()
        .with_log_processor(BatchLogProcessor::builder(logs).with_batch_config(batch).build())
        .with_resource(resource.clone())
        .build();
    let spans = SdkTracerProvider::builder().with_batch_exporter(spans).with_resource(resource).build();
    Ok(Telemetry(Some((logs, spans))))
}

impl Telemetry {
    /// One customer's checkout: a server span with a database span in it, and a line in the log.
    pub fn checkout(&self, number: u64, endpoint: &str, healthy: bool) {
        let Some((logs, spans)) = &self.0 else { return };
        let tracer = spans.tracer("shop");
        let parent = tracer.span_builder("POST /checkout").with_kind(SpanKind::Server).start(&tracer);
        let context = opentelemetry::Context::current_with_span(parent);
        let mut query = tracer
            .span_builder("SELECT cart")
            .with_kind(SpanKind::Client)
            .with_attributes([
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("server.address", endpoint.to_owned()),
            ])
            .start_with_context(&tracer, &context);
        if !healthy {
            query.set_status(Status::error("connection timeout"));
            context.span().set_status(Status::error("checkout failed"));
        }
        query.end();
        let logger = logs.logger("shop");
        let mut record = logger.create_log_record();
        let (severity, body) = match healthy {
            true => (Severity::Info, format!("checkout {number} done")),
            false => (Severity::Error, "ERROR: Database connection timeout".to_owned()),
        };
        record.set_severity_number(severity);
        record.set_severity_text(severity.name());
        record.set_body(AnyValue::from(body));
        record.add_attribute("checkout.number", i64::try_from(number).unwrap_or(i64::MAX));
        record.add_attribute("db.endpoint", endpoint.to_owned());
        let span = context.span().span_context().clone();
        record.set_trace_context(span.trace_id(), span.span_id(), Some(span.trace_flags()));
        record.set_timestamp(std::time::SystemTime::now());
        logger.emit(record);
        context.span().end();
    }

    /// Sends what is queued.
    pub fn stop(self) {
        if let Some((logs, spans)) = self.0 {
            // The receiver may be gone already; the playground ends all the same.
            let _ = logs.shutdown();
            let _ = spans.shutdown();
        }
    }
}
