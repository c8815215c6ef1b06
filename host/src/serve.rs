//! `orchestrix serve`: opens the stores, wires the stages, serves until told to stop, and drains down the flow.

use crate::{
    archive,
    bundled::Bundled,
    cli::Serve,
    config::{self, Config, Flags},
    data_dir::DataDir,
    logging, port, stats,
};
use anyhow::{Context, anyhow, bail};
use api::{Authenticator, Packages, Readiness, Vault};
use db::{Db, token::Token};
use model::{Clock, Role, SystemClock, TenantId};
use query::promql::Engine;
use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};
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
    let engine = Engine::new(Arc::new(telemetry.metrics.clone()));
    let packages = Packages::new(data.sub("packages")?);

    let effects = Arc::new(action::Effects::new(db.clone(), clock.clone()));
    let (recordings, recordings_writer) = port::Recordings::new(db.clone(), clock.clone());
    let (plugin_log, plugin_log_writer) = port::Log::new(telemetry.clone());
    let ports = plugin::Ports {
        clock: clock.clone(),
        telemetry: Arc::new(port::Reader::new(telemetry.clone(), Arc::new(engine.clone()))),
        state: Arc::new(port::States::new(db.clone(), clock.clone())),
        secrets: Arc::new(port::Secrets::new(db.clone(), vault.clone())),
        effects: effects.clone(),
        recorder: Arc::new(recordings.clone()),
        log: Arc::new(plugin_log.clone()),
    };
    let compiler = match std::env::current_exe() {
        Ok(program) => plugin::Compiler::Child { program, args: vec![crate::COMPILE_COMMAND.into()] },
        Err(_) => plugin::Compiler::InProcess,
    };
    let sandbox = plugin::HostConfig {
        cache_dir: Some(data.sub("cache")?),
        policy: plugin::HostPolicy { allow_private: config.allow_private.clone(), deny_hosts: Vec::new() },
        compiler,
        ..plugin::HostConfig::default()
    };
    if !config.allow_private.is_empty() {
        tracing::warn!(addresses = ?config.allow_private, "plugins may reach these private addresses");
    }
    let plugins = plugin::Host::new(sandbox, ports)?;

    let ingest = ingest::State::new(
        telemetry.clone(),
        db.clone(),
        Arc::new(auth.clone()),
        Arc::new(Keys { db: db.clone(), vault: vault.clone() }),
        clock.clone(),
    );
    let (scrape, scrapes) = ingest::scrape::Service::new(ingest::scrape::Config::default(), ingest.clone())?;
    let detectors = Arc::new(detect::Plugins { db: db.clone(), host: plugins.clone() });
    let detect =
        detect::Service::new(detect::Config::default(), db.clone(), &telemetry, engine.clone(), detectors, clock.clone());
    let alerts = alert::Service::new(db.clone(), clock.clone());
    let workflow = workflow::Service::new(db.clone(), clock.clone(), workflow::Config::default());
    let (monitors, workflows) = (detect.handle(), workflow.handle());
    let action_config = action::Config { drain: config.drain, ..action::Config::default() };
    let actions = action::Service::new(db.clone(), Arc::new(plugins.clone()), effects, clock.clone(), action_config);

    let stats = {
        let (telemetry, ingest, monitors, alerts) = (telemetry.clone(), ingest.clone(), monitors.clone(), alerts.clone());
        let (workflows, actions, recordings, log) = (workflows.clone(), actions.clone(), recordings.clone(), plugin_log.clone());
        move || stats::read(&telemetry, &ingest, &monitors, &alerts, &workflows, &actions, recordings.dropped() + log.dropped())
    };
    let state = api::State::new(api::Parts {
        db: db.clone(),
        telemetry: telemetry.clone(),
        queries: Arc::new(engine),
        plugins: plugins.clone(),
        workflows,
        monitors,
        scrapes,
        stats: Box::new(stats),
        started: clock.now(),
        vault,
        packages: packages.clone(),
        auth,
        clock: clock.clone(),
        ready: ready.clone(),
        public_url: Some(
            config
                .public_url
                .clone()
                .unwrap_or_else(|| format!("http://{}", http.local_addr().map(|a| a.to_string()).unwrap_or_default())),
        ),
        data_dir: data.path(""),
    });

    // In the order of the flow, in which they are stopped. Whoever calls plugins waits until they are loaded.
    let loaded = CancellationToken::new();
    let mut tasks = Supervisor::default();
    ready.wait_for("plugins", "components are being loaded");
    tasks.spawn("plugins", |cancel| {
        let bundled = Bundled { dir: config.plugins_dir.clone(), packages, host: plugins, db: db.clone(), clock: clock.clone() };
        let (loaded, ready) = (loaded.clone(), ready.clone());
        async move {
            tokio::select! {
                done = bundled.load() => done?,
                () = cancel.cancelled() => return Ok(()),
            }
            loaded.cancel();
            ready.done("plugins");
            cancel.cancelled().await;
            Ok(())
        }
    });
    tasks.spawn("scrape", |cancel| async move {
        scrape.run(cancel).await;
        Ok(())
    });
    let after = loaded.clone();
    tasks.spawn(
        "detect",
        |cancel| async move { if first(&after, &cancel).await { Ok(detect.run(cancel).await?) } else { Ok(()) } },
    );
    tasks.spawn("alert", |cancel| async move {
        alerts.run(cancel).await;
        Ok(())
    });
    tasks.spawn("workflow", |cancel| async move { Ok(workflow.run(cancel).await?) });
    tasks.spawn("action", |cancel| async move {
        if first(&loaded, &cancel).await {
            actions.run(cancel).await;
        }
        Ok(())
    });
    tasks.spawn("archive", |cancel| archive::archive(db.clone(), telemetry.clone(), cancel));
    let stores = telemetry.clone();
    tasks.spawn("telemetry", |cancel| watch_logs(stores, cancel));
    tasks.spawn("trim", |cancel| archive::trim(db.clone(), clock.clone(), cancel));
    tasks.spawn("recordings", |cancel| recordings_writer.run(cancel));
    tasks.spawn("plugin log", |cancel| plugin_log_writer.run(cancel));

    let doors = CancellationToken::new();
    let mut servers: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let (http_at, grpc_at, otlp_at) = (http.local_addr()?, otlp_grpc.local_addr()?, otlp_http.local_addr()?);
    let routes = api::router(state, ingest::routes(ingest.clone()));
    let (stop, stop_otlp, stop_grpc) = (doors.clone(), doors.clone(), doors.clone());
    servers.spawn(async move { Ok(axum::serve(http, routes).with_graceful_shutdown(stop.cancelled_owned()).await?) });
    let otlp_routes = ingest::otlp::http(ingest.clone());
    servers
        .spawn(async move { Ok(axum::serve(otlp_http, otlp_routes).with_graceful_shutdown(stop_otlp.cancelled_owned()).await?) });
    servers.spawn(async move { Ok(ingest::otlp::grpc(ingest, otlp_grpc, stop_grpc).await?) });

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

