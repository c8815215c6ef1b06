//! `log-pattern`: counts matching log records in a sliding window, for each set of labels.
//!
//! Time is that of the records: a record moves it forward, and the clock only does where no records come. Records are
//! taken one after the other, so the verdicts don't depend on how they were cut into batches.

mod window;

use orchestrix_sdk::prelude::*;
use regex::{Regex, RegexBuilder};
use window::{Change, Windows};

/// Where the windows are kept between calls.
const STATE: &str = "windows";
/// A pattern larger than this compiled is a mistake or an attack.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Times kept for each set of labels; more matches than this in one window need no exact count.
const COUNT_MAX: usize = 1_000;
/// How often what still fires is said again: the host's `for` and the alert's value need to hear of it.
const REPEAT_NS: u64 = 5_000_000_000;
/// How far ahead of the call's clock a record may be; one wrong clock must not make everything look long ago.
const FUTURE_NS_MAX: u64 = 600_000_000_000;
/// A captured value becomes a label of an alert.
const LABEL_BYTES_MAX: usize = 256;

/// The monitor's parameters: exactly one of `contains`, `regex` and `equals`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogPattern {
    /// Text that the record holds.
    #[serde(default)]
    contains: Option<String>,
    /// Regular expression that the record matches; named groups become labels.
    #[serde(default)]
    regex: Option<String>,
    /// Text that the field is.
    #[serde(default)]
    equals: Option<String>,
    /// Attribute that is looked at instead of the body.
    #[serde(default)]
    field: Option<String>,
    /// Only records of at least this severity: `trace`, `debug`, `info`, `warn`, `error`, `fatal`.
    #[serde(default)]
    level: Option<Level>,
    /// Matches in the window that make an alert.
    #[serde(default = "one")]
    count: usize,
    #[serde(default = "one_minute")]
    window: Millis,
    /// How long without a match until the alert ends; the window's length when absent.
    #[serde(default)]
    quiet: Option<Millis>,
    /// Attributes whose values become labels of the alert.
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default = "severity")]
    severity: String,
    /// `{{count}}`, `{{line}}` and `{{labels.NAME}}` are filled in.
    #[serde(default = "summary")]
    summary: String,
}

/// Smallest severity number of each level, as OpenTelemetry counts.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Trace = 1,
    Debug = 5,
    Info = 9,
    Warn = 13,
    Error = 17,
    Fatal = 21,
}

#[orchestrix_sdk::stream_detector]
impl StreamDetector for LogPattern {
    fn observe(&self, ctx: &Context, batch: &Batch) -> Result<Vec<Finding>> {
        let pattern = self.pattern()?;
        let Batch::Logs(logs) = batch else { return Ok(Vec::new()) };
        let mut windows: Windows = state::get_json(STATE)?.unwrap_or_default();
        let mut changes = Vec::new();
        let latest = ctx.now.saturating_add(FUTURE_NS_MAX);
        for (row, time) in logs.times.iter().enumerate() {
            let time = (*time).min(latest);
            windows.advance(time, &self.rule(), &mut changes);
            if let Some(labels) = self.labels_of(&pattern, logs, row) {
                windows.count(labels, time, logs.bodies.get(row).unwrap_or(""), &self.rule(), &mut changes);
            }
        }
        self.finish(&mut windows, changes)
    }

    fn tick(&self, ctx: &Context) -> Result<Vec<Finding>> {
        self.pattern()?;
        let Some(mut windows) = state::get_json::<Windows>(STATE)? else { return Ok(Vec::new()) };
        let mut changes = Vec::new();
        windows.advance(ctx.now, &self.rule(), &mut changes);
        windows.repeat(REPEAT_NS, &mut changes);
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        self.finish(&mut windows, changes)
    }
}

enum Pattern {
    Contains(String),
    Regex(Regex),
    Equals(String),
}

impl LogPattern {
    fn rule(&self) -> window::Rule {
        window::Rule { count: self.count, window_ns: self.window.as_ns(), quiet_ns: self.quiet.unwrap_or(self.window).as_ns() }
    }

