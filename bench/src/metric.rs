//! Metrics of hosts, after the manner of TSBS' devops data: series, labels and values.

const REGIONS: [&str; 9] = [
    "us-east-1",
    "us-west-1",
    "us-west-2",
    "eu-west-1",
    "eu-central-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-northeast-1",
    "sa-east-1",
];
const OSES: [&str; 3] = ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"];
const ARCHES: [&str; 2] = ["x64", "x86"];
const TEAMS: [&str; 4] = ["SF", "NYC", "LON", "CHI"];
const ENVS: [&str; 3] = ["production", "staging", "test"];

/// The first ten metrics; further ones are named after their group.
const CPU: [&str; 10] = [
    "cpu_usage_user",
    "cpu_usage_system",
    "cpu_usage_idle",
    "cpu_usage_nice",
    "cpu_usage_iowait",
    "cpu_usage_irq",
    "cpu_usage_softirq",
    "cpu_context_switches_total",
    "cpu_interrupts_total",
    "cpu_seconds_total",
];
const GROUPS: [&str; 9] = ["mem", "disk", "diskio", "net", "kernel", "nginx", "postgres", "redis", "system"];

/// SplitMix64: small, fast and good enough for synthetic data.
#[derive(Clone)]
pub struct Rng(u64);
impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        ((self.next_u64() >> 32) * n) >> 32
    }
}

#[derive(Clone, Copy)]
enum Kind {
    /// Bounded random walk in [0, 100], two decimals.
    Gauge,
    /// Integer counter.
    Counter,
    /// Seconds counter, two decimals.
    SecondsCounter,
}

fn metric_name(m: usize) -> String {
    if m < 10 {
        return CPU[m].to_string();
    }
    let group = GROUPS[(m / 10 - 1) % GROUPS.len()];
    match metric_kind(m) {
        Kind::Gauge => format!("{group}_value_{m}"),
        Kind::Counter => format!("{group}_events_{m}_total"),
        Kind::SecondsCounter => format!("{group}_busy_{m}_seconds_total"),
    }
}

fn metric_kind(m: usize) -> Kind {
    match m % 10 {
        0..=6 => Kind::Gauge,
        7 | 8 => Kind::Counter,
        _ => Kind::SecondsCounter,
    }
}

/// Labels of one series, sorted by name, as remote write asks.
pub fn labels(host: usize, metric: usize, seed: u64) -> Vec<(&'static str, String)> {
    let mut r = Rng::new(seed ^ (host as u64).wrapping_mul(0xA24B_AED4_963E_E407));
    let region = REGIONS[r.below(9) as usize];
    let dc = format!("{region}{}", ["a", "b", "c"][r.below(3) as usize]);
    vec![
        ("__name__", metric_name(metric)),
        ("arch", ARCHES[r.below(2) as usize].to_string()),
        ("datacenter", dc),
        ("hostname", format!("host_{host}")),
        ("os", OSES[r.below(3) as usize].to_string()),
        ("rack", r.below(100).to_string()),
        ("region", region.to_string()),
        ("service", r.below(20).to_string()),
        ("service_environment", ENVS[r.below(3) as usize].to_string()),
        ("service_version", r.below(2).to_string()),
        ("team", TEAMS[r.below(4) as usize].to_string()),
    ]
}

/// The value stream of one series.
#[derive(Clone)]
struct Walk {
    rng: Rng,
    kind: Kind,
    /// Hundredths for gauges and seconds counters, units for counters.
    state: u64,
}

