//! The host of plugins: loads components, keeps them ready, and calls them. A fresh store and instance for each
//! call: nothing leaks from one to the next.

use crate::{
    address::AddressPolicy,
    bindings::{export, import::types as w},
    cache::{self, Cache},
    call::{Call, CallContext, Class, LogGate},
    capability,
    compile::Compiler,
    component,
    connect::Tls,
    convert,
    engine::Engines,
    error::{CallError, Error, Owner},
    grant::HostPolicy,
    manifest::{Kind, Manifest, Millis, Operation, nearest},
    meter::{Meter, MeterKey, Meters, SelfMetric},
    port::{Cause, Ports},
    record::{Outcome, Recorder, Recording},
    run::{self, Answer, Budget, CpuMeter},
    schema::{FieldError, Schema},
    store::State,
    stream::{StateBuffer, StreamInstance},
};
use bytes::Bytes;
use cap_std::fs::Dir;
use futures::future::BoxFuture;
use model::{Finding, Installation, InvocationId, Series, TenantId, Timestamp, limits};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use wasmtime::{
    Engine, Store,
    component::{Component, Instance, InstancePre, Linker},
};

/// How long a call waits for a free instance.
const SLOT_WAIT_MS_MAX: u64 = 10_000;
/// Calls of one installation at a time, unless its manifest says less: one busy plugin leaves room for others.
const CONCURRENCY: u32 = 16;
/// How long a breaker stays open, unless the manifest says otherwise.
const BREAKER_OPEN_MS: u64 = 60_000;

/// How the host is set up.
pub struct HostConfig {
    /// Where compiled components are kept; without it each start compiles again.
    pub cache_dir: Option<Dir>,
    pub policy: HostPolicy,
    /// Instances alive at a time.
    pub instances_max: u32,
    /// Certificates (PEM) to trust beside Mozilla's.
    pub ca_pem: Option<Vec<u8>>,
    pub compiler: Compiler,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self { cache_dir: None, policy: HostPolicy::default(), instances_max: 128, ca_pem: None, compiler: Compiler::default() }
    }
}

/// What a detector is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    pub monitor: String,
    pub params: Value,
    /// The answer of the monitor's own query.
    pub input: Vec<Series>,
}

/// What an action is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionCall {
    pub operation: String,
    pub input: Value,
}

/// What a probe found out about an action in doubt.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Done(Value),
    NotDone,
    Unknown,
}

/// A component, compiled and linked.
pub struct Package {
    pub digest: String,
    pub manifest: Arc<Manifest>,
    pub exports: BTreeSet<Kind>,
    pooled: Option<Ready>,
    on_demand: Option<Ready>,
    config_schema: Schema,
    params_schema: Schema,
    operations: HashMap<String, (Schema, Schema)>,
}

impl Package {
    /// Whether its calls come from the instance pool.
    pub fn is_pooled(&self) -> bool {
        self.pooled.is_some()
    }
    /// What is wrong with an installation's config by the manifest's schema.
    pub fn config_errors(&self, config: &Value) -> Vec<FieldError> {
        self.config_schema.errors(config)
    }
    /// What is wrong with a monitor's params.
    pub fn params_errors(&self, params: &Value) -> Vec<FieldError> {
        self.params_schema.errors(params)
    }

    fn ready(&self) -> &Ready {
        self.pooled.as_ref().or(self.on_demand.as_ref()).expect("load keeps at least one")
    }
    /// For instances that live long and must not take a place in the pool.
    pub(crate) fn ready_for_long(&self) -> &Ready {
        self.on_demand.as_ref().or(self.pooled.as_ref()).expect("load keeps at least one")
    }
}

impl std::fmt::Debug for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Package").field("id", &self.manifest.id).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// A component ready to be instantiated in one engine, with its exports looked up.
pub(crate) struct Ready {
    pub pre: InstancePre<State>,
    lifecycle: Option<export::lifecycle::GuestIndices>,
    detector: Option<export::detector::GuestIndices>,
    pub stream_detector: Option<export::stream_detector::GuestIndices>,
    action: Option<export::action::GuestIndices>,
    verification: Option<export::verification::GuestIndices>,
}

