//! POSIX message queues of the kernel, mq_overview(7).
//!
//! On Linux the descriptor of a queue is a file descriptor: it can be polled, and is closed with the process. A
//! queue itself stays until somebody removes its name or the machine restarts.
//!
//! Trying without waiting is a call with a deadline long past: the kernel looks once and takes a short way out.
//! So no descriptor ever gets `O_NONBLOCK`, which a forked child would share.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::time::Duration;

pub use self::notify::{Notice, notify};
use self::refusal::{defaults, refusal};
use crate::error::{Error, Result};

mod notify;
mod refusal;

/// Priorities are 0 to this minus one on every Linux (`MQ_PRIO_MAX`); higher ones are received first.
pub const PRIORITIES: u32 = 32_768;

/// Whether a queue that does not exist is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// It must exist.
    Never,
    /// Where it is missing.
    Missing,
    /// It must not exist.
    New,
}

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Receiving.
    Read,
    /// Sending.
    Write,
    /// Both.
    Both,
}

/// What a queue holds and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Most messages at a time.
    pub messages: u64,
    /// Most bytes of a message.
    pub size: u64,
    /// Messages inside.
    pub depth: u64,
}

/// What is wanted of a queue that is made, or asked of one that exists.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Most messages at a time.
    pub messages: Option<u64>,
    /// Most bytes of a message.
    pub size: Option<u64>,
}

/// How a call on a queue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It is done.
    Done(T),
    /// Nothing to receive, or no room, in time.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// A message that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its bytes.
    pub length: usize,
    /// Its priority.
    pub priority: u32,
}

/// The name of a queue, semaphore or piece of shared memory as POSIX has it: `/name`, with one slash.
pub fn name(text: &str, what: &str, longest: usize) -> Result<CString> {
    let bare = text.strip_prefix('/').unwrap_or(text);
    let fault = match bare {
        "" => "it is empty",
        "." | ".." => "it is a directory",
        _ if bare.contains('/') => "it has a slash inside",
        _ if bare.contains('\0') => "it has a zero byte inside",
        _ if bare.len() > longest => "it is too long",
        _ => {
            return CString::new(format!("/{bare}")).map_err(|_| Error::Invalid(format!("name {text:?}")));
        }
    };
    Err(Error::Invalid(format!(
        "the name of a {what} is \"/name\" with 1 to {longest} bytes after its only slash, not {text:?}: {fault}"
    )))
}

/// An open queue; closed when dropped.
#[derive(Debug)]
pub struct Queue {
    fd: i32,
    identity: (u64, u64),
}

impl Queue {
    /// Opens the queue `name`, or makes it; `permissions` as open(2) takes them, less the umask.
    pub fn open(
        name: &CStr,
        create: Create,
        access: Access,
        permissions: u32,
        wanted: Wanted,
    ) -> Result<Queue> {
        let flags = libc::O_CLOEXEC
            | match access {
                Access::Read => libc::O_RDONLY,
                Access::Write => libc::O_WRONLY,
                Access::Both => libc::O_RDWR,
            };
        let flags = flags
            | match create {
                Create::Never => 0,
                Create::Missing => libc::O_CREAT,
                Create::New => libc::O_CREAT | libc::O_EXCL,
            };
        let defaults = defaults();
        let attributes = Attributes {
            messages: wanted.messages.unwrap_or(defaults.messages),
            size: wanted.size.unwrap_or(defaults.size),
            depth: 0,
        };
        // SAFETY: all-zero is a valid mq_attr.
        let mut raw: libc::mq_attr = unsafe { std::mem::zeroed() };
        raw.mq_maxmsg = attributes.messages.min(i64::MAX as u64) as libc::c_long;
        raw.mq_msgsize = attributes.size.min(i64::MAX as u64) as libc::c_long;
        // SAFETY: the name is a C string and `raw` a valid mq_attr, both outlive the call.
        let fd = unsafe { libc::mq_open(name.as_ptr(), flags, permissions, &raw const raw) };
        if fd < 0 {
            return Err(refusal(name, access, attributes));
        }
        let queue = Queue::adopt(fd)?;
        if create != Create::New {
            queue.compare(name, wanted)?;
        }
        Ok(queue)
    }

    /// Takes over a descriptor, away from 0, 1 and 2, which others write to without looking.
    fn adopt(mut fd: i32) -> Result<Queue> {
        if fd <= 2 {
            // SAFETY: plain call on a descriptor that is ours.
            let moved = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
            let failure = Error::last_os("fcntl", None);
            // SAFETY: the descriptor is ours and nobody else knows it.
            unsafe { libc::close(fd) };
            if moved < 0 {
                return Err(failure);
            }
            fd = moved;
        }
        let identity = identity(fd).unwrap_or_default();
        Ok(Queue { fd, identity })
    }

    fn compare(&self, name: &CStr, wanted: Wanted) -> Result<()> {
        let found = attributes(self.fd)?;
        let pairs = [("maxsize", wanted.messages, found.messages), ("message_max", wanted.size, found.size)];
        for (what, asked, has) in pairs {
            if let Some(asked) = asked.filter(|asked| *asked != has) {
                return Err(Error::Incompatible(format!(
                    "{what}={asked} was asked for, and the queue {} has {what}={has}",
                    name.to_string_lossy()
                )));
            }
        }
        Ok(())
    }

    /// The descriptor.
    pub fn raw(&self) -> i32 {
        self.fd
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Programs close descriptors they do not know; the number may be somebody else's file by now.
        if identity(self.fd) == Some(self.identity) {
            // SAFETY: the descriptor is ours, and forgotten here.
            unsafe { libc::close(self.fd) };
        }
    }
}

