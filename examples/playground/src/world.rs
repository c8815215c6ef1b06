//! The little world's state: all of it under one lock, because nothing here is big or slow.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

/// Writes kept for `GET /journal`; older ones are dropped.
const JOURNAL_ROWS_MAX: usize = 10_000;
/// Chat messages and tickets kept.
const MESSAGES_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    #[default]
    None,
    /// Twice the customers: two replicas run at 95 % of their CPU.
    CpuSpike,
    /// The pool holds dead connections; restarting it helps.
    DbPoolStuck,
    /// The primary is gone; only the replica helps.
    DbPrimaryDown,
}

#[derive(Debug)]
pub struct Deployment {
    pub namespace: String,
    pub name: String,
    pub replicas: u32,
    pub generation: u64,
    pub restarts: u32,
    /// Annotations of the pod template, as `rollout restart` sets them.
    pub annotations: BTreeMap<String, String>,
    /// As the real API does: grows with each change, checked by PUT when sent.
    pub resource_version: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Write {
    pub method: String,
    pub path: String,
    pub idempotency_key: Option<String>,
    pub body: Value,
}

#[derive(Clone, Debug, Serialize)]
pub struct Message {
    pub ts: String,
    pub channel: String,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_ts: Option<String>,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub blocks: Value,
}

#[derive(Debug, Default)]
pub struct State {
    pub fault: Fault,
    pub deployments: Vec<Deployment>,
    /// `primary` or `replica`: where the shop's pool connects to.
    pub db_endpoint: &'static str,
    pub messages: Vec<Message>,
    pub tickets: Vec<Value>,
    pub journal: Vec<Write>,
    pub requests_ok: u64,
    pub requests_failed: u64,
}

#[derive(Debug)]
pub struct World {
    pub kubernetes_token: String,
    state: Mutex<State>,
}

impl World {
    pub fn new(kubernetes_token: String) -> Self {
        let deployment = |name: &str, replicas| Deployment {
            namespace: "shop".into(),
            name: name.into(),
            replicas,
            generation: 1,
            restarts: 0,
            annotations: BTreeMap::new(),
            resource_version: 1,
        };
        let state = State {
            deployments: vec![deployment("cart", 2), deployment("catalog", 3)],
            db_endpoint: "primary",
            ..State::default()
        };
        Self { kubernetes_token, state: Mutex::new(state) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the world")
    }
}

impl State {
    /// CPU of the cart service in percent of what its replicas have.
    pub fn cpu_usage(&self) -> f64 {
        let demand = if self.fault == Fault::CpuSpike { 190.0 } else { 80.0 };
        let replicas = self.deployments.iter().find(|d| d.name == "cart").map_or(1, |d| d.replicas.max(1));
        (demand / f64::from(replicas)).min(100.0)
    }

    pub fn db_is_healthy(&self) -> bool {
        match self.fault {
            Fault::DbPoolStuck => false,
            Fault::DbPrimaryDown => self.db_endpoint == "replica",
            Fault::None | Fault::CpuSpike => true,
        }
    }

    pub fn note(&mut self, write: Write) {
        trim(&mut self.journal, JOURNAL_ROWS_MAX);
        self.journal.push(write);
    }

    pub fn say(&mut self, message: Message) {
        trim(&mut self.messages, MESSAGES_MAX);
        self.messages.push(message);
    }

    pub fn file_ticket(&mut self, ticket: Value) {
        trim(&mut self.tickets, MESSAGES_MAX);
        self.tickets.push(ticket);
    }
}

fn trim<T>(rows: &mut Vec<T>, max: usize) {
    if rows.len() >= max {
        rows.remove(0);
    }
}
