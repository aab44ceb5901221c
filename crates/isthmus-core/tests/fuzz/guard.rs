//! What every case is watched for: time, memory and descriptors; and how its calls ended.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use isthmus_core::error::Error;

/// A case takes a fraction of a millisecond; this long only where it hangs.
const HANG: Duration = Duration::from_secs(60);
/// No case needs more memory of its own than this, in bytes.
const MEMORY: usize = 8 << 20;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Milliseconds since the first use, when the case under way began; 0: none.
static BEGAN: AtomicU64 = AtomicU64::new(0);
static NUMBER: AtomicU64 = AtomicU64::new(0);
static ALONE: Mutex<()> = Mutex::new(());

fn now_ms() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

/// Kills the whole process where a case does not end: a thread that hangs cannot be stopped otherwise.
fn watch() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let began = BEGAN.load(Ordering::Relaxed);
                if began != 0 && now_ms().saturating_sub(began) > HANG.as_millis() as u64 {
                    eprintln!("case {} hangs", NUMBER.load(Ordering::Relaxed));
                    std::process::abort();
                }
            }
        });
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// One test at a time, watched.
pub(crate) struct Guard {
    test: &'static str,
    descriptors: usize,
    before: std::cell::Cell<usize>,
    largest: std::cell::Cell<usize>,
    _alone: MutexGuard<'static, ()>,
}

/// Tests of this file fork, change what all of the process shares, and count what it uses: one at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guard {
    pub(crate) fn new(test: &'static str, alone: MutexGuard<'static, ()>) -> Guard {
        watch();
        Guard {
            test,
            descriptors: descriptors(),
            before: std::cell::Cell::new(0),
            largest: std::cell::Cell::new(0),
            _alone: alone,
        }
    }

    pub(crate) fn begin(&self, number: u64) {
        NUMBER.store(number, Ordering::Relaxed);
        BEGAN.store(now_ms(), Ordering::Relaxed);
        let live = LIVE.load(Ordering::Relaxed);
        self.before.set(live);
        PEAK.store(live, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        BEGAN.store(0, Ordering::Relaxed);
        let used = PEAK.load(Ordering::Relaxed).saturating_sub(self.before.get());
        self.largest.set(self.largest.get().max(used));
        assert!(used < MEMORY, "a case took {used} bytes");
    }

    pub(crate) fn finish(&self) {
        let (before, after) = (self.descriptors, descriptors());
        assert!(after <= before, "{}: {before} descriptors before, {after} after", self.test);
        println!("{}: at most {} KiB for one case", self.test, self.largest.get() >> 10);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        BEGAN.store(0, Ordering::Relaxed);
        if std::thread::panicking() {
            eprintln!(
                "{}: run it again with ISTHMUS_FUZZ_FIRST={} ISTHMUS_FUZZ_CASES=1",
                self.test,
                NUMBER.load(Ordering::Relaxed)
            );
        }
    }
}

/// How calls ended.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Counts how a call ended; its result if it went well.
    pub(crate) fn note<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        let (name, value) = match result {
            Ok(value) => ("well", Some(value)),
            Err(error) => (Tally::name(&error), None),
        };
        *self.0.entry(name).or_default() += 1;
        value
    }

    /// How often calls ended so.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    fn name(error: &Error) -> &'static str {
        // Made as people see it: texts are built from what stands in shared memory too.
        assert!(error.to_string().len() < 1000, "{error}");
        match error {
            Error::Closed => "closed",
            Error::ShutDown => "shut down",
            Error::PeerDied(_) => "peer died",
            Error::OwnerDied(_) => "owner died",
            Error::TooLarge { .. } => "too large",
            Error::Invalid(_) => "invalid",
            Error::Incompatible(_) => "incompatible",
            Error::Corrupt(_) => "corrupt",
            Error::Exists(_) => "exists",
            Error::NotFound(_) => "not found",
            Error::Permission(_) => "permission",
            Error::NoSpace(_) => "no space",
            Error::NotOwner(_) => "not owner",
            Error::Buried => "buried",
            Error::Timeout(_) => "timeout",
            Error::Os { .. } => "system call",
            Error::Unsupported(_) => "unsupported",
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(name, count)| format!("{name} {count}")).collect();
        f.write_str(&parts.join(", "))
    }
}
