//! What the verbs print: tables and notes on stdout, errors on stderr.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use serde_json::{Map, Value};

/// Says what went wrong and gives the exit status for it.
pub(super) fn failure(error: &impl Display, status: u8) -> ExitCode {
    writeln!(std::io::stderr().lock(), "portolan: {error}").ok();
    ExitCode::from(status)
}

/// Prints data and gives `status`, or that of a failure where the data does not arrive. That nobody
/// reads any more (a closed pipe) is no failure.
pub(super) fn print(text: &impl Display, status: u8) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            failure(&format_args!("cannot write to standard output: {error}"), 1)
        }
        Ok(()) | Err(_) => ExitCode::from(status),
    }
}

/// Says something to the person, beside the data.
pub(super) fn remark(text: &impl Display) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}

/// The rows of a list as aligned columns, headed by their keys in capitals.
pub(super) fn table(rows: &[Value]) -> String {
    let objects: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).collect();
    let Some(first) = objects.first() else { return String::new() };
    let keys: Vec<&String> = first.keys().collect();
    let header = keys.iter().map(|key| key.to_uppercase().replace('_', " ")).collect();
    let body = objects.iter().map(|row| keys.iter().map(|key| cell(row.get(*key))).collect());
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(body).collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..keys.len()).map(width).collect();
    let row = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    lines.iter().map(row).collect()
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) => {
            items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(",")
        }
        Some(Value::Object(fields)) if fields.is_empty() => "-".to_owned(),
        // Names and what they mean: once for each meaning, as in a hosts file.
        Some(Value::Object(fields)) => {
            let meanings = |value: &Value| value.as_array().filter(|it| !it.is_empty()).cloned();
            let pairs = fields.iter().flat_map(|(key, value)| {
                let all = meanings(value).unwrap_or_else(|| vec![value.clone()]);
                all.into_iter().map(move |it| format!("{key}={}", cell(Some(&it))))
            });
            pairs.collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}
