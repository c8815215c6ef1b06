//! OpenTelemetry's names as Prometheus has them, with suffixes for unit and type: what the collector's and
//! Prometheus' own translation make of them, so that dashboards written for those work here.

/// The metric's Prometheus name: `http.server.duration` in `s` becomes `http_server_duration_seconds`.
pub(super) fn metric(name: &str, unit: &str, is_counter: bool, is_gauge: bool) -> String {
    let mut tokens: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric() && c != ':').filter(|t| !t.is_empty()).collect();
    let (main, per) = match unit.split_once('/') {
        Some((main, per)) => (main.trim(), per.trim()),
        None => (unit.trim(), ""),
    };
    let main = unit_name(main);
    let per = unit_name(per);
    let per = if per.is_empty() { String::new() } else { singular(&per) };
    if is_counter {
        tokens.retain(|t| *t != "total");
    }
    let is_ratio = is_gauge && unit == "1";
    if is_ratio {
        tokens.retain(|t| *t != "ratio");
    }
    let mut out: Vec<&str> = tokens;
    let per_words = ["per", per.as_str()];
    for token in main.split('_').filter(|t| !t.is_empty()) {
        if !out.contains(&token) {
            out.push(token);
        }
    }
    if !per.is_empty() && !out.contains(&per.as_str()) {
        out.extend(per_words);
    }
    if is_counter {
        out.push("total");
    }
    if is_ratio {
        out.push("ratio");
    }
    let name = out.join("_");
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// A label's name: anything but letters, digits and `_` becomes `_`; a leading digit gets `key_` before it.
pub(super) fn label(name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("key_{name}") } else { name }
}

fn unit_name(unit: &str) -> String {
    // Annotations in braces say what is counted, not in which unit.
    if unit.is_empty() || unit == "1" || unit.contains(['{', '}']) {
        return String::new();
    }
    let known = match unit {
        "d" => "days",
        "h" => "hours",
        "min" => "minutes",
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "GiBy" => "gibibytes",
        "TiBy" => "tibibytes",
        "KBy" | "kBy" => "kilobytes",
        "MBy" => "megabytes",
        "GBy" => "gigabytes",
        "TBy" => "terabytes",
        "m" => "meters",
        "V" => "volts",
        "A" => "amperes",
        "J" => "joules",
        "W" => "watts",
        "g" => "grams",
        "Cel" => "celsius",
        "Hz" => "hertz",
        "%" => "percent",
        other => other,
    };
    let clean: String = known.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    clean.trim_matches('_').to_owned()
}

/// What stands after "per" is one of it: `By/s` is bytes per second.
fn singular(unit: &str) -> String {
    match unit {
        "mo" => "month".into(),
        "y" => "year".into(),
        "wk" => "week".into(),
        "hertz" | "celsius" => unit.into(),
        other => other.strip_suffix('s').unwrap_or(other).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_prometheus_own_translation() {
        for (name, unit, is_counter, is_gauge, expected) in [
            ("http.server.request.duration", "s", false, false, "http_server_request_duration_seconds"),
            ("system.cpu.time", "s", true, false, "system_cpu_time_seconds_total"),
            ("system.cpu.utilization", "1", false, true, "system_cpu_utilization_ratio"),
            ("http.server.active_requests", "{request}", false, false, "http_server_active_requests"),
            ("network.io", "By/s", false, true, "network_io_bytes_per_second"),
            ("requests.total", "", true, false, "requests_total"),
            ("memory_bytes", "By", false, true, "memory_bytes"),
            ("my.counter", "1", true, false, "my_counter_total"),
            ("cpu_usage", "%", false, true, "cpu_usage_percent"),
            ("2xx", "", false, true, "_2xx"),
            ("a..b--c", "", false, true, "a_b_c"),
            ("job:rate", "", false, true, "job:rate"),
        ] {
            assert_eq!(metric(name, unit, is_counter, is_gauge), expected, "{name} {unit}");
        }
        assert_eq!(
            (label("http.status_code"), label("1st"), label("é")),
            ("http_status_code".into(), "key_1st".into(), "_".into())
        );
    }
}