/// One installation's share of the host, across its calls.
pub(crate) struct Seat {
    slots: Arc<Semaphore>,
    pub log: LogGate,
    breaker: Mutex<(u32, Option<Timestamp>)>,
}

/// Tells a call that it should end.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    pub flag: Arc<AtomicBool>,
    told: Notify,
}

impl Cancel {
    pub(crate) async fn wait(&self) {
        let told = self.told.notified();
        if !self.flag.load(Relaxed) {
            told.await;
        }
    }
}

pub(crate) struct Shared {
    engines: Engines,
    pooled_linker: Option<Linker<State>>,
    on_demand_linker: Linker<State>,
    cache: Option<Cache>,
    compiler: Compiler,
    pub policy: AddressPolicy,
    pub tls: Tls,
    pub ports: Ports,
    pub meters: Meters,
    packages: RwLock<HashMap<String, Arc<Package>>>,
    loading: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    seats: Mutex<HashMap<(TenantId, String), Arc<Seat>>>,
    running: Mutex<HashMap<InvocationId, Arc<Cancel>>>,
    slots: Arc<Semaphore>,
}

/// A cheap-clone handle.
#[derive(Clone)]
pub struct Host(Arc<Shared>);

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Host")
    }
}

impl Host {
    pub fn new(config: HostConfig, ports: Ports) -> Result<Self, Error> {
        let engines = Engines::new(config.instances_max)?;
        let linker = |engine: &Engine| -> Result<Linker<State>, Error> {
            let mut linker = Linker::new(engine);
            capability::link(&mut linker).map_err(|e| Error::Engine(format!("{e:#}")))?;
            Ok(linker)
        };
        Ok(Self(Arc::new(Shared {
            pooled_linker: engines.pooled.as_ref().map(linker).transpose()?,
            on_demand_linker: linker(&engines.on_demand)?,
            engines,
            cache: config.cache_dir.map(Cache::new),
            compiler: config.compiler,
            policy: AddressPolicy::parse(&config.policy).map_err(Error::Policy)?,
            tls: Tls::new(config.ca_pem.as_deref()).map_err(Error::Policy)?,
            ports,
            meters: Meters::default(),
            packages: RwLock::default(),
            loading: Mutex::default(),
            seats: Mutex::default(),
            running: Mutex::default(),
            slots: Arc::new(Semaphore::new(config.instances_max as usize)),
        })))
    }

    /// Checks, compiles (or takes from the cache) and links a component. Loading one twice is free.
    pub async fn load(&self, bytes: Bytes) -> Result<Arc<Package>, Error> {
        if bytes.len() > limits::COMPONENT_BYTES_MAX {
            return Err(Error::TooLarge { bytes: bytes.len(), max: limits::COMPONENT_BYTES_MAX });
        }
        let digest = component::digest(&bytes);
        let turn = self.0.loading.lock().entry(digest.clone()).or_default().clone();
        let _turn = turn.lock().await;
        if let Some(package) = self.package(&digest) {
            return Ok(package);
        }
        let inspected = component::inspect_all(&bytes)?;
        let code = self.code(&digest, bytes).await?;
        let package = Arc::new(self.link(digest.clone(), inspected, &code)?);
        self.0.packages.write().insert(digest.clone(), package.clone());
        self.0.loading.lock().remove(&digest);
        Ok(package)
    }

    pub fn package(&self, digest: &str) -> Option<Arc<Package>> {
        self.0.packages.read().get(digest).cloned()
    }

    pub fn manifest(&self, digest: &str) -> Option<Arc<Manifest>> {
        self.package(digest).map(|p| p.manifest.clone())
    }

