//! Eight PromQL queries over the data of [`metric`](crate::metric), from one series to all of them.

use crate::{
    http::{Client, urlencode},
    stats,
};
use std::{
    io,
    time::{Duration, Instant},
};

pub struct Question {
    pub name: &'static str,
    pub query: &'static str,
    /// Length and step in seconds; absent is one moment.
    pub range: Option<(i64, i64)>,
}

const fn range(name: &'static str, query: &'static str, length: i64, step: i64) -> Question {
    Question { name, query, range: Some((length, step)) }
}

const fn instant(name: &'static str, query: &'static str) -> Question {
    Question { name, query, range: None }
}

pub const QUESTIONS: [Question; 8] = [
    range("one_series_1h", r#"cpu_usage_user{hostname="host_7"}"#, 3600, 15),
    range("rate_100_series_1h_15s", r#"rate(cpu_seconds_total{hostname=~"host_1.."}[5m])"#, 3600, 15),
    range("avg_by_region_6h_60s", "avg by (region) (cpu_usage_user)", 21_600, 60),
    instant("topk_max_over_time_1h", "topk(5, max_over_time(cpu_usage_user[1h]))"),
    instant("regex_matcher_instant", r#"sum by (team) (cpu_usage_user{hostname=~".*[37]$",datacenter=~"us-.*"})"#),
    range("regex_matcher_1h_60s", r#"sum by (team) (cpu_usage_user{hostname=~".*[37]$",datacenter=~"us-.*"})"#, 3600, 60),
    instant("count_all_series", r#"count({__name__=~".+"})"#),
    range("sum_rate_1000_series_6h_60s", "sum by (region) (rate(cpu_context_switches_total[5m]))", 21_600, 60),
];

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub bytes: usize,
    /// The first, which may read from disk.
    pub first: Duration,
    /// The others.
    pub latencies: Vec<Duration>,
    /// Of the server per query, when its pid is known.
    pub cpu: Option<Duration>,
}

impl Question {
    /// Asks once and then `runs` times more.
    pub fn ask(&self, client: &mut Client, end_s: i64, runs: u32, pid: Option<u32>) -> io::Result<Answer> {
        let path = self.path(end_s);
        let mut ask = || -> io::Result<(Duration, u16, usize)> {
            let begin = Instant::now();
            let (status, body) = client.send("GET", &path, "", &[])?;
            Ok((begin.elapsed(), status, body.len()))
        };
        let (first, mut status, mut bytes) = ask()?;
        let cpu_before = pid.and_then(stats::cpu_seconds);
        let mut latencies = Vec::with_capacity(runs as usize);
        for _ in 0..runs {
            let (took, now_status, now_bytes) = ask()?;
            (status, bytes) = (now_status, now_bytes);
            latencies.push(took);
        }
        let cpu = cpu_before
            .zip(pid.and_then(stats::cpu_seconds))
            .map(|(before, after)| Duration::from_secs_f64((after - before).max(0.0) / f64::from(runs.max(1))));
        Ok(Answer { status, bytes, first, latencies, cpu })
    }

    fn path(&self, end_s: i64) -> String {
        let query = urlencode(self.query);
        match self.range {
            // `nocache` keeps peers from answering out of a cache of results.
            Some((length, step)) => {
                format!("/api/v1/query_range?query={query}&start={}&end={end_s}&step={step}&nocache=1", end_s - length)
            }
            None => format!("/api/v1/query?query={query}&time={end_s}&nocache=1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_at_the_end_and_an_instant_has_no_step() {
        assert_eq!(
            QUESTIONS[0].path(10_000),
            "/api/v1/query_range?query=cpu_usage_user%7Bhostname%3D%22host_7%22%7D&start=6400&end=10000&step=15&nocache=1"
        );
        assert!(QUESTIONS[3].path(10_000).ends_with("&time=10000&nocache=1"));
    }
}
