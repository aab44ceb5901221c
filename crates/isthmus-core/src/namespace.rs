//! Rule 1: all named objects of a group of processes live in one directory, one file an object.
//!
//! The directory is, in this order: the one given, `$ISTHMUS_NAMESPACE`, `/dev/shm/isthmus-<user id>`. It is
//! created with mode 0700 if it does not exist. It is refused if it is a symlink, belongs to somebody else,
//! or is open to others. `$ISTHMUS_NAMESPACE_MODE` (octal, such as 770) asks for more: it is the mode of a
//! directory created and the widest accepted; where it admits others, the directory may also belong to
//! another user. Files get the directory's mode without the execute bits; for a group, give the directory
//! the set-group-id bit (2770), so that files belong to its group.
//!
//! Names that begin with a dot belong to Isthmus itself (`.registry`, `.bell-…`). All other names are objects, or files
//! that somebody put there, which are left alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::process::Shelf;
use crate::sys::fifo;
use crate::sys::file::{self, File};
use crate::sys::proc;

/// Longest object name in bytes; leaves room for suffixes below the 255 of file systems.
pub const MAX_NAME: usize = 200;

/// How names of bells begin, the FIFOs of event loops (`bell.rs`).
pub(crate) const BELL_PREFIX: &str = ".bell-";

/// Directories this process has swept.
static SWEPT: Shelf<(u64, u64)> = Shelf::new();

/// A directory of named objects, open.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    directory: File,
    file_mode: u32,
}

impl Namespace {
    /// Opens (or creates) the namespace: the one given, or the one of the environment, or the user's own.
    /// The first opening in a process removes what killed processes left behind.
    pub fn open(path: Option<&Path>) -> Result<Arc<Namespace>> {
        let namespace = Namespace::open_as_found(path)?;
        let identity = namespace.directory.identity();
        let mut swept = SWEPT.lock();
        let first = !swept.items().contains(&identity);
        if first {
            let mut items = swept.items().to_vec();
            items.push(identity);
            swept.replace(items);
        }
        drop(swept);
        if first {
            let _ = namespace.sweep(); // a convenience: what stays now is taken by a later sweep
        }
        Ok(namespace)
    }

    /// As [`Namespace::open`], but removes nothing: for those who want to see what is there, or to know
    /// what [`Namespace::sweep`] removes.
    pub fn open_as_found(path: Option<&Path>) -> Result<Arc<Namespace>> {
        let mode = mode_asked(std::env::var("ISTHMUS_NAMESPACE_MODE").ok().as_deref())?;
        let from_environment = || {
            let value = std::env::var_os("ISTHMUS_NAMESPACE").filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let namespace = match path.map(Path::to_owned).or_else(from_environment) {
            Some(path) => Namespace::open_directory(&path, mode)?,
            None => Namespace::open_default(mode)?,
        };
        Ok(Arc::new(namespace))
    }

    fn open_default(mode: u32) -> Result<Namespace> {
        let path = PathBuf::from(format!("/dev/shm/isthmus-{}", proc::user()));
        Namespace::open_directory(&path, mode).map_err(|error| match error {
            Error::NotFound(_)
            | Error::Os { errno: libc::ENOENT | libc::EACCES | libc::EROFS | libc::ENOTDIR, .. } => {
                Error::Invalid(
                    "/dev/shm cannot be used; set ISTHMUS_NAMESPACE (or namespace=) to a directory on a \
                     tmpfs, of your own and with mode 0700"
                        .to_owned(),
                )
            }
            other => other,
        })
    }

    fn open_directory(path: &Path, mode: u32) -> Result<Namespace> {
        // Through the components a trailing slash goes away, which would follow a symlink.
        let path: PathBuf = std::path::absolute(path)
            .map_err(|_| Error::Invalid("the namespace is an empty path".to_owned()))?
            .components()
            .collect();
        let created = file::make_directory(&path, mode)?;
        let directory = file::open_directory(&path).map_err(|error| match error {
            Error::Os { errno: libc::ELOOP | libc::ENOTDIR, .. } => Error::Permission(format!(
                "the namespace {} is a symlink or not a directory; it must be a directory itself",
                path.display()
            )),
            Error::Os { errno: libc::ENOENT, .. } => Error::NotFound(path.clone()),
            other => other,
        })?;
        if created {
            file::set_mode(&directory, mode)?; // whatever the umask made of it
        }
        let found = directory.stat()?;
        let shared = mode & 0o077 != 0;
        if found.uid != proc::user() && !shared {
            return Err(Error::Permission(format!(
                "the namespace {} belongs to user {}, this process runs as user {}; choose another with \
                 ISTHMUS_NAMESPACE, or ask for sharing with ISTHMUS_NAMESPACE_MODE (such as 770)",
                path.display(),
                found.uid,
                proc::user()
            )));
        }
        if found.mode & 0o077 & !mode != 0 {
            return Err(Error::Permission(format!(
                "the namespace {} has mode {:04o}, asked for was at most {mode:04o}; a namespace \
                 is a directory for isthmus alone: choose another one (it is made with the right mode), or ask \
                 for sharing with ISTHMUS_NAMESPACE_MODE={:o}",
                path.display(),
                found.mode & 0o7777,
                found.mode & 0o7777
            )));
        }
        Ok(Namespace { path, directory, file_mode: found.mode & 0o666 })
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory.
    pub fn directory(&self) -> &File {
        &self.directory
    }

    /// Mode of the files in it.
    pub fn file_mode(&self) -> u32 {
        self.file_mode
    }

    /// Whether only its owner can open what is in it.
    pub fn is_private(&self) -> bool {
        self.file_mode.trailing_zeros() >= 6
    }

    /// Where an object of this name lives.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the bells of event loops that are gone: nobody has them open for reading.
    pub(crate) fn sweep_bells(&self) {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return };
        for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if name.starts_with(BELL_PREFIX) && fifo::has_no_reader(&self.directory, &name) {
                let _ = file::remove(&self.directory, &name);
            }
        }
    }