impl Walk {
    fn new(host: usize, metric: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ ((host as u64) << 20) ^ (metric as u64 + 1));
        let kind = metric_kind(metric);
        let state = match kind {
            Kind::Gauge => rng.below(10_001),
            Kind::Counter => rng.below(1_000_000),
            Kind::SecondsCounter => rng.below(10_000_000),
        };
        Walk { rng, kind, state }
    }
    fn next_value(&mut self) -> f64 {
        match self.kind {
            Kind::Gauge => {
                // a step of at most 1.00 either way, held inside [0, 100]
                let step = self.rng.below(201) as i64 - 100;
                self.state = (self.state as i64 + step).clamp(0, 10_000) as u64;
                self.state as f64 / 100.0
            }
            Kind::Counter => {
                self.state += self.rng.below(1000);
                self.state as f64
            }
            Kind::SecondsCounter => {
                self.state += self.rng.below(1001);
                self.state as f64 / 100.0
            }
        }
    }
}

/// A shard of the data set: the hosts `h` with `h % shards == shard`.
pub struct Shard {
    pub series: Vec<(usize, usize)>,
    walks: Vec<Walk>,
    start_ms: i64,
    interval_ms: i64,
    ticks: u64,
    tick: u64,
    at: usize,
    jitter: Option<(Rng, u64)>,
}

pub struct Spec {
    pub hosts: usize,
    pub metrics: usize,
    pub start_ms: i64,
    pub interval_ms: i64,
    pub ticks: u64,
    pub jitter_ms: u64,
    pub seed: u64,
}

impl Spec {
    pub fn shard(&self, shard: usize, shards: usize) -> Shard {
        let mut series = Vec::new();
        for h in (shard..self.hosts).step_by(shards) {
            for m in 0..self.metrics {
                series.push((h, m));
            }
        }
        let walks = series.iter().map(|&(h, m)| Walk::new(h, m, self.seed)).collect();
        let jitter = (self.jitter_ms > 0).then(|| (Rng::new(self.seed ^ shard as u64 ^ 0x5EED), 2 * self.jitter_ms + 1));
        Shard { series, walks, start_ms: self.start_ms, interval_ms: self.interval_ms, ticks: self.ticks, tick: 0, at: 0, jitter }
    }
}

impl Iterator for Shard {
    /// (index into `series`, timestamp in ms, value), all series of a tick before the next tick.
    type Item = (usize, i64, f64);
    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.series.len() {
            self.at = 0;
            self.tick += 1;
        }
        if self.tick >= self.ticks || self.series.is_empty() {
            return None;
        }
        let i = self.at;
        self.at += 1;
        let mut ts = self.start_ms + self.tick as i64 * self.interval_ms;
        if let Some((r, width)) = &mut self.jitter {
            ts += r.below(*width) as i64 - (*width as i64 / 2);
        }
        Some((i, ts, self.walks[i].next_value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Spec = Spec { hosts: 3, metrics: 10, start_ms: 1_000, interval_ms: 10_000, ticks: 2, jitter_ms: 0, seed: 42 };

    #[test]
    fn shards_are_the_whole_and_the_same_each_time() {
        let all = |shards: usize| {
            let mut samples: Vec<_> = (0..shards)
                .flat_map(|shard| {
                    let shard = SPEC.shard(shard, shards);
                    let series = shard.series.clone();
                    shard.map(move |(at, time, value)| (series[at], time, value.to_bits()))
                })
                .collect();
            samples.sort_unstable();
            samples
        };
        assert_eq!(all(1).len(), 60);
        assert_eq!(all(1), all(2));
        assert_eq!(all(2), all(2));
    }

    #[test]
    fn gauges_stay_in_their_range_and_counters_never_fall() {
        let shard = SPEC.shard(0, 1);
        let series = shard.series.clone();
        let mut before = std::collections::HashMap::new();
        for (at, _, value) in shard {
            match metric_kind(series[at].1) {
                Kind::Gauge => assert!((0.0..=100.0).contains(&value)),
                _ => assert!(value >= before.insert(at, value).unwrap_or(0.0)),
            }
        }
    }

    #[test]
    fn labels_are_sorted_by_name() {
        let labels = labels(7, 3, 42);
        assert!(labels.is_sorted_by_key(|(name, _)| *name));
        assert_eq!(labels[3], ("hostname", "host_7".to_owned()));
    }
}
