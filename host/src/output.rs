//! Printing: a table for people, JSON and YAML for programs.

use clap::ValueEnum;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Yaml,
}

/// Cells longer than this are cut in tables; JSON and YAML have all.
const CELL_CHARS_MAX: usize = 80;

/// The value in the wanted format. A table has the given columns (JSON pointers without the leading slash), or
/// all plain fields of the first row.
pub fn render(value: &Value, format: Format, columns: &[&str]) -> String {
    match format {
        Format::Json => serde_json::to_string_pretty(value).expect("a JSON value has text keys only"),
        Format::Yaml => serde_saphyr::to_string(value).unwrap_or_else(|e| format!("# cannot be shown as YAML: {e}")),
        Format::Table => table(value, columns),
    }
}

fn table(value: &Value, columns: &[&str]) -> String {
    let rows = match value {
        Value::Array(rows) => rows.as_slice(),
        Value::Object(map) => match map.get("items").or_else(|| map.get("data")) {
            Some(Value::Array(rows)) => rows.as_slice(),
            _ => return fields(value, 0),
        },
        plain => return cell(plain),
    };
    let Some(first) = rows.first() else { return "none".into() };
    let own: Vec<String>;
    let columns: Vec<&str> = match columns {
        [] => {
            own = first
                .as_object()
                .map(|o| o.iter().filter(|(_, v)| !v.is_object() && !v.is_array()).map(|(k, _)| k.clone()).collect())
                .unwrap_or_default();
            own.iter().map(String::as_str).collect()
        }
        given => given.to_vec(),
    };
    if columns.is_empty() {
        return rows.iter().map(cell).collect::<Vec<_>>().join("\n");
    }
    let title = |column: &str| column.rsplit('/').next().unwrap_or(column).to_uppercase();
    let mut lines = vec![columns.iter().map(|c| title(c)).collect::<Vec<_>>()];
    for row in rows {
        lines.push(columns.iter().map(|c| row.pointer(&format!("/{c}")).map(cell).unwrap_or_default()).collect());
    }
    let widths: Vec<usize> =
        (0..columns.len()).map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0)).collect();
    let print = |line: &Vec<String>| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    lines.iter().map(print).collect::<Vec<_>>().join("\n")
}

/// One object, a field a line.
fn fields(value: &Value, indent: usize) -> String {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match value {
                Value::Object(inner) if !inner.is_empty() => format!("{pad}{key}:\n{}", fields(value, indent + 2)),
                Value::Array(items) if items.iter().any(|i| i.is_object()) => {
                    let items: Vec<String> = items.iter().map(|i| format!("{pad}  -\n{}", fields(i, indent + 4))).collect();
                    format!("{pad}{key}:\n{}", items.join("\n"))
                }
                plain => format!("{pad}{key}: {}", cell(plain)),
            })
            .collect::<Vec<_>>()
            .join("\n"),
        plain => format!("{pad}{}", cell(plain)),
    }
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace(['\n', '\r', '\t'], " "),
        other => other.to_string(),
    };
    // Control characters from logs must not reach the terminal.
    let text: String = text.chars().map(|c| if c.is_control() { '·' } else { c }).collect();
    if text.chars().count() > CELL_CHARS_MAX { text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn a_list_becomes_a_table_with_the_wanted_columns() {
        let value = json!({ "items": [{ "name": "cpu", "spec": { "every": "15s" } }, { "name": "a-long-name", "spec": {} }] });
        expect![[r#"
            NAME         EVERY
            cpu          15s
            a-long-name"#]]
        .assert_eq(&render(&value, Format::Table, &["name", "spec/every"]));
        assert_eq!(render(&json!([]), Format::Table, &[]), "none");
    }

    #[test]
    fn one_object_is_printed_a_field_a_line() {
        expect![[r#"
            id: 1
            spec:
              every: 15s"#]]
        .assert_eq(&render(&json!({ "id": 1, "spec": { "every": "15s" } }), Format::Table, &[]));
    }

    #[test]
    fn a_log_line_cannot_drive_the_terminal() {
        assert_eq!(render(&json!(["a\u{1b}[2Jb\nc"]), Format::Table, &[]), "a·[2Jb c");
    }

    #[test]
    fn json_and_yaml_read_back_as_the_same_value() {
        let value = json!({ "a": [1, "x: y", null], "b": { "c": true } });
        assert_eq!(serde_json::from_str::<Value>(&render(&value, Format::Json, &[])).unwrap(), value);
        assert_eq!(serde_saphyr::from_str::<Value>(&render(&value, Format::Yaml, &[])).unwrap(), value);
    }
}
