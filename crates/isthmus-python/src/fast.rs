//! The calls that cost nanoseconds, without PyO3's entrance: `Queue.put`, `Queue.get`, `Queue.lease` and the end of
//! a lease, `Mutex.acquire` and `Mutex.release` when there is nothing to wait for, to convert or to report.
//!
//! Measured on 3.11: entering a method through PyO3 (thread-local counters, argument tables, a panic guard)
//! takes about 10 ns, as much as a whole acquire and release of the lock. So these are plain C functions
//! that try the usual case; everything else (any other argument, waiting, errors) goes to the method of the
//! same name that PyO3 made, which does the whole work and also lends its documentation. A panic in here (a bug
//! of the core, never input) ends the process where PyO3 would raise.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, Ordering};

use isthmus_core::lock::Slices;
use isthmus_core::mutex::Found;
use isthmus_core::queue::{Attempt, INLINE_MAX, On, Place, Step, Taken};
use isthmus_core::sync::handle::{Kind, Took};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::arguments::PyAsk;
use crate::driver::look_briefly;
use crate::lease::PyLease;
use crate::mutex::PyMutex;
use crate::queue::PyQueue;
use crate::receiving::small;
use crate::sync::PySync;

type Function = unsafe extern "C" fn(
    *mut PyObject,
    *const *mut PyObject,
    ffi::Py_ssize_t,
    *mut PyObject,
) -> *mut PyObject;

/// A method of PyO3's and the function that goes before it.
struct Fast {
    name: &'static CStr,
    function: Function,
    whole: AtomicPtr<PyObject>,
}

/// What event loops give in place of seconds; the module keeps it alive.
static ASK: AtomicPtr<PyObject> = AtomicPtr::new(std::ptr::null_mut());

static PUT: Fast = Fast::new(c"put", put);
static GET: Fast = Fast::new(c"get", get);
static LEASE: Fast = Fast::new(c"lease", lease);
static ACK: Fast = Fast::new(c"ack", ack);
static ENTER: Fast = Fast::new(c"__enter__", enter);
static EXIT: Fast = Fast::new(c"__exit__", exit);
static IS_SET: Fast = Fast::new(c"is_set", is_set);

impl Fast {
    const fn new(name: &'static CStr, function: Function) -> Fast {
        Fast { name, function, whole: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// Puts the function before the method of the same name.
    fn install(&'static self, class: &Bound<'_, PyType>) -> PyResult<()> {
        let py = class.py();
        let name = self.name.to_str().unwrap_or_default();
        let whole = class.getattr(name)?;
        let signature: Option<String> = whole.getattr("__text_signature__")?.extract()?;
        let text: Option<String> = whole.getattr("__doc__")?.extract()?;
        let head = signature.map_or_else(String::new, |signature| format!("{name}{signature}\n--\n\n"));
        let doc = CString::new(format!("{head}{}", text.unwrap_or_default()))?;
        // Lives as long as the type, that is to the end of the process.
        let definition = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: self.name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: self.function },
            ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
            ml_doc: doc.into_raw(),
        }));
        // SAFETY: the type is alive, the definition is never freed; the result is checked.
        let method = unsafe {
            let method = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
            Bound::from_owned_ptr_or_err(py, method)?
        };
        class.setattr(name, method)?;
        self.whole.store(whole.into_ptr(), Ordering::Release);
        Ok(())
    }

    /// Calls PyO3's method with the same arguments.
    #[cold]
    unsafe fn whole(
        &self,
        slf: *mut PyObject,
        args: *const *mut PyObject,
        count: ffi::Py_ssize_t,
        names: *mut PyObject,
    ) -> *mut PyObject {
        // SAFETY: called with the arguments of a METH_FASTCALL | METH_KEYWORDS function, with the GIL:
        // `count` positional values, then one for each name. Every new reference is given up again.
        unsafe {
            let positional = ffi::PyTuple_New(count + 1);
            if positional.is_null() {
                return positional;
            }
            ffi::PyTuple_SetItem(positional, 0, ffi::Py_NewRef(slf));
            for i in 0..count {
                ffi::PyTuple_SetItem(positional, i + 1, ffi::Py_NewRef(*args.offset(i)));
            }
            let mut keywords = std::ptr::null_mut();
            if !names.is_null() {
                keywords = ffi::PyDict_New();
                for i in 0..ffi::PyTuple_Size(names) {
                    let (name, value) = (ffi::PyTuple_GetItem(names, i), *args.offset(count + i));
                    if keywords.is_null() || ffi::PyDict_SetItem(keywords, name, value) != 0 {
                        ffi::Py_DECREF(positional);
                        ffi::Py_XDECREF(keywords);
                        return std::ptr::null_mut();
                    }
                }
            }
            let result = ffi::PyObject_Call(self.whole.load(Ordering::Acquire), positional, keywords);
            ffi::Py_DECREF(positional);
            ffi::Py_XDECREF(keywords);
            result
        }
    }
}

