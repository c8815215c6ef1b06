//! Prometheus' own scripts, when they lie beside the repository. What is known to fail is listed in
//! `promqltest.skip`; the list may only shrink.

use std::collections::{BTreeMap, BTreeSet};

fn scripts() -> Option<std::path::PathBuf> {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().map(|up| up.join("../shared/data/promqltest")).find(|dir| dir.is_dir())
}

#[tokio::test]
async fn prometheus_scripts_pass_but_for_the_skip_list() {
    let mut skipped: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for line in include_str!("promqltest.skip").lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let (file, lines) = line.split_once(':').expect("file: lines");
        skipped
            .entry(file.to_owned())
            .or_default()
            .extend(lines.split_whitespace().map(|n| n.parse::<usize>().expect("a line number")));
    }
    let Some(dir) = scripts() else {
        println!("no promqltest scripts beside the repository: left out");
        assert!(!skipped.is_empty());
        return;
    };
    let (mut passed, mut skips) = (0, 0);
    let mut wrong = Vec::new();
    let mut failing: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|p| p.extension().is_some_and(|e| e == "test")) {
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        let report = query::promqltest::run(&std::fs::read_to_string(path).unwrap()).await;
        let known = skipped.remove(&file).unwrap_or_default();
        for line in &report.passed {
            passed += 1;
            if known.contains(line) {
                wrong.push(format!("{file}:{line} passes now: take it off the skip list"));
            }
        }
        for (line, why) in &report.failed {
            failing.entry(file.clone()).or_default().push(*line);
            if known.contains(line) {
                skips += 1;
            } else {
                wrong.push(format!("{file}:{line} {why}"));
            }
        }
        println!("{file}: {} passed, {} failed", report.passed.len(), report.failed.len());
    }
    if std::env::var_os("ORX_PROMQLTEST_LIST").is_some() {
        for (file, lines) in &failing {
            println!("{file}: {}", lines.iter().map(usize::to_string).collect::<Vec<_>>().join(" "));
        }
    }
    println!("{passed} passed, {} failed, {skips} skipped", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
