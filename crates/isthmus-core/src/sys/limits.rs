//! How much memory may be taken: asked before reserving, because past a cgroup's limit the kernel answers a
//! reservation with SIGKILL and not with `ENOSPC`.

use std::path::{Path, PathBuf};

use super::file::File;
use crate::error::{Error, Result};

/// Kept free in a cgroup beside what is asked for: page tables, and the kernel's batched accounting.
const MARGIN: u64 = 1 << 20;
/// Reserved in pieces of this size, with a look at the limits before each.
const STEP: u64 = 16 << 20;

/// One limit that does not allow the size asked for.
struct Shortage {
    limit: String,
    left: u64,
    advice: &'static str,
}

/// What stands behind a file, and so which limits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backing {
    Memory,
    /// hugetlbfs: taken from a pool of its own, which the kernel asks by itself.
    HugePages,
    Disk,
}

/// Gives the first `size` bytes of `file` memory, or fails with [`Error::NoSpace`] and the reason.
/// `place` is the directory of a named file; `None` for anonymous memory.
pub fn reserve(file: &File, size: u64, place: Option<(&File, &Path)>) -> Result<()> {
    reserve_as(file.raw(), (0, size), place.map(|(directory, path)| (directory.raw(), path)), Backing::Memory)
}

/// Gives the bytes from `range.0` to `range.1` of any file memory or disk, whatever it lies on. `place` is how
/// error texts call it. Descriptors of files that are not ours are taken as they are.
pub fn reserve_range(fd: i32, range: (u64, u64), place: &Path) -> Result<()> {
    reserve_as(fd, range, Some((fd, place)), backing(fd)?)
}

/// Compares the length of a range with the limits that count for [`reserve_range`]; takes nothing.
pub fn check_range(fd: i32, range: (u64, u64), place: &Path) -> Result<()> {
    check_as(range, Some((fd, place)), backing(fd)?)
}

fn reserve_as(fd: i32, (from, to): (u64, u64), place: Option<(i32, &Path)>, backing: Backing) -> Result<()> {
    check_as((from, to), place, backing)?;
    let mut done = from;
    let mut step = STEP;
    while done < to {
        if done > from {
            check_as((done, to), place, backing)?;
        }
        // Huge pages are given whole.
        let piece = if backing == Backing::HugePages { to - done } else { step.min(to - done) };
        // SAFETY: plain call on a descriptor.
        if unsafe { libc::fallocate(fd, 0, done as i64, piece as i64) } == 0 {
            done += piece;
            continue;
        }
        match Error::last_os("fallocate", None) {
            // A signal undoes the piece under way; smaller ones get through between frequent signals.
            Error::Os { errno: libc::EINTR, .. } => step = (step / 2).max(64 << 10),
            Error::Os { errno: libc::ENOSPC | libc::EDQUOT | libc::ENOMEM, .. } => {
                let left = place.and_then(|(directory, path)| file_system(directory, path));
                return Err(too_little(to - from, &left.unwrap_or(unknown())));
            }
            Error::Os { errno: libc::EOPNOTSUPP, .. } if backing == Backing::Memory => {
                return Err(Error::Invalid(
                    "the namespace is on a file system that cannot reserve memory (fallocate); set \
                     ISTHMUS_NAMESPACE to a directory on tmpfs"
                        .to_owned(),
                ));
            }
            other => return Err(other),
        }
    }
    Ok(())
}

/// Compares `size` with every limit known to stand in the way.
pub fn check(size: u64, place: Option<(&File, &Path)>) -> Result<()> {
    check_as((0, size), place.map(|(directory, path)| (directory.raw(), path)), Backing::Memory)
}

fn check_as((from, to): (u64, u64), place: Option<(i32, &Path)>, backing: Backing) -> Result<()> {
    let mut shortages = Vec::new();
    shortages.extend(file_size().map(|all| Shortage { left: all.left.saturating_sub(from), ..all }));
    if backing != Backing::HugePages {
        shortages.extend(place.and_then(|(directory, path)| file_system(directory, path)).map(|found| {
            let advice =
                if backing == Backing::Disk { "choose a smaller size= or make room" } else { found.advice };
            Shortage { advice, ..found }
        }));
    }
    if backing == Backing::Memory {
        shortages.extend(cgroups());
        shortages.extend(machine());
    }
    let size = to.saturating_sub(from);
    match shortages.into_iter().min_by_key(|shortage| shortage.left) {
        Some(tightest) if tightest.left < size => Err(too_little(size, &tightest)),
        _ => Ok(()),
    }
}

fn backing(fd: i32) -> Result<Backing> {
    const HUGETLBFS: i64 = 0x9584_58f6;
    const RAMFS: i64 = 0x8584_58f6;
    let mut raw = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `raw` has room for one statfs.
    if unsafe { libc::fstatfs(fd, raw.as_mut_ptr()) } != 0 {
        return Err(Error::last_os("fstatfs", None));
    }
    // SAFETY: filled in by the successful call.
    let kind = unsafe { raw.assume_init() }.f_type;
    Ok(match kind {
        libc::TMPFS_MAGIC | RAMFS => Backing::Memory,
        HUGETLBFS => Backing::HugePages,
        _ => Backing::Disk,
    })
}

fn too_little(size: u64, shortage: &Shortage) -> Error {
    Error::NoSpace(format!(
        "cannot reserve {}: {} leaves {}; {}",
        bytes(size),
        shortage.limit,
        bytes(shortage.left),
        shortage.advice
    ))
}

