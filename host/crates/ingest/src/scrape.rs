//! Scraping: the text exposition of targets, fetched at each job's interval.
//!
//! Jobs come from the configuration and from the database (`kind: Scrape`), targets from the jobs and from
//! files of the service-discovery folder. One task a target; the service compares the wanted set with the
//! running one every few seconds and at a hint, so a start needs no path of its own.

mod config;
mod discovery;
mod target;

pub use config::{FileDiscovery, Job, JobSpec, TargetGroup};
pub use discovery::Target;

use crate::{Secrets, State};
use ahash::AHashMap;
use model::{TenantId, Timestamp};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// How often jobs and files are looked at without a hint.
const LOOK_MS: u64 = 5_000;
/// Targets over all tenants: each is a task and a connection.
const TARGETS_MAX: usize = 20_000;

#[derive(Debug, Default)]
pub struct Config {
    /// Jobs of the host's configuration file.
    pub jobs: Vec<(TenantId, Job)>,
    /// Where files of `fileSdConfigs` are looked for; without it such jobs find none.
    pub sd_folder: Option<cap_std::fs::Dir>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the HTTP client for scrapes could not be built")]
    Client(#[source] reqwest::Error),
}

/// How a target does, for `/api/v1/targets`.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetHealth {
    pub job: String,
    pub url: String,
    pub labels: model::LabelSet,
    /// `None` until the first scrape.
    pub is_up: Option<bool>,
    pub last_error: String,
    pub last_scrape: Option<Timestamp>,
    pub last_duration: Duration,
    pub interval: Duration,
    pub timeout: Duration,
}

type Key = (TenantId, String, Target);

#[derive(Default)]
struct Shared {
    health: Mutex<AHashMap<Key, TargetHealth>>,
    problems: Mutex<AHashMap<(TenantId, String), Vec<String>>>,
    hint: Notify,
}

#[derive(Clone, Default)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// The tenant's targets, by job and address.
    pub fn targets(&self, tenant: &TenantId) -> Vec<TargetHealth> {
        let health = self.0.health.lock();
        let mut targets: Vec<_> = health.iter().filter(|((t, ..), _)| t == tenant).map(|(_, health)| health.clone()).collect();
        targets.sort_by(|a, b| (&a.job, &a.url).cmp(&(&b.job, &b.url)));
        targets
    }

    /// What keeps jobs of the tenant from finding their targets: job and message.
    pub fn problems(&self, tenant: &TenantId) -> Vec<(String, String)> {
        let problems = self.0.problems.lock();
        let of_tenant = problems.iter().filter(|((t, _), _)| t == tenant);
        of_tenant.flat_map(|((_, job), list)| list.iter().map(|p| (job.clone(), p.clone()))).collect()
    }

    /// A hint that jobs changed.
    pub fn reload(&self) {
        self.0.hint.notify_one();
    }
}

pub struct Service {
    config: Config,
    state: State,
    client: reqwest::Client,
    handle: Handle,
}

struct Running {
    job: Job,
    cancel: CancellationToken,
    /// Cancelled when the target is gone for good, so that its series are marked stale.
    is_gone: CancellationToken,
}

impl Service {
    pub fn new(config: Config, state: State) -> Result<(Self, Handle), Error> {
        // Whoever comes first installs it; that somebody did is all that counts.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent(concat!("orchestrix/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::limited(5))
            .pool_max_idle_per_host(1)
            .build()
            .map_err(Error::Client)?;
        let handle = Handle::default();
        Ok((Self { config, state, client, handle: handle.clone() }, handle))
    }

