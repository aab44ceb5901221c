//! Isthmus core: crash-safe structures in shared memory. No Python in here.
//!
//! Layers, an arrow may only point down:
//! ```text
//! queue  sync                       structures, and the handles users hold of them
//! mutex  value                      likewise; others build on the mutex
//! shared_memory                     likewise; memory itself, that grows
//! lock  wait  claim  waiters        mechanisms inside structures
//! session                           what every handle is made of
//! bell                              event loops that wait, and how they are woken
//! object                            files, lifetime
//! registry                          who is alive
//! namespace  process                where, and fork
//! memory (mapping | loom | crash)   words and bytes
//! sys                               the only place with raw system calls
//! owner  error                      vocabulary
//! ```

#[cfg(not(loom))]
pub mod bell;
pub mod claim;
pub mod error;
pub mod lock;
pub mod memory;
pub mod mutex;
#[cfg(not(loom))]
pub mod namespace;
#[cfg(not(loom))]
pub mod object;
pub mod owner;
#[cfg(not(loom))]
pub mod process;
pub mod queue;
#[cfg(not(loom))]
pub mod registry;
#[cfg(not(loom))]
pub mod session;
pub mod shared_memory;
pub mod sync;
pub mod sys;
pub mod value;
pub mod wait;
pub mod waiters;