fn unknown() -> Shortage {
    Shortage {
        limit: "the kernel".to_owned(),
        left: 0,
        advice: "choose a smaller capacity= or size=, or free shared memory",
    }
}

/// A size for people; exact where it is small or not round.
fn bytes(size: u64) -> String {
    match size {
        0..0x2800 => format!("{size} bytes"),
        0x2800..0xa0_0000 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}

fn file_system(directory: i32, path: &Path) -> Option<Shortage> {
    let mut raw = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `raw` has room for one statvfs.
    if unsafe { libc::fstatvfs(directory, raw.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: filled in by the successful call.
    let found = unsafe { raw.assume_init() };
    if found.f_blocks == 0 {
        return None; // a tmpfs without a limit
    }
    Some(Shortage {
        limit: format!("the file system of {}", path.display()),
        left: found.f_bavail.saturating_mul(found.f_frsize),
        advice: "choose a smaller capacity= or size=, remove objects (isthmus ls, isthmus clean), or enlarge it \
                 (in a container: --shm-size)",
    })
}

fn file_size() -> Option<Shortage> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` has room for one rlimit.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    (code == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then(|| Shortage {
        limit: "the file size limit of this process".to_owned(),
        left: limit.rlim_cur,
        advice: "choose a smaller capacity= or size=, or raise it (ulimit -f)",
    })
}

fn machine() -> Option<Shortage> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
    };
    Some(Shortage {
        limit: "the machine's available memory".to_owned(),
        left: field("MemAvailable:")? + field("SwapFree:").unwrap_or(0),
        advice: "choose a smaller capacity= or size=, or free memory",
    })
}

/// The tightest memory cgroup above this process, of either version.
fn cgroups() -> Option<Shortage> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let all = memory_groups(&own, &mounts).into_iter().flat_map(|(group, top, version)| {
        group
            .ancestors()
            .take_while(|folder| folder.starts_with(&top))
            .filter_map(|folder| group_left(folder, version).map(|left| (folder.to_owned(), left)))
            .collect::<Vec<_>>()
    });
    let (folder, left) = all.min_by_key(|(_, left)| *left)?;
    Some(Shortage {
        limit: format!("the memory limit of cgroup {}", folder.display()),
        left,
        advice: "choose a smaller capacity= or size=, or raise it (in a container: --memory)",
    })
}

/// Folders of this process's memory cgroups: (own folder, top folder of the mount, cgroup version).
fn memory_groups(own: &str, mounts: &str) -> Vec<(PathBuf, PathBuf, u8)> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let version = match controllers {
            "" => 2,
            names if names.split(',').any(|name| name == "memory") => 1,
            _ => continue,
        };
        for mount in mounts.lines() {
            let Some((before, after)) = mount.split_once(" - ") else { continue };
            let before: Vec<&str> = before.split(' ').collect();
            let after: Vec<&str> = after.split(' ').collect();
            let (Some(root), Some(point), Some(kind)) = (before.get(3), before.get(4), after.first()) else {
                continue;
            };
            let matches = match version {
                2 => *kind == "cgroup2",
                _ => *kind == "cgroup" && after.get(2).is_some_and(|o| o.split(',').any(|o| o == "memory")),
            };
            if !matches {
                continue;
            }
            // In a container the mount shows only a part of the tree; what lies above cannot be read.
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            let below = below.strip_prefix("/").unwrap_or(below);
            found.push((Path::new(point).join(below), PathBuf::from(point), version));
            break;
        }
    }
    found
}

/// Bytes that one cgroup still allows; `None` if it sets no limit. Page cache counts as free: the kernel
/// drops it first (memory of tmpfs is not on the file lists).
fn group_left(folder: &Path, version: u8) -> Option<u64> {
    let number =
        |name: &str| -> Option<u64> { std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok() };
    let (limit, usage, prefix) = match version {
        2 => (number("memory.max")?, number("memory.current")?, ""),
        _ => (number("memory.limit_in_bytes")?, number("memory.usage_in_bytes")?, "total_"),
    };
    if limit >= 1 << 62 {
        return None; // version 1's way to say "none"
    }
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let reclaimable: u64 = stat
        .lines()
        .filter_map(|line| line.strip_prefix(prefix)?.split_once(' '))
        .filter(|(name, _)| matches!(*name, "inactive_file" | "active_file"))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum();
    Some((limit.saturating_sub(usage) + reclaimable.min(usage)).saturating_sub(MARGIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_are_found_for_both_versions() {
        let own = "9:name=systemd:/\n4:cpu,memory:/docker/abc/inner\n0::/unified/x\n";
        let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:1 - cgroup2 cgroup2 rw\n";
        let found = memory_groups(own, mounts);
        assert_eq!(found[0].0, Path::new("/sys/fs/cgroup/memory/inner"));
        assert_eq!(found[0].1, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!((found[1].0.as_path(), found[1].2), (Path::new("/sys/fs/cgroup/unified/unified/x"), 2));
    }

    #[test]
    fn what_no_machine_has_is_refused_with_the_limit_and_the_advice() {
        let Err(Error::NoSpace(text)) = check(1 << 60, None) else { panic!("an exbibyte was granted") };
        assert!(text.contains("capacity=") && text.contains("leaves"), "{text}");
    }

    #[test]
    fn a_small_reservation_passes() {
        let file = super::super::file::memory(c"test").unwrap();
        reserve(&file, 1 << 20, None).unwrap();
        let stat = file.stat().unwrap();
        assert_eq!((stat.size, stat.reserved), (1 << 20, 1 << 20));
    }
}