    /// Forgets a component; calls in flight end on it.
    pub fn unload(&self, digest: &str) {
        self.0.packages.write().remove(digest);
    }

    /// Runs a detector once. Deterministic: the same context, request and telemetry give the same findings.
    pub async fn evaluate(
        &self,
        installation: &Installation,
        context: CallContext,
        request: Evaluation,
    ) -> Result<Vec<Finding>, CallError> {
        const FUNCTION: &str = "detector.evaluate";
        let package = self.package_of(installation)?;
        valid(FUNCTION, package.params_errors(&request.params))?;
        let points: usize = request.input.iter().map(|s| s.times.len() + 8 * s.labels.len()).sum();
        if points * 16 > limits::HOST_MESSAGE_BYTES_MAX {
            return Err(CallError::InputTooLarge { limit_bytes: limits::HOST_MESSAGE_BYTES_MAX });
        }
        let shown = if points * 24 > limits::RECORDED_VALUE_BYTES_MAX {
            json!({ "monitor": request.monitor, "params": request.params, "series": request.input.len(), "points": points })
        } else {
            json!({ "monitor": request.monitor, "params": request.params, "input": request.input })
        };
        let asked = export::detector::Evaluation {
            monitor: request.monitor,
            params: request.params.to_string(),
            input: convert::series(&request.input),
        };
        let guest_context = guest_context(&context);
        let job = Job {
            package,
            installation,
            context,
            class: Class::Pure,
            function: FUNCTION.into(),
            operation: None,
            request: shown,
        };
        self.run(
            job,
            move |ready, store, instance| {
                Box::pin(async move {
                    let Some(indices) = &ready.detector else { return Ok(Err(not_exported("detector"))) };
                    let guest = indices.load(&mut *store, &instance)?;
                    guest.call_evaluate(&mut *store, &guest_context, &asked).await
                })
            },
            |found: Vec<w::Finding>| {
                let findings = convert::findings(FUNCTION, found)?;
                let shown = json!(findings);
                Ok((findings, shown))
            },
        )
        .await
    }

    /// Runs one operation of an action.
    pub async fn execute(
        &self,
        installation: &Installation,
        context: CallContext,
        request: &ActionCall,
    ) -> Result<Value, CallError> {
        let package = self.package_of(installation)?;
        let function = format!("action.execute {}", request.operation);
        let operation = operation_of(&package, &request.operation)?.clone();
        let (input_schema, _) = &package.operations[&operation.name];
        valid(&function, input_schema.errors(&request.input))?;
        let asked = w::OperationRequest { operation: operation.name.clone(), input: bounded_json(&request.input)? };
        let guest_context = guest_context(&context);
        let shown = json!({ "operation": request.operation, "input": request.input });
        let checked = (package.clone(), function.clone(), operation.name.clone());
        let job =
            Job { package, installation, context, class: Class::Live, function, operation: Some(&operation), request: shown };
        self.run(
            job,
            move |ready, store, instance| {
                Box::pin(async move {
                    let Some(indices) = &ready.action else { return Ok(Err(not_exported("action"))) };
                    let guest = indices.load(&mut *store, &instance)?;
                    guest.call_execute(&mut *store, &guest_context, &asked).await
                })
            },
            move |json: String| {
                let (package, function, operation) = checked;
                let output = parse_output(&function, &json)?;
                output_is_valid(&function, package.operations[&operation].1.errors(&output))?;
                Ok((output.clone(), output))
            },
        )
        .await
    }