    fn pattern(&self) -> Result<Pattern> {
        let wrong = |message: String| Error::new("params.invalid", message);
        if self.count == 0 || self.count > COUNT_MAX {
            return Err(wrong(format!("count must be between 1 and {COUNT_MAX}")));
        }
        if self.window.0 == 0 {
            return Err(wrong("window must be longer than nothing".into()));
        }
        match (&self.contains, &self.regex, &self.equals) {
            (Some(text), None, None) if !text.is_empty() => Ok(Pattern::Contains(text.clone())),
            (None, Some(text), None) => {
                let regex = RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build();
                regex.map(Pattern::Regex).map_err(|e| wrong(format!("regex: {e}")))
            }
            (None, None, Some(_)) if self.field.is_none() => Err(wrong("equals compares a field: name it with field".into())),
            (None, None, Some(text)) => Ok(Pattern::Equals(text.clone())),
            _ => Err(wrong("say exactly one of contains, regex and equals".into())),
        }
    }

    /// The alert's labels, if the record matches.
    fn labels_of(&self, pattern: &Pattern, logs: &LogBatch, row: usize) -> Option<Vec<(String, String)>> {
        if self.level.is_some_and(|level| logs.severities.get(row).is_none_or(|found| *found < level as u8)) {
            return None;
        }
        let text = match &self.field {
            Some(field) => logs.field(field, row),
            None => logs.bodies.get(row)?,
        };
        let mut labels: Vec<(String, String)> = Vec::new();
        match pattern {
            Pattern::Contains(part) if !text.contains(part.as_str()) => return None,
            Pattern::Equals(whole) if text != whole => return None,
            Pattern::Contains(_) | Pattern::Equals(_) => {}
            Pattern::Regex(regex) => {
                let captures = regex.captures(text)?;
                let named = regex.capture_names().flatten();
                labels.extend(named.filter_map(|name| Some((name.to_owned(), captures.name(name)?.as_str().to_owned()))));
            }
        }
        labels.extend(self.labels.iter().map(|name| (name.clone(), logs.field(name, row).to_owned())));
        for (_, value) in &mut labels {
            value.truncate(value.floor_char_boundary(LABEL_BYTES_MAX));
        }
        labels.retain(|(_, value)| !value.is_empty());
        labels.sort();
        labels.dedup_by(|a, b| a.0 == b.0);
        Some(labels)
    }

    fn finish(&self, windows: &mut Windows, changes: Vec<Change>) -> Result<Vec<Finding>> {
        if let Some(dropped) = windows.take_dropped() {
            log::warn(format!("{dropped} matches had too many different labels and were not counted"), &[]);
        }
        state::put_json(STATE, windows)?;
        Ok(changes.into_iter().map(|change| self.finding(change)).collect())
    }

    fn finding(&self, change: Change) -> Finding {
        Finding {
            summary: if change.is_firing {
                self.summarize(&change)
            } else {
                format!("no match in {}", self.quiet.unwrap_or(self.window))
            },
            status: if change.is_firing { Status::Firing } else { Status::Ok },
            score: if change.is_firing { 1.0 } else { 0.0 },
            severity: self.severity.clone(),
            value: Some(change.count as f64),
            evidence: json!({ "line": change.line, "count": change.count, "window": self.window.to_string(), "last_at_ns": change.at }),
            labels: change.labels,
        }
    }

    fn summarize(&self, change: &Change) -> String {
        let mut text =
            self.summary.replace("{{count}}", &change.count.to_string()).replace("{{window}}", &self.window.to_string());
        for (name, value) in &change.labels {
            text = text.replace(&format!("{{{{labels.{name}}}}}"), value);
        }
        // Last, so that nothing inside the line is taken for a template.
        text.replace("{{line}}", &change.line)
    }
}

fn one() -> usize {
    1
}

fn one_minute() -> Millis {
    Millis(60_000)
}

fn severity() -> String {
    "warning".into()
}

fn summary() -> String {
    "{{count}} matches in {{window}}: {{line}}".into()
}

#[cfg(test)]
mod tests;