/// Ends with an error once a log has stopped for good: a host that can take nothing in must not look alive.
async fn watch_logs(stores: Telemetry, cancel: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
        stores.check_alive().context("the telemetry store stopped; mend the disk and start again")?;
    }
    Ok(())
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; is another host running? give {flag} another address, or port 0 for a free one")
    })
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

/// Waits for `wanted`; false when the host stops before.
async fn first(wanted: &CancellationToken, cancel: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = wanted.cancelled() => true,
        () = cancel.cancelled() => false,
    }
}

/// Opens stored secrets for ingest: keys of webhooks, tokens of scrape jobs.
struct Keys {
    db: Db,
    vault: Vault,
}

#[async_trait::async_trait]
impl ingest::Secrets for Keys {
    async fn secret(&self, tenant: &TenantId, name: &str) -> Result<Option<Vec<u8>>, String> {
        match self.db.secret(tenant, name).await {
            Ok(row) => self.vault.open(tenant, name, &row.nonce, &row.sealed).map(Some).map_err(|e| e.to_string()),
            Err(db::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Runs the stages by name. One that ends before it was told to stops the host: half a host repairs nothing.
#[derive(Default)]
struct Supervisor {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    /// In the order they were spawned.
    cancels: Vec<(&'static str, CancellationToken)>,
    ended: HashSet<&'static str>,
}

impl Supervisor {
    fn spawn<F>(&mut self, name: &'static str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let cancel = CancellationToken::new();
        let task = run(cancel.clone());
        self.cancels.push((name, cancel));
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

    /// Down the flow: each stage ends before the next is told to, within `wait` altogether.
    async fn stop(&mut self, wait: Duration) {
        let until = tokio::time::Instant::now() + wait;
        for (name, cancel) in std::mem::take(&mut self.cancels) {
            cancel.cancel();
            let ends = async {
                while !self.ended.contains(name) {
                    match self.tasks.join_next().await {
                        Some(Ok((ended, Ok(())))) => drop(self.ended.insert(ended)),
                        Some(Ok((ended, Err(error)))) => {
                            tracing::warn!(stage = ended, error = format!("{error:#}"), "a stage ended with an error");
                            self.ended.insert(ended);
                        }
                        Some(Err(error)) => tracing::error!(error = %error, "a stage panicked while it was stopped"),
                        None => return,
                    }
                }
            };
            if tokio::time::timeout_at(until, ends).await.is_err() {
                tracing::warn!(stage = name, "a stage still busy is cut off; its journal resumes at the next start");
            }
        }
        self.tasks.abort_all();
    }
}