    /// Asks an action whether an operation that is in doubt has happened. Unknown when it can't say.
    pub async fn probe(
        &self,
        installation: &Installation,
        context: CallContext,
        request: &ActionCall,
    ) -> Result<Verdict, CallError> {
        let package = self.package_of(installation)?;
        if !package.exports.contains(&Kind::Verification) {
            return Ok(Verdict::Unknown);
        }
        let function = format!("verification.probe {}", request.operation);
        let operation = operation_of(&package, &request.operation)?.clone();
        let asked = w::OperationRequest { operation: operation.name.clone(), input: bounded_json(&request.input)? };
        let guest_context = guest_context(&context);
        let shown = json!({ "operation": request.operation, "input": request.input });
        let name = function.clone();
        let job =
            Job { package, installation, context, class: Class::Live, function, operation: Some(&operation), request: shown };
        self.run(
            job,
            move |ready, store, instance| {
                Box::pin(async move {
                    let Some(indices) = &ready.verification else { return Ok(Err(not_exported("verification"))) };
                    let guest = indices.load(&mut *store, &instance)?;
                    guest.call_probe(&mut *store, &guest_context, &asked).await
                })
            },
            move |verdict: export::verification::Verdict| {
                let output = verdict.output.as_deref().map(|json| parse_output(&name, json)).transpose()?;
                let shown = json!({ "status": verdict.status, "output": output });
                let verdict = match verdict.status.as_str() {
                    "done" => Verdict::Done(output.unwrap_or_default()),
                    "not-done" => Verdict::NotDone,
                    _ => Verdict::Unknown,
                };
                Ok((verdict, shown))
            },
        )
        .await
    }

    /// The manifest's schema first, then the plugin's own opinion, if it has one.
    pub async fn validate_config(&self, installation: &Installation) -> Result<Vec<FieldError>, CallError> {
        let package = self.package_of(installation)?;
        let errors = package.config_errors(&installation.config);
        if !errors.is_empty() || !package.exports.contains(&Kind::Lifecycle) {
            return Ok(errors);
        }
        let context = self.own_context(installation, "validate-config");
        let guest_context = guest_context(&context);
        let config = bounded_json(&installation.config)?;
        let shown = json!({ "config": installation.config });
        let job = Job {
            package,
            installation,
            context,
            class: Class::Live,
            function: "lifecycle.validate-config".into(),
            operation: None,
            request: shown,
        };
        self.run(
            job,
            move |ready, store, instance| {
                Box::pin(async move {
                    let Some(indices) = &ready.lifecycle else { return Ok(Ok(Vec::new())) };
                    let guest = indices.load(&mut *store, &instance)?;
                    guest.call_validate_config(&mut *store, &guest_context, &config).await.map(Ok)
                })
            },
            |errors: Vec<export::lifecycle::FieldError>| {
                let errors: Vec<FieldError> =
                    errors.into_iter().map(|e| FieldError { pointer: e.pointer, message: e.message }).collect();
                let shown = json!(errors);
                Ok((errors, shown))
            },
        )
        .await
    }

    /// "Test connection". Null when the plugin has no such test.
    pub async fn check(&self, installation: &Installation) -> Result<Value, CallError> {
        let package = self.package_of(installation)?;
        if !package.exports.contains(&Kind::Lifecycle) {
            return Ok(Value::Null);
        }
        let context = self.own_context(installation, "check");
        let guest_context = guest_context(&context);
        let job = Job {
            package,
            installation,
            context,
            class: Class::Live,
            function: "lifecycle.check".into(),
            operation: None,
            request: Value::Null,
        };
        self.run(
            job,
            move |ready, store, instance| {
                Box::pin(async move {
                    let Some(indices) = &ready.lifecycle else { return Ok(Err(not_exported("lifecycle"))) };
                    let guest = indices.load(&mut *store, &instance)?;
                    guest.call_check(&mut *store, &guest_context).await
                })
            },
            |json: String| {
                let output = parse_output("lifecycle.check", &json)?;
                Ok((output.clone(), output))
            },
        )
        .await
    }

