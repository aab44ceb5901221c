//! Named pipes in the namespace: the bells of event loops.

use std::path::PathBuf;

use super::file::{File, c_string, errno, stat_at};
use crate::error::{Error, Result};

/// Makes a FIFO with these permissions, whatever the umask; false where the name is taken.
pub fn make(directory: &File, name: &str, mode: u32) -> Result<bool> {
    let path = PathBuf::from(name);
    let c_name = c_string(&path)?;
    // SAFETY: `c_name` is a C string that outlives the call.
    if unsafe { libc::mkfifoat(directory.raw(), c_name.as_ptr(), mode) } != 0 {
        return match errno() {
            libc::EEXIST => Ok(false),
            _ => Err(Error::last_os("mkfifoat", Some(path))),
        };
    }
    // By descriptor: in a directory that others may write to, the name may lead to another file by now.
    // SAFETY: as above.
    let fd = unsafe { libc::openat(directory.raw(), c_name.as_ptr(), LOOK) };
    if fd >= 0 {
        if is_fifo(fd) {
            let by_proc = c_string(&PathBuf::from(format!("/proc/self/fd/{fd}")))?;
            // SAFETY: `by_proc` is a C string that outlives the call. Without /proc the umask has its way.
            unsafe { libc::chmod(by_proc.as_ptr(), mode) };
        }
        // SAFETY: the descriptor is ours and nobody else knows it.
        unsafe { libc::close(fd) };
    }
    Ok(true)
}

/// Opens a name to look at what it is, which has no effect on a FIFO or a device.
const LOOK: i32 = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
/// Opens the writing end of a FIFO that has a reader.
const WRITE: i32 = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NOCTTY;

fn is_fifo(fd: i32) -> bool {
    let mut raw = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `raw` has room for one stat, and is read only where the call has filled it.
    unsafe {
        libc::fstat(fd, raw.as_mut_ptr()) == 0 && raw.assume_init().st_mode & libc::S_IFMT == libc::S_IFIFO
    }
}

/// What became of a byte for the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is in the pipe, or so much is that the reader has to look anyway.
    Yes,
    /// Nobody has the FIFO open for reading, or it is gone.
    NoReader,
    /// It could not be tried: no descriptor is left.
    Failed,
}

/// Writes a few bytes into a FIFO without waiting, whatever becomes of the reader meanwhile.
pub fn send(directory: &File, name: &str, bytes: &[u8]) -> Sent {
    let Ok(c_name) = c_string(&PathBuf::from(name)) else { return Sent::NoReader };
    // SAFETY: `c_name` is a C string that outlives the call.
    let fd = unsafe { libc::openat(directory.raw(), c_name.as_ptr(), WRITE) };
    if fd < 0 {
        return match errno() {
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR => Sent::Failed,
            // Not there, or not what we made: a directory, another user's.
            _ => Sent::NoReader,
        };
    }
    if !is_fifo(fd) {
        // Somebody's file under the name of a bell: nothing is written into it.
        // SAFETY: the descriptor is ours and nobody else knows it.
        unsafe { libc::close(fd) };
        return Sent::NoReader;
    }
    // SAFETY: the slice is readable for its length; the descriptor was just opened.
    let sent = match without_sigpipe(|| unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) }) {
        Ok(_) | Err(libc::EAGAIN) => Sent::Yes,
        Err(libc::EPIPE) => Sent::NoReader,
        Err(_) => Sent::Failed,
    };
    // SAFETY: the descriptor is ours and nobody else knows it.
    unsafe { libc::close(fd) };
    sent
}

/// True where this is a FIFO that nobody has open for reading (pipe(7), O_NONBLOCK); false where that cannot be told.
pub fn has_no_reader(directory: &File, name: &str) -> bool {
    let Ok(c_name) = c_string(&PathBuf::from(name)) else { return false };
    // A socket answers as a FIFO without a reader does, and opening a device may have effects.
    if !stat_at(directory, name).is_ok_and(|found| found.is_some_and(|found| found.is_fifo())) {
        return false;
    }
    // SAFETY: `c_name` is a C string that outlives the call.
    let fd = unsafe { libc::openat(directory.raw(), c_name.as_ptr(), WRITE) };
    if fd < 0 {
        return errno() == libc::ENXIO;
    }
    // SAFETY: the descriptor is ours and nobody else knows it.
    unsafe { libc::close(fd) };
    false
}

/// Reads what is in a pipe that does not block; 0 where nothing is.
pub fn read(file: &File, buffer: &mut [u8]) -> usize {
    // SAFETY: the slice is writable for its length.
    let got = unsafe { libc::read(file.raw(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(got).unwrap_or(0)
}

/// Runs a write that may raise SIGPIPE without anybody noticing: the reader may go between `open` and `write`,
/// and in a program with the default action the signal kills.
fn without_sigpipe(write: impl FnOnce() -> isize) -> std::result::Result<usize, i32> {
    // SAFETY: the sets are made by the calls before they are used; only this thread's mask is changed, and
    // changed back. SIGPIPE of a write goes to the writing thread, so no other's is swallowed.
    unsafe {
        let mut pipe: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut pipe);
        libc::sigaddset(&raw mut pipe, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe, &raw mut before);
        let wrote = write();
        let failure = errno();
        if wrote < 0 && failure == libc::EPIPE && libc::sigismember(&raw const before, libc::SIGPIPE) == 0 {
            let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            libc::sigtimedwait(&raw const pipe, std::ptr::null_mut(), &raw const at_once);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        usize::try_from(wrote).map_err(|_| failure)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    use super::*;
    use crate::sys::file::{open_at, open_directory};

    struct Place(PathBuf, File);

    impl Place {
        fn new(name: &str) -> Place {
            let path = PathBuf::from(format!("/dev/shm/isthmus-test-fifo-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            let directory = open_directory(&path).unwrap();
            Place(path, directory)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn what_is_no_fifo_is_not_written_to_and_not_taken_for_one_without_a_reader() {
        let Place(path, directory) = &Place::new("planted");
        std::fs::write(path.join("file"), "mine").unwrap();
        std::fs::create_dir(path.join("directory")).unwrap();
        std::os::unix::fs::symlink("file", path.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
        for name in ["file", "directory", "link", "socket", "absent"] {
            assert_eq!(send(directory, name, b"ring"), Sent::NoReader, "{name}");
            assert!(!has_no_reader(directory, name), "{name}");
        }
        assert_eq!(std::fs::read(path.join("file")).unwrap(), b"mine");
    }

    #[test]
    fn a_fifo_is_rung_while_somebody_has_it_open_for_reading_and_full_is_as_good() {
        let Place(path, directory) = &Place::new("rung");
        assert!(make(directory, "bell", 0o600).unwrap() && !make(directory, "bell", 0o600).unwrap());
        let found = path.join("bell").metadata().unwrap();
        assert!(found.file_type().is_fifo() && found.permissions().mode() & 0o7777 == 0o600);
        assert_eq!(send(directory, "bell", b"ring"), Sent::NoReader);
        assert!(has_no_reader(directory, "bell"));
        let reader = open_at(directory, "bell", true).unwrap().unwrap();
        for _ in 0..20_000 {
            assert_eq!(send(directory, "bell", b"ring"), Sent::Yes);
        }
        assert!(!has_no_reader(directory, "bell"));
        let mut buffer = [0; 8];
        assert_eq!((read(&reader, &mut buffer), &buffer), (8, b"ringring"));
        drop(reader);
        assert_eq!(send(directory, "bell", b"ring"), Sent::NoReader);
    }
}
