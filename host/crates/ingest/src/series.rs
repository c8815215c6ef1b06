//! Checks of one series' labels, the same for every protocol that brings samples.

use crate::refusal::excerpt;
use model::limits::{LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX};

/// Sorts labels by name, drops empty values (as good as absent), and refuses what no series may have.
/// Names may be any UTF-8 text, as in Prometheus 3.
pub(crate) fn check<S: AsRef<str> + Ord>(labels: &mut Vec<(S, S)>) -> Result<(), String> {
    labels.retain(|(_, value)| !value.as_ref().is_empty());
    if !labels.is_sorted_by(|a, b| a.0 <= b.0) {
        labels.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    }
    if labels.len() > LABELS_MAX {
        return Err(format!("it has {} labels, {LABELS_MAX} are allowed; drop some by relabelling", labels.len()));
    }
    let mut is_named = false;
    for (i, (name, value)) in labels.iter().enumerate() {
        let (name, value) = (name.as_ref(), value.as_ref());
        if name.is_empty() {
            return Err("a label has no name".into());
        }
        if name.len() > LABEL_NAME_BYTES_MAX {
            return Err(format!(
                "the label name {:?} has {} bytes, {LABEL_NAME_BYTES_MAX} are allowed",
                excerpt(name, 40),
                name.len()
            ));
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            return Err(format!(
                "the value of label {:?} has {} bytes, {LABEL_VALUE_BYTES_MAX} are allowed; put long texts into logs",
                excerpt(name, 40),
                value.len()
            ));
        }
        if i > 0 && labels[i - 1].0.as_ref() == name {
            return Err(format!("the label {:?} appears twice", excerpt(name, 40)));
        }
        is_named |= name == "__name__";
    }
    if is_named { Ok(()) } else { Err("it has no __name__ label, the metric's name".into()) }
}

/// A series as shown in a message; long ones are cut.
pub(crate) fn show<S: AsRef<str>>(labels: &[(S, S)]) -> String {
    let name = labels.iter().find(|(n, _)| n.as_ref() == "__name__").map_or("", |(_, v)| v.as_ref());
    let rest: Vec<_> = labels
        .iter()
        .filter(|(n, _)| n.as_ref() != "__name__")
        .take(8)
        .map(|(n, v)| format!("{}={:?}", excerpt(n.as_ref(), 40), excerpt(v.as_ref(), 40)))
        .collect();
    format!("{}{{{}}}", excerpt(name, 80), rest.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(labels: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        let mut labels: Vec<_> = labels.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        check(&mut labels).map(|()| labels)
    }

    #[test]
    fn labels_are_sorted_and_empty_ones_dropped() {
        let labels = checked(&[("b", "1"), ("__name__", "up"), ("a", "")]).unwrap();
        assert_eq!(show(&labels), "up{b=\"1\"}");
    }

    #[test]
    fn a_refusal_names_the_label() {
        for (labels, why) in [
            (vec![("a", "1")], "no __name__"),
            (vec![("__name__", "up"), ("a", "1"), ("a", "2")], "\"a\" appears twice"),
            (vec![("__name__", "up"), ("", "1")], "no name"),
        ] {
            assert!(checked(&labels).unwrap_err().contains(why), "{labels:?}");
        }
        let long = "v".repeat(LABEL_VALUE_BYTES_MAX + 1);
        assert!(checked(&[("__name__", "up"), ("path", &long)]).unwrap_err().contains("\"path\" has 4097 bytes"));
        let names: Vec<_> = (0..LABELS_MAX).map(|n| format!("l{n}")).collect();
        let mut many: Vec<_> = names.iter().map(|n| (n.as_str(), "x")).collect();
        many.push(("__name__", "up"));
        assert!(checked(&many).unwrap_err().contains("65 labels"));
    }
}
