//! A scrape job as an admin writes it (`kind: Scrape`), and the same, checked.

use model::limits;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// The names are those of Prometheus' `scrape_config`, in camelCase; the snake_case ones are taken too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct JobSpec {
    /// `host:port`, each scraped under `job` = the resource's name. Short for one entry of `staticConfigs`.
    pub targets: Vec<String>,
    #[serde(alias = "static_configs")]
    pub static_configs: Vec<TargetGroup>,
    #[serde(alias = "file_sd_configs")]
    pub file_sd_configs: Vec<FileDiscovery>,
    #[serde(alias = "scrape_interval")]
    pub interval: String,
    #[serde(alias = "scrape_timeout")]
    pub timeout: String,
    #[serde(alias = "metrics_path")]
    pub metrics_path: String,
    pub scheme: String,
    pub params: BTreeMap<String, Vec<String>>,
    /// Added to all targets of the job.
    pub labels: BTreeMap<String, String>,
    /// Whether labels of the scraped text win over those of the target; else theirs become `exported_…`.
    #[serde(alias = "honor_labels")]
    pub honor_labels: bool,
    #[serde(alias = "honor_timestamps")]
    pub honor_timestamps: bool,
    /// Name of the stored secret that is sent as a bearer token.
    #[serde(alias = "bearer_token_secret")]
    pub bearer_token_secret: Option<String>,
    #[serde(alias = "sample_limit")]
    pub sample_limit: usize,
}

/// Targets with labels, as in Prometheus' static and file configurations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TargetGroup {
    pub targets: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct FileDiscovery {
    /// Names in the service-discovery folder; the last part may hold `*`. JSON or YAML by their ending.
    pub files: Vec<String>,
    /// Accepted for Prometheus' sake; files are looked at every few seconds anyway.
    #[serde(alias = "refresh_interval")]
    pub refresh_interval: Option<String>,
}

impl Default for JobSpec {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            static_configs: Vec::new(),
            file_sd_configs: Vec::new(),
            interval: "15s".into(),
            timeout: "10s".into(),
            metrics_path: "/metrics".into(),
            scheme: "http".into(),
            params: BTreeMap::new(),
            labels: BTreeMap::new(),
            honor_labels: false,
            honor_timestamps: true,
            bearer_token_secret: None,
            sample_limit: 0,
        }
    }
}

/// A checked job.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub name: String,
    pub spec: JobSpec,
    pub interval: Duration,
    pub timeout: Duration,
}

impl Job {
    /// Checks a spec; the message says what is wrong and how to mend it.
    pub fn parse(name: &str, spec: &serde_json::Value) -> Result<Self, String> {
        let spec: JobSpec = serde_path_to_error::deserialize(spec).map_err(|e| e.to_string())?;
        let interval = duration(&spec.interval).map_err(|e| format!("interval: {e}"))?;
        let timeout = duration(&spec.timeout).map_err(|e| format!("timeout: {e}"))?;
        if interval < Duration::from_secs(1) {
            return Err("interval must be at least 1s".into());
        }
        if !matches!(spec.scheme.as_str(), "http" | "https") {
            return Err(format!("scheme {:?} is neither http nor https", spec.scheme));
        }
        if !spec.metrics_path.starts_with('/') {
            return Err(format!("metricsPath {:?} must begin with /", spec.metrics_path));
        }
        let groups = spec.static_configs.iter();
        for target in spec.targets.iter().chain(groups.clone().flat_map(|g| &g.targets)) {
            check_target(target)?;
        }
        for (label, value) in spec.labels.iter().chain(groups.flat_map(|g| &g.labels)) {
            check_label(label, value)?;
        }
        if spec.targets.is_empty() && spec.static_configs.is_empty() && spec.file_sd_configs.is_empty() {
            return Err("it has no targets; give targets, staticConfigs or fileSdConfigs".into());
        }
        // As Prometheus refuses it: a slow target would have two scrapes under way. A default is simply lowered.
        if timeout > interval && spec.timeout != JobSpec::default().timeout {
            return Err(format!("timeout {} is longer than interval {}", spec.timeout, spec.interval));
        }
        Ok(Self { name: name.to_owned(), interval, timeout: timeout.min(interval), spec })
    }
}

pub(super) fn check_target(target: &str) -> Result<(), String> {
    let url = url::Url::parse(&format!("http://{target}/"));
    let is_bare = !target.contains(['/', '?', '#', '@']) && !target.is_empty();
    if is_bare && url.is_ok() {
        Ok(())
    } else {
        Err(format!("target {target:?} must be HOST or HOST:PORT, without scheme and path"))
    }
}

pub(super) fn check_label(name: &str, value: &str) -> Result<(), String> {
    let is_name = !name.is_empty()
        && name.bytes().enumerate().all(|(i, b)| b == b'_' || b.is_ascii_alphabetic() || (i > 0 && b.is_ascii_digit()));
    if !is_name || name == "__name__" || value.len() > limits::LABEL_VALUE_BYTES_MAX {
        return Err(format!("{name:?} can't be a target's label, or its value is too long"));
    }
    Ok(())
}

/// Prometheus' durations: `15s`, `1m30s`, `500ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration; write it like 15s, 500ms or 1m30s");
    let (mut rest, mut total) = (text, 0u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| *n > 0).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms = match &rest[..end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        rest = &rest[end..];
        total = number.checked_mul(unit_ms).and_then(|ms| total.checked_add(ms)).ok_or_else(bad)?;
    }
    if total == 0 { Err(bad()) } else { Ok(Duration::from_millis(total)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_has_prometheus_defaults_and_names() {
        let job = Job::parse("node", &json!({"targets": ["a:9100"], "scrape_interval": "5s", "honor_labels": true})).unwrap();
        assert_eq!((job.interval.as_secs(), job.timeout.as_secs(), job.spec.metrics_path.as_str()), (5, 5, "/metrics"));
        assert!(job.spec.honor_labels);
    }

    #[test]
    fn a_wrong_job_is_refused_with_what_is_wrong() {
        for (spec, why) in [
            (json!({}), "no targets"),
            (json!({"targets": ["http://a:1/metrics"]}), "without scheme"),
            (json!({"targets": ["a:99999"]}), "HOST:PORT"),
            (json!({"targets": ["a"], "intervall": "5s"}), "intervall"),
            (json!({"targets": ["a"], "interval": "5"}), "no duration"),
            (json!({"targets": ["a"], "interval": "10ms"}), "at least 1s"),
            (json!({"targets": ["a"], "interval": "5s", "timeout": "6s"}), "longer than"),
            (json!({"targets": ["a"], "scheme": "ftp"}), "neither http nor https"),
            (json!({"targets": ["a"], "metricsPath": "x"}), "must begin with /"),
            (json!({"targets": ["a"], "labels": {"1a": "x"}}), "can't be a target's label"),
            (json!({"targets": "a"}), "targets"),
        ] {
            assert!(Job::parse("j", &spec).unwrap_err().contains(why), "{spec}: {:?}", Job::parse("j", &spec));
        }
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "s", "1", "1y", "99999999999999999999s", "0s", "1.5s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
