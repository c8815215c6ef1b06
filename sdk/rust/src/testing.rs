//! The fake host for unit tests: no WebAssembly, no network, no clock of the machine.

use crate::{
    Effect, Error, LogBatch, Request, Response, Result,
    host::native::{self, Inner},
    telemetry::{Series, TimeRange},
};
use serde_json::Value;
use std::{cell::RefCell, rc::Rc, time::Duration};

pub use crate::host::native::Peer;

/// Everything outside the plugin. Nothing answers until the test says so.
#[derive(Clone, Default)]
pub struct World(Rc<RefCell<Inner>>);

/// An effect that was announced, and how it was settled; `status` none is "in doubt".
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedEffect {
    pub effect: Effect,
    pub status: Option<String>,
    pub detail: Option<Value>,
}

impl World {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs the plugin's code in this world.
    pub fn run<T>(&self, act: impl FnOnce() -> T) -> T {
        struct Restore(Option<Rc<RefCell<Inner>>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                native::install(self.0.take());
            }
        }
        let _restore = Restore(native::install(Some(Rc::clone(&self.0))));
        act()
    }

    /// Answers HTTP requests. As in the host, an unsafe one gets here only under a permit of its own.
    pub fn on_http(&self, handler: impl FnMut(&Request) -> Result<Response> + 'static) {
        self.0.borrow_mut().http = Some(Box::new(handler));
    }

    pub fn on_metrics(&self, handler: impl FnMut(&str, TimeRange) -> Result<Vec<Series>> + 'static) {
        self.0.borrow_mut().metrics = Some(Box::new(handler));
    }

    pub fn on_logs(&self, handler: impl FnMut(&str, TimeRange) -> Result<LogBatch> + 'static) {
        self.0.borrow_mut().log_query = Some(Box::new(handler));
    }

    /// Accepts connections to `address` (`host:port`); `open` makes the other end.
    pub fn on_connect<P: Peer + 'static>(&self, address: &str, mut open: impl FnMut() -> P + 'static) {
        self.0.borrow_mut().sockets.insert(address.into(), Box::new(move || Box::new(open())));
    }

    /// Binds a secret; the closure gets an algorithm or mechanism (also `send` and `reveal`) and the data.
    pub fn bind_secret(&self, name: &str, answer: impl FnMut(&str, &[u8]) -> Result<Vec<u8>> + 'static) {
        let answer: native::Prover = Box::new(answer);
        self.0.borrow_mut().secrets.insert(name.into(), Rc::new(RefCell::new(answer)));
    }

    /// From now on a guardrail refuses every effect.
    pub fn refuse_effects(&self, error: Error) {
        self.0.borrow_mut().refusal = Some(error);
    }

    pub fn cancel(&self) {
        self.0.borrow_mut().is_cancelled = true;
    }

    pub fn requests(&self) -> Vec<Request> {
        self.0.borrow().requests.clone()
    }
    pub fn effects(&self) -> Vec<RecordedEffect> {
        self.0.borrow().effects.clone()
    }
    /// Level and message.
    pub fn logs(&self) -> Vec<(String, String)> {
        self.0.borrow().logs.clone()
    }
    /// How long the plugin slept.
    pub fn elapsed(&self) -> Duration {
        self.0.borrow().elapsed
    }
    pub fn state_keys(&self) -> Vec<String> {
        self.0.borrow().state.keys().cloned().collect()
    }
}

/// A JSON response, for `on_http`.
pub fn json(status: u16, body: &Value) -> Response {
    Response { status, headers: vec![("content-type".into(), "application/json".into())], body: body.to_string().into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, state};

    #[test]
    fn an_unsafe_request_needs_a_permit_and_a_permit_covers_one_request() {
        let world = World::new();
        world.on_http(|_| Ok(Response { status: 200, ..Response::default() }));
        world.run(|| {
            let denied = Request::post("https://a/").send().unwrap_err();
            assert_eq!(denied.code, "effect.permit_required");
            let permit = Effect::new("http.post", "https://a/").begin().unwrap();
            Request::post("https://a/").send().unwrap();
            assert_eq!(Request::post("https://a/").send().unwrap_err().code, "effect.permit_required");
            permit.done(None);
        });
        assert_eq!(world.requests().len(), 1);
        assert_eq!(world.effects()[0].status.as_deref(), Some("done"));
    }

    #[test]
    fn an_effect_is_settled_by_what_is_known_of_it() {
        let cases: [(Result<()>, Option<&str>); 4] = [
            (Ok(()), Some("done")),
            (Err(Error::new("remote.refused", "422")), Some("failed")),
            (Err(Error::new("remote.unreachable", "refused")), Some("not-done")),
            (Err(Error::new("remote.timeout", "no answer")), None),
        ];
        for (outcome, status) in cases {
            let world = World::new();
            let _ = world.run(|| Effect::new("a.b", "c").perform(|| outcome));
            assert_eq!(world.effects()[0].status.as_deref(), status);
        }
    }

    #[test]
    fn a_refused_effect_never_runs_its_act() {
        let world = World::new();
        world.refuse_effects(Error::new("guardrail.budget", "3 an hour"));
        let error = world.run(|| Effect::new("a.b", "c").perform::<()>(|| panic!("must not run"))).unwrap_err();
        assert_eq!(error.code, "guardrail.budget");
        assert!(world.effects().is_empty());
    }

    #[test]
    fn state_is_written_under_the_revision_that_was_read() {
        World::new().run(|| {
            let first = state::put("k", b"1", state::Expect::Absent, None).unwrap();
            assert_eq!(state::put("k", b"2", state::Expect::Absent, None).unwrap_err().code, "state.conflict");
            state::put("k", b"2", state::Expect::Revision(first), None).unwrap();
            assert_eq!(state::get("k").unwrap().unwrap().value, b"2");
            assert_eq!(state::list("", None, 10).unwrap(), ["k"]);
            state::delete("k").unwrap();
            assert_eq!(state::get_json::<u8>("k").unwrap(), None);
        });
    }

    #[test]
    fn a_checkpoint_comes_back_and_time_passes_by_sleeping_only() {
        let world = World::new();
        world.run(|| {
            let ctx = Context::default();
            assert_eq!(ctx.last_checkpoint(), None);
            ctx.heartbeat(Some(0.5), Some(&serde_json::json!({ "at": 3 })));
            assert_eq!(ctx.last_checkpoint(), Some(serde_json::json!({ "at": 3 })));
            ctx.sleep(Duration::from_secs(2));
            assert_eq!(ctx.monotonic_ns(), 2_000_000_000);
        });
    }
}
