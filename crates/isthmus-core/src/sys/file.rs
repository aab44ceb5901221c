//! Files: descriptors that know their inode, opening, publishing, locking, reserving.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::error::{Error, Result};

/// What `fstat` says, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device of the file system.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Bytes that have memory or disk behind them.
    pub reserved: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Names left.
    pub links: u64,
}

impl Stat {
    /// Both name the same file.
    pub fn same_file(&self, other: &Stat) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }

    /// A regular file.
    pub fn is_regular(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    /// A named pipe.
    pub fn is_fifo(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFIFO
    }

    /// A directory.
    pub fn is_directory(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

impl From<libc::stat> for Stat {
    #[allow(clippy::useless_conversion)] // the widths differ between architectures
    fn from(raw: libc::stat) -> Stat {
        Stat {
            dev: raw.st_dev,
            ino: raw.st_ino,
            size: raw.st_size as u64,
            reserved: raw.st_blocks as u64 * 512,
            mode: raw.st_mode,
            uid: raw.st_uid,
            links: u64::from(raw.st_nlink),
        }
    }
}

/// A descriptor that remembers its inode. Programs close descriptors they do not know (daemons close all of
/// them); the number may then name somebody else's file. So it is compared before anything irrevocable.
#[derive(Debug)]
pub struct File {
    fd: AtomicI32,
    dev: u64,
    ino: u64,
}

impl File {
    /// Takes over a descriptor, moving it away from 0, 1 and 2: whoever writes to "standard output" in a
    /// process started without one must not hit shared memory.
    fn adopt(fd: i32, call: &'static str, path: &Path) -> Result<File> {
        if fd < 0 {
            return Err(Error::last_os(call, Some(path.to_owned())));
        }
        let fd = if fd > 2 {
            fd
        } else {
            // SAFETY: plain call on a descriptor opened by the caller.
            let moved = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
            let failure = Error::last_os("fcntl", Some(path.to_owned()));
            // SAFETY: the descriptor is ours and nobody else knows it.
            unsafe { libc::close(fd) };
            if moved < 0 {
                return Err(failure);
            }
            moved
        };
        match stat(fd) {
            Ok(found) => Ok(File { fd: AtomicI32::new(fd), dev: found.dev, ino: found.ino }),
            Err(error) => {
                // SAFETY: the descriptor is ours and nobody else knows it.
                unsafe { libc::close(fd) };
                Err(error)
            }
        }
    }

    /// The descriptor; -1 once closed.
    #[inline]
    pub fn raw(&self) -> i32 {
        self.fd.load(Ordering::Relaxed)
    }

    /// Device and inode at the time of opening.
    pub fn identity(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// Its state now; an error if the descriptor was closed or replaced behind our back.
    pub fn stat(&self) -> Result<Stat> {
        let found = stat(self.raw())?;
        if (found.dev, found.ino) == (self.dev, self.ino) {
            Ok(found)
        } else {
            Err(Error::Os { call: "fstat", path: None, errno: libc::EBADF })
        }
    }

    /// Closes it if it still is the same file. Idempotent.
    pub fn close(&self) {
        let intact = self.stat().is_ok();
        let fd = self.fd.swap(-1, Ordering::AcqRel);
        if intact && fd >= 0 {
            // SAFETY: the descriptor is ours (checked just above) and is forgotten here.
            unsafe { libc::close(fd) };
        }
    }

    /// Opens the file again under `path` after the descriptor was taken away. False if that is another file.
    pub fn reopen(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let same = |dev: u64, ino: u64| (dev, ino) == (self.dev, self.ino);
        // Looked at before opening: closing a file opened by mistake drops locks on it.
        if !std::fs::symlink_metadata(path).is_ok_and(|found| same(found.dev(), found.ino())) {
            return false;
        }
        let Ok(name) = c_string(path) else { return false };
        let flags = libc::O_RDWR | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        // SAFETY: `name` is a C string that outlives the call.
        let Ok(fresh) = File::adopt(unsafe { libc::open(name.as_ptr(), flags) }, "open", path) else {
            return false;
        };
        let fits = same(fresh.dev, fresh.ino);
        if fits {
            self.fd.store(fresh.raw(), Ordering::Release);
        }
        fresh.leak();
        fits
    }

    /// Closes nothing, ever: for files whose closing would drop this process's locks.
    pub fn leak(self) {
        self.fd.store(-1, Ordering::Relaxed);
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.close();
    }
}

pub(super) fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::Invalid(format!("{} contains a zero byte", path.display())))
}

fn stat(fd: i32) -> Result<Stat> {
    let mut raw = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `raw` has room for one stat.
    if unsafe { libc::fstat(fd, raw.as_mut_ptr()) } != 0 {
        return Err(Error::last_os("fstat", None));
    }
    // SAFETY: filled in by the successful call.
    Ok(Stat::from(unsafe { raw.assume_init() }))
}

pub(super) fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Opens a directory, never through a symlink in its last component.
pub fn open_directory(path: &Path) -> Result<File> {
    let name = c_string(path)?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `name` is a C string that outlives the call.
    File::adopt(unsafe { libc::open(name.as_ptr(), flags) }, "open", path)
}

/// Creates a directory. False if the name exists, whatever it is.
pub fn make_directory(path: &Path, mode: u32) -> Result<bool> {
    let name = c_string(path)?;
    // SAFETY: `name` is a C string that outlives the call.
    match unsafe { libc::mkdir(name.as_ptr(), mode & 0o700) } {
        0 => Ok(true),
        _ if errno() == libc::EEXIST => Ok(false),
        _ if errno() == libc::ENOENT => Err(Error::NotFound(path.to_owned())),
        // Where the parent is read-only the directory may still exist.
        _ if matches!(errno(), libc::EROFS | libc::EACCES | libc::EPERM)
            && path.symlink_metadata().is_ok() =>
        {
            Ok(false)
        }
        _ => Err(Error::last_os("mkdir", Some(path.to_owned()))),
    }
}

/// Sets permission bits, whatever the umask.
pub fn set_mode(file: &File, mode: u32) -> Result<()> {
    // SAFETY: plain call on a descriptor.
    match unsafe { libc::fchmod(file.raw(), mode) } {
        0 => Ok(()),
        _ => Err(Error::last_os("fchmod", None)),
    }
}

/// Opens `name` in `directory` for reading (and writing), never through a symlink, never waiting for the
/// other end of a FIFO, never as a controlling terminal. `None` if there is no such name.
pub fn open_at(directory: &File, name: &str, write: bool) -> Result<Option<File>> {
    let path = PathBuf::from(name);
    let c_name = c_string(&path)?;
    let access = if write { libc::O_RDWR } else { libc::O_RDONLY };
    let flags = access | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: `c_name` is a C string that outlives the call.
    let fd = unsafe { libc::openat(directory.raw(), c_name.as_ptr(), flags) };
    if fd < 0 && errno() == libc::ENOENT {
        return Ok(None);
    }
    File::adopt(fd, "openat", &path).map(Some)
}

/// Opens what another process has open as `fd`, as a description of our own. Looks before it opens: a FIFO
/// or a device behind a reused number is refused without being touched.
pub fn open_of_process(pid: u32, fd: i32) -> Result<File> {
    let path = PathBuf::from(format!("/proc/{pid}/fd/{fd}"));
    let c_path = c_string(&path)?;
    // SAFETY: `c_path` is a C string that outlives the call.
    let looked = unsafe { libc::open(c_path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    if looked < 0 && errno() == libc::ENOENT {
        return Err(Error::NotFound(path));
    }
    let looked = File::adopt(looked, "open", &path)?;
    if !looked.stat()?.is_regular() {
        return Err(Error::Incompatible(format!("{} is not a piece of shared memory", path.display())));
    }
    let again = c_string(Path::new(&format!("/proc/self/fd/{}", looked.raw())))?;
    // SAFETY: `again` is a C string that outlives the call.
    File::adopt(unsafe { libc::open(again.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) }, "open", &path)
}

/// Opens the same file again, named or not, as a description of its own.
pub fn open_again(file: &File, write: bool) -> Result<File> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.raw()));
    let c_path = c_string(&path)?;
    let access = if write { libc::O_RDWR } else { libc::O_RDONLY };
    // SAFETY: `c_path` is a C string that outlives the call.
    let again = File::adopt(unsafe { libc::open(c_path.as_ptr(), access | libc::O_CLOEXEC) }, "open", &path)?;
    if again.identity() != file.identity() {
        return Err(Error::Os { call: "open", path: Some(path), errno: libc::EBADF });
    }
    Ok(again)
}

