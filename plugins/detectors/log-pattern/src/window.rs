//! Sliding windows in record time, one for each set of labels.

use serde::{Deserialize, Serialize};

/// Sets of labels of one monitor: a captured request id must not eat the plugin's memory.
const KEYS_MAX: usize = 500;
/// A sample line is for people.
const LINE_BYTES_MAX: usize = 512;

#[derive(Clone, Copy)]
pub struct Rule {
    pub count: usize,
    pub window_ns: u64,
    pub quiet_ns: u64,
}

/// A set of labels that began or stopped firing, or is said again.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub labels: Vec<(String, String)>,
    pub is_firing: bool,
    pub count: usize,
    pub line: String,
    /// Of the last match, in record time.
    pub at: u64,
}

#[derive(Default, Serialize, Deserialize)]
pub struct Windows {
    /// The newest time seen.
    now: u64,
    keys: Vec<Window>,
    /// Before this time nothing stops and nothing is forgotten.
    #[serde(skip)]
    next: u64,
    #[serde(skip)]
    dropped: usize,
}

#[derive(Serialize, Deserialize)]
struct Window {
    labels: Vec<(String, String)>,
    /// The newest matches, ascending, at most as many as the rule counts.
    times: Vec<u64>,
    is_firing: bool,
    /// Time at which it was last said that it fires.
    said_at: u64,
    line: String,
}

impl Windows {
    /// Lets time pass: what was quiet long enough stops, and what can't count any more is forgotten.
    pub fn advance(&mut self, to: u64, rule: &Rule, changes: &mut Vec<Change>) {
        self.now = self.now.max(to);
        if self.now < self.next {
            return;
        }
        let (now, mut next) = (self.now, u64::MAX);
        self.keys.retain_mut(|window| {
            if window.is_firing && window.is_quiet(now, rule) {
                window.is_firing = false;
                changes.push(window.change());
            }
            let until = window.last().saturating_add(if window.is_firing { rule.quiet_ns } else { rule.window_ns });
            next = next.min(until);
            until > now
        });
        self.next = next;
    }

    /// One match.
    pub fn count(&mut self, labels: Vec<(String, String)>, at: u64, line: &str, rule: &Rule, changes: &mut Vec<Change>) {
        let index = match self.keys.iter().position(|window| window.labels == labels) {
            Some(index) => index,
            None if self.keys.len() >= KEYS_MAX => {
                self.dropped += 1;
                return;
            }
            None => {
                self.keys.push(Window { labels, times: Vec::new(), is_firing: false, said_at: 0, line: String::new() });
                self.keys.len() - 1
            }
        };
        let window = &mut self.keys[index];
        let place = window.times.partition_point(|time| *time <= at);
        window.times.insert(place, at);
        if window.times.len() > rule.count {
            window.times.remove(0);
        }
        self.next = self.next.min(at.saturating_add(rule.quiet_ns.min(rule.window_ns)));
        line[..line.floor_char_boundary(LINE_BYTES_MAX)].clone_into(&mut window.line);
        let is_enough = window.times.len() == rule.count && window.last() - window.times[0] < rule.window_ns;
        if is_enough && !window.is_firing && !window.is_quiet(self.now, rule) {
            window.is_firing = true;
            window.said_at = self.now;
            changes.push(window.change());
        }
    }

    /// Says again what fires and was not said for `after_ns`.
    pub fn repeat(&mut self, after_ns: u64, changes: &mut Vec<Change>) {
        for window in &mut self.keys {
            if window.is_firing && self.now.saturating_sub(window.said_at) >= after_ns {
                window.said_at = self.now;
                changes.push(window.change());
            }
        }
    }

    /// How many matches found no room, since the last call.
    pub fn take_dropped(&mut self) -> Option<usize> {
        Some(std::mem::take(&mut self.dropped)).filter(|dropped| *dropped > 0)
    }
}

impl Window {
    fn last(&self) -> u64 {
        self.times.last().copied().unwrap_or(0)
    }

    fn is_quiet(&self, now: u64, rule: &Rule) -> bool {
        self.last().saturating_add(rule.quiet_ns) <= now
    }

    fn change(&self) -> Change {
        Change {
            labels: self.labels.clone(),
            is_firing: self.is_firing,
            count: self.times.len(),
            line: self.line.clone(),
            at: self.last(),
        }
    }
}
