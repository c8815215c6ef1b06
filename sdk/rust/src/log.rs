//! The plugin's own log lines and metrics. The host adds tenant, plugin and version.

use crate::host;

pub fn debug(message: impl AsRef<str>, attributes: &[(&str, &str)]) {
    host::log("debug", message.as_ref(), attributes);
}
pub fn info(message: impl AsRef<str>, attributes: &[(&str, &str)]) {
    host::log("info", message.as_ref(), attributes);
}
pub fn warn(message: impl AsRef<str>, attributes: &[(&str, &str)]) {
    host::log("warn", message.as_ref(), attributes);
}
pub fn error(message: impl AsRef<str>, attributes: &[(&str, &str)]) {
    host::log("error", message.as_ref(), attributes);
}

pub fn counter(name: &str, value: f64, attributes: &[(&str, &str)]) {
    host::counter_add(name, value, attributes);
}
pub fn histogram(name: &str, value: f64, attributes: &[(&str, &str)]) {
    host::histogram_record(name, value, attributes);
}
