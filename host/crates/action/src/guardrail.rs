//! Guardrails: which effects may happen, to what, and how often. Pure; the transaction that writes the ledger
//! row asks them.
//!
//! A deny that matches refuses. If any allow names the effect's kind, the target must match one of these. Every
//! budget that matches must have room, across all plugins and workflows of the tenant.

use model::Timestamp;
use serde::{Deserialize, Serialize};

/// A guardrail's settings, as `orchestrix apply` takes them.
///
/// ```yaml
/// kind: Guardrail
/// metadata: {name: three-restarts-an-hour}
/// spec:
///   effects: ["kubernetes.*"]
///   targets: ["prod/**"]
///   budget: {max: 3, window: 1h}
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", rename_all = "camelCase")]
pub struct Spec {
    /// Patterns over the effect's kind, such as `kubernetes.deployment.*`.
    pub effects: Vec<String>,
    /// Patterns over the effect's target, such as `prod/*/deployment/cart`.
    pub targets: Vec<String>,
    #[serde(flatten)]
    pub rule: Rule,
    /// Shown to whoever is refused.
    pub why: String,
}

/// The settings as they are written. A flattened rule could not refuse unknown keys by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    #[serde(default = "everything")]
    effects: Vec<String>,
    #[serde(default = "everything")]
    targets: Vec<String>,
    deny: Option<bool>,
    allow: Option<bool>,
    budget: Option<Budget>,
    #[serde(default)]
    why: String,
}

impl TryFrom<Written> for Spec {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let rule = match (written.deny, written.allow, written.budget) {
            (Some(deny), None, None) => Rule::Deny(deny),
            (None, Some(allow), None) => Rule::Allow(allow),
            (None, None, Some(budget)) => Rule::Budget(budget),
            _ => return Err("give exactly one of deny: true, allow: true and budget: {max, window}"),
        };
        Ok(Self { effects: written.effects, targets: written.targets, rule, why: written.why })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rule {
    Deny(bool),
    Allow(bool),
    Budget(Budget),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Effects within the window, refused ones not counted.
    pub max: u32,
    /// `30s`, `15m`, `1h`, `7d`.
    pub window: String,
}

/// A guardrail that was checked and compiled.
#[derive(Clone, Debug)]
pub struct Guardrail {
    pub name: String,
    effects: Vec<String>,
    targets: Vec<String>,
    rule: Compiled,
    why: String,
}

#[derive(Clone, Copy, Debug)]
enum Compiled {
    Deny,
    Allow,
    Budget { max: u32, window_ms: i64 },
}

/// Why an effect may not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub guardrail: String,
    /// `guardrail.denied`, `guardrail.not_allowed` or `guardrail.budget`.
    pub code: &'static str,
    pub message: String,
    /// When a budget has room again.
    pub retry_after_ms: Option<u64>,
}

/// A budget that has to have room before the effect may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub guardrail: String,
    pub max: u32,
    pub window_ms: i64,
}

impl Guardrail {
    /// Checks the settings; an error says which field and how to mend it.
    pub fn compile(name: &str, spec: &Spec) -> Result<Self, String> {
        for (field, patterns) in [("effects", &spec.effects), ("targets", &spec.targets)] {
            if patterns.is_empty() || patterns.iter().any(String::is_empty) {
                return Err(format!("{field}: give at least one pattern, none of them empty; \"**\" matches everything"));
            }
        }
        let rule = match &spec.rule {
            Rule::Deny(true) => Compiled::Deny,
            Rule::Allow(true) => Compiled::Allow,
            Rule::Deny(false) | Rule::Allow(false) => {
                return Err("deny and allow can only be true; delete the guardrail to lift it".into());
            }
            Rule::Budget(budget) => Compiled::Budget { max: budget.max, window_ms: duration_ms(&budget.window)? },
        };
        Ok(Self { name: name.into(), effects: spec.effects.clone(), targets: spec.targets.clone(), rule, why: spec.why.clone() })
    }

    fn names_kind(&self, kind: &str) -> bool {
        self.effects.iter().any(|pattern| matches(pattern, kind, '.'))
    }

    fn matches(&self, kind: &str, target: &str) -> bool {
        self.names_kind(kind) && self.targets.iter().any(|pattern| matches(pattern, target, '/'))
    }

