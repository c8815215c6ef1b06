//! The Prometheus text format 0.0.4 and OpenMetrics 1.0: one line at a time, nothing copied but escapes.
//!
//! Two dialects share the line parser. Text 0.0.4 forgives spaces, comments and blank lines; OpenMetrics
//! wants single spaces, a closing `# EOF`, and timestamps in seconds. The rules that need more than one
//! line (families, histograms, counters) live in `openmetrics` and are checked only where asked for: a
//! scrape takes what Prometheus takes.

use crate::openmetrics;
use model::{MetricKind, limits};
use std::borrow::Cow;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`. A bad line is reported and the rest is read.
    Text,
    /// `application/openmetrics-text`, its grammar and the closing `# EOF`. The first bad line ends it.
    OpenMetrics,
    /// The same, with every rule of the specification on families, types and values.
    OpenMetricsStrict,
}

/// One sample line. Label names and values are unescaped; the order is the sender's.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    pub line: usize,
    pub name: Cow<'a, str>,
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub value: f64,
    pub timestamp_ms: Option<i64>,
    pub(crate) exemplar: Option<Exemplar>,
    /// As written, because OpenMetrics compares times finer than a millisecond.
    pub(crate) timestamp: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exemplar {
    pub label_chars: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Line<'a> {
    Type { name: Cow<'a, str>, kind: MetricKind },
    Help { name: Cow<'a, str>, help: String },
    Unit { name: Cow<'a, str>, unit: &'a str },
    Sample(Sample<'a>),
}

/// What is wrong with which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct LineError {
    pub line: usize,
    pub reason: String,
}

/// Reads a whole exposition. `on_line` gets each good line, and each bad one of [`Format::Text`];
/// in OpenMetrics the first bad line is the result, and what `on_line` got before is to be thrown away.
pub fn parse<'a>(text: &'a str, format: Format, mut on_line: impl FnMut(Result<Line<'a>, LineError>)) -> Result<(), LineError> {
    let is_open = format != Format::Text;
    let mut rules = (format == Format::OpenMetricsStrict).then(openmetrics::Rules::default);
    let mut line_number = 0;
    let mut rest = text;
    let mut is_ended = false;
    while !rest.is_empty() {
        line_number += 1;
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        rest = after;
        let fail = |reason: String| LineError { line: line_number, reason };
        let parsed = if is_open {
            if is_ended {
                return Err(fail("nothing may follow \"# EOF\"".into()));
            }
            if line == "# EOF" {
                is_ended = true;
                continue;
            }
            open_line(line, line_number)
        } else {
            text_line(line.strip_suffix('\r').unwrap_or(line), line_number)
        };
        let checked = parsed.and_then(|parsed| {
            if let (Some(rules), Some(parsed)) = (&mut rules, &parsed) {
                rules.line(parsed)?;
            }
            Ok(parsed)
        });
        match checked {
            Ok(Some(parsed)) => on_line(Ok(parsed)),
            Ok(None) => {}
            Err(reason) if is_open => return Err(fail(reason)),
            Err(reason) => on_line(Err(fail(reason))),
        }
    }
    let at_end = |reason: &str| LineError { line: line_number, reason: reason.into() };
    if is_open && !is_ended {
        return Err(at_end("\"# EOF\" is missing: the text was cut off"));
    }
    match rules {
        Some(rules) => rules.end().map_err(|reason| at_end(&reason)),
        None => Ok(()),
    }
}

fn text_line(line: &str, number: usize) -> Result<Option<Line<'_>>, String> {
    let line = line.trim_matches([' ', '\t']);
    if line.is_empty() {
        return Ok(None);
    }
    let Some(comment) = line.strip_prefix('#') else { return sample(line, number, false).map(|s| Some(Line::Sample(s))) };
    let comment = comment.trim_start_matches([' ', '\t']);
    let (word, rest) = comment.split_once([' ', '\t']).unwrap_or((comment, ""));
    let rest = rest.trim_start_matches([' ', '\t']);
    match word {
        "TYPE" => {
            let (name, rest) = metadata_name(rest)?;
            let kind = rest.trim();
            Ok(Some(Line::Type { name, kind: text_kind(kind)? }))
        }
        "HELP" => {
            let (name, rest) = metadata_name(rest)?;
            Ok(Some(Line::Help { name, help: unescape_help(rest.trim_start_matches([' ', '\t'])) }))
        }
        _ => Ok(None),
    }
}

fn open_line(line: &str, number: usize) -> Result<Option<Line<'_>>, String> {
    if line.is_empty() {
        return Err("blank lines are not allowed in OpenMetrics".into());
    }
    if !line.starts_with('#') {
        return sample(line, number, true).map(|s| Some(Line::Sample(s)));
    }
    let metadata =
        |keyword: &str| line.strip_prefix("# ").and_then(|l| l.strip_prefix(keyword)).and_then(|l| l.strip_prefix(' '));
    let named = |rest| -> Result<_, String> {
        let (name, rest) = metadata_name(rest)?;
        let rest: &str = rest.strip_prefix(' ').ok_or("a space must follow the metric's name")?;
        Ok((name, rest))
    };
    if let Some(rest) = metadata("TYPE") {
        let (name, kind) = named(rest)?;
        Ok(Some(Line::Type { name, kind: open_kind(kind)? }))
    } else if let Some(rest) = metadata("HELP") {
        let (name, help) = named(rest)?;
        Ok(Some(Line::Help { name, help: unescape_help(help) }))
    } else if let Some(rest) = metadata("UNIT") {
        let (name, unit) = named(rest)?;
        if unit.bytes().any(|b| !b.is_ascii_alphanumeric() && b != b'_' && b != b':') {
            return Err(format!("{unit:?} is no unit"));
        }
        Ok(Some(Line::Unit { name, unit }))
    } else {
        Err("only # TYPE, # HELP, # UNIT and # EOF lines are allowed in OpenMetrics".into())
    }
}

