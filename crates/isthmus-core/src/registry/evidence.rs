//! Is a process dead? The proofs, and what is not one.
//!
//! A process is **alive** while it holds the byte lock of its slot: the kernel drops that lock at exit and
//! exec, works across PID namespaces, and does not hand it to forked children. A free lock proves nothing by
//! itself, since any close of the registry file in that process drops it too. Then `/proc` decides:
//!
//! | the recorded process is | it is dead if |
//! |---|---|
//! | of this PID namespace, and `/proc` shows it | the pid is gone; or it started at another time; or it is a zombie without living threads; or its stack lies elsewhere or it no longer maps the registry (it went through exec) |
//! | of this PID namespace, `/proc` unusable | the pid is gone (`kill` says so); a reused pid keeps it alive |
//! | of another PID namespace whose processes `/proc` shows (a descendant: container seen from the host) | as in the first row, found by its innermost pid and its namespace |
//! | of another PID namespace, not to be seen; or of an unknown one (it had no `/proc`) | its lock is free: nothing else can be known, the free lock condemns |
//!
//! So across containers that cannot see each other a process must not lose its lock: nothing in it may open
//! and close the registry file. Within one PID namespace that is harmless.
//!
//! What cannot be read (another user's stack address, `hidepid`) counts as "alive". Start times are compared
//! only within one time namespace. A timeout, a heartbeat or a pid alone prove nothing.

use super::layout::NAME;
use crate::sys::proc::{self, ProcStat};

/// What a slot says about its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Identity {
    pub(super) pid: u64,
    pub(super) pid_ns: u64,
    pub(super) time_ns: u64,
    pub(super) start: u64,
    pub(super) stack: u64,
}

impl Identity {
    pub(super) fn words(&self) -> [u64; 5] {
        [self.pid, self.pid_ns, self.time_ns, self.start, self.stack]
    }

    pub(super) fn from_words([pid, pid_ns, time_ns, start, stack]: [u64; 5]) -> Identity {
        Identity { pid, pid_ns, time_ns, start, stack }
    }

    /// That of the calling process.
    pub(super) fn own() -> Identity {
        let stat = proc::own_stat();
        Identity {
            pid: u64::from(proc::id()),
            pid_ns: proc::namespace_of("self", "pid"),
            time_ns: proc::namespace_of("self", "time"),
            start: stat.map_or(0, |stat| stat.start),
            stack: stat.map_or(0, |stat| stat.stack),
        }
    }
}

/// Is the recorded process dead? `lock_free`: nobody holds its byte lock, as far as known.
pub(super) fn is_dead(who: &Identity, lock_free: bool) -> bool {
    let Ok(pid @ 1..) = u32::try_from(who.pid) else { return lock_free };
    let here = proc::namespace_of("self", "pid");
    let view = proc::pids_of("self"); // from the namespace of /proc down to ours
    if who.pid_ns != 0 && who.pid_ns == here {
        if !proc::exists(pid) {
            return true;
        }
        let found = match view {
            Some(pids) if pids == [proc::id()] => proc::stat(pid).map(|stat| (pid, stat)),
            Some(_) => find(pid, who),
            None => None,
        };
        return found.is_some_and(|(pid, stat)| refuted(who, pid, &stat));
    }
    match view.and_then(|_| find(pid, who)) {
        Some((pid, stat)) => refuted(who, pid, &stat),
        None => lock_free,
    }
}

/// Searches `/proc` for the process that has this pid in its own PID namespace.
fn find(innermost: u32, who: &Identity) -> Option<(u32, ProcStat)> {
    proc::all_pids().into_iter().find_map(|pid| {
        let name = pid.to_string();
        if proc::pids_of(&name)?.last() != Some(&innermost) {
            return None;
        }
        let stat = proc::stat(pid)?;
        match proc::namespace_of(&name, "pid") {
            // Another user's namespace cannot be read; the same start and innermost pid must do. A zombie
            // has none any more.
            0 => (stat.start == who.start).then_some((pid, stat)),
            found => (found == who.pid_ns).then_some((pid, stat)),
        }
    })
}

/// Whether what `/proc` shows under the recorded pid proves that it is not the recorded process.
fn refuted(who: &Identity, pid: u32, stat: &ProcStat) -> bool {
    if stat.is_gone() {
        return true;
    }
    if who.start != 0 && who.time_ns == proc::namespace_of("self", "time") && stat.start != who.start {
        return true;
    }
    if who.stack != 0 && stat.stack != 0 && who.stack != stat.stack {
        return true;
    }
    // With address randomization off, exec may put the stack at the same place.
    proc::maps_file(pid, NAME) == Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This process, as far as `/proc/self/maps` allows: unit tests map no registry of their own here.
    fn me() -> Identity {
        Identity::own()
    }

    #[test]
    fn another_start_time_or_stack_is_another_process() {
        let stat = proc::own_stat().unwrap();
        assert!(refuted(&Identity { start: me().start + 1, ..me() }, proc::id(), &stat));
        assert!(refuted(&Identity { stack: me().stack + 16, ..me() }, proc::id(), &stat));
    }

    #[test]
    fn a_start_time_of_another_time_namespace_is_not_compared() {
        let stat = ProcStat { stack: 0, ..proc::own_stat().unwrap() };
        let other = Identity { start: 1, time_ns: 1, stack: 0, ..me() };
        // pid 0 has no /proc entry, so that the mapping cannot be looked at
        assert!(!refuted(&other, 0, &stat));
    }

    #[test]
    fn a_zombie_is_dead_unless_threads_live_on() {
        let who = Identity { stack: 0, ..me() };
        let zombie = ProcStat { state: b'Z', threads: 1, start: who.start, stack: 0 };
        assert!(refuted(&who, 0, &zombie));
        assert!(!refuted(&who, 0, &ProcStat { threads: 2, ..zombie }));
    }

    #[test]
    fn a_process_that_cannot_be_seen_is_judged_by_its_lock() {
        let elsewhere = Identity { pid: 1, pid_ns: 42, ..me() };
        assert!(is_dead(&elsewhere, true));
        assert!(!is_dead(&elsewhere, false));
        let nonsense = Identity { pid: u64::MAX, ..me() };
        assert!(is_dead(&nonsense, true));
    }

    #[test]
    fn with_the_stack_at_the_same_place_the_missing_mapping_shows_exec() {
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = other.id();
        while proc::maps_file(pid, "sleep").is_none_or(|mapped| !mapped) {
            std::thread::yield_now(); // its exec is still under way
        }
        let stat = proc::stat(pid).unwrap();
        let who = Identity { pid: u64::from(pid), start: stat.start, stack: stat.stack, ..me() };
        assert!(refuted(&who, pid, &stat));
        assert!(is_dead(&who, true));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_pid_that_is_gone_is_dead_whatever_the_lock_says() {
        let gone = Identity { pid: i32::MAX as u64, ..me() };
        assert!(is_dead(&gone, false));
    }
}
