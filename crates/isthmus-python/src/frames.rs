//! The short way of messages through a pipe, under `isthmus.PipeReader` and `isthmus.PipeWriter`, and of those
//! through a FIFO.
//!
//! Both classes are bases of the Python ones and do what is hot: small messages, and waiting for them. For all
//! else (large messages, those that may be revoked, the end, every error) they call the Python method that does
//! the same the long way (`_recv`, `_send`). While that works it has the descriptor alone: it takes it away from
//! here (`arm` with -1, `take_over`) and gives it back.
//!
//! What goes through a FIFO differs in how it begins, see [`Form`]; its classes are in `packets.rs`.
//!
//! Everything here happens with the GIL held, but for the waits, so that no other thread is ever in the middle of
//! a message.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use isthmus_core::sys::pipe::{self, Moved, READABLE, WRITABLE, Way};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::arguments::Timeout;
use crate::errors::OrRaise;
use crate::patience::Patience;

/// Bytes that are read ahead; whole messages up to this size take the short way.
const AHEAD: usize = 1 << 17;
/// Bytes that a pipe takes in one piece or not at all.
const PIPE_BUF: usize = 4096;
/// Longest wait without a look at signals and at the handle.
const SLICE: Duration = Duration::from_millis(200);
const DISARMED: i32 = -1;

/// Whether SIGPIPE has its default action, by what Python knows of it: asking the kernel takes as long as a write.
fn sigpipe_kills(py: Python<'_>) -> bool {
    static GETSIGNAL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static ARGUMENTS: PyOnceLock<Py<PyTuple>> = PyOnceLock::new();
    let ask = || {
        let getsignal = GETSIGNAL
            .get_or_try_init(py, || py.import("_signal")?.getattr("getsignal").map(Bound::unbind))?;
        let arguments = ARGUMENTS.get_or_try_init(py, || PyTuple::new(py, [SIGPIPE]).map(Bound::unbind))?;
        getsignal.bind(py).call1(arguments.bind(py))?.is_truthy()
    };
    !ask().unwrap_or(false)
}

const SIGPIPE: i32 = 13;

/// How a message looks that goes the short way: a prefix, its length in 4 bytes, little-endian, and the message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// In a pipe, as `_pipe_ends.py` says. What one read brings may end anywhere.
    Frames,
    /// In a FIFO, as `_fifo_ends.py` says. One read brings whole packets; the long way sees to all else.
    Packets,
}

impl Form {
    #[inline]
    fn prefix(self) -> &'static [u8] {
        match self {
            Form::Frames => b"",
            Form::Packets => b"\xf1\x1f\0\0",
        }
    }

    #[inline]
    fn header(self) -> usize {
        self.prefix().len() + 4
    }
}

/// A descriptor that is ours for now, and how to use it.
struct Armed {
    fd: AtomicI32,
    way: AtomicU8,
    limit: AtomicU32,
}

impl Armed {
    fn new() -> Armed {
        Armed { fd: AtomicI32::new(DISARMED), way: AtomicU8::new(0), limit: AtomicU32::new(0) }
    }

    fn set(&self, fd: i32, way: u8, limit: u32) {
        self.way.store(way, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        self.fd.store(fd, Ordering::Relaxed);
    }

    #[inline]
    fn get(&self) -> Option<(i32, Way)> {
        let way = match self.way.load(Ordering::Relaxed) {
            0 => Way::Nowait,
            1 => Way::Nonblocking,
            _ => Way::Careful,
        };
        match self.fd.load(Ordering::Relaxed) {
            DISARMED => None,
            fd => Some((fd, way)),
        }
    }

    /// Waits for events, first without sleeping for as long as that has paid lately; true means "try again".
    fn wait(
        &self,
        py: Python<'_>,
        events: i16,
        deadline: Option<Instant>,
        patience: Option<&Patience>,
    ) -> PyResult<bool> {
        let Some((fd, _)) = self.get() else { return Ok(false) };
        let now = Instant::now();
        let slice = deadline.map_or(SLICE, |end| end.saturating_duration_since(now).min(SLICE));
        let milliseconds = i32::try_from(slice.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let found = py.detach(|| {
            let look = || pipe::ready(fd, events, 0).unwrap_or(true);
            if patience.is_some_and(|patience| patience.spin(deadline, look)) {
                return Ok(true);
            }
            pipe::ready(fd, events, milliseconds)
        });
        found.or_raise(py)?;
        py.check_signals()?;
        Ok(true)
    }
}

fn left(deadline: Option<Instant>) -> Option<f64> {
    deadline.map(|end| end.saturating_duration_since(Instant::now()).as_secs_f64())
}

fn passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|end| Instant::now() >= end)
}

