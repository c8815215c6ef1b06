//! The page in a real browser: what a person signs in to, looks at and answers, with a repair under way.

use crate::harness::{Host, Playground, TOKEN, repository};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

#[tokio::test]
async fn a_person_sees_a_repair_from_alert_to_ledger_and_answers_what_is_asked() {
    let browser = browser();
    let host = Host::start().await;
    let playground = Playground::start(&host);
    host.apply_example("auto-scaling", &playground);
    let workflow = repository().join("host/tests/page/ask-first.yaml");
    host.cli(&["apply", "-f", workflow.to_str().expect("the project's path is UTF-8")]).expect("the workflow is accepted");
    let started =
        host.request(reqwest::Method::POST, "/api/v1/workflows/ask-first/runs").json(&serde_json::json!({})).send().await;
    assert!(started.expect("the host answers").status().is_success());
    host.wait_for("a scraped sample", async || {
        let answer = host.get("/api/v1/query?query=cpu_usage").await;
        answer["data"]["result"].as_array().is_some_and(|r| !r.is_empty()).then_some(())
    })
    .await;
    playground.fault("cpu-spike").await;

    let mut node = Command::new("node");
    node.arg(repository().join("host/tests/page/drive.mjs")).args([&host.url(""), TOKEN]).arg(&browser).stdin(Stdio::null());
    let driven = tokio::task::spawn_blocking(move || node.output().expect("node starts")).await.expect("nothing panics here");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(driven.status.success(), "{}{}\nthe host's log:\n{}", text(&driven.stdout), text(&driven.stderr), host.log());
}

/// A folder under the target folder with playwright-core, as the lock file names it. The browser itself is Debian's.
fn browser() -> PathBuf {
    let chromium = Path::new("/usr/bin/chromium");
    assert!(chromium.is_file(), "{} is missing: `apt-get install chromium`, or `cargo xtask test`", chromium.display());
    let source = repository().join("host/tests/page");
    let target = Path::new(env!("CARGO_BIN_EXE_orchestrix")).ancestors().nth(2).expect("the binary lies in target/debug");
    let folder = target.join("test-page");
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    let wanted = std::fs::read(source.join("package-lock.json")).expect("the lock file is in the project");
    let is_there = folder.join("node_modules/playwright-core").is_dir();
    if !is_there || std::fs::read(folder.join("package-lock.json")).ok().as_ref() != Some(&wanted) {
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(source.join(file), folder.join(file)).expect("the target folder is writable");
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder).stdin(Stdio::null());
        let done = npm.output().expect("npm starts: `apt-get install npm`, or `cargo xtask test`");
        assert!(done.status.success(), "npm ci: {}", String::from_utf8_lossy(&done.stderr));
    }
    folder
}
