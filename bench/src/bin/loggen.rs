//! Writes a file of JSON log lines.

use bench_load::log::{Format, bodies};
use std::{fs::File, io::Write, process::ExitCode};

/// Of the first line: 9 October 2025, so that files made on different days are equal.
const START_MS: u64 = 1_760_000_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let written = match arguments.as_slice() {
        [path, lines] => {
            lines.parse().map_err(|_| format!("{lines:?} is no number of lines")).and_then(|lines| write(path, lines))
        }
        _ => Err("loggen FILE LINES".into()),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn write(path: &str, lines: u64) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{path}: {e}");
    let mut file = File::create(path).map_err(failed)?;
    let mut next = bodies(Format::Json, START_MS, lines, 10_000);
    let mut body = Vec::new();
    while next(&mut body) > 0 {
        file.write_all(&body).map_err(failed)?;
        body.clear();
    }
    Ok(())
}