    fn because(&self) -> String {
        if self.why.is_empty() { String::new() } else { format!(": {}", self.why) }
    }
}

/// The budgets that an effect must pass, or the rule that forbids it.
pub fn judge(guardrails: &[Guardrail], kind: &str, target: &str) -> Result<Vec<Due>, Refusal> {
    if let Some(deny) = guardrails.iter().find(|g| matches!(g.rule, Compiled::Deny) && g.matches(kind, target)) {
        return Err(Refusal {
            guardrail: deny.name.clone(),
            code: "guardrail.denied",
            message: format!("guardrail {:?} denies {kind} on {target}{}", deny.name, deny.because()),
            retry_after_ms: None,
        });
    }
    let allows: Vec<_> = guardrails.iter().filter(|g| matches!(g.rule, Compiled::Allow) && g.names_kind(kind)).collect();
    if let Some(first) = allows.first()
        && !allows.iter().any(|g| g.matches(kind, target))
    {
        return Err(Refusal {
            guardrail: first.name.clone(),
            code: "guardrail.not_allowed",
            message: format!(
                "guardrail {:?} allows {kind} only on {}, not on {target}{}",
                first.name,
                first.targets.join(", "),
                first.because()
            ),
            retry_after_ms: None,
        });
    }
    Ok(guardrails
        .iter()
        .filter(|g| g.matches(kind, target))
        .filter_map(|g| match g.rule {
            Compiled::Budget { max, window_ms } => Some(Due { guardrail: g.name.clone(), max, window_ms }),
            Compiled::Deny | Compiled::Allow => None,
        })
        .collect())
}

impl Due {
    /// Uses at or before this time no longer count.
    pub fn since(&self, now: Timestamp) -> Timestamp {
        now.plus_millis(-self.window_ms)
    }

    /// Refuses when `used` effects of the window leave no room for one more.
    pub fn check(&self, used: i64) -> Result<(), Refusal> {
        if used < i64::from(self.max) {
            return Ok(());
        }
        Err(Refusal {
            guardrail: self.guardrail.clone(),
            code: "guardrail.budget",
            message: format!(
                "budget {:?} is spent: {used} of {} effects in the last {} s",
                self.guardrail,
                self.max,
                self.window_ms / 1000
            ),
            retry_after_ms: Some(self.window_ms.unsigned_abs()),
        })
    }
}

fn everything() -> Vec<String> {
    vec!["**".into()]
}

fn duration_ms(text: &str) -> Result<i64, String> {
    let mend = || format!("budget.window: {text:?} is no duration; write a whole number and s, m, h or d, such as 1h");
    let unit = text.chars().last().ok_or_else(mend)?;
    let number: i64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| mend())?;
    let unit_ms: i64 = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return Err(mend()),
    };
    number.checked_mul(unit_ms).filter(|ms| *ms > 0).ok_or_else(mend)
}

