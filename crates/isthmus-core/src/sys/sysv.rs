//! System V objects, sysvipc(7): removing them, and the values of semaphores. /proc/sysvipc lists them.

use crate::error::{Error, Result};

/// The three kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A message queue, `ipcrm -q`.
    Queue,
    /// A set of semaphores, `ipcrm -s`.
    Semaphores,
    /// Shared memory, `ipcrm -m`.
    Segment,
}

/// Removes an object. False where there is none of this number.
///
/// Queues and semaphores are gone at once, and who waits for them gets EIDRM; shared memory loses its key and goes
/// with the last process that has it attached.
pub fn remove(kind: Kind, id: i32) -> Result<bool> {
    // SAFETY: IPC_RMID reads and writes no memory of ours.
    let (call, code) = unsafe {
        match kind {
            Kind::Queue => ("msgctl", libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut())),
            Kind::Semaphores => ("semctl", libc::semctl(id, 0, libc::IPC_RMID)),
            Kind::Segment => ("shmctl", libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut())),
        }
    };
    if code == 0 {
        return Ok(true);
    }
    match Error::last_os(call, None) {
        Error::Os { errno: libc::EINVAL | libc::EIDRM, .. } => Ok(false),
        Error::Os { errno: libc::EPERM | libc::EACCES, .. } => Err(Error::Permission(format!(
            "number {id} belongs to another user: its owner, its creator and root may remove it"
        ))),
        other => Err(other),
    }
}

/// The values of a set of `count` semaphores; `None` where it is gone or may not be read.
pub fn values(id: i32, count: usize) -> Option<Vec<u16>> {
    const GETALL: libc::c_int = 13;
    // The kernel writes as many values as the set has, whatever we think: a number may have come to another set,
    // so there is room for the largest one.
    let most = std::fs::read_to_string("/proc/sys/kernel/sem").ok()?;
    let most: usize = most.split_whitespace().next()?.parse().ok()?;
    let mut values = vec![0_u16; most.max(count).max(65_536)];
    // SAFETY: room for the values of the largest set there can be.
    if unsafe { libc::semctl(id, 0, GETALL, values.as_mut_ptr()) } < 0 {
        return None;
    }
    values.truncate(count);
    Some(values)
}
