//! Grouping, as Alertmanager does it: alerts that share the values of some labels belong together.

use model::{Alert, LabelSet};
use std::collections::BTreeMap;

/// Alerts of one group, in the order they came.
#[derive(Debug)]
pub struct Group<'a> {
    pub labels: LabelSet,
    pub alerts: Vec<&'a Alert>,
}

/// The labels that name an alert's group. A label the alert lacks is absent from the group's too.
pub fn key(labels: &LabelSet, by: &[&str]) -> LabelSet {
    LabelSet::from_pairs(by.iter().filter_map(|name| labels.get(name).map(|value| (*name, value))))
}

pub fn group<'a>(alerts: &'a [Alert], by: &[&str]) -> Vec<Group<'a>> {
    let mut groups: BTreeMap<LabelSet, Vec<&Alert>> = BTreeMap::new();
    for alert in alerts {
        groups.entry(key(&alert.labels, by)).or_default().push(alert);
    }
    groups.into_iter().map(|(labels, alerts)| Group { labels, alerts }).collect()
}