/// The name of a metadata line, quoted or not, and what follows it.
fn metadata_name(rest: &str) -> Result<(Cow<'_, str>, &str), String> {
    if rest.starts_with('"') {
        return quoted(rest);
    }
    let end = rest.find([' ', '\t']).unwrap_or(rest.len());
    let name = &rest[..end];
    check_name(name)?;
    Ok((name.into(), &rest[end..]))
}

fn check_name(name: &str) -> Result<(), String> {
    let is_good = |(i, b): (usize, u8)| b.is_ascii_alphabetic() || b == b'_' || b == b':' || (i > 0 && b.is_ascii_digit());
    if !name.is_empty() && name.bytes().enumerate().all(is_good) {
        Ok(())
    } else {
        Err(format!("{:?} is no metric name", crate::refusal::excerpt(name, 60)))
    }
}

fn text_kind(kind: &str) -> Result<MetricKind, String> {
    match kind {
        "counter" => Ok(MetricKind::Counter),
        "gauge" => Ok(MetricKind::Gauge),
        "histogram" => Ok(MetricKind::Histogram),
        "summary" => Ok(MetricKind::Summary),
        "untyped" | "unknown" => Ok(MetricKind::Unknown),
        other => Err(format!("{:?} is none of counter, gauge, histogram, summary, untyped", crate::refusal::excerpt(other, 40))),
    }
}

fn open_kind(kind: &str) -> Result<MetricKind, String> {
    match kind {
        "counter" => Ok(MetricKind::Counter),
        "gauge" => Ok(MetricKind::Gauge),
        "histogram" => Ok(MetricKind::Histogram),
        "gaugehistogram" => Ok(MetricKind::GaugeHistogram),
        "summary" => Ok(MetricKind::Summary),
        "info" => Ok(MetricKind::Info),
        "stateset" => Ok(MetricKind::StateSet),
        "unknown" => Ok(MetricKind::Unknown),
        other => Err(format!("{:?} is no OpenMetrics type", crate::refusal::excerpt(other, 40))),
    }
}

fn unescape_help(help: &str) -> String {
    let mut out = String::with_capacity(help.len());
    let mut chars = help.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('\\')) => out.push('\\'),
            ('\\', Some('"')) => out.push('"'),
            _ => {
                out.push(c);
                continue;
            }
        }
        chars.next();
    }
    out
}

