//! Why the kernel makes no such queue: which limit stands in the way, and how it is raised.

use std::ffi::CStr;
use std::path::PathBuf;

use super::{Access, Attributes};
use crate::error::Error;

/// Where the kernel shows and takes the limits of the namespace of queues.
const LIMITS: &str = "/proc/sys/fs/mqueue";
/// What the kernel keeps for each message beside its bytes: `struct msg_msg` and a node of the tree of
/// priorities, as getrlimit(2) counts them for `RLIMIT_MSGQUEUE`.
const OVERHEAD: u64 = 48 + 48;

/// What new queues get in this namespace of queues.
pub(super) fn defaults() -> Attributes {
    Attributes {
        messages: limit("msg_default").unwrap_or(10),
        size: limit("msgsize_default").unwrap_or(8192),
        depth: 0,
    }
}

/// One of the limits in /proc/sys/fs/mqueue.
fn limit(which: &str) -> Option<u64> {
    std::fs::read_to_string(format!("{LIMITS}/{which}")).ok()?.trim().parse().ok()
}

/// Why a queue could not be opened, from the `errno` that mq_open left.
#[cold]
pub(super) fn refusal(name: &CStr, access: Access, asked: Attributes) -> Error {
    let shown = name.to_string_lossy();
    let path = PathBuf::from(shown.as_ref());
    let Attributes { messages, size, .. } = asked;
    match Error::last_os("mq_open", Some(path.clone())) {
        Error::Os { errno: libc::ENOENT, .. } => Error::NotFound(path),
        Error::Os { errno: libc::EEXIST, .. } => Error::Exists(path),
        Error::Os { errno: libc::EACCES, .. } => Error::Permission(format!(
            "the queue {shown} may not be opened for {} by this user (its owner and mode stand in /dev/mqueue, \
             where that is mounted); access=\"r\" or \"w\" asks for less",
            match access {
                Access::Read => "receiving",
                Access::Write => "sending",
                Access::Both => "receiving and sending",
            }
        )),
        Error::Os { errno: libc::EINVAL | libc::EOVERFLOW, .. } => Error::Invalid(too_much(messages, size)),
        Error::Os { errno: libc::ENOSPC, .. } => Error::NoSpace(format!(
            "no more queues may be made: there are {} of them; {LIMITS}/queues_max is the limit (as root: \
             sysctl fs.mqueue.queues_max=NUMBER), or remove some (isthmus ls --kernel)",
            limit("queues_max").map_or("as many as allowed".to_owned(), |most| most.to_string())
        )),
        Error::Os { errno: libc::EMFILE, .. } if has_descriptors() => {
            let needed = messages.saturating_mul(size.saturating_add(OVERHEAD));
            let most = bytes_allowed();
            Error::NoSpace(format!(
                "a queue of maxsize={messages} and message_max={size} takes {needed} bytes, and all queues of \
                 this user together may take {most}: RLIMIT_MSGQUEUE is the limit (ulimit -q, LimitMSGQUEUE= of \
                 systemd); raise it, remove queues (isthmus ls --kernel), or ask for less"
            ))
        }
        Error::Os { errno: libc::ENOSYS, .. } => Error::Unsupported(
            "this kernel has no POSIX message queues (CONFIG_POSIX_MQUEUE, or a sandbox refuses mq_open); \
             isthmus.Queue(name) in shared memory does without"
                .to_owned(),
        ),
        other => other,
    }
}

/// Which limit `maxsize` or `message_max` is over.
fn too_much(messages: u64, size: u64) -> String {
    let pairs = [("maxsize", messages, "msg_max"), ("message_max", size, "msgsize_max")];
    for (what, asked, file) in pairs {
        let most = limit(file).unwrap_or(u64::MAX);
        if asked > most {
            return format!(
                "{what}={asked} is over {most}, the limit in {LIMITS}/{file} (as root: sysctl \
                 fs.mqueue.{file}={asked}); isthmus.Queue(name) in shared memory has no such limit"
            );
        }
    }
    format!(
        "the kernel refuses a queue of maxsize={messages} and message_max={size}: both are 1 or more, at most \
         65536 messages and 16777216 bytes even for root ({LIMITS})"
    )
}

/// False where this process may not open anything any more: mq_open gives the same errno for that.
fn has_descriptors() -> bool {
    // SAFETY: the name is a C string literal.
    let fd = unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    if fd >= 0 {
        // SAFETY: the descriptor is ours and nobody else knows it.
        unsafe { libc::close(fd) };
    }
    fd >= 0
}

/// Bytes that all queues of this user may take.
fn bytes_allowed() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for one rlimit. It cannot fail for a limit that every kernel has.
    unsafe { libc::getrlimit(libc::RLIMIT_MSGQUEUE, &raw mut limit) };
    limit.rlim_cur
}
