//! Timers: those that are read from a descriptor, timerfd_create(2), and those that send a signal with a
//! number, timer_create(2). Both run on CLOCK_MONOTONIC, which nobody sets.

use std::time::Duration;

use crate::error::{Error, Result};

/// When a timer runs out next, and how often from then on; zero means never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// From now; zero stops the timer.
    pub after: Duration,
    /// Zero for once.
    pub interval: Duration,
}

fn spec(length: Duration) -> libc::timespec {
    libc::timespec {
        // Beyond what the kernel counts in is as good as for ever.
        tv_sec: length.as_secs().min(i64::MAX as u64 / 2) as libc::time_t,
        tv_nsec: libc::c_long::from(length.subsec_nanos()),
    }
}

fn length(spec: libc::timespec) -> Duration {
    Duration::new(spec.tv_sec as u64, spec.tv_nsec as u32)
}

impl Setting {
    fn spec(self) -> libc::itimerspec {
        libc::itimerspec { it_interval: spec(self.interval), it_value: spec(self.after) }
    }
}

fn done(code: i32, call: &'static str) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Error::last_os(call, None)) }
}

const NEVER: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
const STOPPED: libc::itimerspec = libc::itimerspec { it_interval: NEVER, it_value: NEVER };

/// A timer that is read: close-on-exec, and it does not block.
pub fn descriptor() -> Result<i32> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
    if fd >= 0 { Ok(fd) } else { Err(Error::last_os("timerfd_create", None)) }
}

/// Sets the timer behind a descriptor.
pub fn set_descriptor(fd: i32, setting: Setting) -> Result<()> {
    let spec = setting.spec();
    // SAFETY: the kernel reads `spec`; the old setting is not asked for.
    done(unsafe { libc::timerfd_settime(fd, 0, &raw const spec, std::ptr::null_mut()) }, "timerfd_settime")
}

/// Seconds until the timer behind a descriptor runs out; zero for one that is stopped.
pub fn left_descriptor(fd: i32) -> Result<Duration> {
    let mut spec = STOPPED;
    // SAFETY: the kernel fills `spec`.
    done(unsafe { libc::timerfd_gettime(fd, &raw mut spec) }, "timerfd_gettime")?;
    Ok(length(spec.it_value))
}

/// A timer that sends this process `signal` with `value`; its number, for the calls below.
pub fn create(signal: i32, value: i32) -> Result<usize> {
    // SAFETY: plain numbers and pointers that may be null.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = signal;
    event.sigev_value = libc::sigval { sival_ptr: value as u32 as usize as *mut libc::c_void };
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: the kernel reads `event` and fills `timer`.
    let code = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
    done(code, "timer_create")?;
    Ok(timer as usize)
}

/// Sets a timer that sends signals.
pub fn set(timer: usize, setting: Setting) -> Result<()> {
    let spec = setting.spec();
    // SAFETY: the kernel reads `spec` and refuses what is no timer of this process.
    let code =
        unsafe { libc::timer_settime(timer as libc::timer_t, 0, &raw const spec, std::ptr::null_mut()) };
    done(code, "timer_settime")
}

/// Seconds until a timer sends its signal; zero for one that is stopped.
pub fn left(timer: usize) -> Result<Duration> {
    let mut spec = STOPPED;
    // SAFETY: the kernel fills `spec`.
    done(unsafe { libc::timer_gettime(timer as libc::timer_t, &raw mut spec) }, "timer_gettime")?;
    Ok(length(spec.it_value))
}

/// Removes a timer that sends signals.
pub fn delete(timer: usize) -> Result<()> {
    // SAFETY: the kernel refuses what is no timer of this process.
    done(unsafe { libc::timer_delete(timer as libc::timer_t) }, "timer_delete")
}
