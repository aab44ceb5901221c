//! Bells: how event loops, which cannot sleep on a futex, wait among sleepers.
//!
//! # What there is
//! A [`Bell`] belongs to one event loop (or to one thread in `select`) and one namespace: a FIFO there, named
//! `.bell-` and a random number, that the loop watches for reading. For each object its tasks wait for, the
//! loop takes a cell of the object's attachment table (`object/header.rs`):
//! ```text
//!   +0x00 owner   Owner word of the loop's process       as for every cell
//!   +0x08 roles   BELL                                   written last: the two below are valid
//!   +0x10 token   what to write into the FIFO, 32 bits   tells the loop which object it is
//!   +0x18 bell    the random number                      tells the waker which FIFO it is
//! ```
//! In a wait point (`wait.rs`) the bit `32 + index of the cell % 32` says that this loop waits there, in the same
//! word as sleepers, so that a waker who finds nobody pays nothing.
//!
//! # Ringing
//! A waker clears the bit, opens the FIFO for writing without waiting, writes the token and closes it. Where
//! nobody has the FIFO open for reading, its loop is gone (pipe(7): ENXIO), and the waker goes on to the next who
//! waits. A full FIFO is as good as rung: a loop that finds one full looks at everything it waits for.
//!
//! # Crash windows
//! *The loop's process* killed at any moment: the FIFO has no reader any more, so ringing it fails; its cells are
//! those of a dead process, taken over like any; the name of the FIFO is removed by the next sweep, which
//! proves the death by the same missing reader. Killed after it was rung and before its task took anything:
//! as with a sleeper, others look again by themselves after a slice (`wait.rs`). *The waker* killed after clearing
//! the bit and before writing: the loop looks again by itself after the same slice. *Stopped* instead of killed:
//! the same.
//!
//! A loop that never runs again although its process lives (abandoned in the middle of `run_until_complete`)
//! swallows one wake-up for each of its bits, and each costs others at most a slice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::error::{Error, Result};
use crate::memory::mapping::Mapping;
use crate::memory::{BELL_BITS, Memory};
use crate::namespace::{BELL_PREFIX, Namespace};
use crate::object::{BELL, CELLS, cell};
use crate::process;
use crate::sys::fifo::{self, Sent};
use crate::sys::file::{self, File};
use crate::sys::proc;

/// A FIFO that wakes an event loop.
#[derive(Debug)]
pub struct Bell {
    namespace: Arc<Namespace>,
    file: File,
    id: u64,
    epoch: u64,
    tokens: AtomicU32,
    closed: AtomicBool,
}

fn name(id: u64) -> String {
    format!("{BELL_PREFIX}{id:016x}")
}

impl Bell {
    /// Makes a bell in a namespace.
    pub fn new(namespace: &Arc<Namespace>) -> Result<Arc<Bell>> {
        for _ in 0..16 {
            let id = proc::random_word();
            if id == 0 || !fifo::make(namespace.directory(), &name(id), namespace.file_mode())? {
                continue;
            }
            // For reading and writing: a FIFO whose writers come and go would otherwise be readable (end of file)
            // all the time.
            let opened = file::open_at(namespace.directory(), &name(id), true);
            if opened.is_err() {
                let _ = file::remove(namespace.directory(), &name(id));
            }
            let Some(file) = opened? else { continue };
            // A sweep in between took it for one of the dead.
            let found = file::stat_at(namespace.directory(), &name(id))?;
            if found.is_some_and(|found| (found.dev, found.ino) == file.identity()) {
                return Ok(Arc::new(Bell {
                    namespace: Arc::clone(namespace),
                    file,
                    id,
                    epoch: process::epoch(),
                    tokens: AtomicU32::new(1),
                    closed: AtomicBool::new(false),
                }));
            }
        }
        Err(Error::Invalid(format!(
            "a FIFO for an event loop cannot be made in {}: it is removed again and again",
            namespace.path().display()
        )))
    }

    /// The descriptor to watch for reading; -1 once closed.
    pub fn fd(&self) -> i32 {
        self.file.raw()
    }

    /// The namespace whose objects it can wait for.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// The tokens that were written since the last call; the second is true where some may be missing.
    pub fn read(&self) -> (Vec<u32>, bool) {
        let mut buffer = [0; 4096];
        let got = fifo::read(&self.file, &mut buffer);
        let tokens = buffer[..got].chunks_exact(4);
        let tokens = tokens.map(|bytes| u32::from_ne_bytes(bytes.try_into().unwrap_or_default())).collect();
        // More than fits here is more than anybody who reads in time ever finds. Where somebody has written what is
        // no token, none of those behind it is one.
        (tokens, got == buffer.len() || !got.is_multiple_of(4))
    }

    /// A token for one more object.
    pub(crate) fn next_token(&self) -> u32 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// True once closed, and in a forked child, where the loop is the parent's.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) || self.epoch != process::epoch()
    }

    /// Ends it: whoever rings finds nobody. In a forked child only the descriptor goes, which would otherwise
    /// make the parent's loop look alive for ever.
    pub fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.file.close();
            if self.epoch == process::epoch() {
                let _ = file::remove(self.namespace.directory(), &name(self.id));
            }
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.close();
    }
}

/// Rings the bells behind these bits of a wait point; false where none of them has a loop any more.
pub(crate) fn ring(memory: &Mapping, directory: &File, bits: u32) -> bool {
    let mut rung = false;
    for bit in (0..BELL_BITS).filter(|bit| bits & (1 << bit) != 0) {
        for index in (bit..CELLS).step_by(BELL_BITS) {
            if memory.load(cell(index, 1)) != BELL {
                continue;
            }
            let (token, id) = (memory.load(cell(index, 2)), memory.load(cell(index, 3)));
            match fifo::send(directory, &name(id), &(token as u32).to_ne_bytes()) {
                Sent::Yes => rung = true,
                // Without a descriptor nobody can be rung: the loops look by themselves after a slice.
                Sent::Failed => return true,
                Sent::NoReader => {}
            }
        }
    }
    rung
}
