//! `log`, `config` and `self-metrics`: what a plugin says of itself, and what it was configured with.

use crate::{
    bindings::import::{config, log, self_metrics, types::Label},
    convert::pairs,
    store::State,
};
use std::sync::atomic::Ordering::Relaxed;
use wasmtime::Result;

/// A metric's name is an index key.
const METRIC_NAME_BYTES_MAX: usize = 200;
const METRIC_ATTRIBUTES_MAX: usize = 10;

impl log::Host for State {
    fn emit(&mut self, level: String, message: String, attributes: Vec<Label>) -> Result<()> {
        self.call.log(&level, &message, pairs(attributes));
        Ok(())
    }
}

impl config::Host for State {
    fn get(&mut self) -> Result<String> {
        let config = &self.call.installation.config;
        Ok(if config.is_null() { "{}".into() } else { config.to_string() })
    }
}

impl self_metrics::Host for State {
    fn counter_add(&mut self, name: String, value: f64, attributes: Vec<Label>) -> Result<()> {
        report(self, &name, value, attributes, false);
        Ok(())
    }
    fn histogram_record(&mut self, name: String, value: f64, attributes: Vec<Label>) -> Result<()> {
        report(self, &name, value, attributes, true);
        Ok(())
    }
}

fn report(state: &State, name: &str, value: f64, attributes: Vec<Label>, is_histogram: bool) {
    let call = &state.call;
    let is_bounded = name.len() <= METRIC_NAME_BYTES_MAX && attributes.len() <= METRIC_ATTRIBUTES_MAX && value.is_finite();
    let is_taken = is_bounded
        && call.shared.meters.report(&call.context.tenant, &call.installation.name, name, pairs(attributes), value, is_histogram);
    if !is_taken {
        call.denials.fetch_add(1, Relaxed);
    }
}