    /// A warm stream detector with one owner, continued from a snapshot of its state.
    pub async fn stream(
        &self,
        installation: &Installation,
        params: Value,
        snapshot: Option<Vec<u8>>,
    ) -> Result<StreamInstance, CallError> {
        let package = self.package_of(installation)?;
        valid("stream-detector", package.params_errors(&params))?;
        if !package.exports.contains(&Kind::StreamDetector) {
            return Err(CallError::NotExported { plugin: package.manifest.id.clone(), interface: "stream-detector" });
        }
        let state = match snapshot {
            Some(bytes) => StateBuffer::restore(&bytes).map_err(CallError::Host)?,
            None => StateBuffer::default(),
        };
        StreamInstance::start(self.clone(), package, Arc::new(installation.clone()), params, state).await
    }

    /// Asks a running call to end; after some seconds it is ended. False when there is none.
    pub fn cancel(&self, invocation: InvocationId) -> bool {
        let running = self.0.running.lock().get(&invocation).cloned();
        if let Some(cancel) = &running {
            cancel.flag.store(true, Relaxed);
            cancel.told.notify_waiters();
        }
        running.is_some()
    }

    /// Totals since the start, per tenant, installation, version and function.
    pub fn stats(&self) -> Vec<(MeterKey, Meter)> {
        self.0.meters.totals()
    }

    /// What plugins report of themselves.
    pub fn self_metrics(&self) -> Vec<SelfMetric> {
        self.0.meters.own()
    }

    pub(crate) fn package_of(&self, installation: &Installation) -> Result<Arc<Package>, CallError> {
        if !installation.is_enabled {
            return Err(CallError::Disabled(installation.name.clone()));
        }
        self.package(&installation.digest)
            .ok_or_else(|| CallError::NotLoaded { installation: installation.name.clone(), digest: installation.digest.clone() })
    }

    pub(crate) fn own_context(&self, installation: &Installation, what: &str) -> CallContext {
        let invocation = InvocationId::generate();
        CallContext {
            tenant: installation.tenant.clone(),
            invocation,
            idempotency_key: format!("{what}/{invocation}"),
            now: self.0.ports.clock.now(),
            deadline: None,
            traceparent: String::new(),
            cause: Cause::default(),
        }
    }

    async fn code(&self, digest: &str, wasm: Bytes) -> Result<Vec<u8>, Error> {
        let key = cache::key(digest, &self.0.engines.on_demand);
        if let Some(code) = self.0.cache.as_ref().and_then(|cache| cache.get(&key)) {
            return Ok(code);
        }
        let code = self.0.compiler.compile(wasm).await?;
        if let Some(cache) = &self.0.cache
            && let Err(error) = cache.put(&key, &code)
        {
            // The next start compiles again; this one goes on.
            tracing::warn!(error = %error, "compiled plugin not kept");
        }
        Ok(code)
    }

    fn link(&self, digest: String, inspected: component::Inspected, code: &[u8]) -> Result<Package, Error> {
        let component::Inspected { manifest, exports } = inspected;
        let pooled = match (&self.0.engines.pooled, &self.0.pooled_linker) {
            (Some(engine), Some(linker)) => match ready(engine, linker, &exports, code) {
                Ok(ready) => Some(ready),
                Err(error) => {
                    tracing::info!(plugin = manifest.id, error = %error, "not from the pool");
                    None
                }
            },
            _ => None,
        };
        let on_demand = if pooled.is_none() || exports.contains(&Kind::StreamDetector) {
            Some(ready(&self.0.engines.on_demand, &self.0.on_demand_linker, &exports, code)?)
        } else {
            None
        };
        let compile = |schema: &Value| Schema::compile(schema).map_err(|why| Error::Manifest(vec![why]));
        let mut operations = HashMap::new();
        for operation in &manifest.operations {
            operations.insert(operation.name.clone(), (compile(&operation.input)?, compile(&operation.output)?));
        }
        Ok(Package {
            digest,
            pooled,
            on_demand,
            config_schema: compile(&manifest.config.schema)?,
            params_schema: compile(&manifest.detector.params)?,
            operations,
            exports,
            manifest: Arc::new(manifest),
        })
    }