/// A file without a name in `directory`, with exactly these permission bits whatever the umask.
pub fn unnamed(directory: &File, place: &Path, mode: u32) -> Result<File> {
    let flags = libc::O_RDWR | libc::O_TMPFILE | libc::O_CLOEXEC;
    // SAFETY: the name is a C string literal.
    let fd = unsafe { libc::openat(directory.raw(), c".".as_ptr(), flags, 0o600) };
    if fd < 0 && matches!(errno(), libc::EOPNOTSUPP | libc::EISDIR) {
        return Err(Error::Invalid(format!(
            "the namespace {} is on a file system without O_TMPFILE; set ISTHMUS_NAMESPACE to a directory on \
             tmpfs",
            place.display()
        )));
    }
    if fd < 0 && matches!(errno(), libc::ENOSPC | libc::EDQUOT) {
        return Err(Error::NoSpace(format!("no room for one more file in {}", place.display())));
    }
    let file = File::adopt(fd, "openat", place)?;
    set_mode(&file, mode)?;
    Ok(file)
}

/// Anonymous shared memory, shown as `name` in `/proc`.
pub fn memory(name: &CStr) -> Result<File> {
    const NOEXEC_SEAL: libc::c_uint = 8; // Linux 6.3; older kernels answer EINVAL
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` is a C string that outlives the call.
    let mut fd = unsafe { libc::memfd_create(name.as_ptr(), flags | NOEXEC_SEAL) };
    if fd < 0 && errno() == libc::EINVAL {
        // SAFETY: as above.
        fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    }
    File::adopt(fd, "memfd_create", Path::new("anonymous memory"))
}

/// Forbids everybody to change the length of anonymous memory: no peer can truncate it under a mapping.
pub fn seal_length(file: &File) -> Result<()> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: plain call on our descriptor.
    if unsafe { libc::fcntl(file.raw(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(Error::last_os("fcntl", None));
    }
    Ok(())
}

/// Gives an unnamed file its name, atomically. False if the name is taken.
pub fn publish(file: &File, directory: &File, name: &str) -> Result<bool> {
    let path = PathBuf::from(name);
    let c_name = c_string(&path)?;
    // SAFETY: both names are C strings that outlive the call.
    let mut code = unsafe {
        libc::linkat(file.raw(), c"".as_ptr(), directory.raw(), c_name.as_ptr(), libc::AT_EMPTY_PATH)
    };
    if code != 0 && matches!(errno(), libc::ENOENT | libc::EPERM | libc::EINVAL) {
        // Only privileged processes may link by descriptor alone (until Linux 6.10); others go by /proc.
        let by_proc = c_string(Path::new(&format!("/proc/self/fd/{}", file.raw())))?;
        // SAFETY: both names are C strings that outlive the call.
        code = unsafe {
            libc::linkat(
                libc::AT_FDCWD,
                by_proc.as_ptr(),
                directory.raw(),
                c_name.as_ptr(),
                libc::AT_SYMLINK_FOLLOW,
            )
        };
    }
    match code {
        0 => Ok(true),
        _ if errno() == libc::EEXIST => Ok(false),
        _ if errno() == libc::ENOENT && directory.stat().is_ok_and(|found| found.links == 0) => {
            Err(Error::Invalid(format!("the namespace was removed while in use; {name} cannot be created")))
        }
        _ => Err(Error::last_os("linkat", Some(path))),
    }
}

/// Removes a name. False if there was none.
pub fn remove(directory: &File, name: &str) -> Result<bool> {
    let path = PathBuf::from(name);
    let c_name = c_string(&path)?;
    // SAFETY: `c_name` is a C string that outlives the call.
    match unsafe { libc::unlinkat(directory.raw(), c_name.as_ptr(), 0) } {
        0 => Ok(true),
        _ if errno() == libc::ENOENT => Ok(false),
        _ => Err(Error::last_os("unlinkat", Some(path))),
    }
}

/// What `name` in `directory` is, not following a symlink; `None` if there is no such name.
pub fn stat_at(directory: &File, name: &str) -> Result<Option<Stat>> {
    let path = PathBuf::from(name);
    let c_name = c_string(&path)?;
    let mut raw = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `c_name` is a C string, `raw` has room for one stat.
    let code = unsafe {
        libc::fstatat(directory.raw(), c_name.as_ptr(), raw.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW)
    };
    match code {
        // SAFETY: filled in by the successful call.
        0 => Ok(Some(Stat::from(unsafe { raw.assume_init() }))),
        _ if errno() == libc::ENOENT => Ok(None),
        _ => Err(Error::last_os("fstatat", Some(path))),
    }
}

/// Reads at `offset` until `buffer` is full or the file ends; says how much.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        // SAFETY: `rest` is valid for writing its length.
        let got = unsafe {
            libc::pread(file.raw(), rest.as_mut_ptr().cast(), rest.len(), (offset + done as u64) as i64)
        };
        match got {
            0 => break,
            1.. => done += got as usize,
            _ if errno() == libc::EINTR => {}
            _ => return Err(Error::last_os("pread", None)),
        }
    }
    Ok(done)
}
