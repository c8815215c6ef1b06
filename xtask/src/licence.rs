//! Every dependency's licence is one of those in `deny.toml`, which `cargo deny` reads the same way.

use crate::{project::Project, shell};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;

/// Fails with the list of packages whose licence isn't allowed.
pub fn check(project: &Project) -> Result<()> {
    let text = fs::read_to_string(project.root.join("deny.toml")).context("deny.toml can't be read")?;
    let rules = Rules::parse(&text)?;
    let mut command = shell::cargo();
    command.current_dir(&project.root).args(["metadata", "--format-version", "1", "--locked"]);
    let metadata: Value = serde_json::from_slice(&shell::output(&mut command)?)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut refused = Vec::new();
    for package in packages.iter().filter(|package| !package["source"].is_null()) {
        let text = |key: &str| package[key].as_str().unwrap_or("").to_owned();
        if !rules.allow(&text("name"), &text("license"))? {
            refused.push(format!("{} {}: {}", text("name"), text("version"), package["license"]));
        }
    }
    if !refused.is_empty() {
        bail!("licences that deny.toml doesn't allow:\n  {}", refused.join("\n  "));
    }
    eprintln!("licences of {} packages are allowed", packages.len());
    Ok(())
}

#[derive(Debug)]
struct Rules {
    allowed: Vec<String>,
    /// Package and the further licences allowed for it.
    exceptions: Vec<(String, Vec<String>)>,
}

impl Rules {
    fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = toml::from_str(text).context("deny.toml is no TOML")?;
        let licences = table.get("licenses").context("deny.toml has no [licenses]")?;
        let strings = |value: Option<&toml::Value>| -> Vec<String> {
            let list = value.and_then(toml::Value::as_array).cloned().unwrap_or_default();
            list.iter().filter_map(toml::Value::as_str).map(Into::into).collect()
        };
        let exceptions = licences.get("exceptions").and_then(toml::Value::as_array).cloned().unwrap_or_default();
        let exceptions = exceptions.iter().filter_map(|exception| {
            let name = exception.get("crate").or_else(|| exception.get("name"))?.as_str()?;
            Some((name.to_owned(), strings(exception.get("allow"))))
        });
        Ok(Self { allowed: strings(licences.get("allow")), exceptions: exceptions.collect() })
    }

    fn allow(&self, package: &str, expression: &str) -> Result<bool> {
        let further = self.exceptions.iter().filter(|(name, _)| name == package).flat_map(|(_, allowed)| allowed);
        let allowed: Vec<&str> = self.allowed.iter().chain(further).map(String::as_str).collect();
        satisfies(expression, &allowed).with_context(|| format!("the licence of {package}, {expression:?}, can't be read"))
    }
}

/// Evaluates an SPDX expression: OR, AND, WITH, parentheses, and the old `A/B` for OR.
fn satisfies(expression: &str, allowed: &[&str]) -> Option<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let is_allowed = either(&words, &mut at, allowed)?;
    (at == words.len()).then_some(is_allowed)
}

fn either(words: &[&str], at: &mut usize, allowed: &[&str]) -> Option<bool> {
    let mut is_allowed = both(words, at, allowed)?;
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        is_allowed |= both(words, at, allowed)?;
    }
    Some(is_allowed)
}

fn both(words: &[&str], at: &mut usize, allowed: &[&str]) -> Option<bool> {
    let mut is_allowed = one(words, at, allowed)?;
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        is_allowed &= one(words, at, allowed)?;
    }
    Some(is_allowed)
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> Option<bool> {
    let word = *words.get(*at)?;
    *at += 1;
    if word == "(" {
        let is_allowed = either(words, at, allowed)?;
        *at += 1;
        return (words.get(*at - 1) == Some(&")")).then_some(is_allowed);
    }
    if matches!(word, ")" | "OR" | "AND" | "WITH") {
        return None;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = *words.get(*at + 1)?;
        *at += 2;
        let full = format!("{word} WITH {exception}");
        return Some(allowed.contains(&word) || allowed.contains(&full.as_str()));
    }
    Some(allowed.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_weighed_as_spdx_says() {
        let check = |expression| satisfies(expression, &["MIT", "Apache-2.0", "Unicode-3.0"]);
        assert_eq!(check("MIT"), Some(true));
        assert_eq!(check("GPL-3.0"), Some(false));
        assert_eq!(check("GPL-3.0 OR MIT"), Some(true));
        assert_eq!(check("MIT/Apache-2.0"), Some(true));
        assert_eq!(check("(MIT OR Apache-2.0) AND Unicode-3.0"), Some(true));
        assert_eq!(check("(MIT OR GPL-2.0) AND BSD-3-Clause"), Some(false));
        assert_eq!(check("Apache-2.0 WITH LLVM-exception OR GPL-2.0"), Some(true));
    }

    #[test]
    fn broken_expressions_are_no_licence() {
        for expression in ["", "MIT OR", "OR MIT", "(MIT", "MIT)", "MIT Apache-2.0", "MIT WITH", "()", "AND"] {
            assert_eq!(satisfies(expression, &["MIT"]), None, "{expression:?}");
        }
    }

    #[test]
    fn an_exception_holds_for_its_package_only() {
        let rules =
            Rules::parse("[licenses]\nallow = [\"MIT\"]\nexceptions = [{ crate = \"ring\", allow = [\"ISC\"] }]\n").unwrap();
        assert!(rules.allow("ring", "MIT AND ISC").unwrap());
        assert!(!rules.allow("other", "MIT AND ISC").unwrap());
        assert!(rules.allow("other", "").is_err());
        assert!(Rules::parse("[bans]").is_err());
    }
}
