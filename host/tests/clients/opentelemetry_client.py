"""Sends one of each signal by OTLP over HTTP, as any Python service does; prints the trace's id."""

import logging
import time

from opentelemetry import metrics, trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

logging.basicConfig(level=logging.WARNING)
resource = Resource.create({"service.name": "python-shop", "service.version": "1.2.3"})

tracers = TracerProvider(resource=resource)
tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(compression=Compression.Gzip)))
reader = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=60_000)
meters = MeterProvider(resource=resource, metric_readers=[reader])
loggers = LoggerProvider(resource=resource)
loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(compression=Compression.Gzip)))

meter = meters.get_meter("shop")
meter.create_counter("shop.orders", unit="1", description="Orders taken").add(3, {"item": "tea"})
duration = meter.create_histogram("shop.duration", unit="s", description="How long an order takes")
duration.record(0.2)
duration.record(1.5)

tracer = tracers.get_tracer("shop")
with tracer.start_as_current_span("order", attributes={"item": "tea"}) as span:
    with tracer.start_as_current_span("look up"):
        time.sleep(0.01)
    context = span.get_span_context()
    loggers.get_logger("shop").emit(
        LogRecord(
            timestamp=time.time_ns(),
            context=trace.set_span_in_context(span),
            severity_number=SeverityNumber.ERROR,
            severity_text="ERROR",
            body="tea is out",
            attributes={"item": "tea"},
        )
    )

for provider in (tracers, meters, loggers):
    provider.shutdown()
print(f"trace={context.trace_id:032x}")