fn sample(line: &str, number: usize, is_open: bool) -> Result<Sample<'_>, String> {
    let name_end = line.find(['{', ' ', '\t']).unwrap_or(line.len());
    let mut name: Cow<'_, str> = line[..name_end].into();
    let mut rest = &line[name_end..];
    let mut labels = Vec::new();
    if !is_open {
        rest = rest.trim_start_matches([' ', '\t']);
    }
    if let Some(inside) = rest.strip_prefix('{') {
        let (quoted_name, after) = label_block(inside, is_open, &mut labels)?;
        rest = after;
        match quoted_name {
            Some(quoted_name) if name.is_empty() => name = quoted_name,
            Some(_) => return Err("the metric has two names".into()),
            None => check_name(&name)?,
        }
    } else {
        check_name(&name)?;
    }
    let (value, rest) = number_after_space(rest, is_open, "a value")?;
    let value = float(value).ok_or_else(|| format!("{:?} is no value", crate::refusal::excerpt(value, 40)))?;
    let mut sample = Sample { line: number, name, labels, value, timestamp_ms: None, exemplar: None, timestamp: None };
    let mut rest = rest;
    if !is_open {
        rest = rest.trim_start_matches([' ', '\t']);
        if !rest.is_empty() {
            let t: i64 =
                rest.parse().map_err(|_| format!("{:?} is no timestamp in milliseconds", crate::refusal::excerpt(rest, 40)))?;
            sample.timestamp_ms = Some(t);
        }
        return Ok(sample);
    }
    if !rest.is_empty() && !rest.starts_with(" # ") {
        let (text, after) = number_after_space(rest, true, "a timestamp")?;
        let seconds = seconds(text)?;
        sample.timestamp = Some(seconds);
        sample.timestamp_ms = Some((seconds * 1e3).round() as i64);
        rest = after;
    }
    if let Some(after) = rest.strip_prefix(" # {") {
        let mut exemplar_labels = Vec::new();
        let (quoted_name, after) = label_block(after, true, &mut exemplar_labels)?;
        if quoted_name.is_some() {
            return Err("an exemplar has no name".into());
        }
        let (value, after) = number_after_space(after, true, "the exemplar's value")?;
        float(value).ok_or_else(|| format!("{:?} is no exemplar value", crate::refusal::excerpt(value, 40)))?;
        rest = after;
        if !rest.is_empty() {
            let (text, after) = number_after_space(rest, true, "the exemplar's timestamp")?;
            seconds(text)?;
            rest = after;
        }
        let label_chars = exemplar_labels.iter().map(|(n, v)| n.chars().count() + v.chars().count()).sum();
        sample.exemplar = Some(Exemplar { label_chars });
    }
    if rest.is_empty() { Ok(sample) } else { Err(format!("{:?} is left over", crate::refusal::excerpt(rest, 40))) }
}

fn number_after_space<'a>(rest: &'a str, is_open: bool, what: &str) -> Result<(&'a str, &'a str), String> {
    let missing = || format!("{what} is missing, or the space before it");
    let rest = if is_open {
        rest.strip_prefix(' ').ok_or_else(missing)?
    } else {
        // After a closing brace the space may be left out in text 0.0.4.
        rest.trim_start_matches([' ', '\t'])
    };
    let end = rest.find([' ', '\t']).unwrap_or(rest.len());
    if end == 0 { Err(missing()) } else { Ok(rest.split_at(end)) }
}

fn seconds(text: &str) -> Result<f64, String> {
    float(text)
        .filter(|s| s.is_finite())
        .ok_or_else(|| format!("{:?} is no timestamp in seconds", crate::refusal::excerpt(text, 40)))
}

