//! The playground: a small real service to watch, and stand-ins for what can't be had on a laptop.
//!
//! * a shop, instrumented with the OpenTelemetry SDK and a `/metrics` page, with a fault switch (`POST /fault`);
//! * a Kubernetes API (Deployments: get, list, scale, patch; the real paths and JSON) whose replicas carry the shop's load;
//! * a database with a pool and a replica (`/db/…`), a ticket desk (`/tickets`);
//! * a chat that shows its messages (`/chat`) and takes Slack's calls.
//!
//! `GET /journal` lists every write that arrived, in order: what the black-box tests count.

mod chat;
mod journal;
mod kubernetes;
mod shop;
mod telemetry;
mod world;

use anyhow::Context;
use axum::{Router, routing::get};
use clap::Parser;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use world::World;

#[derive(Parser)]
#[command(about = "A small world to watch and repair, for Orchestrix' examples")]
struct Options {
    /// Where the playground listens; port 0 takes a free one and says which.
    #[arg(long, default_value = "127.0.0.1:9400")]
    http: SocketAddr,
    /// OTLP/gRPC endpoint for the shop's logs and traces; without it the shop keeps them to itself.
    #[arg(long)]
    otlp: Option<String>,
    /// Bearer token for the OTLP endpoint.
    #[arg(long, env = "ORCHESTRIX_TOKEN", hide_env_values = true, default_value = "")]
    token: String,
    /// Bearer token that the Kubernetes stand-in wants.
    #[arg(long, default_value = "playground-service-account")]
    kubernetes_token: String,
    /// How often the shop serves a customer, in milliseconds.
    #[arg(long, default_value_t = 500)]
    pace_ms: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_target(false).init();
    let options = Options::parse();
    let world = Arc::new(World::new(options.kubernetes_token));
    let telemetry = telemetry::start(options.otlp.as_deref(), &options.token).context("the OTLP exporter could not start")?;
    let listener =
        tokio::net::TcpListener::bind(options.http).await.with_context(|| format!("{} can't be listened on", options.http))?;
    // Scripts read this line.
    println!("playground listening http={}", listener.local_addr()?);
    tokio::spawn(shop::serve_customers(world.clone(), telemetry.clone(), Duration::from_millis(options.pace_ms.max(10))));
    let app = Router::new()
        .route("/", get(shop::page))
        .merge(shop::routes())
        .merge(kubernetes::routes())
        .merge(chat::routes())
        .route("/journal", get(journal::list))
        .with_state(world);
    axum::serve(listener, app).with_graceful_shutdown(stopped()).await?;
    telemetry.stop();
    Ok(())
}

async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).expect("signals can be handled on this system");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}