    fn seat(&self, installation: &Installation, manifest: &Manifest) -> Arc<Seat> {
        let key = (installation.tenant.clone(), installation.name.clone());
        let mut seats = self.0.seats.lock();
        let new = || {
            Arc::new(Seat {
                slots: Arc::new(Semaphore::new(manifest.limits.concurrency.unwrap_or(CONCURRENCY).min(CONCURRENCY) as usize)),
                log: LogGate::default(),
                breaker: Mutex::default(),
            })
        };
        seats.entry(key).or_insert_with(new).clone()
    }

    /// A call as it begins: not yet waiting for anything.
    pub(crate) fn begin(
        &self,
        package: Arc<Package>,
        installation: Arc<Installation>,
        context: CallContext,
        class: Class,
        function: String,
        state: Option<Arc<Mutex<StateBuffer>>>,
    ) -> Result<Running, CallError> {
        if context.tenant != installation.tenant {
            return Err(CallError::Host(format!("installation {:?} belongs to another tenant", installation.name)));
        }
        let seat = self.seat(&installation, &package.manifest);
        seat.breaker_is_closed(&package.manifest, self.0.ports.clock.now())?;
        let cancel = Arc::new(Cancel::default());
        self.0.running.lock().insert(context.invocation, cancel.clone());
        let call = Arc::new(Call {
            shared: self.0.clone(),
            package,
            installation,
            seat,
            class,
            function,
            started: Instant::now(),
            permits: Mutex::default(),
            secrets: Mutex::default(),
            recorder: Mutex::new(Recorder::default()),
            state,
            is_cancelled: cancel.flag.clone(),
            cancel,
            denials: Default::default(),
            log_lines: Default::default(),
            log_lines_dropped: Default::default(),
            http_bytes_sent: Default::default(),
            http_bytes_received: Default::default(),
            context,
        });
        Ok(Running { started: self.0.ports.clock.now(), call })
    }

    async fn run<G, T, F, C>(&self, job: Job<'_>, f: F, convert: C) -> Result<T, CallError>
    where
        G: Send + 'static,
        T: Send,
        F: for<'a> FnOnce(&'a Ready, &'a mut Store<State>, Instance) -> BoxFuture<'a, Answer<G>> + Send + 'static,
        C: FnOnce(G) -> Result<(T, Value), CallError> + Send,
    {
        let Job { package, installation, context, class, function, operation, request } = job;
        let budget = Budget::of(&package, class, operation);
        let running = self.begin(package.clone(), Arc::new(installation.clone()), context, class, function, None)?;
        let call = running.call.clone();
        let _slots = self.slots(&call).await?;
        let meter = Arc::new(CpuMeter::default());
        let mut store = run::store(package.ready().pre.engine(), call.clone(), &budget, &meter);
        let answer = run::drive(&call, &mut store, &budget, &meter, move |store| {
            Box::pin(async move {
                let ready = package.ready();
                let instance = ready.pre.instantiate_async(&mut *store).await?;
                f(ready, store, instance).await
            })
        })
        .await;
        let memory = store.data().limiter.bytes_peak();
        store.data().flush_stdio();
        // Before the outcome is told: a store after an error may hold anything.
        drop(store);
        let answer = answer.and_then(convert);
        let outcome = answer.as_ref().map(|(_, shown)| shown.clone()).map_err(Clone::clone);
        running.end(request, outcome, &meter, memory).await;
        answer.map(|(value, _)| value)
    }

    async fn slots(&self, call: &Call) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), CallError> {
        let busy = || CallError::Busy(call.installation.name.clone());
        let both = async {
            // One's own seat first: who waits for it holds nothing that others need.
            let own = call.seat.slots.clone().acquire_owned().await.map_err(|_| busy())?;
            let shared = self.0.slots.clone().acquire_owned().await.map_err(|_| busy())?;
            Ok((own, shared))
        };
        tokio::time::timeout(Duration::from_millis(SLOT_WAIT_MS_MAX), both).await.map_err(|_| busy())?
    }
}