fn identity(fd: i32) -> Option<(u64, u64)> {
    let mut raw = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `raw` has room for one stat, and is read only where the call has filled it.
    unsafe {
        if libc::fstat(fd, raw.as_mut_ptr()) != 0 {
            return None;
        }
        let raw = raw.assume_init();
        Some((raw.st_dev, raw.st_ino))
    }
}

/// Removes the name; those who have the queue open go on using it.
pub fn unlink(name: &CStr) -> Result<()> {
    // SAFETY: the name is a C string that outlives the call.
    if unsafe { libc::mq_unlink(name.as_ptr()) } == 0 {
        return Ok(());
    }
    let path = PathBuf::from(name.to_string_lossy().as_ref());
    Err(match Error::last_os("mq_unlink", Some(path.clone())) {
        Error::Os { errno: libc::ENOENT, .. } => Error::NotFound(path),
        Error::Os { errno: libc::EACCES | libc::EPERM, .. } => {
            Error::Permission(format!("the queue {} is not this user's to remove", path.display()))
        }
        other => other,
    })
}

/// What a queue holds and may hold.
pub fn attributes(fd: i32) -> Result<Attributes> {
    let mut raw = MaybeUninit::<libc::mq_attr>::uninit();
    // SAFETY: `raw` has room for one mq_attr, and is read only where the call has filled it.
    unsafe {
        if libc::mq_getattr(fd, raw.as_mut_ptr()) != 0 {
            return Err(Error::last_os("mq_getattr", None));
        }
        let raw = raw.assume_init();
        Ok(Attributes {
            messages: raw.mq_maxmsg as u64,
            size: raw.mq_msgsize as u64,
            depth: raw.mq_curmsgs as u64,
        })
    }
}

/// Bytes of the messages inside, and the process that is registered for notification (0 for none): what reading
/// the descriptor of a queue gives. `None` where it was not opened for receiving.
pub fn status(fd: i32) -> Option<(u64, u32)> {
    let mut text = [0_u8; 128];
    // SAFETY: the buffer is valid for writing its length.
    let got = unsafe { libc::pread(fd, text.as_mut_ptr().cast(), text.len(), 0) };
    let text = std::str::from_utf8(text.get(..usize::try_from(got).ok()?)?).ok()?;
    let field = |key: &str| -> Option<u64> {
        text.split_whitespace().find_map(|word| word.strip_prefix(key))?.parse().ok()
    };
    Some((field("QSIZE:")?, field("NOTIFY_PID:")? as u32))
}

/// The moment `wait` from now; the beginning of time for a mere try.
#[inline]
fn until(wait: Option<Duration>) -> libc::timespec {
    let Some(wait) = wait else { return libc::timespec { tv_sec: 0, tv_nsec: 0 } };
    let nanoseconds = super::clock::wall_ns() + wait.as_nanos() as u64;
    libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanoseconds % 1_000_000_000) as libc::c_long,
    }
}

#[inline]
fn outcome<T>(failed: bool, call: &'static str, value: T) -> Result<Outcome<T>> {
    if !failed {
        return Ok(Outcome::Done(value));
    }
    match Error::last_os(call, None) {
        Error::Os { errno: libc::ETIMEDOUT | libc::EAGAIN, .. } => Ok(Outcome::TimedOut),
        Error::Os { errno: libc::EINTR, .. } => Ok(Outcome::Interrupted),
        other => Err(other),
    }
}

/// Sends a message; waits for room up to `wait`, not at all for `None`.
///
/// The clock of the wait is that of the calendar: where somebody sets it back meanwhile, it takes longer. So
/// long waits are made of short ones.
#[inline]
pub fn send(fd: i32, message: &[u8], priority: u32, wait: Option<Duration>) -> Result<Outcome<()>> {
    let until = until(wait);
    // SAFETY: the message is valid for reading its length, `until` is a valid timespec.
    let code =
        unsafe { libc::mq_timedsend(fd, message.as_ptr().cast(), message.len(), priority, &raw const until) };
    outcome(code != 0, "mq_timedsend", ())
}

/// Receives the oldest message of the highest priority into a buffer of at least the queue's message size. Waits
/// as [`send`] does.
#[inline]
pub fn receive(fd: i32, buffer: &mut [MaybeUninit<u8>], wait: Option<Duration>) -> Result<Outcome<Received>> {
    let until = until(wait);
    let mut priority = 0;
    // SAFETY: the buffer is valid for writing its length, the rest for one value each.
    let length = unsafe {
        libc::mq_timedreceive(
            fd,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            &raw mut priority,
            &raw const until,
        )
    };
    outcome(length < 0, "mq_timedreceive", Received { length: length as usize, priority })
}

/// Which way a descriptor is to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// For receiving.
    Read,
    /// For sending.
    Write,
}

/// Waits until a queue has a message, or room, at most `wait`.
pub fn poll(fd: i32, ready: Ready, wait: Duration) -> Result<Outcome<()>> {
    let events = if ready == Ready::Read { libc::POLLIN } else { libc::POLLOUT };
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // Rounded up: a wait must not end before its time and be taken up again at once.
    let milliseconds = wait.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
    // SAFETY: one valid pollfd.
    match unsafe { libc::poll(&raw mut entry, 1, milliseconds) } {
        0 => Ok(Outcome::TimedOut),
        1 if entry.revents & libc::POLLNVAL != 0 => {
            Err(Error::Os { call: "poll", path: None, errno: libc::EBADF })
        }
        code => outcome(code < 0, "poll", ()),
    }
}
