//! Waiting on behalf of Python: first briefly with the GIL, then without, looking at signals between.

use std::time::{Duration, Instant};

use isthmus_core::error::Result;
use isthmus_core::memory::pause;
use isthmus_core::owner::Owner;
use isthmus_core::queue::handle::QueueHandle;
use isthmus_core::queue::{Attempt, On, Step};
use isthmus_core::wait::Waited;
use pyo3::prelude::*;

use crate::arguments::Timeout;
use crate::errors::{OrRaise, number, raise};
use crate::signals::heed;

/// Looks at a condition before the GIL is given up; about 2 us, less than giving it up and getting it back
/// costs when other threads want it.
#[inline]
pub(crate) fn look_briefly(ready: impl Fn() -> bool) -> bool {
    (0..64).any(|_| {
        pause();
        ready()
    })
}

/// Counts the rounds of a wait that goes on without sleeping. What says "try again" and the attempt itself look at
/// the same words, so that they disagree for ever only where another process toggles these: then nobody else would
/// look at signals and at the clock.
#[derive(Default)]
pub(crate) struct Rounds(u32);

impl Rounds {
    /// Begins a round; true where time is up. Looks every 1000th time only.
    #[inline]
    pub(crate) fn next(
        &mut self,
        py: Python<'_>,
        for_work: bool,
        deadline: Option<Instant>,
    ) -> PyResult<bool> {
        self.0 += 1;
        if self.0 < 1000 {
            return Ok(false);
        }
        self.0 = 0;
        heed(py, for_work)?;
        Ok(deadline.is_some_and(|deadline| Instant::now() >= deadline))
    }
}

/// A lock is held for less than a microsecond unless its holder was descheduled, stopped or killed.
/// `timeout` is about messages and room, so even a try waits this long for the lock.
const LOCK_GRACE: Duration = Duration::from_millis(100);

/// Which end of the queue a call works at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Producer,
    Consumer,
}

fn me(handle: &QueueHandle, end: End) -> Result<Owner> {
    match end {
        End::Producer => handle.producer(),
        End::Consumer => handle.consumer(),
    }
}

/// Tries, and where something stands in the way, waits and tries again until done; `Err(on)` says what
/// stood in the way when time was up.
pub(crate) fn drive<T>(
    py: Python<'_>,
    handle: &QueueHandle,
    end: End,
    timeout: Timeout,
    mut step: impl FnMut(Owner, &Attempt) -> Result<Step<T>>,
) -> PyResult<std::result::Result<T, On>> {
    let owner = me(handle, end).or_raise(py)?;
    match step(owner, &Attempt::default()).or_raise(py)? {
        Step::Done(value) => Ok(Ok(value)),
        Step::Wait(on) => drive_from(py, handle, end, timeout, on, step),
    }
}

/// As [`drive`], for one who has tried already and knows what to wait for.
#[cold]
pub(crate) fn drive_from<T>(
    py: Python<'_>,
    handle: &QueueHandle,
    end: End,
    timeout: Timeout,
    on: On,
    step: impl FnMut(Owner, &Attempt) -> Result<Step<T>>,
) -> PyResult<std::result::Result<T, On>> {
    if matches!(timeout, Timeout::Ask) {
        if on == On::Messages {
            handle.check_end().or_raise(py)?;
        }
        return Err(raise(py, "WouldBlock", "this would have to wait", &[("on", number(py, on.code()))]));
    }
    let _stay = handle.session().stay().or_raise(py)?;
    let mut attempt = Attempt::default();
    let ended = drive_on(py, handle, end, timeout, on, &mut attempt, step);
    if !matches!(ended, Ok(Ok(_))) {
        handle.queue().leave(&attempt);
    }
    if matches!(ended, Ok(Err(_))) {
        // What the caller says about a queue it gave up on, it says of an open one: the GIL is held from
        // here on.
        me(handle, end).or_raise(py)?;
    }
    ended
}

fn drive_on<T>(
    py: Python<'_>,
    handle: &QueueHandle,
    end: End,
    timeout: Timeout,
    mut on: On,
    attempt: &mut Attempt,
    mut step: impl FnMut(Owner, &Attempt) -> Result<Step<T>>,
) -> PyResult<std::result::Result<T, On>> {
    let queue = handle.queue();
    let deadline = timeout.deadline();
    let grace = if matches!(timeout, Timeout::Last) { Duration::ZERO } else { LOCK_GRACE };
    let lock_deadline = deadline.map(|deadline| deadline.max(Instant::now() + grace));
    let mut last = false;
    let mut rounds = Rounds::default();
    loop {
        let for_work = on == On::Messages && timeout.waits();
        if rounds.next(py, for_work, deadline)? {
            return Ok(Err(on));
        }
        if on == On::Messages {
            handle.check_end().or_raise(py)?;
        }
        let owner = me(handle, end).or_raise(py)?;
        if !look_briefly(|| queue.is_ready(on)) {
            heed(py, for_work)?;
            let until =
                if matches!(on, On::ProducerLock | On::ConsumerLock) { lock_deadline } else { deadline };
            let waited = py.detach(|| handle.wait(owner, attempt, on, until)).or_raise(py)?;
            // After every sleep, interrupted or not: a signal may have come just before it. What is there by
            // now is taken, also by a process that was asked to end.
            py.check_signals()?;
            if waited == Waited::TimedOut {
                if last {
                    return Ok(Err(on));
                }
                // Before giving up, what dead processes hold is given back and tried once more.
                last = true;
                match end {
                    End::Producer => queue.reclaim(owner, attempt).map(drop),
                    End::Consumer => queue.redeliver(owner, attempt),
                }
                .or_raise(py)?;
            }
        }
        let owner = me(handle, end).or_raise(py)?;
        match step(owner, attempt).or_raise(py)? {
            Step::Done(value) => return Ok(Ok(value)),
            Step::Wait(next) => on = next,
        }
    }
}

/// Waits until a queue has a message, or an end that taking one would say.
pub(crate) fn until_readable(py: Python<'_>, handle: &QueueHandle, timeout: Timeout) -> PyResult<bool> {
    let deadline = timeout.deadline();
    let queue = handle.queue();
    let _stay = handle.session().stay().or_raise(py)?;
    let mut attempt = Attempt::default();
    let mut wait = || {
        loop {
            let me = handle.consumer().or_raise(py)?;
            if queue.has_message() || look_briefly(|| queue.has_message()) || handle.check_end().is_err() {
                return Ok(true);
            }
            heed(py, timeout.waits())?;
            let waited = py.detach(|| handle.wait(me, &mut attempt, On::Messages, deadline)).or_raise(py)?;
            py.check_signals()?;
            if waited == Waited::TimedOut {
                queue.redeliver(me, &Attempt::default()).or_raise(py)?;
                return Ok(queue.has_message());
            }
        }
    };
    let ready = wait();
    // It took nothing: the wake-up is for others.
    queue.leave(&attempt);
    ready
}
