//! OTLP over gRPC, port 4317.

use super::{export, status};
use crate::{Refusal, State, auth::sender};
use model::limits::{BODY_BYTES_MAX, BODY_INFLATED_BYTES_MAX};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, codec::CompressionEncoding::Gzip, transport::server::TcpIncoming};

/// Exports one connection may have under way; more wait, so that one sender can't take all memory.
const REQUESTS_PER_CONNECTION_MAX: usize = 32;

/// Serves until `cancel`, then answers what is under way and returns.
pub async fn grpc(
    state: State,
    listener: tokio::net::TcpListener,
    cancel: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let service = Service(state);
    // The limit holds for a message as sent and again as unpacked, so it is the larger of the two; HTTP/2
    // flow control bounds what is buffered meanwhile.
    let bytes_max = BODY_BYTES_MAX.max(BODY_INFLATED_BYTES_MAX / 2);
    tonic::transport::Server::builder()
        .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION_MAX)
        .add_service(
            MetricsServiceServer::new(service.clone())
                .accept_compressed(Gzip)
                .send_compressed(Gzip)
                .max_decoding_message_size(bytes_max),
        )
        .add_service(
            LogsServiceServer::new(service.clone())
                .accept_compressed(Gzip)
                .send_compressed(Gzip)
                .max_decoding_message_size(bytes_max),
        )
        .add_service(
            TraceServiceServer::new(service).accept_compressed(Gzip).send_compressed(Gzip).max_decoding_message_size(bytes_max),
        )
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), cancel.cancelled_owned())
        .await
}

#[derive(Clone)]
struct Service(State);

impl Service {
    async fn take<E: super::Export>(&self, request: Request<E>) -> Result<Response<E::Answer>, tonic::Status> {
        let (metadata, _, request) = request.into_parts();
        let result = async {
            let principal = sender(&self.0, &metadata.into_headers()).await?;
            export(&self.0, &principal.tenant, request).await
        };
        self.0.count(result.await).map(Response::new).map_err(|refusal| refused(&refusal))
    }
}

fn refused(refusal: &Refusal) -> tonic::Status {
    let (code, status) = status(refusal);
    let details = prost::Message::encode_to_vec(&status);
    tonic::Status::with_details(code, refusal.message.clone(), details.into())
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, tonic::Status> {
        self.take(request).await
    }
}
#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, tonic::Status> {
        self.take(request).await
    }
}
#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, tonic::Status> {
        self.take(request).await
    }
}