/// A float as both formats write it. Rust takes the same spellings but for hexadecimal and `_`, which neither allows.
fn float(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// Labels after the opening brace: answers a quoted metric name, if there was one, and what follows the brace.
fn label_block<'a>(
    mut rest: &'a str,
    is_open: bool,
    labels: &mut Vec<(Cow<'a, str>, Cow<'a, str>)>,
) -> Result<(Option<Cow<'a, str>>, &'a str), String> {
    let skip = |rest: &'a str| if is_open { rest } else { rest.trim_start_matches([' ', '\t']) };
    let mut metric = None;
    let mut is_first = true;
    loop {
        rest = skip(rest);
        if let Some(after) = rest.strip_prefix('}') {
            if !is_first && is_open {
                return Err("a comma before the closing brace is not allowed in OpenMetrics".into());
            }
            return Ok((metric, after));
        }
        is_first = false;
        let name: Cow<'a, str>;
        if rest.starts_with('"') {
            let (text, after) = quoted(rest)?;
            rest = skip(after);
            if rest.starts_with(['}', ',']) {
                if metric.replace(text).is_some() {
                    return Err("the metric has two names".into());
                }
                match rest.strip_prefix(',') {
                    Some(after) => rest = after,
                    None => return Ok((metric, &rest[1..])),
                }
                continue;
            }
            name = text;
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let bare = &rest[..end];
            if bare.is_empty() || bare.as_bytes()[0].is_ascii_digit() {
                return Err(format!("{:?} begins no label", crate::refusal::excerpt(rest, 40)));
            }
            name = bare.into();
            rest = skip(&rest[end..]);
        }
        rest = rest
            .strip_prefix('=')
            .ok_or_else(|| format!("\"=\" is missing after label {:?}", crate::refusal::excerpt(&name, 40)))?;
        rest = skip(rest);
        if !rest.starts_with('"') {
            return Err(format!("the value of label {:?} must be in double quotes", crate::refusal::excerpt(&name, 40)));
        }
        let (value, after) = quoted(rest)?;
        if labels.iter().any(|(n, _)| *n == name) {
            return Err(format!("the label {:?} appears twice", crate::refusal::excerpt(&name, 40)));
        }
        // Looking for duplicates is quadratic: no line may have so many that it matters.
        if labels.len() > limits::LABELS_MAX * 4 {
            return Err(format!("it has over {} labels, {} are allowed", labels.len(), limits::LABELS_MAX));
        }
        labels.push((name, value));
        rest = skip(after);
        if let Some(after) = rest.strip_prefix(',') {
            rest = after;
        } else if let Some(after) = rest.strip_prefix('}') {
            return Ok((metric, after));
        } else {
            return Err("a comma or the closing brace is missing after a label".into());
        }
    }
}

