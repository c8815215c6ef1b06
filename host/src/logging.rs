//! The host's own log and traces.

use crate::config::Config;
use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Flushes the traces when the host ends.
pub struct Logging(Option<SdkTracerProvider>);

pub fn start(config: &Config) -> anyhow::Result<Logging> {
    let filter = EnvFilter::try_new(&config.log_level).with_context(|| {
        format!("configuration: log.level {:?} is no filter such as info or info,workflow=debug", config.log_level)
    })?;
    let format = if config.is_log_json {
        tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed()
    } else {
        tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr).boxed()
    };
    let provider = match &config.otlp_endpoint {
        None => None,
        Some(endpoint) => {
            let exporter = opentelemetry_otlp::SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .build()
                .with_context(|| format!("configuration: telemetry.otlp_endpoint {endpoint:?}"))?;
            let resource = opentelemetry_sdk::Resource::builder().with_service_name("orchestrix").build();
            Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
        }
    };
    let spans = provider.as_ref().map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer("orchestrix")));
    tracing_subscriber::registry()
        .with(format.with_filter(filter))
        .with(spans)
        .try_init()
        .context("logging was started twice")?;
    Ok(Logging(provider))
}

impl Logging {
    pub fn stop(self) {
        if let Some(provider) = self.0 {
            // The collector may be gone; the host's own end must not depend on it.
            let _ = provider.shutdown();
        }
    }
}
