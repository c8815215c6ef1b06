//! Runs files of Prometheus' promqltest format: `cargo xtask promqltest FILE…`. Ends with the counts; what fails
//! is printed with its line. The files of the tree's skip list are not looked at: all that fails is counted.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for path in std::env::args_os().skip(1) {
        let shown = path.to_string_lossy().into_owned();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{shown}: {error}");
                failed += 1;
                continue;
            }
        };
        let report = query::promqltest::run(&text).await;
        for (line, why) in &report.failed {
            println!("{shown}:{line}: {why}");
        }
        passed += report.passed.len();
        failed += report.failed.len();
    }
    println!("{passed} passed, {failed} failed, 0 skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