/// A text in double quotes with `\\`, `\"` and `\n` unescaped; any other backslash stands for itself.
fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), String> {
    let body = &text[1..];
    let mut unescaped: Option<String> = None;
    let mut chars = body.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => {
                let rest = &body[i + 1..];
                return Ok((unescaped.map_or(Cow::Borrowed(&body[..i]), Cow::Owned), rest));
            }
            '\\' => {
                let out = unescaped.get_or_insert_with(|| body[..i].to_owned());
                match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, c @ ('\\' | '"'))) => out.push(c),
                    Some((_, c)) => out.extend(['\\', c]),
                    None => break,
                }
            }
            c => {
                if let Some(out) = &mut unescaped {
                    out.push(c);
                }
            }
        }
    }
    Err("a closing quote is missing".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    fn read(text: &str, format: Format) -> String {
        let mut out = String::new();
        let result = parse(text, format, |line| {
            match line {
                Ok(Line::Type { name, kind }) => writeln!(out, "type {name} {kind:?}"),
                Ok(Line::Help { name, help }) => writeln!(out, "help {name} {help:?}"),
                Ok(Line::Unit { name, unit }) => writeln!(out, "unit {name} {unit}"),
                Ok(Line::Sample(s)) => {
                    writeln!(out, "{} {:?} {} {:?}", s.name, s.labels, s.value, s.timestamp_ms)
                }
                Err(error) => writeln!(out, "refused {error}"),
            }
            .unwrap();
        });
        if let Err(error) = result {
            writeln!(out, "failed {error}").unwrap();
        }
        out
    }

    #[test]
    fn the_text_format_forgives_spaces_and_reads_escapes() {
        let text = "# HELP http_requests_total The \\\\ total\\nof requests.\n# TYPE http_requests_total counter\n\
                    http_requests_total{method=\"post\", code=\"200\" , } 1027 1395066363000\n\n\
                    # a comment\nmsdos_file{path=\"C:\\\\DIR\\\\\",error=\"a\\n\\\"b\\\"\"} 1.4e9\n  weird\t+Inf  \nnan NaN\r\n\
                    {\"my.metric\",a=\"b\"} 2\n";
        expect_test::expect![[r#"
            help http_requests_total "The \\ total\nof requests."
            type http_requests_total Counter
            http_requests_total [("method", "post"), ("code", "200")] 1027 Some(1395066363000)
            msdos_file [("path", "C:\\DIR\\"), ("error", "a\n\"b\"")] 1400000000 None
            weird [] inf None
            nan [] NaN None
            my.metric [("a", "b")] 2 None
        "#]]
        .assert_eq(&read(text, Format::Text));
    }

    #[test]
    fn a_bad_line_of_text_is_named_and_the_rest_is_kept() {
        expect_test::expect![[r#"
            a [] 1 None
            refused line 2: "x" is no value
            refused line 3: a closing quote is missing
            refused line 4: "9b" is no metric name
            refused line 5: "1.5" is no timestamp in milliseconds
            refused line 6: the label "l" appears twice
            refused line 7: a value is missing, or the space before it
            z [] 2 None
        "#]]
        .assert_eq(&read("a 1\nb x\nc{l=\"v} 1\n9b 1\nd 1 1.5\ne{l=\"1\",l=\"2\"} 1\nf\nz 2", Format::Text));
    }

    #[test]
    fn openmetrics_times_are_seconds_and_the_end_must_be_there() {
        assert_eq!(read("a 1 1.5\n# EOF\n", Format::OpenMetrics), "a [] 1 Some(1500)\n");
        assert!(read("a 1 1.5\n", Format::OpenMetrics).contains("failed line 1: \"# EOF\" is missing"));
        assert!(read("# EOF\na 1\n", Format::OpenMetrics).contains("failed line 2"));
    }

    #[test]
    fn a_text_cut_anywhere_is_never_taken_for_a_whole_openmetrics_text() {
        let text = "# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n# HELP a_seconds h\n\
                    a_seconds_bucket{le=\"1\"} 1 # {id=\"x\"} 0.5 1\na_seconds_bucket{le=\"+Inf\"} 2\na_seconds_count 2\na_seconds_sum 3\n# EOF";
        assert_eq!(parse(text, Format::OpenMetricsStrict, |_| {}), Ok(()));
        for end in 0..text.len() {
            assert!(parse(&text[..end], Format::OpenMetricsStrict, |_| {}).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn the_cases_of_the_openmetrics_project_are_judged_as_it_judges_them() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data/openmetrics");
        let Ok(cases) = std::fs::read_dir(&folder) else {
            println!("the OpenMetrics cases are missing at {}: nothing was checked", folder.display());
            return;
        };
        // Cases judged otherwise; may only become fewer.
        const SKIPPED: &[&str] = &[];
        let (mut checked, mut wrong) = (0, Vec::new());
        for case in cases {
            let case = case.unwrap().path();
            let name = case.file_name().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read(case.join("metrics")).unwrap();
            let verdict: serde_json::Value = serde_json::from_slice(&std::fs::read(case.join("test.json")).unwrap()).unwrap();
            let result = std::str::from_utf8(&text)
                .map_err(|e| e.to_string())
                .and_then(|text| parse(text, Format::OpenMetricsStrict, |_| {}).map_err(|e| e.to_string()));
            checked += 1;
            if Some(result.is_ok()) != verdict["shouldParse"].as_bool() {
                wrong.push((name, result));
            }
        }
        wrong.sort();
        let unexpected: Vec<_> = wrong.iter().filter(|(name, _)| !SKIPPED.contains(&name.as_str())).collect();
        assert!(unexpected.is_empty(), "{} of {checked} judged wrongly: {unexpected:#?}", unexpected.len());
        assert!(
            SKIPPED.iter().all(|s| wrong.iter().any(|(name, _)| name == s)),
            "a skipped case is right now: take it off the list"
        );
        assert!(checked > 0, "the folder of cases is empty");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z_#\\{\\}\"\\\\=,. 0-9\n\t\u{e9}EOFTYPENaN+-]{0,200}") {
            for format in [Format::Text, Format::OpenMetrics, Format::OpenMetricsStrict] {
                let _ = parse(&text, format, |_| {});
            }
        }
    }
}
