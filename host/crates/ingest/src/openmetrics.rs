//! The rules of OpenMetrics that need more than one line: which samples belong to a family, in which
//! order, and which values its type allows.

use crate::exposition::{Line, Sample};
use ahash::AHashSet;
use model::MetricKind;

/// Judges one exposition, line by line.
#[derive(Default)]
pub(crate) struct Rules {
    family: Option<Family>,
    /// Names of families and of the samples they may have, each for one family only.
    taken: AHashSet<String>,
}

struct Family {
    name: String,
    kind: Option<MetricKind>,
    has_help: bool,
    has_unit: bool,
    has_samples: bool,
    /// Groups that ended: their samples may not come again.
    done: AHashSet<Vec<(String, String)>>,
    group: Option<Group>,
}

/// The samples of one metric: those whose labels differ in `le`, `quantile` or the state only.
#[derive(Default)]
struct Group {
    labels: Vec<(String, String)>,
    time: Option<f64>,
    samples: usize,
    bucket: Option<(f64, f64)>,
    has_negative_bucket: bool,
    infinite: Option<f64>,
    count: Option<f64>,
    sum: Option<f64>,
}

impl Rules {
    pub(crate) fn line(&mut self, line: &Line<'_>) -> Result<(), String> {
        match line {
            Line::Type { name, kind } => {
                let family = self.described(name)?;
                if family.kind.replace(*kind).is_some() {
                    return Err(format!("{name} has two # TYPE lines"));
                }
                for suffix in suffixes(*kind) {
                    if !suffix.is_empty() && !self.taken.insert(format!("{name}{suffix}")) {
                        return Err(format!("{name}{suffix} would belong to two families"));
                    }
                }
            }
            Line::Help { name, .. } => {
                if std::mem::replace(&mut self.described(name)?.has_help, true) {
                    return Err(format!("{name} has two # HELP lines"));
                }
            }
            Line::Unit { name, unit } => {
                if !unit.is_empty() && !name.strip_suffix(unit).is_some_and(|stem| stem.ends_with('_')) {
                    return Err(format!("{name} must end with its unit, _{unit}"));
                }
                let family = self.described(name)?;
                if std::mem::replace(&mut family.has_unit, true) {
                    return Err(format!("{name} has two # UNIT lines"));
                }
                if !unit.is_empty() && matches!(family.kind, Some(MetricKind::Info | MetricKind::StateSet)) {
                    return Err(format!("{name} can't have a unit: it is an info or a stateset"));
                }
            }
            Line::Sample(sample) => self.sample(sample)?,
        }
        Ok(())
    }

    pub(crate) fn end(mut self) -> Result<(), String> {
        self.close()
    }

    /// The family a metadata line speaks of: the open one, as long as it has no samples, or a new one.
    fn described(&mut self, name: &str) -> Result<&mut Family, String> {
        let is_same = self.family.as_ref().is_some_and(|f| f.name == name);
        if is_same && self.family.as_ref().is_some_and(|f| f.has_samples) {
            return Err(format!("metadata of {name} must come before its samples"));
        }
        if !is_same {
            self.open(name)?;
        }
        Ok(self.family.as_mut().expect("it is the same or was opened above"))
    }