struct Job<'a> {
    package: Arc<Package>,
    installation: &'a Installation,
    context: CallContext,
    class: Class,
    function: String,
    operation: Option<&'a Operation>,
    request: Value,
}

/// A call that has begun and must be ended.
pub(crate) struct Running {
    pub call: Arc<Call>,
    started: Timestamp,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.call.shared.running.lock().remove(&self.call.context.invocation);
    }
}

impl Running {
    /// Settles what is open, meters, records, and moves the breaker.
    pub(crate) async fn end(self, mut request: Value, outcome: Result<Value, CallError>, meter: &CpuMeter, memory: usize) {
        let call = &self.call;
        call.settle_rest().await;
        if let Err(error) = &outcome
            && error.owner() == Owner::Plugin
        {
            // The author looks into the plugin's log first.
            call.log("error", &error.to_string(), vec![("orchestrix.code".into(), error.code().into())]);
        }
        let manifest = &call.package.manifest;
        let wall_us = u64::try_from(call.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let key = MeterKey {
            tenant: call.context.tenant.clone(),
            installation: call.installation.name.clone(),
            plugin: manifest.id.clone(),
            version: manifest.version.clone(),
            function: call.function.clone(),
        };
        let used = Meter {
            cpu_us: meter.used_us(),
            wall_us,
            memory_bytes_peak: memory as u64,
            http_bytes_sent: call.http_bytes_sent.load(Relaxed),
            http_bytes_received: call.http_bytes_received.load(Relaxed),
            denials: call.denials.load(Relaxed),
            log_lines: call.log_lines.load(Relaxed),
            log_lines_dropped: call.log_lines_dropped.load(Relaxed),
            ..Meter::default()
        };
        call.shared.meters.add(key, used, outcome.as_ref().map(|_| ()));
        call.seat.move_breaker(manifest, outcome.as_ref().err(), call.shared.ports.clock.now());
        let mut recorder = std::mem::take(&mut *call.recorder.lock());
        recorder.cap(&mut request);
        let outcome = match outcome {
            Ok(mut value) => {
                recorder.cap(&mut value);
                Outcome::Ok { value }
            }
            Err(error) => Outcome::Err { error: error.to_record() },
        };
        call.shared.ports.recorder.record(Recording {
            invocation: call.context.invocation,
            tenant: call.context.tenant.clone(),
            installation: call.installation.name.clone(),
            plugin: manifest.id.clone(),
            version: manifest.version.clone(),
            digest: call.package.digest.clone(),
            function: call.function.clone(),
            idempotency_key: call.context.idempotency_key.clone(),
            traceparent: call.context.traceparent.clone(),
            cause: call.context.cause.clone(),
            now: call.context.now,
            started: self.started,
            wall_us,
            cpu_us: meter.used_us(),
            memory_bytes_peak: memory as u64,
            request,
            calls: recorder.calls,
            calls_dropped: recorder.calls_dropped,
            outcome,
            is_truncated: recorder.is_truncated,
        });
    }
}

impl Seat {
    fn breaker_is_closed(&self, manifest: &Manifest, now: Timestamp) -> Result<(), CallError> {
        let breaker = self.breaker.lock();
        match breaker.1 {
            Some(until) if until > now => Err(CallError::BreakerOpen {
                plugin: manifest.id.clone(),
                failures: breaker.0,
                open_ms: u64::try_from(until.millis_since(now)).unwrap_or(0),
            }),
            _ => Ok(()),
        }
    }

