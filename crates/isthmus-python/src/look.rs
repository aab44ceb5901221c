//! A close look at one object, without opening it: what `isthmus.inspect` shows.

use std::path::PathBuf;

use isthmus_core::error::Error;
use isthmus_core::mutex::{self, Mutex};
use isthmus_core::namespace::Namespace;
use isthmus_core::object::{
    BARRIER, BODY, BOUNDED_SEMAPHORE, CONDITION, EVENT, Glimpse, MUTEX, QUEUE, RLOCK, RWLOCK, SEMAPHORE,
    SHARED_MEMORY, User, VALUE,
};
use isthmus_core::owner::Owner;
use isthmus_core::queue::handle::{CONSUMER, PRODUCER};
use isthmus_core::queue::overview::Overview;
use isthmus_core::queue::{Look, Seen, Sender, Standing};
use isthmus_core::registry::Registry;
use isthmus_core::sync::situation;
use isthmus_core::value::handle as value;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::OrRaise;
use crate::objects::{content, kind, unknown};

/// (process id, command, user id, roles, handles, event loops, threads that wait to put, and to get)
type Attached = (u32, String, u32, Vec<&'static str>, u64, u64, u64, u64);

/// (state, number, priority, size, deliveries, sender, holder, reason, data)
type Message = (&'static str, u64, u8, u64, u32, Option<u32>, Option<u32>, String, Py<PyBytes>);

/// (state, size, created, persistent, version, attached, problem) and what else there is to say of it
type Row<'py> = (
    (&'static str, u64, f64, bool, u32, Vec<Attached>, Option<String>),
    Bound<'py, PyDict>,
    Bound<'py, PyDict>,
    Bound<'py, PyDict>,
    Vec<Message>,
);

/// All that can be seen of an object: (kind, size, created, persistent, layout version, attached, problem), then
/// attributes, layout and state as dictionaries, then messages, at most `messages` of those that come next with
/// at most `size` bytes of each.
#[pyfunction]
#[pyo3(signature = (name, messages, size, namespace_ = None))]
pub(crate) fn look<'py>(
    py: Python<'py>,
    name: &str,
    messages: usize,
    size: usize,
    namespace_: Option<PathBuf>,
) -> PyResult<Row<'py>> {
    let space = Namespace::open_as_found(namespace_.as_deref()).or_raise(py)?;
    let glimpse = Glimpse::of(&space, name).or_raise(py)?;
    let glimpse = glimpse.ok_or_else(|| Error::NotFound(space.path_of(name))).or_raise(py)?;
    let found = glimpse.listing();
    let mut problem = found.problem.clone().or_else(|| unknown(found));
    let [attributes, layout, state] = [(); 3].map(|()| PyDict::new(py));
    let mut shown = Vec::new();
    if problem.is_none() {
        let told = match found.kind {
            QUEUE => {
                let overview = py.detach(|| Overview::of(&glimpse, messages, size));
                overview.or_raise(py).and_then(|overview| {
                    describe_queue(&glimpse, &overview, &attributes, &layout, &state)?;
                    match &overview.look {
                        Ok(look) => shown = all_messages(py, glimpse.registry(), look),
                        Err(error) => problem = Some(error.to_string()),
                    }
                    Ok(())
                })
            }
            MUTEX => {
                describe_mutex(&glimpse, &state).and_then(|()| describe_lock(&glimpse, &attributes, &state))
            }
            RLOCK | SEMAPHORE | BOUNDED_SEMAPHORE | RWLOCK | EVENT | CONDITION | BARRIER => {
                describe_lock(&glimpse, &attributes, &state)
            }
            VALUE => match value::peek(&space, found) {
                Some(number) => {
                    let number = crate::value::python(py, number);
                    attributes.set_item("type", number.get_type().name()?)?;
                    state.set_item("value", number)
                }
                None => Err(crate::errors::convert(py, Error::Corrupt("its header is damaged".to_owned()))),
            },
            SHARED_MEMORY => match content(&space, found, &mut problem) {
                Some(content) => {
                    if !content.description.is_empty() {
                        attributes.set_item("array", String::from_utf8_lossy(&content.description))?;
                    }
                    state.set_item("size", content.size)
                }
                None => Ok(()),
            },
            _ => Ok(()),
        };
        if let Err(error) = told {
            problem = Some(error.value(py).to_string());
        }
    }
    let attached = glimpse.users().into_iter().map(attached).collect();
    let created = found.created_ns as f64 / 1e9;
    let row = (kind(found.kind), found.size, created, found.persistent, found.version, attached, problem);
    Ok((row, attributes, layout, state, shown))
}

fn attached(user: User) -> Attached {
    let roles = [(PRODUCER, "producer"), (CONSUMER, "consumer")];
    let roles = roles.into_iter().filter(|(bit, _)| user.roles & bit != 0).map(|(_, role)| role).collect();
    let User { process, handles, loops, producers_waiting, consumers_waiting, .. } = user;
    (process.pid, process.command, process.uid, roles, handles, loops, producers_waiting, consumers_waiting)
}

