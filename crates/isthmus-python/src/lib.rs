//! The native module `isthmus._core`: converts, releases the GIL, maps errors, and nothing else.

use pyo3::prelude::*;

mod arguments;
mod batch;
mod driver;
mod errors;
mod fast;
mod frames;
mod hold;
mod landing;
mod lease;
mod letters;
mod look;
mod mapping;
mod message;
mod mutex;
mod objects;
mod packets;
mod patience;
mod pipes;
mod posix;
mod queue;
mod receiving;
mod reservation;
mod sending;
mod shared_memory;
mod signals;
mod situation;
mod sync;
mod value;
mod waits;

/// The native half of isthmus; use the names in `isthmus` instead.
#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::frames::{PyFrameReceiver, PyFrameSender};
    #[pymodule_export]
    use crate::hold::PyView;
    #[pymodule_export]
    use crate::landing::PyLanding;
    #[pymodule_export]
    use crate::lease::PyLease;
    #[pymodule_export]
    use crate::look::look;
    #[pymodule_export]
    use crate::mapping::{PyMapping, reserve};
    #[pymodule_export]
    use crate::mutex::PyMutex;
    #[pymodule_export]
    use crate::objects::{clean, objects, remove};
    #[pymodule_export]
    use crate::packets::{PyPacketReceiver, PyPacketSender};
    #[pymodule_export]
    use crate::patience::PyPatience;
    #[pymodule_export]
    use crate::pipes::{die_with_parent, tee};
    #[pymodule_export]
    use crate::posix::queue::{PyPosixQueue, unlink_queue};
    #[pymodule_export]
    use crate::posix::semaphore::{PyNamedSemaphore, unlink_semaphore};
    #[pymodule_export]
    use crate::posix::sysv::{sysv_remove, sysv_values};
    #[pymodule_export]
    use crate::queue::PyQueue;
    #[pymodule_export]
    use crate::reservation::PyReservation;
    #[pymodule_export]
    use crate::shared_memory::PySharedMemory;
    #[pymodule_export]
    use crate::signals::{
        signal_again, signal_capture, signal_descriptor, signal_forget, signal_queue, signal_release,
        signal_stopping, signal_unblock_main, signal_window, timer_create, timer_delete, timer_descriptor,
        timer_left, timer_left_descriptor, timer_set, timer_set_descriptor,
    };
    #[pymodule_export]
    use crate::situation::situation_of;
    #[pymodule_export]
    use crate::sync::PySync;
    #[pymodule_export]
    use crate::value::PyValue;
    #[pymodule_export]
    use crate::waits::{PyBell, PyWait};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let [ask, last] = crate::arguments::PyAsk::both(module.py())?;
        crate::fast::install(module.py(), &ask)?;
        module.add("ASK", ask)?;
        module.add("LAST", last)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
