//! Driving one guest call: CPU and wall budgets, cancellation, and what an error means.

use crate::{
    bindings::import::types as w,
    call::{Call, Class},
    convert,
    error::CallError,
    host::Package,
    manifest::Operation,
    store::State,
};
use futures::future::BoxFuture;
use model::limits;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use wasmtime::{Engine, Store, Trap, UpdateDeadline, WasmBacktrace};

/// What a cancelled guest gets to notice it and tidy up.
const CANCEL_GRACE_MS: u64 = 5_000;
/// Bytes from guest to host in one crossing: a whole message and its framing.
const CROSSING_BYTES_MAX: usize = limits::GUEST_MESSAGE_BYTES_MAX + (64 << 10);
/// Live component-model handles of one store.
const HANDLES_MAX: usize = 10_000;
/// Frames of a trap that are shown.
const FRAMES_MAX: usize = 6;

/// What one call may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub memory_bytes: usize,
    pub cpu_ms: u64,
    pub wall_ms: u64,
}

impl Budget {
    pub(crate) fn of(package: &Package, class: Class, operation: Option<&Operation>) -> Self {
        let (memory, cpu, wall) = match class {
            Class::Pure => (limits::DETECTOR_MEMORY_BYTES_MAX, limits::DETECTOR_CPU_MS_MAX, limits::DETECTOR_WALL_MS_MAX),
            Class::Live => (limits::ACTION_MEMORY_BYTES_MAX, limits::ACTION_CPU_MS_MAX, limits::ACTION_WALL_MS_MAX),
        };
        let asked = &package.manifest.limits;
        // The manifest's check keeps what is asked under the ceilings; a mixed plugin's detector stays under its own.
        let wall_ceiling = if class == Class::Pure { wall } else { limits::ACTION_WALL_MS_CEILING };
        let wall_asked = operation.and_then(|o| o.timeout).or(asked.wall);
        Self {
            memory_bytes: asked.memory.map_or(memory, |m| usize::try_from(m.0).unwrap_or(memory).min(memory)),
            cpu_ms: asked.cpu.map_or(cpu, |c| c.0.min(cpu)),
            wall_ms: wall_asked.map_or(wall, |w| w.0.min(wall_ceiling)),
        }
    }
}

/// CPU time spent inside the polls of one call's future, by the thread's own clock: waiting is free.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    total_ns: AtomicU64,
    /// Thread clock at the start of the poll that runs now.
    entered_ns: AtomicU64,
}

impl CpuMeter {
    pub(crate) fn reset(&self) {
        self.total_ns.store(0, Relaxed);
    }
    pub(crate) fn used_us(&self) -> u64 {
        self.total_ns.load(Relaxed) / 1_000
    }
    /// Seen from inside a poll.
    fn used_now_ns(&self) -> u64 {
        self.total_ns.load(Relaxed) + thread_ns().saturating_sub(self.entered_ns.load(Relaxed))
    }
}

struct Metered<F> {
    inner: Pin<Box<F>>,
    meter: Arc<CpuMeter>,
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let entered = thread_ns();
        self.meter.entered_ns.store(entered, Relaxed);
        let polled = self.inner.as_mut().poll(cx);
        self.meter.total_ns.fetch_add(thread_ns().saturating_sub(entered), Relaxed);
        polled
    }
}

fn thread_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[derive(Debug, thiserror::Error)]
#[error("the CPU budget is spent")]
struct OutOfCpu;

/// A store with all its limits set, before anything runs in it.
pub(crate) fn store(engine: &Engine, call: Arc<Call>, budget: &Budget, meter: &Arc<CpuMeter>) -> Store<State> {
    let mut store = Store::new(engine, State::new(call, budget.memory_bytes));
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(CROSSING_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    store.set_epoch_deadline(1);
    let (meter, budget_ns) = (meter.clone(), budget.cpu_ms * 1_000_000);
    store.epoch_deadline_callback(move |_| {
        if meter.used_now_ns() > budget_ns {
            return Err(wasmtime::Error::new(OutOfCpu));
        }
        // Neighbours on this thread get their turn each tick.
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store
}

pub(crate) type Answer<T> = wasmtime::Result<Result<T, w::PluginError>>;

/// Runs `f` in the store until it answers or a budget is spent. After an error the store must not be used.
pub(crate) async fn drive<T, F>(
    call: &Call,
    store: &mut Store<State>,
    budget: &Budget,
    meter: &Arc<CpuMeter>,
    f: F,
) -> Result<T, CallError>
where
    T: Send,
    F: for<'a> FnOnce(&'a mut Store<State>) -> BoxFuture<'a, Answer<T>> + Send,
{
    let mut wall_ms = budget.wall_ms;
    if let Some(deadline) = call.context.deadline {
        let left = deadline.millis_since(call.shared.ports.clock.now());
        wall_ms = wall_ms.min(u64::try_from(left).unwrap_or(0));
    }
    let answer = {
        let guest = Metered { inner: Box::pin(f(store)), meter: meter.clone() };
        let cancelled = async {
            call.cancel.wait().await;
            tokio::time::sleep(Duration::from_millis(CANCEL_GRACE_MS)).await;
        };
        tokio::select! {
            biased;
            answer = guest => Some(answer),
            () = cancelled => return Err(CallError::Cancelled),
            () = tokio::time::sleep(Duration::from_millis(wall_ms)) => None,
        }
    };
    match answer {
        None => Err(CallError::OutOfTime { is_cpu: false, limit_ms: wall_ms }),
        Some(Ok(Ok(value))) => Ok(value),
        Some(Ok(Err(error))) => Err(CallError::Plugin(convert::error_record(error))),
        Some(Err(error)) => Err(classify(&error, store.data(), budget)),
    }
}

fn classify(error: &wasmtime::Error, state: &State, budget: &Budget) -> CallError {
    if error.is::<OutOfCpu>() {
        return CallError::OutOfTime { is_cpu: true, limit_ms: budget.cpu_ms };
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return CallError::Busy(state.call.installation.name.clone());
    }
    let cause = error.root_cause().to_string();
    if cause.contains("fuel") {
        return CallError::OutputTooLarge { limit_bytes: limits::GUEST_MESSAGE_BYTES_MAX };
    }
    // An allocator that was refused memory aborts: the trap is the consequence, not the cause.
    if state.limiter.was_refused() && (error.is::<Trap>() || cause.contains("memory")) {
        return CallError::OutOfMemory { limit_bytes: state.limiter.bytes_max() };
    }
    let frames = error.downcast_ref::<WasmBacktrace>().map_or_else(Vec::new, frame_names);
    let at = if frames.is_empty() { String::new() } else { format!(" (in {})", frames.join(" < ")) };
    CallError::Trap { message: format!("{cause}{at}") }
}

/// Function names of the innermost frames, demangled as the trace's own text has them: `0: 0x1f - module!name`.
fn frame_names(trace: &WasmBacktrace) -> Vec<String> {
    let name = |line: &str| {
        let (_, place) = line.split_once(" - ")?;
        Some(place.split_once('!').map_or(place, |(_, name)| name).trim().to_owned())
    };
    trace.to_string().lines().filter_map(name).take(FRAMES_MAX).collect()
}
