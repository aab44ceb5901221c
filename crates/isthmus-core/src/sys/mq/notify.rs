//! Being told of messages, mq_notify(3).

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// How a process is told of the first message in an empty queue, mq_notify(3).
#[derive(Debug, Clone, Copy)]
pub enum Notice {
    /// By a signal, with the number as its payload.
    Signal(i32, u64),
    /// By a call in a new thread, with the number.
    Call(fn(u64), u64),
}

/// What glibc takes for a `sigevent` whose notice is a call; `libc::sigevent` does not name these fields.
#[repr(C)]
struct Event {
    value: libc::sigval,
    signal: libc::c_int,
    notify: libc::c_int,
    function: Option<extern "C" fn(libc::sigval)>,
    attributes: *mut libc::c_void,
    rest: [usize; 4],
}

/// The function that is called with a number, whoever registered it: there is one for the whole process.
static CALLED: OnceLock<fn(u64)> = OnceLock::new();

extern "C" fn called(value: libc::sigval) {
    if let Some(function) = CALLED.get() {
        function(value.sival_ptr as u64);
    }
}

/// Registers this process for one notice, or ends its registration (`None`).
pub fn notify(fd: i32, notice: Option<Notice>) -> Result<()> {
    const SIGEV_SIGNAL: libc::c_int = 0;
    const SIGEV_THREAD: libc::c_int = 2;
    const {
        assert!(size_of::<Event>() == size_of::<libc::sigevent>(), "both describe glibc's sigevent");
    }
    let event = notice.map(|notice| {
        let (notify, signal, function, number) = match notice {
            Notice::Signal(signal, number) => (SIGEV_SIGNAL, signal, None, number),
            Notice::Call(function, number) => {
                CALLED.get_or_init(|| function);
                (SIGEV_THREAD, 0, Some(called as extern "C" fn(libc::sigval)), number)
            }
        };
        let value = libc::sigval { sival_ptr: number as *mut libc::c_void };
        Event { value, signal, notify, function, attributes: std::ptr::null_mut(), rest: [0; 4] }
    });
    let pointer = event.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: NULL or a valid sigevent of the size glibc reads, which outlives the call.
    if unsafe { libc::mq_notify(fd, pointer.cast()) } == 0 {
        return Ok(());
    }
    Err(Error::last_os("mq_notify", None))
}