    fn open(&mut self, name: &str) -> Result<(), String> {
        self.close()?;
        if !self.taken.insert(name.to_owned()) {
            return Err(format!("{name} appears in two places, or belongs to another family"));
        }
        self.family = Some(Family {
            name: name.to_owned(),
            kind: None,
            has_help: false,
            has_unit: false,
            has_samples: false,
            done: AHashSet::new(),
            group: None,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        match self.family.take() {
            Some(Family { name, kind, group: Some(group), .. }) => group.end(&name, kind.unwrap_or_default()),
            _ => Ok(()),
        }
    }

    fn sample(&mut self, sample: &Sample<'_>) -> Result<(), String> {
        let belongs = |family: &Family| {
            let suffix = sample.name.strip_prefix(family.name.as_str())?;
            suffixes(family.kind.unwrap_or_default()).contains(&suffix).then_some(suffix.len())
        };
        let suffix_len = match self.family.as_ref().and_then(belongs) {
            Some(length) => length,
            None => {
                self.open(&sample.name)?;
                0
            }
        };
        let suffix = &sample.name[sample.name.len() - suffix_len..];
        let family = self.family.as_mut().expect("the sample's family is open");
        family.has_samples = true;
        let kind = family.kind.unwrap_or_default();
        if let Some(exemplar) = &sample.exemplar {
            let is_allowed = matches!(
                (kind, suffix),
                (MetricKind::Counter, "_total") | (MetricKind::Histogram | MetricKind::GaugeHistogram, "_bucket")
            );
            if !is_allowed {
                return Err(format!(
                    "{} can't have an exemplar: only _total of a counter and _bucket of a histogram can",
                    sample.name
                ));
            }
            if exemplar.label_chars > 128 {
                return Err(format!("the exemplar's labels have {} characters, 128 are allowed", exemplar.label_chars));
            }
        }
        let own = match (kind, suffix) {
            (MetricKind::Histogram | MetricKind::GaugeHistogram, "_bucket") => "le",
            (MetricKind::Summary, "") => "quantile",
            (MetricKind::StateSet, "") => family.name.as_str(),
            _ => "",
        };
        let own_value = sample.labels.iter().find(|(n, _)| !own.is_empty() && n == own).map(|(_, v)| v.as_ref());
        if !own.is_empty() && own_value.is_none() {
            return Err(format!("{} needs the label {own:?}", sample.name));
        }
        let mut labels: Vec<_> = sample
            .labels
            .iter()
            .filter(|(n, _)| own.is_empty() || n != own)
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        labels.sort_unstable();
        if family.group.as_ref().is_none_or(|g| g.labels != labels) {
            if let Some(group) = family.group.take() {
                family.done.insert(group.labels.clone());
                group.end(&family.name, kind)?;
            }
            if family.done.contains(&labels) {
                return Err(format!("samples of one metric of {} must stand together", family.name));
            }
            family.group = Some(Group { labels, time: sample.timestamp, ..Group::default() });
        }
        let group = family.group.as_mut().expect("the sample's group is open");
        group.add(sample, kind, suffix, own_value)
    }
}

impl Group {
    fn add(&mut self, sample: &Sample<'_>, kind: MetricKind, suffix: &str, own: Option<&str>) -> Result<(), String> {
        let value = sample.value;
        let name = &sample.name;
        if self.samples > 0 {
            match (self.time, sample.timestamp) {
                (Some(before), Some(now)) if now < before => return Err(format!("the timestamps of {name} go backwards")),
                (Some(_), None) | (None, Some(_)) => {
                    return Err(format!("either all samples of {name} have a timestamp or none"));
                }
                _ => {}
            }
        }
        if self.time != sample.timestamp {
            // Another point in time: a histogram begins anew.
            let labels = std::mem::take(&mut self.labels);
            *self = Self { labels, time: sample.timestamp, ..Self::default() };
        }
        self.samples += 1;
        let is_count = |v: f64| v >= 0.0 && v.fract() == 0.0 || v == f64::INFINITY;
        match (kind, suffix) {
            (MetricKind::Counter, "_total") | (MetricKind::Summary, "_sum") | (MetricKind::Summary, "") if value < 0.0 => {
                return Err(format!("{name} can't be negative"));
            }
            (MetricKind::Counter, "_total")
            | (MetricKind::Summary | MetricKind::Histogram | MetricKind::GaugeHistogram, "_sum" | "_gsum")
                if value.is_nan() =>
            {
                return Err(format!("{name} can't be NaN"));
            }
            (_, "_count" | "_gcount") | (MetricKind::Histogram | MetricKind::GaugeHistogram, "_bucket") if !is_count(value) => {
                return Err(format!("{name} must be a count"));
            }
            (MetricKind::Info, _) if value != 1.0 => return Err(format!("{name} is an info: its value must be 1")),
            (MetricKind::StateSet, _) if value != 0.0 && value != 1.0 => {
                return Err(format!("{name} is a stateset: its value must be 0 or 1"));
            }
            (MetricKind::Summary, "") => {
                let is_quantile = own.and_then(|q| q.parse::<f64>().ok()).is_some_and(|q| (0.0..=1.0).contains(&q));
                if !is_quantile {
                    return Err(format!("the quantile of {name} must be between 0 and 1"));
                }
            }
            _ => {}
        }
        match suffix {
            "_bucket" => {
                let le = own.and_then(|le| le.parse::<f64>().ok()).filter(|le| !le.is_nan());
                let le = le.ok_or_else(|| format!("the label le of {name} must be a number"))?;
                if let Some((le_before, count_before)) = self.bucket {
                    if le <= le_before {
                        return Err(format!("the buckets of {name} must have rising le"));
                    }
                    if value < count_before {
                        return Err(format!("the buckets of {name} must be cumulative"));
                    }
                }
                self.bucket = Some((le, value));
                self.has_negative_bucket |= le < 0.0;
                if le == f64::INFINITY {
                    self.infinite = Some(value);
                }
            }
            "_count" | "_gcount" => self.count = Some(value),
            "_sum" | "_gsum" => self.sum = Some(value),
            _ => {}
        }
        Ok(())
    }

    fn end(self, name: &str, kind: MetricKind) -> Result<(), String> {
        if !matches!(kind, MetricKind::Histogram | MetricKind::GaugeHistogram) || self.samples == 0 {
            return Ok(());
        }
        let has_parts = self.bucket.is_some() || self.count.is_some() || self.sum.is_some();
        if has_parts && self.infinite.is_none() {
            return Err(format!("{name} has no bucket with le=\"+Inf\""));
        }
        if self.count.is_some() != self.sum.is_some() {
            return Err(format!("{name} must have both a count and a sum, or neither"));
        }
        if self.count.is_some() && self.count != self.infinite {
            return Err(format!("the count of {name} differs from its last bucket"));
        }
        let is_negative = self.sum.is_some_and(|s| s < 0.0);
        if kind == MetricKind::Histogram && (is_negative || (self.has_negative_bucket && self.sum.is_some())) {
            return Err(format!("{name} has negative values: a histogram then can't have a sum"));
        }
        if is_negative && !self.has_negative_bucket {
            return Err(format!("the sum of {name} is negative without a negative bucket"));
        }
        Ok(())
    }
}

fn suffixes(kind: MetricKind) -> &'static [&'static str] {
    match kind {
        MetricKind::Counter => &["_total", "_created"],
        MetricKind::Histogram => &["_bucket", "_count", "_sum", "_created"],
        MetricKind::GaugeHistogram => &["_bucket", "_gcount", "_gsum"],
        MetricKind::Summary => &["", "_count", "_sum", "_created"],
        MetricKind::Info => &["_info"],
        MetricKind::Gauge | MetricKind::StateSet | MetricKind::Unknown => &[""],
    }
}