    /// All names that could be objects, sorted; what is behind them is not looked at.
    pub fn list(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path).map_err(|error| Error::Os {
            call: "readdir",
            path: Some(self.path.clone()),
            errno: error.raw_os_error().unwrap_or(0),
        })?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| check_name(name).is_ok()).collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// Refuses a name that cannot be a file of its own in the namespace.
pub fn check_name(name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > MAX_NAME {
        format!("it has {} bytes, the limit is {MAX_NAME}", name.len())
    } else if name.starts_with('.') {
        "it begins with a dot".to_owned()
    } else if name.contains('/') {
        "it contains a slash".to_owned()
    } else if name.chars().any(char::is_control) {
        "it contains a control character".to_owned()
    } else {
        return Ok(());
    };
    let mut shown: String = name.chars().take(MAX_NAME).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    Err(Error::Invalid(format!("{shown:?} cannot be a name: {problem}")))
}

fn mode_asked(text: Option<&str>) -> Result<u32> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(0o700) };
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 && mode & 0o700 == 0o700 => Ok(mode),
        _ => Err(Error::Invalid(format!(
            "ISTHMUS_NAMESPACE_MODE is {text:?}; it must be an octal mode that gives the owner all rights, such \
             as 700 or 770"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_the_reason_is_said() {
        for good in ["jobs", "a b", "ä-1.x", &"n".repeat(MAX_NAME)] {
            check_name(good).unwrap();
        }
        for (bad, reason) in [
            ("", "empty"),
            (".", "dot"),
            ("..", "dot"),
            (".registry", "dot"),
            ("a/b", "slash"),
            ("a\0b", "control"),
            ("a\nb", "control"),
            (&"n".repeat(MAX_NAME + 1), "limit is 200"),
        ] {
            let text = check_name(bad).unwrap_err().to_string();
            assert!(text.contains(reason), "{text}");
        }
    }

    #[test]
    fn a_mode_must_be_octal_and_leave_the_owner_everything() {
        assert_eq!(mode_asked(None).unwrap(), 0o700);
        assert_eq!(mode_asked(Some("")).unwrap(), 0o700);
        assert_eq!(mode_asked(Some("2770")).unwrap(), 0o2770);
        for bad in ["770x", "077", "70000", "rwx"] {
            assert!(mode_asked(Some(bad)).is_err(), "{bad}");
        }
    }
}
