//! What is due when, and whose turn it is: a heap of times, and a queue a tenant served in turn.

use model::{MonitorId, TenantId};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
};

/// Why a monitor is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A sample of a metric it reads has arrived.
    Early,
    /// Its interval, at this time in milliseconds.
    Interval(i64),
    /// Somebody asked.
    Asked,
}

#[derive(Debug, Default)]
pub struct Agenda {
    due: BinaryHeap<Reverse<(i64, MonitorId, Why)>>,
    ready: HashMap<TenantId, VecDeque<(MonitorId, Why)>>,
    turns: VecDeque<TenantId>,
    running: HashMap<TenantId, usize>,
}

impl Agenda {
    pub fn at(&mut self, ms: i64, id: MonitorId, why: Why) {
        self.due.push(Reverse((ms, id, why)));
    }

    /// The next entry that is due; entries of removed monitors are for the caller to ignore.
    pub fn pop_due(&mut self, now_ms: i64) -> Option<(MonitorId, Why)> {
        let Reverse((at, ..)) = self.due.peek()?;
        if *at > now_ms {
            return None;
        }
        self.due.pop().map(|Reverse((_, id, why))| (id, why))
    }

    pub fn next_ms(&self) -> Option<i64> {
        self.due.peek().map(|Reverse((at, ..))| *at)
    }

    pub fn enqueue(&mut self, tenant: &TenantId, id: MonitorId, why: Why) {
        let queue = self.ready.entry(tenant.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(tenant.clone());
        }
        queue.push_back((id, why));
    }

    /// The next to run: tenants in turn, none with more than its share running.
    pub fn take(&mut self, running_max: usize, share_max: usize) -> Option<(TenantId, MonitorId, Why)> {
        if self.running.values().sum::<usize>() >= running_max {
            return None;
        }
        for _ in 0..self.turns.len() {
            let tenant = self.turns.pop_front()?;
            if self.running.get(&tenant).is_some_and(|n| *n >= share_max) {
                self.turns.push_back(tenant);
                continue;
            }
            let queue = self.ready.get_mut(&tenant)?;
            let next = queue.pop_front();
            if queue.is_empty() {
                self.ready.remove(&tenant);
            } else {
                self.turns.push_back(tenant.clone());
            }
            if let Some((id, why)) = next {
                *self.running.entry(tenant.clone()).or_default() += 1;
                return Some((tenant, id, why));
            }
        }
        None
    }

    pub fn done(&mut self, tenant: &TenantId) {
        if let Some(n) = self.running.get_mut(tenant) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                self.running.remove(tenant);
            }
        }
    }
}

/// The first time after `now_ms` on a monitor's grid: multiples of its interval, shifted by an offset that
/// its id fixes, so that monitors don't all run at once and each runs at the same times on every host.
pub fn next_due(now_ms: i64, every_ms: i64, id: MonitorId) -> i64 {
    let jitter = (id.as_uuid().as_u128() % every_ms.unsigned_abs() as u128) as i64;
    (now_ms - jitter).div_euclid(every_ms).saturating_add(1) * every_ms + jitter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> MonitorId {
        format!("00000000-0000-0000-0000-{n:012x}").parse().unwrap()
    }

    #[test]
    fn a_tenant_with_a_full_queue_leaves_room_for_others() {
        let (big, small) = (TenantId::new("big").unwrap(), TenantId::new("small").unwrap());
        let mut agenda = Agenda::default();
        for n in 0..100 {
            agenda.enqueue(&big, id(n), Why::Early);
        }
        agenda.enqueue(&small, id(200), Why::Early);
        let taken: Vec<_> = std::iter::from_fn(|| agenda.take(4, 2)).map(|(t, ..)| t.to_string()).collect();
        assert_eq!(taken, ["big", "small", "big"]);
        agenda.done(&big);
        assert_eq!(agenda.take(4, 2).map(|(t, i, _)| (t, i)), Some((big, id(2))));
    }

    #[test]
    fn intervals_are_aligned_and_shifted_by_the_id() {
        assert_eq!(next_due(0, 1000, id(250)), 250);
        assert_eq!(next_due(250, 1000, id(250)), 1250);
        assert_eq!(next_due(1249, 1000, id(250)), 1250);
    }

    #[test]
    fn the_earliest_comes_first_and_nothing_before_its_time() {
        let mut agenda = Agenda::default();
        agenda.at(20, id(2), Why::Early);
        agenda.at(10, id(1), Why::Interval(10));
        assert_eq!((agenda.pop_due(5), agenda.next_ms()), (None, Some(10)));
        assert_eq!(agenda.pop_due(20), Some((id(1), Why::Interval(10))));
        assert_eq!(agenda.pop_due(20), Some((id(2), Why::Early)));
    }
}
