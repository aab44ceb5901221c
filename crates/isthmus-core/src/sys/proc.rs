//! What the kernel tells about processes: `/proc`, `kill` and the namespaces.

use std::path::Path;

/// Fields of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcStat {
    /// `R`, `S`, `T`, `Z`, …
    pub state: u8,
    /// Threads that still exist. A leader that exited is a zombie while its threads live on.
    pub threads: u64,
    /// Start, in clock ticks since boot as seen from the reader's time namespace.
    pub start: u64,
    /// Bottom of the stack, chosen anew by every exec; 0 where the reader may not see it.
    pub stack: u64,
}

impl ProcStat {
    /// Exited completely; only the parent has not collected it yet.
    pub fn is_gone(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }
}

/// Parses the content of `/proc/<pid>/stat`. The command name may hold anything, `)` and blanks included.
pub fn parse_stat(content: &[u8]) -> Option<ProcStat> {
    let end = content.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&content[end + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect(); // fields[0] is field 3 of proc(5)
    Some(ProcStat {
        state: *fields.first()?.as_bytes().first()?,
        threads: fields.get(17)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
        stack: fields.get(25)?.parse().ok()?,
    })
}

/// `/proc/<pid>/stat`; `None` if it cannot be read.
pub fn stat(pid: u32) -> Option<ProcStat> {
    parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// `/proc/self/stat`.
pub fn own_stat() -> Option<ProcStat> {
    parse_stat(&std::fs::read("/proc/self/stat").ok()?)
}

/// The PIDs of a process from the PID namespace of this `/proc` down to its own; `pid` may be `"self"`.
pub fn pids_of(pid: &str) -> Option<Vec<u32>> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let pids: Vec<u32> = line.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    (!pids.is_empty()).then_some(pids)
}

/// Inode of a namespace (`"pid"`, `"time"`) of a process; 0 where it cannot be seen.
pub fn namespace_of(pid: &str, kind: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(Path::new("/proc").join(pid).join("ns").join(kind)).map_or(0, |found| found.ino())
}

/// All process numbers that this `/proc` shows.
pub fn all_pids() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a process maps a file whose last path component is `name`; `None` where this cannot be seen.
pub fn maps_file(pid: u32, name: &str) -> Option<bool> {
    let maps = std::fs::read(format!("/proc/{pid}/maps")).ok().filter(|maps| !maps.is_empty())?;
    let wanted = format!("/{name}");
    Some(maps.split(|&byte| byte == b'\n').any(|line| {
        let line = line.strip_suffix(b" (deleted)").unwrap_or(line);
        line.ends_with(wanted.as_bytes())
    }))
}

/// Whether any process (or zombie) of the caller's PID namespace has this number.
pub fn exists(pid: u32) -> bool {
    let Ok(pid @ 1..) = i32::try_from(pid) else { return false };
    // SAFETY: signal 0 only asks.
    let code = unsafe { libc::kill(pid, 0) };
    code == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// The command line of this process, without the folder of the program, cut to `limit` bytes.
pub fn own_command(limit: usize) -> Vec<u8> {
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let mut parts = line.split(|&byte| byte == 0).filter(|part| !part.is_empty());
    let program = parts.next().unwrap_or_default();
    let start = program.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let mut command = program[start..].to_vec();
    for part in parts {
        command.push(b' ');
        command.extend_from_slice(part);
    }
    command.truncate(limit);
    command
}

/// This process's number in its own PID namespace.
pub fn id() -> u32 {
    std::process::id()
}

/// The calling thread's number.
pub fn thread_id() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    (unsafe { libc::gettid() }) as u32
}

/// Effective user.
pub fn user() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Fills `buffer` with random bytes.
///
/// # Panics
/// On kernels older than 3.17, which have no `getrandom`.
pub fn random(buffer: &mut [u8]) {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        // SAFETY: `rest` is valid for writing its length.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match got {
            1.. => done += got as usize,
            _ if std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
            _ => panic!("getrandom failed"),
        }
    }
}

/// A random word that is not 0.
pub fn random_word() -> u64 {
    loop {
        let mut bytes = [0; 8];
        random(&mut bytes);
        let word = u64::from_le_bytes(bytes);
        if word != 0 {
            return word;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_command_name_does_not_shift_the_fields() {
        let tail = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 3 0 7777 1 2 18446744073709551615 4 5 99 7 8";
        let line = format!("12 (a) R 1) Z (x) S {tail}\n");
        let stat = parse_stat(line.as_bytes()).unwrap();
        assert_eq!(stat, ProcStat { state: b'S', threads: 3, start: 7777, stack: 99 });
    }

    #[test]
    fn a_cut_line_is_refused() {
        assert_eq!(parse_stat(b"12 (a) S 1 2 3"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn own_fields_are_plausible() {
        let stat = own_stat().unwrap();
        assert_eq!(stat.start, super::stat(id()).unwrap().start);
        assert!(stat.threads >= 1 && stat.start > 0 && stat.stack > 0 && !stat.is_gone());
        assert_eq!(pids_of("self").unwrap().last(), Some(&id()));
        assert_ne!(namespace_of("self", "pid"), 0);
        assert!(exists(id()) && !exists(0) && !exists(u32::MAX));
    }
}