    /// Scrapes until `cancel`. Targets are not marked stale then: a restart is no end of theirs.
    pub async fn run(self, cancel: CancellationToken) {
        let mut running: AHashMap<Key, Running> = AHashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            self.reconcile(&mut running, &mut tasks, &cancel).await;
            while tasks.try_join_next().is_some() {}
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.handle.0.hint.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {}
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn reconcile(&self, running: &mut AHashMap<Key, Running>, tasks: &mut JoinSet<()>, cancel: &CancellationToken) {
        let Some(wanted) = self.wanted().await else { return };
        running.retain(|key, run| {
            let stays = wanted.get(key).is_some_and(|job| *job == run.job);
            if !stays {
                if !wanted.contains_key(key) {
                    run.is_gone.cancel();
                    self.handle.0.health.lock().remove(key);
                }
                run.cancel.cancel();
            }
            stays
        });
        for (key, job) in wanted {
            if running.contains_key(&key) {
                continue;
            }
            let url = format!("{}://{}{}", job.spec.scheme, key.2.address, job.spec.metrics_path);
            let labels = model::LabelSet::from_pairs(key.2.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let health = TargetHealth {
                job: job.name.clone(),
                url,
                labels,
                is_up: None,
                last_error: String::new(),
                last_scrape: None,
                last_duration: Duration::ZERO,
                interval: job.interval,
                timeout: job.timeout,
            };
            self.handle.0.health.lock().entry(key.clone()).or_insert(health);
            let run = Running { job: job.clone(), cancel: cancel.child_token(), is_gone: CancellationToken::new() };
            let task = TargetTask {
                key: key.clone(),
                job,
                state: self.state.clone(),
                client: self.client.clone(),
                handle: self.handle.clone(),
                cancel: run.cancel.clone(),
                is_gone: run.is_gone.clone(),
            };
            tasks.spawn(task.run());
            running.insert(key, run);
        }
    }

    /// All targets of all jobs; none when the database can't be read now, and then all stays as it is.
    async fn wanted(&self) -> Option<AHashMap<Key, Job>> {
        let stored = match self.state.db().scrapes_of_all().await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "scrape jobs can't be read; going on with those known");
                return None;
            }
        };
        let mut jobs = self.config.jobs.clone();
        let mut problems: AHashMap<(TenantId, String), Vec<String>> = AHashMap::new();
        for (tenant, scrape) in stored {
            match Job::parse(&scrape.name, &scrape.spec) {
                Ok(job) => jobs.push((tenant, job)),
                Err(why) => problems.entry((tenant, scrape.name)).or_default().push(why),
            }
        }
        let mut wanted = AHashMap::new();
        for (tenant, job) in jobs {
            let (targets, found) = discovery::targets(&job, self.config.sd_folder.as_ref());
            if !found.is_empty() {
                problems.entry((tenant.clone(), job.name.clone())).or_default().extend(found);
            }
            for target in targets.into_iter().take(TARGETS_MAX.saturating_sub(wanted.len())) {
                wanted.insert((tenant.clone(), job.name.clone(), target), job.clone());
            }
        }
        *self.handle.0.problems.lock() = problems;
        Some(wanted)
    }
}

struct TargetTask {
    key: Key,
    job: Job,
    state: State,
    client: reqwest::Client,
    handle: Handle,
    cancel: CancellationToken,
    is_gone: CancellationToken,
}

impl TargetTask {
    async fn run(self) {
        let mut memory = target::Memory::default();
        // Spread over the interval by the target's name, so that a thousand targets are not one burst.
        let offset = spread(&self.key, self.job.interval);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + offset, self.job.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => break,
                _ = ticks.tick() => {}
            }
            // A scrape is dropped when its target is; nothing of it was written yet.
            tokio::select! {
                () = self.cancel.cancelled() => break,
                () = self.scrape(&mut memory) => {}
            }
        }
        if self.is_gone.is_cancelled() {
            let batch = memory.farewell(&self.key.2, self.state.now());
            self.write(batch).await;
        }
    }

    async fn scrape(&self, memory: &mut target::Memory) {
        let (at, started) = (self.state.now(), std::time::Instant::now());
        let fetched = match self.token(self.state.secrets()).await {
            Ok(token) => target::fetch(&self.client, &self.job, &self.key.2, token.as_deref()).await,
            Err(why) => Err(why),
        };
        let took = started.elapsed();
        let (batch, result) = memory.batch(&self.job, &self.key.2, fetched.as_ref().map_err(Clone::clone), at, took);
        if let Some(health) = self.handle.0.health.lock().get_mut(&self.key) {
            health.is_up = Some(result.is_ok());
            health.last_scrape = Some(at);
            health.last_duration = took;
            health.last_error = match &result {
                Ok(report) if report.is_clean() => String::new(),
                Ok(report) => report.message("samples"),
                Err(why) => why.clone(),
            };
        }
        self.write(batch).await;
    }

    async fn token(&self, secrets: &dyn Secrets) -> Result<Option<String>, String> {
        let Some(name) = &self.job.spec.bearer_token_secret else { return Ok(None) };
        let secret =
            secrets.secret(&self.key.0, name).await.map_err(|why| format!("the secret {name:?} can't be read: {why}"))?;
        let secret = secret.ok_or_else(|| format!("there is no secret {name:?}"))?;
        String::from_utf8(secret).map(Some).map_err(|_| format!("the secret {name:?} is no text"))
    }

    async fn write(&self, batch: telemetry::MetricBatch) {
        let (tenant, job, target) = &self.key;
        match self.state.telemetry().metrics.append(tenant, batch).await {
            Ok(appended) => {
                let mut report = crate::Report::default();
                report.add_appended(appended);
                self.state.count_items(crate::state::Counted::Samples, &report);
            }
            Err(error) => {
                tracing::warn!(tenant = %tenant, job, target = target.address, error = &error as &dyn std::error::Error, "a scrape is lost");
            }
        }
    }
}

fn spread(key: &Key, interval: Duration) -> Duration {
    // Fixed seeds: the same target keeps its place over restarts.
    let hash = ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(key);
    // A small first wait shows a new target quickly even when intervals are long.
    let within = interval.min(Duration::from_secs(5)).as_millis().max(1) as u64;
    Duration::from_millis(hash % within)
}