/// Installs all of them; once, when the module is made.
pub(crate) fn install(py: Python<'_>, ask: &Py<PyAsk>) -> PyResult<()> {
    ASK.store(ask.clone_ref(py).into_ptr(), Ordering::Relaxed);
    let (queue, mutex) = (py.get_type::<PyQueue>(), py.get_type::<PyMutex>());
    let leases = py.get_type::<PyLease>();
    PUT.install(&queue)?;
    GET.install(&queue)?;
    LEASE.install(&queue)?;
    ACK.install(&leases)?;
    ENTER.install(&leases)?;
    EXIT.install(&leases)?;
    install_lock::<PyMutex>(&mutex)?;
    let sync = py.get_type::<PySync>();
    install_lock::<PySync>(&sync)?;
    IS_SET.install(&sync)
}

fn install_lock<T: Lock>(class: &Bound<'_, PyType>) -> PyResult<()> {
    let calls = T::calls();
    calls.acquire.install(class)?;
    calls.release.install(class)?;
    calls.enter.install(class)?;
    calls.exit.install(class)
}

/// True where a call has exactly `required` positional arguments and perhaps a good timeout behind them,
/// by position or as the only keyword.
#[inline]
unsafe fn usual(
    required: ffi::Py_ssize_t,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> bool {
    // SAFETY: as for `Fast::whole`.
    unsafe {
        if count == required && names.is_null() {
            return true;
        }
        if names.is_null() {
            return count == required + 1 && is_timeout(*args.offset(required));
        }
        count == required
            && ffi::PyTuple_Size(names) == 1
            && ffi::PyUnicode_CompareWithASCIIString(ffi::PyTuple_GetItem(names, 0), c"timeout".as_ptr()) == 0
            && is_timeout(*args.offset(required))
    }
}

/// None, a float that is not negative, or `ASK`; anything else is PyO3's.
unsafe fn is_timeout(value: *mut PyObject) -> bool {
    // SAFETY: a borrowed reference to a live object, with the GIL; the type is checked first.
    unsafe {
        value == ffi::Py_None()
            || (ffi::PyFloat_CheckExact(value) != 0 && ffi::PyFloat_AsDouble(value) >= 0.0)
            || value == ASK.load(Ordering::Relaxed)
    }
}

/// The object behind `self`.
unsafe fn this<T: pyo3::PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync>(
    slf: &*mut PyObject,
) -> &T {
    // SAFETY: method descriptors check the type of `self` before they call, and hold a reference.
    unsafe {
        let py = Python::assume_attached();
        Bound::ref_from_ptr(py, slf).cast_unchecked::<T>().get()
    }
}

unsafe extern "C" fn put(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see `Fast::whole`; the message is bytes and is held during the call, by the caller or here.
    unsafe {
        if usual(1, args, count, names) {
            let queue = this::<PyQueue>(&slf);
            let Some(codec) = queue.codec() else {
                if put_bytes(queue, *args) {
                    return ffi::Py_NewRef(ffi::Py_None());
                }
                return PUT.whole(slf, args, count, names);
            };
            let encoded = call(codec.encoder(*args), *args);
            if encoded.is_null() {
                return encoded;
            }
            let done = put_bytes(queue, encoded);
            ffi::Py_DECREF(encoded);
            if done {
                return ffi::Py_NewRef(ffi::Py_None());
            }
            // Encoded once more by the whole method: it is going to wait, or the message is large.
        }
        PUT.whole(slf, args, count, names)
    }
}

/// Puts a small message in `bytes`, where nothing is in the way.
#[inline(always)]
unsafe fn put_bytes(queue: &PyQueue, message: *mut PyObject) -> bool {
    // SAFETY: a live object, with the GIL; the type is checked first.
    unsafe {
        if ffi::PyBytes_Check(message) == 0 {
            return false;
        }
        let handle = &queue.handle;
        let length = ffi::PyBytes_Size(message) as usize;
        if length > handle.queue().geometry().inline_max() {
            return false;
        }
        let message = std::slice::from_raw_parts(ffi::PyBytes_AsString(message).cast::<u8>(), length);
        handle.producer().is_ok_and(|me| {
            matches!(handle.queue().try_put(me, &Attempt::default(), 0, message), Ok(Step::Done(_)))
        })
    }
}

unsafe extern "C" fn get(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see `Fast::whole`; of the buffer only what was filled is read.
    unsafe {
        if usual(0, args, count, names) {
            let this = this::<PyQueue>(&slf);
            let queue = this.handle.queue();
            let mut buffer = [MaybeUninit::<u8>::uninit(); INLINE_MAX];
            if let Ok(me) = this.handle.consumer() {
                // Twice: the second time takes the message that has ended a short wait.
                for _ in 0..2 {
                    match queue.try_get(me, &Attempt::default(), &mut buffer) {
                        Ok(Step::Done(Taken { place: Place::Inline, length, .. }))
                            if this.codec().is_none() =>
                        {
                            return ffi::PyBytes_FromStringAndSize(buffer.as_ptr().cast(), length as isize);
                        }
                        Ok(Step::Done(taken)) => return open(&slf, &taken, &buffer),
                        Ok(Step::Wait(On::Messages)) => {}
                        _ => break,
                    }
                    if !look_briefly(|| queue.is_ready(On::Messages)) {
                        break;
                    }
                }
            }
        }
        GET.whole(slf, args, count, names)
    }
}

/// A result as C functions return it.
#[inline]
fn give<T>(py: Python<'_>, result: PyResult<Bound<'_, T>>) -> *mut PyObject {
    match result {
        Ok(object) => object.into_ptr(),
        Err(error) => {
            error.restore(py);
            std::ptr::null_mut()
        }
    }
}

/// Calls a function of the codec.
#[inline]
unsafe fn call(function: &Py<PyAny>, argument: *mut PyObject) -> *mut PyObject {
    // SAFETY: both are alive and the GIL is held; the list of arguments ends with NULL.
    unsafe {
        let end: *mut PyObject = std::ptr::null_mut();
        ffi::PyObject_CallFunctionObjArgs(function.as_ptr(), argument, end)
    }
}

/// A large or typed message that was taken, opened by the code that the whole method uses.
unsafe fn open(slf: &*mut PyObject, taken: &Taken, buffer: &[MaybeUninit<u8>]) -> *mut PyObject {
    // SAFETY: as in `get`; the bytes that are copied were filled.
    unsafe {
        let py = Python::assume_attached();
        let slf = Bound::ref_from_ptr(py, slf).cast_unchecked::<PyQueue>();
        Python::attach(|_| give(py, PyQueue::open(slf, taken, buffer)))
    }
}

unsafe extern "C" fn lease(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see `Fast::whole`; of the buffer only what was filled is read.
    unsafe {
        if usual(0, args, count, names) {
            let this = this::<PyQueue>(&slf);
            let queue = this.handle.queue();
            let mut buffer = [MaybeUninit::<u8>::uninit(); INLINE_MAX];
            let near = this.near.load(Ordering::Relaxed);
            if let Ok(me) = this.handle.consumer()
                && this.look_for_leases().is_ok()
                && let Ok(Step::Done(leased)) = queue.try_lease(me, &Attempt::default(), near, &mut buffer)
            {
                let py = Python::assume_attached();
                let slf = Bound::ref_from_ptr(py, &slf).cast_unchecked::<PyQueue>();
                if leased.place == Place::Inline && this.codec().is_none() {
                    let message = small(py, &buffer, leased.length).into_any().unbind();
                    let lease = PyLease::new(slf, leased, message);
                    return give(py, lease.and_then(|lease| Bound::new(py, lease)));
                }
                // Anything may fail in there, and Rust drops Python objects only where it knows itself attached.
                return Python::attach(|py| {
                    let lease = PyQueue::open_lease(slf, leased, &buffer, false);
                    give(py, lease.and_then(|lease| Bound::new(py, lease)))
                });
            }
        }
        LEASE.whole(slf, args, count, names)
    }
}

unsafe extern "C" fn ack(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see `Fast::whole`.
    unsafe {
        if count == 0 && names.is_null() && this::<PyLease>(&slf).try_acknowledge() {
            return ffi::Py_NewRef(ffi::Py_None());
        }
        ACK.whole(slf, args, count, names)
    }
}

unsafe extern "C" fn enter(
    slf: *mut PyObject,
    _args: *const *mut PyObject,
    _count: ffi::Py_ssize_t,
    _names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see `Fast::whole`.
    unsafe { ffi::Py_NewRef(slf) }
}

unsafe extern "C" fn exit(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see `Fast::whole`.
    unsafe {
        if count == 3 && *args == ffi::Py_None() && this::<PyLease>(&slf).try_acknowledge() {
            return ffi::Py_NewRef(ffi::Py_None());
        }
        EXIT.whole(slf, args, count, names)
    }
}

/// What is taken and given back: a mutex, a semaphore, a read-write lock's side.
trait Lock: pyo3::PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync {
    /// Takes it for the calling thread where nothing is in the way.
    fn try_take(&self) -> bool;
    /// Gives it back where it is this thread's and nothing is to be said.
    fn try_give(&self) -> bool;
    /// The functions of this class.
    fn calls() -> &'static LockCalls;
}

struct LockCalls {
    acquire: Fast,
    release: Fast,
    enter: Fast,
    exit: Fast,
}

impl LockCalls {
    const fn of<T: Lock>() -> LockCalls {
        LockCalls {
            acquire: Fast::new(c"acquire", acquire::<T>),
            release: Fast::new(c"release", release::<T>),
            enter: Fast::new(c"__enter__", lock::<T>),
            exit: Fast::new(c"__exit__", unlock::<T>),
        }
    }
}

impl Lock for PyMutex {
    #[inline]
    fn try_take(&self) -> bool {
        let me = self.handle.session().me_here();
        me.is_ok_and(|me| self.handle.try_acquire(me, &Slices::default()) == Found::Acquired)
    }

    #[inline]
    fn try_give(&self) -> bool {
        self.handle.session().me_here().is_ok_and(|me| self.handle.release(me).is_ok())
    }

    fn calls() -> &'static LockCalls {
        static CALLS: LockCalls = LockCalls::of::<PyMutex>();
        &CALLS
    }
}