// ------------------------------------------------------------------------------------------ receiving

struct Ahead {
    bytes: Box<[u8]>,
    at: usize,
    end: usize,
}

impl Ahead {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..self.end]
    }

    /// Where the next message is, if it is here whole and of the plain kind.
    #[inline]
    fn next(&self, form: Form, limit: u32) -> Next {
        let rest = self.rest();
        let part = if form == Form::Frames || rest.is_empty() { Next::More } else { Next::Long };
        let begun = rest.strip_prefix(form.prefix()).and_then(<[u8]>::split_first_chunk::<4>);
        let Some((head, body)) = begun else { return part };
        let size = u32::from_le_bytes(*head); // with the bit for "may be revoked" it is over every limit
        if size > limit || size as usize > AHEAD - 4 {
            return Next::Long;
        }
        if body.len() < size as usize {
            return part;
        }
        Next::Whole(self.at + form.header(), size as usize)
    }

    /// Reads on; false where it would block, `None` where the long way has to tell what is the matter.
    fn fill(&mut self, fd: i32, way: Way) -> Option<bool> {
        if self.at == self.end {
            (self.at, self.end) = (0, 0);
        } else if self.at > 0 && self.bytes.len() - self.end < AHEAD / 2 {
            self.bytes.copy_within(self.at..self.end, 0);
            (self.at, self.end) = (0, self.end - self.at);
        }
        match pipe::read_now(fd, way, &mut self.bytes[self.end..]) {
            Ok(Moved::Bytes(0)) | Err(_) => None,
            Ok(Moved::Bytes(count)) => {
                self.end += count;
                Some(true)
            }
            Ok(Moved::WouldBlock) => Some(false),
        }
    }
}

enum Next {
    /// Offset and size.
    Whole(usize, usize),
    More,
    Long,
}

/// What [`PyFrameReceiver::take`] has found.
enum Found {
    Message(Py<PyAny>),
    Nothing,
    TheLongWay,
}

/// The base of `isthmus.PipeReader`.
#[pyclass(name = "FrameReceiver", module = "isthmus._core", subclass, frozen)]
pub(crate) struct PyFrameReceiver {
    form: Form,
    armed: Armed,
    ahead: Mutex<Ahead>,
    /// The last try found nothing.
    dry: AtomicBool,
    decode: OnceLock<Py<PyAny>>,
    patience: Patience,
}

impl PyFrameReceiver {
    pub(crate) fn of(form: Form) -> PyFrameReceiver {
        PyFrameReceiver {
            form,
            armed: Armed::new(),
            ahead: Mutex::new(Ahead { bytes: Box::default(), at: 0, end: 0 }),
            dry: AtomicBool::new(false),
            decode: OnceLock::new(),
            patience: Patience::new(),
        }
    }

    #[inline]
    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to try before waiting. With nothing read ahead from a pipe mostly nothing is there, and to wait
    /// first takes one call less. From a FIFO nothing is read ahead; but after a try in vain one looks first, for
    /// reading takes the lock that writers need.
    #[inline]
    fn is_eager(&self) -> bool {
        if self.form == Form::Frames || !self.dry.load(Ordering::Relaxed) {
            return self.form == Form::Packets;
        }
        let there = self.armed.get().is_some_and(|(fd, _)| pipe::ready(fd, READABLE, 0).unwrap_or(true));
        self.dry.store(!there, Ordering::Relaxed);
        there
    }

    /// What `recv` does.
    #[inline]
    pub(crate) fn receive(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let me = slf.get();
        match Self::take(slf, me.is_eager(), false)? {
            Found::Message(message) => Ok(message),
            Found::Nothing => {
                me.dry.store(true, Ordering::Relaxed);
                Self::wait(slf, timeout)
            }
            Found::TheLongWay => Ok(slf.call_method1(intern!(slf.py(), "_recv"), (timeout,))?.unbind()),
        }
    }

