//! Messages of `q.dead`, as Python gets them.

use isthmus_core::queue::Letter;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::queue::PyQueue;

/// See `isthmus.DeadLetter`.
pub(crate) type Row<'py> = (Bound<'py, PyBytes>, String, Option<u32>, u32, u64, u8, usize);

impl PyQueue {
    pub(crate) fn row<'py>(&self, letter: Letter, data: Bound<'py, PyBytes>) -> Row<'py> {
        let Letter { length, origin, deliveries, reason, .. } = letter;
        let sender = self.handle.sender(origin.sender);
        (data, reason, sender, deliveries, origin.number, origin.level, length)
    }
}
