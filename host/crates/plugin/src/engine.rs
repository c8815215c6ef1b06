//! The two wasmtime engines: a pooling one for speed, and one that allocates on demand for components that
//! don't fit the pool and for machines where a pool can't be had. Both are ticked by one thread.

use crate::{Error, limiter::PARTS_MAX};
use model::limits;
use std::{thread, time::Duration};
use wasmtime::{Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

/// A guest that overruns its budget is found out within one tick.
pub(crate) const TICK_MS: u64 = 10;
/// Stack a guest may use; deeper recursion traps.
const STACK_BYTES_MAX: usize = 512 << 10;
/// The fibre: the guest's stack and what host functions need on top.
const FIBRE_BYTES: usize = 2 << 20;
/// Memory kept resident between calls, cheap only where the kernel can tell which pages were touched.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;

pub(crate) struct Engines {
    pub pooled: Option<Engine>,
    pub on_demand: Engine,
}

impl Engines {
    /// `instances_max` is the pool's size.
    pub(crate) fn new(instances_max: u32) -> Result<Self, Error> {
        let on_demand = Engine::new(&config()).map_err(|e| Error::Engine(format!("{e:#}")))?;
        // The scan needs Linux 6.7; without it keeping pages resident costs more than it gives.
        let pooled = [Enabled::Yes, Enabled::No].into_iter().find_map(|scan| {
            let mut config = config();
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances_max, scan)));
            Engine::new(&config)
                .inspect_err(|error| tracing::info!(error = format!("{error:#}"), ?scan, "instance pool not to be had"))
                .ok()
        });
        if pooled.is_none() {
            tracing::warn!("plugins run without an instance pool: each call is slower");
        }
        let ticked = pooled.iter().chain([&on_demand]).map(Engine::weak).collect();
        start_ticking(ticked)?;
        Ok(Self { pooled, on_demand })
    }
}

/// The part that decides what machine code looks like; the compiling child must use the same.
pub(crate) fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        // Same recording in, same bytes out: a NaN's bits must not depend on the CPU.
        .cranelift_nan_canonicalization(true)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_memory64(false)
        .relaxed_simd_deterministic(true)
        .max_wasm_stack(STACK_BYTES_MAX)
        .async_stack_size(FIBRE_BYTES)
        .memory_init_cow(true);
    config
}

fn pool(instances_max: u32, scan: Enabled) -> PoolingAllocationConfig {
    let keep = if scan == Enabled::Yes { KEEP_RESIDENT_BYTES } else { 0 };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances_max)
        .total_core_instances(instances_max * 4)
        .total_memories(instances_max * 2)
        .total_tables(instances_max * 4)
        .total_stacks(instances_max)
        .max_core_instances_per_component(PARTS_MAX as u32)
        .max_memories_per_component(4)
        .max_tables_per_component(8)
        .max_memory_size(limits::ACTION_MEMORY_BYTES_MAX)
        .linear_memory_keep_resident(keep)
        .table_keep_resident(if keep == 0 { 0 } else { 16 << 10 })
        .pagemap_scan(scan);
    pool
}

/// An OS thread, because a tokio timer is late exactly when guests keep the workers busy.
fn start_ticking(engines: Vec<EngineWeak>) -> Result<(), Error> {
    let tick = move || {
        loop {
            thread::sleep(Duration::from_millis(TICK_MS));
            let mut is_any_alive = false;
            for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                engine.increment_epoch();
                is_any_alive = true;
            }
            if !is_any_alive {
                return;
            }
        }
    };
    thread::Builder::new().name("plugin-epoch".into()).spawn(tick).map_err(|e| Error::Engine(e.to_string()))?;
    Ok(())
}