impl Lock for PySync {
    #[inline]
    fn try_take(&self) -> bool {
        let me = self.handle.session().me_here();
        me.is_ok_and(|me| matches!(self.handle.try_take(me, self.want), Ok(Took::Yes)))
    }

    #[inline]
    fn try_give(&self) -> bool {
        self.handle.session().me_here().is_ok_and(|me| self.handle.give_back(me, self.want, 1).is_ok())
    }

    fn calls() -> &'static LockCalls {
        static CALLS: LockCalls = LockCalls::of::<PySync>();
        &CALLS
    }
}

unsafe extern "C" fn acquire<T: Lock>(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see `Fast::whole`.
    unsafe {
        if usual(0, args, count, names) && this::<T>(&slf).try_take() {
            return ffi::Py_NewRef(ffi::Py_True());
        }
        T::calls().acquire.whole(slf, args, count, names)
    }
}

unsafe extern "C" fn release<T: Lock>(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see `Fast::whole`.
    unsafe {
        if count == 0 && names.is_null() && this::<T>(&slf).try_give() {
            return ffi::Py_NewRef(ffi::Py_None());
        }
        T::calls().release.whole(slf, args, count, names)
    }
}

unsafe extern "C" fn lock<T: Lock>(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see `Fast::whole`.
    unsafe {
        if count == 0 && this::<T>(&slf).try_take() {
            return ffi::Py_NewRef(slf);
        }
        T::calls().enter.whole(slf, args, count, names)
    }
}

unsafe extern "C" fn unlock<T: Lock>(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see `Fast::whole`.
    unsafe {
        if count == 3 && this::<T>(&slf).try_give() {
            return ffi::Py_NewRef(ffi::Py_None());
        }
        T::calls().exit.whole(slf, args, count, names)
    }
}

unsafe extern "C" fn is_set(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: see `Fast::whole`.
    unsafe {
        let this = this::<PySync>(&slf);
        if count == 0
            && names.is_null()
            && let Kind::Event(event) = this.handle.kind()
            && this.handle.session().me().is_ok()
        {
            return ffi::Py_NewRef(if event.is_set() { ffi::Py_True() } else { ffi::Py_False() });
        }
        IS_SET.whole(slf, args, count, names)
    }
}
