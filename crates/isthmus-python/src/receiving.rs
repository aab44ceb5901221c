//! Getting: what a message that was taken becomes, by copy, in place or on lease, and what happens to one that
//! cannot be decoded.

use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use isthmus_core::error::Error;
use isthmus_core::queue::{Attempt, INLINE_MAX, Leased, Origin, Place, Run, Step, Taken};
use pyo3::exceptions::{PyException, PyMemoryError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::arguments::Timeout;
use crate::driver::{End, drive};
use crate::errors::{OrRaise, number, raise};
use crate::hold::{Hold, PyView};
use crate::lease::PyLease;
use crate::queue::{DETACH_FROM, PyQueue};
use crate::sending::Claim;

/// Whether an error says something about the message; Ctrl+C and a lack of memory do not.
fn says_invalid(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyException>(py) && !error.is_instance_of::<PyMemoryError>(py)
}

fn buried(text: String, kept: bool) -> String {
    text + if kept { "; it is kept in q.dead" } else { "; q.dead has no room for it" }
}

/// A consumer that never waits looks at the clock after so many leases, and when this is long ago, whether others
/// died with messages on lease.
const LOOK_EVERY: usize = 16;
const LOOK_AGAIN_MS: usize = 80;

/// A small message as bytes.
#[inline]
pub(crate) fn small<'py>(py: Python<'py>, buffer: &[MaybeUninit<u8>], length: usize) -> Bound<'py, PyBytes> {
    // SAFETY: the core has filled the first `length` bytes.
    PyBytes::new(py, unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) })
}

impl PyQueue {
    /// Takes the next message.
    pub(crate) fn take(
        &self,
        py: Python<'_>,
        timeout: Timeout,
        buffer: &mut [MaybeUninit<u8>],
    ) -> PyResult<Taken> {
        let queue = self.handle.queue();
        drive(py, &self.handle, End::Consumer, timeout, |me, attempt| queue.try_get(me, attempt, buffer))?
            .map_err(|on| self.empty_error(py, on))
    }

