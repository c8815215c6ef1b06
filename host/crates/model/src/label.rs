//! Label sets, their fingerprints, and the matchers that select by them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Labels sorted by name, each name once. An empty value is the same as an absent label,
/// as in Prometheus, and is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelSet(Vec<(String, String)>);

impl LabelSet {
    /// Of a repeated name the last value counts.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut set = Self::default();
        for (name, value) in pairs {
            set.set(name, value);
        }
        set
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok().map(|i| self.0[i].1.as_str())
    }

    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.0.binary_search_by(|(n, _)| n.cmp(&name)) {
            Ok(i) if value.is_empty() => drop(self.0.remove(i)),
            Ok(i) => self.0[i].1 = value,
            Err(_) if value.is_empty() => {}
            Err(i) => self.0.insert(i, (name, value)),
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| n != name);
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// `__name__`, the metric's name.
    pub fn metric_name(&self) -> Option<&str> {
        self.get("__name__")
    }

    /// FNV-1a 64 over the sorted pairs with separators that UTF-8 can't hold: stable across
    /// versions and machines, because it is stored and shown.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut eat = |bytes: &[u8], end: u8| {
            for b in bytes.iter().chain(std::iter::once(&end)) {
                hash = (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        for (name, value) in &self.0 {
            eat(name.as_bytes(), 0xff);
            eat(value.as_bytes(), 0xfe);
        }
        Fingerprint(hash)
    }
}

impl fmt::Display for LabelSet {
    /// As Prometheus writes it: `name{a="b", c="d"}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.metric_name().unwrap_or(""))?;
        let mut sep = "{";
        for (name, value) in self.iter().filter(|(n, _)| *n != "__name__") {
            write!(f, "{sep}{name}={value:?}")?;
            sep = ", ";
        }
        match sep {
            "{" if self.metric_name().is_some() => Ok(()),
            "{" => f.write_str("{}"),
            _ => f.write_str("}"),
        }
    }
}

impl Serialize for LabelSet {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.iter())
    }
}
impl<'de> Deserialize<'de> for LabelSet {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self::from_pairs(std::collections::BTreeMap::<String, String>::deserialize(d)?))
    }
}

/// Identity of a label set, shown as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
impl std::str::FromStr for Fingerprint {
    type Err = std::num::ParseIntError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(s, 16).map(Self)
    }
}
impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MatchOp {
    #[serde(rename = "=")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = "=~")]
    Regex,
    #[serde(rename = "!~")]
    NotRegex,
}

impl MatchOp {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// A matcher as text; whoever evaluates it compiles the regular expression, anchored at both
/// ends with `^(?s:…)$` as Prometheus 3 does. An absent label has the empty value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Matcher {
    pub name: String,
    pub op: MatchOp,
    pub value: String,
}

impl Matcher {
    pub fn new(name: impl Into<String>, op: MatchOp, value: impl Into<String>) -> Self {
        Self { name: name.into(), op, value: value.into() }
    }
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::new(name, MatchOp::Equal, value)
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.op.as_str(), self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_unique_and_never_empty() {
        let set = LabelSet::from_pairs([("b", "1"), ("a", "x"), ("b", "2"), ("c", "")]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [("a", "x"), ("b", "2")]);
        assert_eq!(set.get("c"), None);
    }

    #[test]
    fn a_fingerprint_does_not_depend_on_order_but_on_where_a_name_ends() {
        let a = LabelSet::from_pairs([("a", "1"), ("b", "2")]);
        assert_eq!(a.fingerprint(), LabelSet::from_pairs([("b", "2"), ("a", "1")]).fingerprint());
        assert_ne!(a.fingerprint(), LabelSet::from_pairs([("a", "1b"), ("", "2")]).fingerprint());
        assert_eq!(a.fingerprint().to_string().parse(), Ok(a.fingerprint()));
    }

    #[test]
    fn labels_print_as_prometheus_writes_them() {
        let set = LabelSet::from_pairs([("__name__", "up"), ("job", "a\"b")]);
        assert_eq!(set.to_string(), r#"up{job="a\"b"}"#);
        assert_eq!(LabelSet::default().to_string(), "{}");
    }
}
