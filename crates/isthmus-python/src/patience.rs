//! How long a wait for a descriptor looks before it sleeps.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use isthmus_core::sys::pipe::{self, READABLE};
use isthmus_core::wait::Spin;
use pyo3::prelude::*;

/// How long a wait first looks again and again, in nanoseconds: longer than it takes to wake up the peer, so that
/// both are awake from the first success on.
const SPIN: u32 = 60_000;
/// Waits after which spinning is tried again where it did not pay.
const SPIN_AGAIN: u32 = 256;

/// Who was away for so long between two looks had to leave the CPU to somebody: mostly to the peer, which has
/// found its way to this CPU. It would have come sooner had we slept.
const LOST: Duration = Duration::from_micros(8);

/// Spins as long as that pays: a peer on another CPU answers within some microseconds. One that computes, or has to
/// share this CPU, does not, and after some waits in vain there is no spinning for a while.
pub(crate) struct Patience {
    budget: AtomicU32,
    waits: AtomicU32,
}

impl Patience {
    pub(crate) fn new() -> Patience {
        Patience { budget: AtomicU32::new(SPIN), waits: AtomicU32::new(0) }
    }

    /// Looks until it is ready; false where there is no looking now, or it was in vain.
    pub(crate) fn spin(&self, deadline: Option<Instant>, ready: impl Fn() -> bool) -> bool {
        let budget = self.budget.load(Ordering::Relaxed);
        let vain = if budget >= SPIN / 8 { budget / 2 } else { 0 };
        if budget == 0 {
            let waits = self.waits.load(Ordering::Relaxed) + 1;
            self.waits.store(waits % SPIN_AGAIN, Ordering::Relaxed);
            if waits < SPIN_AGAIN {
                return false;
            }
        }
        if ready() {
            return true; // which says nothing of what comes later
        }
        let (last, lost) = (Cell::new(Instant::now()), Cell::new(false));
        let found = Spin::with_budget(if budget == 0 { SPIN } else { budget }).until(deadline, || {
            let now = Instant::now();
            lost.set(lost.get() || now - last.replace(now) > LOST);
            ready()
        });
        self.budget.store(if found && !lost.get() { SPIN } else { vain }, Ordering::Relaxed);
        found
    }
}

/// The patience of one who receives from a socket.
#[pyclass(name = "Patience", module = "isthmus._core", frozen)]
pub(crate) struct PyPatience(pub(crate) Patience);

#[pymethods]
impl PyPatience {
    #[new]
    fn new() -> PyPatience {
        PyPatience(Patience::new())
    }

    /// Whether something to read, or the end, came while it looked.
    fn look(&self, py: Python<'_>, fd: i32) -> bool {
        py.detach(|| self.0.spin(None, || pipe::ready(fd, READABLE, 0).unwrap_or(true)))
    }
}