    /// Takes the next message and opens it.
    pub(crate) fn get_message<'py>(slf: &Bound<'py, Self>, timeout: Timeout) -> PyResult<Bound<'py, PyAny>> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); INLINE_MAX];
        let taken = slf.get().take(slf.py(), timeout, &mut buffer)?;
        Self::open(slf, &taken, &buffer)
    }

    /// Takes the next message and opens it, where there is one.
    pub(crate) fn get_if_there<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let this = slf.get();
        let me = this.handle.consumer().or_raise(slf.py())?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); INLINE_MAX];
        match this.handle.queue().try_get(me, &Attempt::default(), &mut buffer).or_raise(slf.py())? {
            Step::Done(taken) => Self::open(slf, &taken, &buffer).map(Some),
            Step::Wait(_) => Ok(None),
        }
    }

    /// What a message that was taken is for Python; a small one stands in `buffer`.
    pub(crate) fn open<'py>(
        slf: &Bound<'py, Self>,
        taken: &Taken,
        buffer: &[MaybeUninit<u8>],
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        match (taken.place, this.codec()) {
            (Place::Inline, None) => Ok(small(py, buffer, taken.length).into_any()),
            (Place::Inline, Some(codec)) => {
                let bytes = small(py, buffer, taken.length);
                codec
                    .decode(bytes.as_any(), bytes.as_bytes().first().copied())
                    .map_err(|error| this.bury(py, taken, &bytes, error))
            }
            (Place::Block(run), None) => Ok(this.receive(py, run, taken.length)?.into_any()),
            (Place::Block(run), Some(codec)) => {
                let view = Self::view(slf, run, taken.length, false, false)?;
                match codec.decode(view.as_any(), None) {
                    Ok(message) => {
                        view.get().release(py)?;
                        Ok(message)
                    }
                    Err(error) => Err(this.bury_view(py, taken, &view, error)),
                }
            }
        }
    }

    /// As [`PyQueue::open`], but what is large stays in the queue's memory.
    pub(crate) fn open_view<'py>(
        slf: &Bound<'py, Self>,
        taken: &Taken,
        buffer: &[MaybeUninit<u8>],
        writable: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let view = match taken.place {
            Place::Inline if this.codec().is_some() => return Self::open(slf, taken, buffer),
            Place::Inline => {
                Bound::new(py, PyView::private(small(py, buffer, taken.length).as_bytes(), writable))?
            }
            Place::Block(run) => Self::view(slf, run, taken.length, writable, false)?,
        };
        match this.codec() {
            None => Ok(view.into_any()),
            Some(codec) => {
                codec.decode_view(view.as_any()).map_err(|error| this.bury_view(py, taken, &view, error))
            }
        }
    }

    /// A view of a run that this process has just become the owner of.
    fn view<'py>(
        slf: &Bound<'py, Self>,
        run: Run,
        length: usize,
        writable: bool,
        leased: bool,
    ) -> PyResult<Bound<'py, PyView>> {
        let me = slf.get().handle.consumer().or_raise(slf.py())?;
        let hold = Hold::new(slf, me, run, !leased)?;
        Bound::new(slf.py(), PyView::shared(hold, length, writable, leased))
    }

    /// Keeps a small message that could not be decoded in `q.dead`; the error that says so.
    fn bury(&self, py: Python<'_>, taken: &Taken, bytes: &Bound<'_, PyBytes>, error: PyErr) -> PyErr {
        let (text, reason) = self.invalid_text(py, taken.origin, &error);
        let kept = self.try_bury(py, taken, bytes.as_bytes(), &reason);
        self.invalid_error(py, taken.origin, &buried(text, kept), reason, Some(bytes.clone()), error)
    }

    /// As [`PyQueue::bury`], of a large message.
    fn bury_view(&self, py: Python<'_>, taken: &Taken, view: &Bound<'_, PyView>, error: PyErr) -> PyErr {
        let (text, reason) = self.invalid_text(py, taken.origin, &error);
        let view = view.get();
        let bytes = view.to_bytes(py).ok();
        let kept = if view.is_exported() {
            // Something (the frames of the error, for one) still looks at it: a copy is kept.
            bytes.as_ref().is_some_and(|bytes| self.bury_copy(py, taken, bytes, &reason))
        } else {
            let kept = self.try_bury(py, taken, &[], &reason);
            if let Some(hold) = view.hold().filter(|_| kept) {
                hold.forget();
            }
            kept
        };
        self.invalid_error(py, taken.origin, &buried(text, kept), reason, bytes, error)
    }

    fn bury_copy(&self, py: Python<'_>, taken: &Taken, bytes: &Bound<'_, PyBytes>, reason: &str) -> bool {
        let Ok(run) = self.claim(py, taken.length, Timeout::Try) else { return false };
        let Ok(me) = self.handle.consumer() else { return false };
        let claim = Claim::new(&self.handle, me, run);
        let queue = self.handle.queue();
        let to = queue.memory().address(queue.run_offset(run), taken.length);
        // SAFETY: the run is ours and at least this long; a bytes object cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_bytes().as_ptr(), to, taken.length) };
        let kept = self.try_bury(py, &Taken { place: Place::Block(run), ..*taken }, &[], reason);
        if kept {
            std::mem::forget(claim);
        }
        kept
    }

    fn try_bury(&self, py: Python<'_>, taken: &Taken, bytes: &[u8], reason: &str) -> bool {
        let queue = self.handle.queue();
        let kept = drive(py, &self.handle, End::Consumer, Timeout::Try, |me, attempt| {
            queue.try_bury(me, attempt, taken, bytes, reason)
        });
        matches!(kept, Ok(Ok(true)))
    }

    fn invalid_text(&self, py: Python<'_>, origin: Origin, error: &PyErr) -> (String, String) {
        let kind = error.get_type(py).name().map_or_else(|_| String::new(), |name| name.to_string());
        let reason = format!("{kind}: {}", error.value(py));
        let sender = self.handle.sender(origin.sender).map_or_else(
            || "a process that is not known any more".to_owned(),
            |pid| format!("process {pid}"),
        );
        let level = match origin.level {
            0 => String::new(),
            level => format!(" of priority {level}"),
        };
        let kind = self.handle.message_type().name;
        (format!("message {}{level} from {sender} is not a valid {kind}: {reason}", origin.number), reason)
    }

    /// What is raised for a message that could not be decoded; what is no `Exception` (Ctrl+C) stays itself.
    fn invalid_error(
        &self,
        py: Python<'_>,
        origin: Origin,
        text: &str,
        reason: String,
        bytes: Option<Bound<'_, PyBytes>>,
        error: PyErr,
    ) -> PyErr {
        if !says_invalid(py, &error) {
            return error;
        }
        let sender =
            self.handle.sender(origin.sender).into_pyobject(py).map(|sender| sender.into_any().unbind());
        let fields = [
            ("number", number(py, origin.number)),
            ("reason", PyString::new(py, &reason).into_any().unbind()),
            ("sender", sender.unwrap_or_else(|_| py.None())),
            ("data", bytes.unwrap_or_else(|| PyBytes::new(py, b"")).into_any().unbind()),
        ];
        let raised = raise(py, "InvalidMessage", text, &fields);
        raised.set_cause(py, Some(error));
        raised
    }

    /// A large message that was taken: copied out, its block given back.
    pub(crate) fn receive<'py>(
        &self,
        py: Python<'py>,
        run: Run,
        length: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let _stay = self.handle.session().stay().or_raise(py)?;
        let me = self.handle.consumer().or_raise(py)?;
        let claim = Claim::new(&self.handle, me, run);
        let queue = self.handle.queue();
        let object = copy(py, queue.memory().address(queue.run_offset(run), length), length)?;
        if !claim.free() {
            return Err(crate::errors::convert(py, Error::Buried));
        }
        Ok(object)
    }

    /// A copy of the bytes of a run that is ours.
    fn copy_out<'py>(&self, py: Python<'py>, run: Run, length: usize) -> PyResult<Bound<'py, PyAny>> {
        let queue = self.handle.queue();
        copy(py, queue.memory().address(queue.run_offset(run), length), length).map(Bound::into_any)
    }

    /// Takes a message on lease.
    pub(crate) fn take_lease(slf: &Bound<'_, Self>, timeout: Timeout, as_view: bool) -> PyResult<PyLease> {
        let (py, this) = (slf.py(), slf.get());
        let queue = this.handle.queue();
        this.look_for_leases().or_raise(py)?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); INLINE_MAX];
        let near = this.near.load(Ordering::Relaxed);
        let leased = drive(py, &this.handle, End::Consumer, timeout, |me, attempt| {
            queue.try_lease(me, attempt, near, &mut buffer)
        })?
        .map_err(|on| this.empty_error(py, on))?;
        Self::open_lease(slf, leased, &buffer, as_view)
    }

    /// Messages leased to the dead come back to those who wait; consumers that are always busy look now and then.
    #[inline]
    pub(crate) fn look_for_leases(&self) -> isthmus_core::error::Result<()> {
        // With the GIL held: counted without a locked instruction.
        let count = self.leases.load(Ordering::Relaxed).wrapping_add(1);
        self.leases.store(count, Ordering::Relaxed);
        // The first lease looks: it may be that of a worker started in the place of one that died.
        if count % LOOK_EVERY == 1 { self.redeliver_now_and_then() } else { Ok(()) }
    }

    #[cold]
    fn redeliver_now_and_then(&self) -> isthmus_core::error::Result<()> {
        let now = isthmus_core::sys::clock::coarse_ms() as usize;
        let last = self.looked.load(Ordering::Relaxed);
        if last != 0 && now.wrapping_sub(last) < LOOK_AGAIN_MS {
            return Ok(());
        }
        self.looked.store(now, Ordering::Relaxed);
        self.handle.queue().redeliver(self.handle.consumer()?, &Attempt::default())
    }

    /// What a message that was leased is for Python; a small one stands in `buffer`.
    pub(crate) fn open_lease(
        slf: &Bound<'_, Self>,
        leased: Leased,
        buffer: &[MaybeUninit<u8>],
        as_view: bool,
    ) -> PyResult<PyLease> {
        let (py, this) = (slf.py(), slf.get());
        // Made first: decoding runs code that may do anything, close the queue for one.
        let mut lease = PyLease::new(slf, leased, py.None())?;
        let mut data = None;
        let message = match leased.place {
            Place::Inline => {
                let bytes = small(py, buffer, leased.length);
                match this.codec() {
                    None if as_view => {
                        Bound::new(py, PyView::private(bytes.as_bytes(), false)).map(Bound::into_any)
                    }
                    None => Ok(bytes.into_any()),
                    Some(codec) => {
                        let message = codec.decode(bytes.as_any(), bytes.as_bytes().first().copied());
                        data = Some(bytes);
                        message
                    }
                }
            }
            Place::Block(run) => {
                let view = lease.hold(Self::view(slf, run, leased.length, false, true)?);
                let message = match this.codec() {
                    None if as_view => Ok(view.clone().into_any()),
                    None => this.copy_out(py, run, leased.length),
                    Some(codec) if as_view => codec.decode_view(view.as_any()),
                    Some(codec) => codec.decode(view.as_any(), None),
                };
                if message.is_err() {
                    data = view.get().to_bytes(py).ok();
                }
                message
            }
        };
        match message {
            Ok(message) => {
                lease.set_message(message.unbind());
                Ok(lease)
            }
            Err(error) => {
                // What nobody can decode goes to q.dead; what was interrupted goes back.
                let for_good = says_invalid(py, &error);
                let (text, reason) = this.invalid_text(py, leased.origin, &error);
                let text = format!("{text}; it is kept in q.dead");
                let raised = this.invalid_error(py, leased.origin, &text, reason.clone(), data, error);
                lease.refuse(reason, for_good);
                Err(raised)
            }
        }
    }
}

/// A copy of memory that stays mapped during the call; a large one is made without the GIL.
pub(crate) fn copy(py: Python<'_>, from: *const u8, length: usize) -> PyResult<Bound<'_, PyBytes>> {
    let object = blank(py, length)?;
    // SAFETY: nobody else knows the new object yet, so its bytes may still be written.
    let to = unsafe { ffi::PyBytes_AsString(object.as_ptr()) } as usize;
    let from = from as usize;
    // SAFETY: both are `length` bytes long, says the caller, and the object was made so. Addresses cross into
    // the closure as numbers because pointers are not Send.
    let copy = move || unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, length) };
    if length >= DETACH_FROM {
        py.detach(copy);
    } else {
        copy();
    }
    Ok(object)
}

/// A `bytes` object to be filled before anybody sees it.
pub(crate) fn blank(py: Python<'_>, length: usize) -> PyResult<Bound<'_, PyBytes>> {
    // SAFETY: NULL asks for uninitialised bytes; the result is checked.
    unsafe {
        let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), length as isize);
        Ok(Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked())
    }
}
