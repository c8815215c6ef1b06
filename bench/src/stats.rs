//! Percentiles, and CPU time and memory of a process from `/proc`.

use std::{path::Path, time::Duration};

/// The nearest rank of `p` in 0..=1; sorts the list.
pub fn percentile(values: &mut [Duration], p: f64) -> Duration {
    if values.is_empty() {
        return Duration::ZERO;
    }
    values.sort_unstable();
    let rank = (p * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

/// CPU seconds, user and system, of a process. The kernel counts in ticks, of which Linux shows 100 a second.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    parse_cpu(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Peak and present resident memory in MiB.
pub fn memory_mib(pid: u32) -> Option<(f64, f64)> {
    parse_memory(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Bytes of all files under a folder; files that vanish meanwhile count nothing.
pub fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

fn parse_cpu(stat: &str) -> Option<f64> {
    // The program's name is in parentheses and may hold anything, also spaces and parentheses.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / 100.0)
}

fn parse_memory(status: &str) -> Option<(f64, f64)> {
    let kib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    Some((kib("VmHWM:")? / 1024.0, kib("VmRSS:")? / 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let mut values: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut values, 0.5), Duration::from_millis(50));
        assert_eq!(percentile(&mut values, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&mut values, 1.0), Duration::from_millis(100));
        assert_eq!(percentile(&mut [], 0.5), Duration::ZERO);
    }

    #[test]
    fn cpu_and_memory_are_read_as_the_kernel_writes_them() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 9";
        assert_eq!(parse_cpu(stat), Some(1.75));
        assert_eq!(parse_cpu("42 (cut"), None);
        assert_eq!(parse_memory("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n"), Some((2.0, 1.0)));
        assert_eq!(parse_memory("Name:\tx\n"), None);
    }

    #[test]
    fn a_folder_weighs_what_its_files_weigh() {
        let folder = std::env::temp_dir().join(format!("bench-load-disk-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("inner")).unwrap();
        std::fs::write(folder.join("a"), [0; 10]).unwrap();
        std::fs::write(folder.join("inner/b"), [0; 5]).unwrap();
        let bytes = disk_bytes(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(bytes, 15);
        assert_eq!(disk_bytes(&folder), 0);
    }
}
