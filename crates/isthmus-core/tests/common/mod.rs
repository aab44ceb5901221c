//! Real processes for tests: forked children that report through a pipe, under a watchdog.
#![allow(dead_code)] // each test binary uses its own part
#![allow(clippy::missing_panics_doc, unreachable_pub, missing_docs)]

use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Nothing here takes longer than this unless it hangs.
pub const WATCHDOG: Duration = Duration::from_secs(20);

/// A directory on tmpfs, removed with everything in it.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        let template = c"/dev/shm/isthmus-test-XXXXXX".to_owned().into_raw();
        // SAFETY: a writable C string ending in six X.
        assert!(!unsafe { libc::mkdtemp(template) }.is_null());
        // SAFETY: from `into_raw` above, same length.
        let made = unsafe { std::ffi::CString::from_raw(template) };
        Scratch(PathBuf::from(made.into_string().unwrap()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn open(&self) -> std::sync::Arc<isthmus_core::namespace::Namespace> {
        isthmus_core::namespace::Namespace::open(Some(&self.0)).unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".registry");
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A forked child with a pipe each way. Killed and collected on drop.
pub struct Child {
    pub pid: i32,
    from: std::fs::File,
    to: std::fs::File,
    collected: bool,
}

/// The child's side of the pipes.
pub struct Parent {
    from: std::fs::File,
    to: std::fs::File,
}

impl Parent {
    pub fn send(&mut self, word: u64) {
        self.to.write_all(&word.to_le_bytes()).unwrap();
    }

    /// Waits for the parent's word; exits if the parent is gone.
    pub fn wait(&mut self) -> u64 {
        let mut bytes = [0; 8];
        if self.from.read_exact(&mut bytes).is_err() {
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }
        u64::from_le_bytes(bytes)
    }
}

fn pipe() -> (std::fs::File, std::fs::File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: both are fresh and ours.
    unsafe { (std::fs::File::from_raw_fd(ends[0]), std::fs::File::from_raw_fd(ends[1])) }
}

/// Forks; the child runs `body` and exits with 0, or 101 after a panic.
pub fn fork(body: impl FnOnce(&mut Parent)) -> Child {
    let (from_child, to_parent) = pipe();
    let (from_parent, to_child) = pipe();
    // SAFETY: the child uses malloc (which handles fork) and otherwise only what is tested to survive fork.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        drop((from_child, to_child));
        let mut parent = Parent { from: from_parent, to: to_parent };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&mut parent)));
        // SAFETY: ends this process without running the test harness.
        unsafe { libc::_exit(if outcome.is_ok() { 0 } else { 101 }) };
    }
    Child { pid, from: from_child, to: to_child, collected: false }
}

impl Child {
    /// The child's next word. A child that ends without one fails the test.
    pub fn receive(&mut self) -> u64 {
        let mut poll = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(&self.from),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, WATCHDOG.as_millis() as i32) };
        assert_eq!(ready, 1, "child {} says nothing", self.pid);
        let mut bytes = [0; 8];
        self.from.read_exact(&mut bytes).expect("the child ended early");
        u64::from_le_bytes(bytes)
    }

    pub fn send(&mut self, word: u64) {
        self.to.write_all(&word.to_le_bytes()).unwrap();
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: plain call; the child is not collected yet.
        assert_eq!(unsafe { libc::kill(self.pid, signal) }, 0);
    }

    /// Kills without collecting: the child stays a zombie.
    pub fn kill_only(&mut self) {
        self.signal(libc::SIGKILL);
        wait_until("the child is a zombie", || {
            let stat = isthmus_core::sys::proc::stat(self.pid as u32);
            stat.is_some_and(|stat| stat.is_gone())
        });
    }

    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.collect();
    }

    /// Waits for the end; gives the wait status.
    pub fn collect(&mut self) -> i32 {
        let end = Instant::now() + WATCHDOG;
        let mut status = 0;
        loop {
            // SAFETY: plain call with a valid pointer.
            let got = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) };
            if got == self.pid {
                self.collected = true;
                return status;
            }
            assert!(got == 0 && Instant::now() < end, "child {} does not end", self.pid);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Expects a normal end.
    pub fn join(&mut self) {
        let status = self.collect();
        assert_eq!(status, 0, "child failed");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.collected {
            // SAFETY: our child, not collected yet.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + WATCHDOG;
    while !condition() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
