//! Which targets a job has now: those it names, and those in files of the service-discovery folder.

use super::config::{Job, TargetGroup, check_label, check_target};
use cap_std::fs::Dir;
use std::collections::{BTreeMap, BTreeSet};

/// A service-discovery file; thousands of targets fit.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Targets of one job: each is a task and a connection.
const TARGETS_MAX: usize = 5_000;

/// A target with all its labels: `job`, `instance`, the job's and the group's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub address: String,
    pub labels: BTreeMap<String, String>,
}

/// The job's targets, and what could not be read. A file that can't be read keeps no target alive.
pub(super) fn targets(job: &Job, folder: Option<&Dir>) -> (BTreeSet<Target>, Vec<String>) {
    let mut problems = Vec::new();
    let mut groups = vec![TargetGroup { targets: job.spec.targets.clone(), labels: BTreeMap::new() }];
    groups.extend(job.spec.static_configs.iter().cloned());
    for pattern in job.spec.file_sd_configs.iter().flat_map(|f| &f.files) {
        match folder {
            None => problems.push(format!("{pattern}: the host has no service-discovery folder; start it with one")),
            Some(folder) => match matching(folder, pattern) {
                Err(why) => problems.push(format!("{pattern}: {why}")),
                Ok(files) => {
                    for file in files {
                        match read(folder, &file) {
                            Ok(found) => groups.extend(found),
                            Err(why) => problems.push(format!("{file}: {why}")),
                        }
                    }
                }
            },
        }
    }
    let mut targets = BTreeSet::new();
    for group in groups {
        for address in group.targets {
            if targets.len() >= TARGETS_MAX {
                problems.push(format!("the job has over {TARGETS_MAX} targets; the rest is left out"));
                return (targets, problems);
            }
            let mut labels = job.spec.labels.clone();
            labels.extend(group.labels.iter().map(|(n, v)| (n.clone(), v.clone())));
            labels.entry("job".into()).or_insert_with(|| job.name.clone());
            labels.entry("instance".into()).or_insert_with(|| address.clone());
            targets.insert(Target { address, labels });
        }
    }
    (targets, problems)
}

/// Files whose names match: only the last part of the pattern may hold `*`. The folder is a capability:
/// `..` and links that lead out are refused by it.
fn matching(folder: &Dir, pattern: &str) -> Result<Vec<String>, String> {
    let (parent, last) = pattern.rsplit_once('/').map_or(("", pattern), |(p, l)| (p, l));
    let Some((before, after)) = last.split_once('*') else { return Ok(vec![pattern.to_owned()]) };
    let dir = if parent.is_empty() { folder.try_clone() } else { folder.open_dir(parent) }.map_err(|e| e.to_string())?;
    let mut files = Vec::new();
    for entry in dir.entries().map_err(|e| e.to_string())? {
        let name = entry.map_err(|e| e.to_string())?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after) {
            files.push(if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") });
        }
    }
    files.sort();
    Ok(files)
}

fn read(folder: &Dir, file: &str) -> Result<Vec<TargetGroup>, String> {
    let length = folder.metadata(file).map_err(|e| e.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("it has {length} bytes, {FILE_BYTES_MAX} are allowed"));
    }
    let text = folder.read_to_string(file).map_err(|e| e.to_string())?;
    let groups: Vec<TargetGroup> = if file.ends_with(".json") {
        serde_json::from_str(&text).map_err(|e| e.to_string())?
    } else {
        serde_saphyr::from_str(&text).map_err(|e| e.to_string())?
    };
    for group in &groups {
        group.targets.iter().try_for_each(|t| check_target(t))?;
        group.labels.iter().try_for_each(|(n, v)| check_label(n, v))?;
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_add_targets_and_bad_files_are_named() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Dir::open_ambient_dir(temp.path(), cap_std::ambient_authority()).unwrap();
        folder.create_dir("t").unwrap();
        folder.write("t/a.json", r#"[{"targets":["x:1","y:2"],"labels":{"env":"prod"}}]"#).unwrap();
        folder.write("t/b.yml", "- targets: ['z:3']\n").unwrap();
        folder.write("t/c.json", r#"[{"targets":["http://bad/"]}]"#).unwrap();
        folder.write("t/d.json", r#"[{"target":["x"]}]"#).unwrap();
        let spec =
            json!({"targets": ["s:0"], "fileSdConfigs": [{"files": ["t/*.json", "t/*.yml", "../secret.json", "none.json"]}]});
        let (targets, problems) = targets(&Job::parse("j", &spec).unwrap(), Some(&folder));
        let found: Vec<_> = targets.iter().map(|t| t.address.as_str()).collect();
        assert_eq!(found, ["s:0", "x:1", "y:2", "z:3"]);
        assert_eq!(targets.iter().nth(1).unwrap().labels["env"], "prod");
        let files: Vec<_> = problems.iter().map(|p| p.split(':').next().unwrap()).collect();
        assert_eq!(files, ["t/c.json", "t/d.json", "../secret.json", "none.json"]);
    }
}
