//! Rows of figures, and how they are printed.

use std::{fmt, time::Duration};

/// One figure: what, how much, and what was wanted.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    what: String,
    figure: String,
    goal: String,
}

impl Row {
    pub fn new(what: impl Into<String>, figure: impl fmt::Display) -> Self {
        Self { what: what.into(), figure: figure.to_string(), goal: String::new() }
    }

    /// Says the goal beside the figure, and whether it is met.
    pub fn goal(mut self, goal: impl fmt::Display, is_met: bool) -> Self {
        self.goal = format!("{goal}: {}", if is_met { "met" } else { "missed" });
        self
    }
}

/// A table in Markdown.
pub fn render(rows: &[Row]) -> String {
    let mut text = String::from("| | figure | goal |\n|---|---|---|\n");
    for row in rows {
        text += &format!("| {} | {} | {} |\n", row.what, row.figure, row.goal);
    }
    text
}

/// Milliseconds with two digits that matter.
pub fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 100.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}

/// A count with its thousands apart.
pub fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && !text.ends_with('-') {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(count(1_234_567.4), "1 234 567");
        assert_eq!(count(999.0), "999");
        assert_eq!(count(-1234.0), "-1 234");
        assert_eq!(ms(Duration::from_micros(1_234)), "1.23 ms");
        assert_eq!(ms(Duration::from_millis(1_234)), "1234 ms");
    }

    #[test]
    fn a_goal_says_whether_it_is_met() {
        let rows = [Row::new("a", 1).goal("under 2", true), Row::new("b", 3).goal("under 2", false), Row::new("c", "x")];
        assert_eq!(
            render(&rows),
            "| | figure | goal |\n|---|---|---|\n| a | 1 | under 2: met |\n| b | 3 | under 2: missed |\n| c | x |  |\n"
        );
    }
}