    fn move_breaker(&self, manifest: &Manifest, error: Option<&CallError>, now: Timestamp) {
        let mut breaker = self.breaker.lock();
        if !error.is_some_and(|e| e.owner() == Owner::Plugin) {
            *breaker = (0, None);
            return;
        }
        breaker.0 += 1;
        if manifest.failure.breaker > 0 && breaker.0 >= manifest.failure.breaker {
            let Millis(open_for) = manifest.failure.open_for.unwrap_or(Millis(BREAKER_OPEN_MS));
            breaker.1 = Some(now.plus_millis(i64::try_from(open_for).unwrap_or(i64::MAX)));
        }
    }
}

/// Deserialises machine code that came from our own compiler, directly or through the checked cache.
fn ready(engine: &Engine, linker: &Linker<State>, exports: &BTreeSet<Kind>, code: &[u8]) -> Result<Ready, Error> {
    // SAFETY: `code` was made by our compiler for this very configuration; what was read from disk has its
    // digest checked by `Cache::get`. Compiled code from anywhere else never reaches this function.
    #[allow(unsafe_code)]
    let component = unsafe { Component::deserialize(engine, code) }.map_err(|e| Error::Compile(format!("{e:#}")))?;
    let bad = |e: wasmtime::Error| Error::Incompatible(format!("{e:#}"));
    let pre = linker.instantiate_pre(&component).map_err(bad)?;
    let has = |kind: Kind| exports.contains(&kind);
    Ok(Ready {
        lifecycle: has(Kind::Lifecycle).then(|| export::lifecycle::GuestIndices::new(&pre)).transpose().map_err(bad)?,
        detector: has(Kind::Detector).then(|| export::detector::GuestIndices::new(&pre)).transpose().map_err(bad)?,
        stream_detector: has(Kind::StreamDetector)
            .then(|| export::stream_detector::GuestIndices::new(&pre))
            .transpose()
            .map_err(bad)?,
        action: has(Kind::Action).then(|| export::action::GuestIndices::new(&pre)).transpose().map_err(bad)?,
        verification: has(Kind::Verification).then(|| export::verification::GuestIndices::new(&pre)).transpose().map_err(bad)?,
        pre,
    })
}

pub(crate) fn guest_context(context: &CallContext) -> w::CallContext {
    w::CallContext {
        tenant: context.tenant.to_string(),
        invocation: context.invocation.to_string(),
        idempotency_key: context.idempotency_key.clone(),
        now: convert::nanos(context.now),
        deadline: context.deadline.map(convert::nanos),
        traceparent: context.traceparent.clone(),
    }
}

fn operation_of<'a>(package: &'a Package, name: &str) -> Result<&'a Operation, CallError> {
    package.manifest.operation(name).ok_or_else(|| CallError::UnknownOperation {
        plugin: package.manifest.id.clone(),
        operation: name.into(),
        nearest: nearest(name, package.manifest.operations.iter().map(|o| o.name.as_str())).map(str::to_owned),
    })
}

pub(crate) fn not_exported(interface: &str) -> w::PluginError {
    w::PluginError {
        code: "plugin.not_exported".into(),
        message: format!("the plugin exports no {interface}"),
        retry: w::RetryAdvice::Never,
        details: None,
    }
}

fn valid(function: &str, errors: Vec<FieldError>) -> Result<(), CallError> {
    if errors.is_empty() { Ok(()) } else { Err(CallError::InvalidInput { function: function.into(), errors }) }
}

fn output_is_valid(function: &str, errors: Vec<FieldError>) -> Result<(), CallError> {
    if errors.is_empty() { Ok(()) } else { Err(CallError::InvalidOutput { function: function.into(), errors }) }
}

fn parse_output(function: &str, json: &str) -> Result<Value, CallError> {
    if json.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(json).map_err(|e| CallError::InvalidOutput {
        function: function.into(),
        errors: vec![FieldError { pointer: String::new(), message: format!("no JSON: {e}") }],
    })
}

fn bounded_json(value: &Value) -> Result<String, CallError> {
    let json = value.to_string();
    if json.len() > limits::HOST_MESSAGE_BYTES_MAX {
        return Err(CallError::InputTooLarge { limit_bytes: limits::HOST_MESSAGE_BYTES_MAX });
    }
    Ok(json)
}
