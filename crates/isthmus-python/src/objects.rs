//! What stands in a namespace.

use std::path::PathBuf;

use isthmus_core::mutex::handle as mutex;
use isthmus_core::namespace::Namespace;
use isthmus_core::object::{
    BARRIER, BOUNDED_SEMAPHORE, CONDITION, EVENT, Listing, MUTEX, QUEUE, RLOCK, RWLOCK, SEMAPHORE,
    SHARED_MEMORY, VALUE, inspect,
};
use isthmus_core::queue::handle as queue;
use isthmus_core::queue::handle::peek;
use isthmus_core::shared_memory::handle as memory;
use isthmus_core::value::handle as value;
use pyo3::prelude::*;

use crate::errors::OrRaise;

/// (name, kind, size, created, persistent, depth, capacity, [(pid, command)], problem, number in a value)
pub(crate) type Row = (
    String,
    String,
    u64,
    f64,
    bool,
    Option<u64>,
    Option<u64>,
    Vec<(u32, String)>,
    Option<String>,
    Option<Py<PyAny>>,
);

/// Why this version of isthmus cannot use an object that is sound in itself.
pub(crate) fn unknown(found: &Listing) -> Option<String> {
    let known = match found.kind {
        QUEUE => queue::VERSION,
        MUTEX => mutex::VERSION,
        VALUE => value::VERSION,
        SHARED_MEMORY => memory::VERSION,
        RLOCK => isthmus_core::mutex::handle::RECURSIVE.version,
        SEMAPHORE | BOUNDED_SEMAPHORE | RWLOCK | EVENT | CONDITION | BARRIER => {
            isthmus_core::sync::handle::VERSION
        }
        other => return Some(format!("kind {other} is not known to this version of isthmus")),
    };
    (found.version != known)
        .then(|| format!("layout version {}; this version of isthmus has {known}", found.version))
}

/// What a sound shared memory has in it; where it turns out not to be sound, says so in `problem`.
pub(crate) fn content(
    space: &Namespace,
    found: &Listing,
    problem: &mut Option<String>,
) -> Option<memory::Content> {
    if found.kind != SHARED_MEMORY || problem.is_some() {
        return None;
    }
    memory::peek(space, found).unwrap_or_else(|error| {
        *problem = Some(error.to_string());
        None
    })
}

pub(crate) fn kind(number: u32) -> &'static str {
    match number {
        QUEUE => "queue",
        MUTEX => "mutex",
        VALUE => "value",
        SHARED_MEMORY => "memory",
        RLOCK => "rlock",
        SEMAPHORE => "semaphore",
        BOUNDED_SEMAPHORE => "bounded_semaphore",
        RWLOCK => "rwlock",
        EVENT => "event",
        CONDITION => "condition",
        BARRIER => "barrier",
        _ => "?",
    }
}

/// The objects of a namespace; nothing stays open and nobody is disturbed.
#[pyfunction]
#[pyo3(signature = (namespace_ = None))]
pub(crate) fn objects(py: Python<'_>, namespace_: Option<PathBuf>) -> PyResult<Vec<Row>> {
    let space = Namespace::open_as_found(namespace_.as_deref()).or_raise(py)?;
    let rows = inspect(&space).or_raise(py)?.into_iter().map(|found| {
        let mut problem = found.problem.clone().or_else(|| unknown(&found));
        let numbers = if found.kind == QUEUE && problem.is_none() { peek(&space, &found) } else { None };
        let content = content(&space, &found, &mut problem);
        let number =
            if found.kind == VALUE && problem.is_none() { value::peek(&space, &found) } else { None };
        let mut attached: Vec<_> = found.attached.into_iter().map(|info| (info.pid, info.command)).collect();
        attached.sort_unstable();
        attached.dedup();
        (
            found.name,
            kind(found.kind).to_owned(),
            found.size,
            found.created_ns as f64 / 1e9,
            found.persistent,
            numbers.map(|(depth, _)| depth),
            numbers.map(|(_, capacity)| capacity).or(content.map(|content| content.size)),
            attached,
            problem,
            number.map(|number| crate::value::python(py, number).unbind()),
        )
    });
    Ok(rows.collect())
}

/// Removes the objects that nobody uses any more and that are not persistent; their names.
#[pyfunction]
#[pyo3(signature = (namespace_ = None))]
pub(crate) fn clean(py: Python<'_>, namespace_: Option<PathBuf>) -> PyResult<Vec<String>> {
    Namespace::open_as_found(namespace_.as_deref()).and_then(|space| space.sweep()).or_raise(py)
}

/// Removes the name of an object, whoever uses it and persistent or not; its users keep what they have.
#[pyfunction]
#[pyo3(signature = (name, namespace_ = None))]
pub(crate) fn remove(py: Python<'_>, name: &str, namespace_: Option<PathBuf>) -> PyResult<()> {
    Namespace::open_as_found(namespace_.as_deref()).and_then(|space| space.unlink(name)).or_raise(py)
}
