//! The short way of messages through a FIFO, under `isthmus.FifoReader` and `isthmus.FifoWriter`.
//!
//! As through a pipe, with packets instead of frames: see `frames.rs`, which does it all.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::frames::{Form, PyFrameReceiver, PyFrameSender};

/// The base of `isthmus.FifoReader`.
#[pyclass(name = "PacketReceiver", module = "isthmus._core", extends = PyFrameReceiver, subclass, frozen)]
pub(crate) struct PyPacketReceiver;

#[pymethods]
impl PyPacketReceiver {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(
        _arguments: &Bound<'_, PyTuple>,
        _keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<PyPacketReceiver> {
        PyClassInitializer::from(PyFrameReceiver::of(Form::Packets)).add_subclass(PyPacketReceiver)
    }

    /// The next message.
    ///
    /// `Empty` when none came in `timeout` seconds (None waits, 0 looks). `InvalidMessage`: not of the type, or
    /// not written by a `FifoWriter` at all; the next call takes the next. With `ends_with_writers` `ShutDown`
    /// once the last writer has closed; a writer that is killed is no error here, and what it had not sent whole
    /// is gone.
    #[pyo3(signature = (timeout=None))]
    fn recv(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        PyFrameReceiver::receive(slf.as_super(), timeout)
    }
}

/// The base of `isthmus.FifoWriter`.
#[pyclass(name = "PacketSender", module = "isthmus._core", extends = PyFrameSender, subclass, frozen)]
pub(crate) struct PyPacketSender;

#[pymethods]
impl PyPacketSender {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(
        _arguments: &Bound<'_, PyTuple>,
        _keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<PyPacketSender> {
        PyClassInitializer::from(PyFrameSender::of(Form::Packets)).add_subclass(PyPacketSender)
    }

    /// Sends a message, of any size up to `limit`, whole or not at all.
    ///
    /// `Full` when there was no room in `timeout` seconds (None waits, 0 tries): nobody will receive it.
    /// `ShutDown` when nobody reads the FIFO, `PeerDied` when that happened in the middle; a patient writer waits
    /// for the next reader instead, who gets it whole. Several processes and threads may send at once. SIGPIPE is
    /// not raised.
    #[pyo3(signature = (message, timeout=None))]
    fn send(slf: &Bound<'_, Self>, message: Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<()> {
        PyFrameSender::post(slf.as_super(), message, timeout)
    }
}
