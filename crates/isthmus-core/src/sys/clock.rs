//! Clocks.

/// Nanoseconds of `clock`.
fn now(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for one timespec; both clocks exist on every Linux.
    let code = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert!(code == 0, "clock_gettime cannot fail for a fixed clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds since 1970: for people to read, may jump.
pub fn wall_ns() -> u64 {
    now(libc::CLOCK_REALTIME)
}

/// Nanoseconds since boot, never jumping: for deadlines.
pub fn monotonic_ns() -> u64 {
    now(libc::CLOCK_MONOTONIC)
}

/// Milliseconds since boot, to the next few, for less than the price of the others.
pub fn coarse_ms() -> u64 {
    now(libc::CLOCK_MONOTONIC_COARSE) / 1_000_000
}

/// Sleeps for about this long; a signal may end it early.
pub fn nap_us(microseconds: u32) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: i64::from(microseconds.min(999_999)) * 1000 };
    // SAFETY: `time` is a valid timespec; no remainder is asked for.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}