    /// The next message, if it is here. Reads on where it is not, if asked to.
    #[inline]
    fn take(slf: &Bound<'_, Self>, read: bool, keep_bad: bool) -> PyResult<Found> {
        let (py, me) = (slf.py(), slf.get());
        let Some((fd, way)) = me.armed.get() else { return Ok(Found::TheLongWay) };
        let limit = me.armed.limit.load(Ordering::Relaxed);
        let mut ahead = me.ahead();
        let mut tried = !read;
        let (offset, size) = loop {
            match ahead.next(me.form, limit) {
                Next::Whole(offset, size) => break (offset, size),
                Next::Long => return Ok(Found::TheLongWay),
                Next::More if tried => return Ok(Found::Nothing),
                Next::More => match ahead.fill(fd, way) {
                    Some(true) => tried = ahead.end - ahead.at < 4,
                    Some(false) => return Ok(Found::Nothing),
                    None => return Ok(Found::TheLongWay),
                },
            }
        };
        let before = ahead.at;
        let message = PyBytes::new(py, &ahead.bytes[offset..offset + size]);
        ahead.at = offset + size;
        drop(ahead);
        let Some(decode) = me.decode.get() else { return Ok(Found::Message(message.into_any().unbind())) };
        match decode.bind(py).call1((&message,)) {
            Ok(value) => Ok(Found::Message(value.unbind())),
            Err(error) if error.is_instance_of::<pyo3::exceptions::PyException>(py) => {
                if keep_bad {
                    me.ahead().at = before;
                    return Ok(Found::Nothing);
                }
                let error = slf.call_method1(intern!(py, "_invalid"), (message, error.into_value(py)))?;
                Err(PyErr::from_value(error))
            }
            Err(error) => Err(error),
        }
    }

    #[cold]
    fn wait(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let (py, me) = (slf.py(), slf.get());
        let long = |timeout: Option<f64>| Ok(slf.call_method1(intern!(py, "_recv"), (timeout,))?.unbind());
        let deadline = Timeout::new(timeout)?.deadline();
        loop {
            if passed(deadline) || !me.armed.wait(py, READABLE, deadline, Some(&me.patience))? {
                return long(left(deadline));
            }
            match Self::take(slf, true, false)? {
                Found::Message(message) => return Ok(message),
                Found::TheLongWay => return long(left(deadline)),
                Found::Nothing => crate::signals::heed(py, true)?,
            }
        }
    }
}

#[pymethods]
impl PyFrameReceiver {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> PyFrameReceiver {
        PyFrameReceiver::of(Form::Frames)
    }

    /// The next message.
    ///
    /// `Empty` when none came in `timeout` seconds (None waits, 0 looks); what has come of one stays for the
    /// next call. `ShutDown` when every writing end is closed, `PeerDied` when that happened in the middle of
    /// a message: its sender was killed. `InvalidMessage`: not of the type; the next call takes the next.
    /// `TooLarge`: over the limit, and nothing more can be received.
    #[pyo3(signature = (timeout=None))]
    fn recv(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        Self::receive(slf, timeout)
    }

    /// The next message in a tuple, if that can be had without waiting and the short way.
    fn _next(slf: &Bound<'_, Self>, keep_bad: bool) -> PyResult<Option<(Py<PyAny>,)>> {
        Ok(match Self::take(slf, true, keep_bad)? {
            Found::Message(message) => Some((message,)),
            Found::Nothing | Found::TheLongWay => None,
        })
    }

    fn _decode_by(&self, decode: Py<PyAny>) {
        let _ = self.decode.set(decode);
    }

    /// Gives the short way the descriptor (-1: takes it away), and what was read ahead: `_data` from `_at` on
    /// and `_chunks`, which must not be more than 64 KiB.
    fn _hand_over(slf: &Bound<'_, Self>, fd: i32, way: u8, limit: u32) -> PyResult<()> {
        let (py, me) = (slf.py(), slf.get());
        let data = slf.getattr(intern!(py, "_data"))?.cast_into::<PyBytes>()?;
        let at: usize = slf.getattr(intern!(py, "_at"))?.extract()?;
        let chunks = slf.getattr(intern!(py, "_chunks"))?.cast_into::<PyList>()?;
        let mut ahead = me.ahead();
        if ahead.bytes.is_empty() {
            ahead.bytes = vec![0; AHEAD].into_boxed_slice();
        }
        let mut pieces = vec![data.as_bytes()[at..].to_vec()];
        for chunk in chunks.iter() {
            pieces.push(chunk.cast::<PyBytes>()?.as_bytes().to_vec());
        }
        let mut end = 0;
        for piece in pieces {
            ahead.bytes[end..end + piece.len()].copy_from_slice(&piece);
            end += piece.len();
        }
        (ahead.at, ahead.end) = (0, end);
        drop(ahead);
        me.armed.set(fd, way, limit);
        slf.setattr(intern!(py, "_data"), PyBytes::new(py, b""))?;
        slf.setattr(intern!(py, "_at"), 0)?;
        slf.setattr(intern!(py, "_chunks"), PyList::empty(py))?;
        slf.setattr(intern!(py, "_more"), 0)
    }