/// Glob over segments: `*` stands for any text within one segment, `**` for any text at all.
fn matches(pattern: &str, text: &str, separator: char) -> bool {
    // Iterative, with one remembered star of each kind: no input makes it exponential.
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut pi, mut ti) = (0, 0);
    let (mut star, mut double_star): (Option<(usize, usize)>, Option<(usize, usize)>) = (None, None);
    loop {
        if p[pi..].starts_with(&['*', '*']) {
            pi += 2;
            (star, double_star) = (None, Some((pi, ti)));
        } else if p.get(pi) == Some(&'*') {
            pi += 1;
            star = Some((pi, ti));
        } else if ti < t.len() && p.get(pi) == Some(&t[ti]) {
            (pi, ti) = (pi + 1, ti + 1);
        } else if ti == t.len() && pi == p.len() {
            return true;
        } else if let Some((after, from)) = star.filter(|(_, from)| *from < t.len() && t[*from] != separator) {
            (pi, ti) = (after, from + 1);
            star = Some((after, from + 1));
        } else if let Some((after, from)) = double_star.filter(|(_, from)| *from < t.len()) {
            (pi, ti) = (after, from + 1);
            (star, double_star) = (None, Some((after, from + 1)));
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rail(name: &str, spec: serde_json::Value) -> Guardrail {
        Guardrail::compile(name, &serde_json::from_value(spec).unwrap()).unwrap()
    }

    #[test]
    fn a_misspelt_key_no_rule_or_two_are_refused_by_name() {
        for (text, why) in [
            (r#"{"effects":["a"],"bugdet":{"max":1,"window":"1h"}}"#, "unknown field `bugdet`"),
            (r#"{"effects":["a"]}"#, "exactly one"),
            (r#"{"deny":true,"budget":{"max":1,"window":"1h"}}"#, "exactly one"),
            (r#"{"deny":"yes"}"#, "boolean"),
        ] {
            let error = serde_json::from_str::<Spec>(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let spec: Spec = serde_json::from_str(r#"{"budget":{"max":1,"window":"1h"}}"#).unwrap();
        assert_eq!(serde_json::from_value::<Spec>(serde_json::to_value(&spec).unwrap()).unwrap(), spec);
    }

    #[test]
    fn a_star_stays_in_its_segment_and_two_stars_do_not() {
        for (pattern, text, wanted) in [
            ("prod/*/deployment/cart", "prod/shop/deployment/cart", true),
            ("prod/*", "prod/shop/deployment/cart", false),
            ("prod/**", "prod/shop/deployment/cart", true),
            ("**/cart", "prod/shop/deployment/cart", true),
            ("**", "", true),
            ("*", "a/b", false),
            ("prod/c*t", "prod/cart", true),
            ("prod", "prod/x", false),
            ("**/b*d/**", "a/bcd/e", true),
            ("**/b*d/**", "a/b/d/e", false),
        ] {
            assert_eq!(matches(pattern, text, '/'), wanted, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_pattern_made_of_stars_does_not_explode() {
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199), '/'));
        assert!(!matches(&"**b".repeat(60), &"a".repeat(5_000), '/'));
    }

    #[test]
    fn a_deny_wins_over_an_allow() {
        let rails = [
            rail("freeze", json!({ "targets": ["prod/**"], "deny": true, "why": "release week" })),
            rail("k8s", json!({ "effects": ["kubernetes.**"], "allow": true })),
        ];
        let refusal = judge(&rails, "kubernetes.deployment.scale", "prod/shop").unwrap_err();
        assert_eq!(refusal.message, r#"guardrail "freeze" denies kubernetes.deployment.scale on prod/shop: release week"#);
        assert!(judge(&rails, "kubernetes.deployment.scale", "test/shop").is_ok());
    }

    #[test]
    fn an_allow_closes_its_kinds_to_all_other_targets() {
        let rails = [rail("only-shop", json!({ "effects": ["kubernetes.**"], "targets": ["prod/shop/**"], "allow": true }))];
        assert_eq!(judge(&rails, "kubernetes.deployment.scale", "prod/bank/x").unwrap_err().code, "guardrail.not_allowed");
        assert!(judge(&rails, "kubernetes.deployment.scale", "prod/shop/x").is_ok());
        assert!(judge(&rails, "slack.post", "#ops").is_ok(), "a kind that no allow names stays open");
    }

    #[test]
    fn a_budget_counts_its_window_and_says_when_to_come_back() {
        let rails = [rail("three", json!({ "budget": { "max": 3, "window": "1h" } }))];
        let due = judge(&rails, "x", "y").unwrap().remove(0);
        assert_eq!(due.since(Timestamp::from_secs(7200)), Timestamp::from_secs(3600));
        assert!(due.check(2).is_ok());
        let refusal = due.check(3).unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after_ms), ("guardrail.budget", Some(3_600_000)));
    }

    #[test]
    fn what_is_wrong_with_a_guardrail_is_said_with_the_mend() {
        for (spec, wanted) in [
            (json!({ "budget": { "max": 1, "window": "1 hour" } }), "budget.window"),
            (json!({ "budget": { "max": 1, "window": "0s" } }), "budget.window"),
            (json!({ "budget": { "max": 1, "window": "9999999999999999d" } }), "budget.window"),
            (json!({ "effects": [], "deny": true }), "effects: give at least one"),
            (json!({ "deny": false }), "delete the guardrail"),
        ] {
            let spec: Spec = serde_json::from_value(spec).unwrap();
            let error = Guardrail::compile("g", &spec).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(serde_json::from_value::<Spec>(json!({ "effects": ["x"] })).is_err(), "a guardrail without a rule");
    }
}
