//! `orchestrix serve`: opens the stores, wires the stages, serves until told to stop, and drains down the flow.

use crate::{archive, cli::Serve, config::{self, Config, Flags}, data_dir::DataDir, logging};
use anyhow::{Context, anyhow, bail};
use api::{Authenticator, Packages, Readiness, Vault};
use axum::Router;
use db::{Db, token::Token};
use model::{Clock, Role, SystemClock, TenantId};
use query::promql::Engine;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use telemetry::Telemetry;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

const BOOTSTRAP: &str = "bootstrap";
const MASTER_KEY_FILE: &str = "master.key";
const ADMIN_TOKEN_FILE: &str = "admin-token";
const LISTEN_FILE: &str = "listen.json";

pub async fn run(args: &Serve) -> anyhow::Result<()> {
    let flags = Flags {
        http: args.http.clone(),
        otlp_grpc: args.otlp_grpc.clone(),
        otlp_http: args.otlp_http.clone(),
        data_dir: args.data_dir.clone(),
        plugins_dir: args.plugins_dir.clone(),
        is_playground: args.playground,
    };
    let config = config::load(args.config.as_deref(), flags)?;
    let logging = logging::start(&config)?;
    let served = serve(config).await;
    logging.stop();
    served
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let data = DataDir::open(&config.data_dir)?;
    data.remove(LISTEN_FILE);
    // A port that is taken should be told before a store is opened.
    let http = bind("--http", config.http).await?;
    let otlp_grpc = bind("--otlp-grpc", config.otlp_grpc).await?;
    let otlp_http = bind("--otlp-http", config.otlp_http).await?;

    // The folder's lock comes first: a second host must not even migrate the database.
    let telemetry = Telemetry::open(&data.path("telemetry"), telemetry::Config::default(), clock.clone()).await?;
    let url = config.database_url.clone().unwrap_or_else(|| format!("sqlite:{}", data.path("orchestrix.db").display()));
    let db = Db::open(&url).await?;
    let vault = vault(&config, &data)?;
    bootstrap(&config, &data, &db, &*clock).await?;

    let ready = Arc::new(Readiness::default());
    let auth = Authenticator::new(db.clone(), clock.clone());
    let queries = Arc::new(Engine::new(Arc::new(telemetry.metrics.clone())));
    let state = api::State::new(api::Parts {
        db: db.clone(),
        telemetry: telemetry.clone(),
        queries,
        vault,
        packages: Packages::new(data.sub("packages")?),
        auth,
        clock: clock.clone(),
        ready: ready.clone(),
        public_url: config.public_url.clone(),
        data_dir: data.path(""),
    });

    let mut tasks = Supervisor::default();
    let alerts = alert::Service::new(db.clone(), clock.clone());
    tasks.spawn("alert", |cancel| async move {
        alerts.run(cancel).await;
        Ok(())
    });
    tasks.spawn("archive", |cancel| archive::archive(db.clone(), telemetry.clone(), cancel));
    tasks.spawn("trim", |cancel| archive::trim(db.clone(), clock.clone(), cancel));

    let ingest = Router::new();
    let doors = CancellationToken::new();
    let mut servers = JoinSet::new();
    let (http_at, grpc_at, otlp_at) = (http.local_addr()?, otlp_grpc.local_addr()?, otlp_http.local_addr()?);
    let routes = api::router(state, ingest);
    let stop = doors.clone();
    servers.spawn(async move { axum::serve(http, routes).with_graceful_shutdown(stop.cancelled_owned()).await });

    tracing::info!(
        "listening http={http_at} otlp_grpc={grpc_at} otlp_http={otlp_at} data={} start_ms={}",
        config.data_dir.display(),
        started.elapsed().as_millis()
    );
    let listen = serde_json::json!({ "http": http_at.to_string(), "otlp_grpc": grpc_at.to_string(), "otlp_http": otlp_at.to_string(), "pid": std::process::id() });
    data.write(LISTEN_FILE, &format!("{listen}\n"), 0o644)?;

    let ended = tokio::select! {
        signal = signal() => { tracing::info!(signal, "stopping: no new calls, calls in flight get their time"); Ok(()) }
        failed = tasks.failed() => Err(failed),
    };
    ready.is_draining.store(true, std::sync::atomic::Ordering::SeqCst);
    let drained = async {
        // Down the flow: doors first, stages next, stores last.
        doors.cancel();
        if tokio::time::timeout(config.drain, async { while servers.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!("calls still in flight were cut off");
        }
        tasks.stop(config.drain).await;
        telemetry.close().await;
        db.close().await;
        data.remove(LISTEN_FILE);
    };
    tokio::select! {
        () = drained => tracing::info!("stopped"),
        signal = signal() => bail!("stopped at once by a second {signal}; what was acknowledged is on disk"),
    }
    ended
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; is another host running? give {flag} another address, or port 0 for a free one"))
}

/// The master key: from the environment, from the data folder, or made now.
fn vault(config: &Config, data: &DataDir) -> anyhow::Result<Vault> {
    if let Some(key) = &config.master_key {
        return Ok(Vault::from_text(key)?);
    }
    if let Some(key) = data.read_private(MASTER_KEY_FILE)? {
        return Ok(Vault::from_text(&key)?);
    }
    let key = Vault::generate_key();
    data.write_private(MASTER_KEY_FILE, &format!("{key}\n"))?;
    tracing::info!(file = %data.path(MASTER_KEY_FILE).display(), "made a master key for secrets; back it up apart from the data");
    Ok(Vault::from_text(&key)?)
}

/// The default tenant and its first admin token.
async fn bootstrap(config: &Config, data: &DataDir, db: &Db, clock: &dyn Clock) -> anyhow::Result<()> {
    let (tenant, now) = (TenantId::default_tenant(), clock.now());
    let stored = data.read_private(ADMIN_TOKEN_FILE)?;
    let (clear, is_new) = match (&config.bootstrap_token, stored) {
        (Some(given), _) => (given.clone(), false),
        (None, Some(stored)) => (stored, false),
        (None, None) => (api::auth::generate_token(), true),
    };
    let token = Token {
        id: uuid::Uuid::now_v7().to_string(),
        tenant: tenant.clone(),
        name: BOOTSTRAP.into(),
        role: Role::Admin,
        hash: api::auth::hash_token(&clear),
        created: now,
        expires: None,
        revoked: None,
    };
    // A database that was brought from elsewhere has tokens of its own; a fresh one has none.
    let is_first = db.tokens(&tenant, 1).await?.is_empty();
    if config.bootstrap_token.is_some() || is_first || is_new {
        db.write::<_, db::Error, _>(move |tx| {
            Box::pin(async move {
                tx.ensure_tenant(&tenant, now).await?;
                tx.put_bootstrap_token(&token).await
            })
        })
        .await?;
    }
    if is_new {
        data.write_private(ADMIN_TOKEN_FILE, &format!("{clear}\n"))?;
        println!("admin token: {clear}\n  (kept in {}; shown only this once)", data.path(ADMIN_TOKEN_FILE).display());
    }
    Ok(())
}

async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("a process may watch SIGTERM");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// Runs the stages by name. One that ends before it was told to stops the host: half a host repairs nothing.
#[derive(Default)]
struct Supervisor {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    cancel: CancellationToken,
}

impl Supervisor {
    fn spawn<F>(&mut self, name: &'static str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let task = run(self.cancel.clone());
        self.tasks.spawn(async move { (name, task.await) });
    }

    async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok((name, Ok(())))) => anyhow!("the stage {name} ended by itself"),
            Some(Ok((name, Err(error)))) => error.context(format!("the stage {name} failed")),
            Some(Err(panic)) => anyhow!("a stage panicked: {panic}"),
            None => std::future::pending().await,
        }
    }

    async fn stop(&mut self, wait: Duration) {
        self.cancel.cancel();
        if tokio::time::timeout(wait, async { while self.tasks.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!("stages still busy were cut off; their journals resume at the next start");
            self.tasks.abort_all();
        }
    }
}
