//! Messages on their way in: what a codec makes of an object, as one or several buffers.

use std::mem::MaybeUninit;

use isthmus_core::queue::INLINE_MAX;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arguments::Bytes;

/// The functions that turn objects into messages and back, as `isthmus._codec.Codec` describes them.
pub(crate) struct Codec {
    /// What the user gave as the type.
    pub(crate) source: Py<PyAny>,
    encode: Py<PyAny>,
    decode: Py<PyAny>,
    decode_view: Py<PyAny>,
    /// Objects of exactly these types may go another way, which has no Python function in it.
    exact: Vec<Py<PyAny>>,
    encode_exact: Py<PyAny>,
    /// Messages that begin with this byte likewise.
    plain: Option<u8>,
    decode_plain: Py<PyAny>,
}

impl Codec {
    pub(crate) fn new(source: Py<PyAny>, codec: &Bound<'_, PyAny>) -> PyResult<Codec> {
        let get = |name: &str| codec.getattr(name).map(Bound::unbind);
        Ok(Codec {
            source,
            encode: get("encode")?,
            decode: get("decode")?,
            decode_view: get("decode_view")?,
            exact: codec.getattr("exact")?.extract()?,
            encode_exact: get("encode_exact")?,
            plain: u8::try_from(codec.getattr("plain")?.extract::<i32>()?).ok(),
            decode_plain: get("decode_plain")?,
        })
    }

    /// The function that encodes an object.
    #[inline]
    pub(crate) fn encoder(&self, object: *mut ffi::PyObject) -> &Py<PyAny> {
        if self.exact.is_empty() {
            return &self.encode;
        }
        // SAFETY: a live object, with the GIL; its type is only compared.
        let kind = unsafe { ffi::Py_TYPE(object) }.cast::<ffi::PyObject>();
        if self.exact.iter().any(|exact| exact.as_ptr() == kind) { &self.encode_exact } else { &self.encode }
    }

    /// Decodes a message, `bytes` or a view whose content is copied.
    #[inline]
    pub(crate) fn decode<'py>(
        &self,
        message: &Bound<'py, PyAny>,
        first: Option<u8>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let plain = first.is_some() && first == self.plain;
        let function = if plain { &self.decode_plain } else { &self.decode };
        function.bind(message.py()).call1((message,))
    }

    /// Decodes a message into an object that may keep it.
    pub(crate) fn decode_view<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.decode_view.bind(message.py()).call1((message,))
    }
}

/// One message as buffers that lie one after the other.
pub(crate) struct Parts<'py> {
    first: Bytes,
    rest: Vec<Bytes>,
    length: usize,
    /// Keeps the buffers alive.
    _source: Bound<'py, PyAny>,
}

impl<'py> Parts<'py> {
    /// The message for an object: what the codec makes of it, or the object's own buffer.
    pub(crate) fn new(codec: Option<&Codec>, object: &Bound<'py, PyAny>) -> PyResult<Parts<'py>> {
        let Some(codec) = codec else {
            return Ok(Parts::one(Bytes::new(object)?, object.clone()));
        };
        let source = codec.encoder(object.as_ptr()).bind(object.py()).call1((object,))?;
        let Ok(tuple) = source.cast::<PyTuple>() else {
            return Ok(Parts::one(Bytes::new(&source)?, source));
        };
        let mut parts = tuple.iter().map(|part| Bytes::new(&part)).collect::<PyResult<Vec<_>>>()?.into_iter();
        let Some(first) = parts.next() else {
            return Ok(Parts::one(Bytes::empty(), source));
        };
        let rest: Vec<Bytes> = parts.collect();
        let length = first.as_slice().len() + rest.iter().map(|part| part.as_slice().len()).sum::<usize>();
        Ok(Parts { first, rest, length, _source: source })
    }

    fn one(first: Bytes, source: Bound<'py, PyAny>) -> Parts<'py> {
        let length = first.as_slice().len();
        Parts { first, rest: Vec::new(), length, _source: source }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The whole message, where it is in one piece.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        self.rest.is_empty().then(|| self.first.as_slice())
    }

    /// The whole message, put together in `buffer` where it is in pieces; for small ones.
    pub(crate) fn gather<'a>(&'a self, buffer: &'a mut [MaybeUninit<u8>; INLINE_MAX]) -> &'a [u8] {
        if let Some(whole) = self.whole() {
            return whole;
        }
        let room = &mut buffer[..self.length];
        let mut at = 0;
        for part in self.slices() {
            for (to, from) in room[at..].iter_mut().zip(part) {
                to.write(*from);
            }
            at += part.len();
        }
        // SAFETY: the parts have filled exactly this much.
        unsafe { std::slice::from_raw_parts(room.as_ptr().cast::<u8>(), self.length) }
    }

    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.first.as_slice()).chain(self.rest.iter().map(Bytes::as_slice))
    }
}