fn describe_queue(
    glimpse: &Glimpse,
    overview: &Overview,
    attributes: &Bound<'_, PyDict>,
    layout: &Bound<'_, PyDict>,
    state: &Bound<'_, PyDict>,
) -> PyResult<()> {
    let Overview { geometry, numbers, .. } = overview;
    attributes.set_item("type", &overview.message_type.name)?;
    attributes.set_item("fingerprint", overview.message_type.fingerprint)?;
    attributes.set_item("capacity", geometry.capacity)?;
    attributes.set_item("priorities", geometry.levels)?;
    attributes.set_item("max_deliveries", overview.max_deliveries)?;
    attributes.set_item("ends_with_producers", overview.ends_with_producers)?;

    layout.set_item("ring_bytes", geometry.ring_size)?;
    layout.set_item("small_max", geometry.inline_max())?;
    layout.set_item("blocks_bytes", geometry.message_max())?;
    layout.set_item("message_max", geometry.message_max())?;
    layout.set_item("leases", geometry.leases)?;

    state.set_item("depth", numbers.depth)?;
    state.set_item("by_priority", &overview.depths)?;
    state.set_item("leased", numbers.leased)?;
    state.set_item("dead", numbers.dead)?;
    state.set_item("put", numbers.put)?;
    state.set_item("got", numbers.got)?;
    state.set_item("bytes_in_use", numbers.bytes_in_use)?;
    state.set_item("fill", overview.fill)?;
    state.set_item("largest", numbers.largest)?;
    state.set_item("shut_down", overview.shut)?;
    let [producer, consumer] = overview.inside.map(|owner| pid_of(glimpse.registry(), owner));
    state.set_item("putting", producer)?;
    state.set_item("getting", consumer)
}

fn describe_mutex(glimpse: &Glimpse, state: &Bound<'_, PyDict>) -> PyResult<()> {
    let py = state.py();
    let Some(memory) = glimpse.memory(BODY + mutex::BODY_SIZE) else { return Ok(()) };
    // Only asked what loads: the memory cannot be written to.
    let mutex = Mutex::new(memory, glimpse.registry().clone(), BODY);
    let (owner, death) = (mutex.owner(), mutex.poisoned());
    state.set_item("held", !owner.is_none())?;
    state.set_item("owner", pid_of(glimpse.registry(), owner))?;
    let alive = glimpse.registry().describe(owner).is_some_and(|info| info.alive);
    state.set_item("owner_alive", (!owner.is_none()).then_some(alive))?;
    let death = death.map(|death| {
        let told = PyDict::new(py);
        told.set_item("pid", (death.pid != 0).then_some(death.pid))?;
        told.set_item("since", (death.since_ns != 0).then_some(death.since_ns as f64 / 1e9))?;
        Ok::<_, PyErr>(told)
    });
    state.set_item("owner_died", death.transpose()?)
}

/// Who holds a lock and who waits for it.
fn describe_lock(
    glimpse: &Glimpse,
    attributes: &Bound<'_, PyDict>,
    state: &Bound<'_, PyDict>,
) -> PyResult<()> {
    let py = state.py();
    let Some(thing) = situation::thing(glimpse, true) else { return Ok(()) };
    let registry = glimpse.registry();
    match thing.kind {
        BOUNDED_SEMAPHORE => attributes.set_item("permits", glimpse.listing().attributes[0])?,
        BARRIER => attributes.set_item("parties", glimpse.listing().attributes[0])?,
        _ => {}
    }
    if let Some((what, number)) = thing.number {
        state.set_item(what, number)?;
    }
    let holders: Vec<_> = thing.holders.iter().filter_map(|(owner, _)| pid_of(registry, *owner)).collect();
    state.set_item("holders", holders)?;
    let waiters = thing.waiters.iter().map(|record| {
        let told = PyDict::new(py);
        told.set_item("pid", pid_of(registry, record.owner))?;
        told.set_item("thread", record.owner.context())?;
        told.set_item("since", record.since_ns as f64 / 1e9)?;
        told.set_item("timeout", record.timed)?;
        Ok(told)
    });
    state.set_item("waiters", waiters.collect::<PyResult<Vec<_>>>()?)
}

fn all_messages(py: Python<'_>, registry: &Registry, look: &Look) -> Vec<Message> {
    let all = [&look.next, &look.leased, &look.dead];
    all.into_iter().flatten().map(|seen| message(py, registry, seen)).collect()
}

fn message(py: Python<'_>, registry: &Registry, seen: &Seen) -> Message {
    let state = match seen.standing {
        Standing::Waiting => "waiting",
        Standing::Returned => "returned",
        Standing::Leased => "leased",
        Standing::Dead => "dead",
    };
    (
        state,
        seen.origin.number,
        seen.origin.level,
        seen.length as u64,
        seen.deliveries,
        sender(registry, seen.origin.sender),
        (seen.holder_pid != 0).then_some(seen.holder_pid),
        seen.reason.clone(),
        PyBytes::new(py, &seen.bytes).unbind(),
    )
}

fn sender(registry: &Registry, sender: Sender) -> Option<u32> {
    registry.resolve(sender.slot(), |generation| sender.matches(generation)).map(|info| info.pid)
}

fn pid_of(registry: &Registry, owner: Owner) -> Option<u32> {
    registry.describe(owner).map(|info| info.pid)
}
