//! What the control groups of this process leave it of the system's memory (cgroups(7)): a container's limit, or a service's.

use std::path::Path;

/// Of version 1, no limit is a number that no memory has.
const NO_LIMIT: u64 = 1 << 62;

/// Bytes that are left; `u64::MAX` where there is no limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Files that are kept in memory do not count: they make room.
    pub memory: u64,
    /// That may be swapped to the disk.
    pub swap: u64,
}

/// Of this process, now.
pub(crate) fn left() -> Left {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    left_of(&groups, &|path| std::fs::read_to_string(path).ok())
}

/// `groups` is `/proc/self/cgroup`, and `read` gives files.
fn left_of(groups: &str, read: &dyn Fn(&str) -> Option<String>) -> Left {
    let mut left = Left {
        memory: u64::MAX,
        swap: u64::MAX,
    };
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (mount, names) = match controllers {
            "" => ("/sys/fs/cgroup", &VERSION_2),
            _ if controllers.split(',').any(|name| name == "memory") => ("/sys/fs/cgroup/memory", &VERSION_1),
            _ => continue,
        };
        // The limits of all groups around it hold. In a container a path of the host's may not be there, but the root is.
        for group in Path::new(path).ancestors() {
            let folder = format!("{mount}{}", group.display());
            names.limit(folder.trim_end_matches('/'), read, &mut left);
        }
    }
    left
}

/// What a version calls its files.
struct Names {
    limit: &'static str,
    /// Of `memory.stat`: what programs have, without files.
    used: &'static str,
    swap_limit: &'static str,
    /// What that is less by: what is swapped, or where it is the limit of both, the other.
    swap_less: &'static str,
}

const VERSION_2: Names = Names {
    limit: "memory.max",
    used: "anon",
    swap_limit: "memory.swap.max",
    swap_less: "memory.swap.current",
};

const VERSION_1: Names = Names {
    limit: "memory.limit_in_bytes",
    used: "total_rss",
    swap_limit: "memory.memsw.limit_in_bytes",
    swap_less: "memory.limit_in_bytes",
};

impl Names {
    fn limit(&self, folder: &str, read: &dyn Fn(&str) -> Option<String>, left: &mut Left) {
        let file = |name| read(&format!("{folder}/{name}"));
        // "max" is no number.
        let number = |name| file(name)?.trim().parse::<u64>().ok();
        let limit = |name| number(name).filter(|limit| *limit < NO_LIMIT);
        if let Some(limit) = limit(self.limit) {
            let stat = file("memory.stat").unwrap_or_default();
            let used = stat.lines().find_map(|line| {
                let (name, bytes) = line.split_once(' ')?;
                (name == self.used).then(|| bytes.parse::<u64>().ok())?
            });
            left.memory = left.memory.min(limit.saturating_sub(used.unwrap_or(0)));
        }
        if let Some(limit) = limit(self.swap_limit) {
            left.swap = left
                .swap
                .min(limit.saturating_sub(number(self.swap_less).unwrap_or(0)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(groups: &str, files: &[(&str, &str)]) -> (u64, u64) {
        let left = left_of(groups, &|path| {
            let file = files.iter().find(|(there, _)| *there == path);
            file.map(|(_, text)| format!("{text}\n"))
        });
        (left.memory, left.swap)
    }

    #[test]
    fn the_least_of_all_groups_around_is_left() {
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max"),
            ("/sys/fs/cgroup/a/memory.max", "1000"),
            ("/sys/fs/cgroup/a/memory.stat", "file 500\nanon 300\nanon_thp 7"),
            ("/sys/fs/cgroup/memory.max", "900"),
            ("/sys/fs/cgroup/a/b/memory.swap.max", "300"),
            ("/sys/fs/cgroup/a/b/memory.swap.current", "100"),
            ("/sys/fs/cgroup/a/memory.swap.max", "max"),
        ];
        assert_eq!(of("0::/a/b", &files), (700, 200));
        assert_eq!(of("0::/not/there", &files), (900, u64::MAX), "the root holds");
        assert_eq!(of("", &files), (u64::MAX, u64::MAX));
    }

    #[test]
    fn the_first_version_has_a_limit_of_both_and_a_large_number_for_none() {
        let groups = "9:name=systemd:/\n4:cpu,memory:/a\n0::/";
        let none = "9223372036854771712";
        let of_both = |limit, both| {
            of(
                groups,
                &[
                    ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", limit),
                    ("/sys/fs/cgroup/memory/a/memory.stat", "rss 1\ntotal_rss 400"),
                    ("/sys/fs/cgroup/memory/a/memory.memsw.limit_in_bytes", both),
                ],
            )
        };
        assert_eq!(of_both("1000", "1500"), (600, 500));
        assert_eq!(of_both("1000", "1000"), (600, 0));
        assert_eq!(of_both(none, none), (u64::MAX, u64::MAX));
    }
}
