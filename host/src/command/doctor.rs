//! `orchestrix doctor`: looks at everything a user can get wrong, and says how to mend it.

use super::Context;
use crate::client::{Failure, Result, Send};
use reqwest::Method;
use serde_json::{Value, json};

/// Beyond it, tokens expire early and samples look late.
const CLOCK_MS_MAX: i64 = 5_000;
const DISK_FREE_BYTES_MIN: u64 = 1 << 30;

pub async fn run(context: &Context, now: model::Timestamp) -> Result<()> {
    let mut report = Vec::new();
    let mut add = |check: &str, is_ok: bool, says: String| report.push(json!({ "check": check, "ok": is_ok, "says": says }));
    let reached = context.client.raw(Method::GET, "/readyz", &[], Send::Nothing).await;
    let is_up = reached.is_ok();
    match reached {
        Err(error) => add("host", false, error.to_string()),
        Ok((status, _, body)) => {
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let says = if status.is_success() {
                format!("{} is ready", context.client.base())
            } else {
                format!("{} is {}: {}", context.client.base(), body["status"].as_str().unwrap_or("not ready"), body["waiting"])
            };
            add("host", status.is_success(), says);
        }
    }
    if is_up {
        match context.client.get("/api/v1/me").await {
            Ok(me) => {
                let says = format!("{} of tenant {}, role {}", text(&me["name"]), text(&me["tenant"]), text(&me["role"]));
                add("token", true, says);
            }
            Err(error) => add("token", false, error.to_string()),
        }
        match context.client.get("/api/v1/status").await {
            Ok(status) => {
                let apart = api::parse_time("now", text(&status["now"])).map(|host| host.millis_since(now)).unwrap_or(0);
                let is_close = apart.abs() <= CLOCK_MS_MAX;
                let mend = if is_close { "" } else { "; synchronise both clocks (NTP)" };
                add("clock", is_close, format!("{apart} ms between this machine and the host{mend}"));
                if let Some(free) = status["diskFreeBytes"].as_u64() {
                    let is_enough = free >= DISK_FREE_BYTES_MIN;
                    let mend = if is_enough { "" } else { "; the host refuses writes when the disk is full: free some" };
                    add("disk", is_enough, format!("{} MiB free{mend}", free >> 20));
                }
                add("version", true, format!("host {}, this program {}", text(&status["version"]), env!("CARGO_PKG_VERSION")));
            }
            Err(error) => add("status", false, error.to_string()),
        }
        match context.client.get("/api/v1/plugins").await {
            Ok(plugins) => {
                let items = plugins["items"].as_array().cloned().unwrap_or_default();
                if items.is_empty() {
                    add("plugins", false, "none is installed; `cargo xtask up` builds the first-party ones, `orchestrix plugin install FILE` installs one".into());
                }
                for plugin in items {
                    let is_loaded = plugin["isLoaded"].as_bool().unwrap_or(false);
                    let name = text(&plugin["name"]);
                    let says = match plugin["problem"].as_str() {
                        Some(problem) => problem.to_owned(),
                        None => format!("{} {}", text(&plugin["plugin"]), text(&plugin["version"])),
                    };
                    add(&format!("plugin {name}"), is_loaded, says);
                }
            }
            Err(error) => add("plugins", false, error.to_string()),
        }
    }
    let failed = report.iter().filter(|r| r["ok"] == false).count();
    context.print(&Value::Array(report), &["check", "ok", "says"]);
    if failed == 0 { Ok(()) } else { Err(Failure::Refused(format!("{failed} checks failed"))) }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
