//! `cargo xtask promqltest FILE…`: runs files in Prometheus' promqltest format and counts.

use std::{path::Path, process::ExitCode};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for file in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(Path::new(&file)) {
            Ok(text) => text,
            Err(e) => {
                eprintln!("{file} can't be read: {e}");
                return ExitCode::FAILURE;
            }
        };
        let report = query::promqltest::run(&text).await;
        for (line, why) in &report.failed {
            println!("{file}:{line}: {why}");
        }
        passed += report.passed.len();
        failed += report.failed.len();
    }
    // The skip list is the test's; whoever names files wants to see all of them run.
    println!("{passed} passed, {failed} failed, 0 skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
