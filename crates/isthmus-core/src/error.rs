//! One error type for the whole core; the binding maps each variant to one Python class.

use std::fmt;
use std::path::PathBuf;

use crate::owner::Owner;

/// What is known of a process that died: for `OwnerDied` and `PeerDied`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Death {
    /// Its identity in the registry.
    pub owner: Owner,
    /// Its process id in its own PID namespace; 0 when no longer known.
    pub pid: u32,
    /// When the death was noticed, nanoseconds since the epoch; 0 when unknown.
    pub since_ns: u64,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 { write!(f, "a process") } else { write!(f, "process {}", self.pid) }
    }
}

/// Everything that can go wrong in the core.
#[derive(Debug)]
pub enum Error {
    /// This handle was closed.
    Closed,
    /// The other side finished; nothing more will come (or be taken).
    ShutDown,
    /// The last producer was killed.
    PeerDied(Death),
    /// The lock's owner was killed; the lock is not held by the caller.
    OwnerDied(Death),
    /// A message or an object is over a limit.
    TooLarge {
        /// What is too large, and in which unit.
        what: &'static str,
        /// The size asked for.
        size: u64,
        /// The largest allowed.
        limit: u64,
    },
    /// An argument or a stored attribute does not fit; the text names both sides.
    Invalid(String),
    /// The object exists and has another attribute, version or identity; the text names both sides.
    Incompatible(String),
    /// Shared memory holds something no correct peer writes.
    Corrupt(String),
    /// The name is taken.
    Exists(PathBuf),
    /// The name does not exist.
    NotFound(PathBuf),
    /// Not allowed (owner, mode, or a lock released by somebody else); the text says what.
    Permission(String),
    /// Memory cannot be reserved: which limit, what was needed, what is left, what to set.
    NoSpace(String),
    /// A lock is not held by the caller.
    NotOwner(String),
    /// This mechanism does not have that; the text names the one that does.
    Unsupported(String),
    /// This process was declared dead by its peers (it had lost every proof of life).
    Buried,
    /// Waiting took longer than allowed.
    Timeout(String),
    /// A system call failed.
    Os {
        /// The call, e.g. `"openat"`.
        call: &'static str,
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// Its errno.
        errno: i32,
    },
}

/// Results of the core.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The calling thread's `errno` after `call` failed.
    pub fn last_os(call: &'static str, path: Option<PathBuf>) -> Error {
        Error::Os { call, path, errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(0) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Closed => write!(f, "this handle is closed"),
            Error::ShutDown => write!(f, "the other side finished"),
            Error::PeerDied(death) => write!(f, "{death}, the last producer, was killed"),
            Error::OwnerDied(death) => write!(f, "{death} was killed holding the lock"),
            Error::TooLarge { what, size, limit } => write!(f, "{what}: {size} is over the limit of {limit}"),
            Error::Invalid(text)
            | Error::Incompatible(text)
            | Error::Corrupt(text)
            | Error::Permission(text)
            | Error::NoSpace(text)
            | Error::NotOwner(text)
            | Error::Unsupported(text)
            | Error::Timeout(text) => write!(f, "{text}"),
            Error::Exists(path) => write!(f, "{} exists already", path.display()),
            Error::NotFound(path) => write!(f, "{} does not exist", path.display()),
            Error::Buried => write!(
                f,
                "this process was declared dead by its peers: its lock on the registry was free and its \
                 process entry was gone; start a new process"
            ),
            Error::Os { call, path, errno } => {
                write!(f, "{call}: {}", std::io::Error::from_raw_os_error(*errno))?;
                if let Some(path) = path {
                    write!(f, " ({})", path.display())?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {}