    /// Takes the descriptor away and puts what was read ahead into `_data`.
    fn _take_over(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, me) = (slf.py(), slf.get());
        if me.armed.get().is_none() {
            return Ok(());
        }
        let mut ahead = me.ahead();
        let data = PyBytes::new(py, ahead.rest());
        (ahead.at, ahead.end) = (0, 0);
        drop(ahead);
        me.armed.set(DISARMED, 0, 0);
        slf.setattr(intern!(py, "_data"), data)?;
        slf.setattr(intern!(py, "_at"), 0)
    }
}

// ------------------------------------------------------------------------------------------ sending

/// Writes header and message in one piece.
#[inline]
fn write_in(
    room: &mut [u8],
    form: Form,
    fd: i32,
    way: Way,
    message: &[u8],
) -> isthmus_core::error::Result<Moved> {
    let (prefix, header) = (form.prefix(), form.header());
    room[..prefix.len()].copy_from_slice(prefix);
    #[expect(clippy::cast_possible_truncation, reason = "it is at most PIPE_BUF")]
    room[prefix.len()..header].copy_from_slice(&(message.len() as u32).to_le_bytes());
    room[header..header + message.len()].copy_from_slice(message);
    pipe::write_now(fd, way, &room[..header + message.len()])
}

/// The base of `isthmus.PipeWriter`.
#[pyclass(name = "FrameSender", module = "isthmus._core", subclass, frozen)]
pub(crate) struct PyFrameSender {
    form: Form,
    armed: Armed,
    encode: OnceLock<Py<PyAny>>,
    patience: Patience,
    /// Messages that were sent by RWF_NOWAIT: who sends many gets a description of its own, which is faster.
    sent: AtomicU32,
}

/// See `PyFrameSender::sent`.
const MANY: u32 = 64;

impl PyFrameSender {
    pub(crate) fn of(form: Form) -> PyFrameSender {
        PyFrameSender {
            form,
            armed: Armed::new(),
            encode: OnceLock::new(),
            patience: Patience::new(),
            sent: AtomicU32::new(0),
        }
    }

    /// What `send` does.
    #[inline]
    pub(crate) fn post(
        slf: &Bound<'_, Self>,
        message: Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let (py, me) = (slf.py(), slf.get());
        let data = match me.encode.get() {
            None => message,
            Some(encode) => encode.bind(py).call1((message,))?,
        };
        let mut timeout = timeout;
        let (form, patience) = (me.form, (me.form == Form::Packets).then_some(&me.patience));
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            let bytes = bytes.as_bytes();
            let mut deadline = None;
            while let Some((fd, way)) = me.armed.get() {
                let limit = me.armed.limit.load(Ordering::Relaxed);
                if bytes.len() > PIPE_BUF - form.header() || bytes.len() > limit as usize || sigpipe_kills(py)
                {
                    break;
                }
                let written = if bytes.len() <= 248 {
                    // To clear 4 KiB would take as long as the rest.
                    write_in(&mut [0; 256], form, fd, way, bytes)
                } else {
                    write_in(&mut [0; PIPE_BUF], form, fd, way, bytes)
                };
                match written {
                    Ok(Moved::Bytes(_)) => {
                        if way == Way::Nowait {
                            let sent = me.sent.load(Ordering::Relaxed) + 1;
                            me.sent.store(sent, Ordering::Relaxed);
                            if sent == MANY {
                                slf.call_method0(intern!(py, "_speed_up"))?;
                            }
                        }
                        return Ok(());
                    }
                    Err(_) => break,
                    Ok(Moved::WouldBlock) => {}
                }
                let end = match deadline {
                    Some(end) => end,
                    None => *deadline.insert(Timeout::new(timeout)?.deadline()),
                };
                timeout = left(end);
                if passed(end) || !me.armed.wait(py, WRITABLE, end, patience)? {
                    break;
                }
            }
        }
        slf.call_method1(intern!(py, "_send"), (data, timeout)).map(drop)
    }
}

#[pymethods]
impl PyFrameSender {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> PyFrameSender {
        PyFrameSender::of(Form::Frames)
    }

    /// Sends a message.
    ///
    /// `Full` when there was no room in `timeout` seconds (None waits, 0 tries): the message was not sent,
    /// and nobody will receive it. `ShutDown` when every reading end is closed, `PeerDied` when that happened
    /// in the middle of this message. `TooLarge`: over the limit. SIGPIPE is not raised.
    #[pyo3(signature = (message, timeout=None))]
    fn send(slf: &Bound<'_, Self>, message: Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<()> {
        Self::post(slf, message, timeout)
    }

    fn _encode_by(&self, encode: Py<PyAny>) {
        let _ = self.encode.set(encode);
    }

    /// Gives the short way the descriptor; -1 takes it away.
    fn _arm(&self, fd: i32, way: u8, limit: u32) {
        self.armed.set(fd, way, limit);
    }
}
