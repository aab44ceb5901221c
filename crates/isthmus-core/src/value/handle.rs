//! What a user holds of a value: the object's file and attachment beside the word in it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{BODY_SIZE, Number, Value};
use crate::error::{Error, Result};
use crate::memory::mapping::Mapping;
use crate::namespace::Namespace;
use crate::object::{BODY, Listing, Mode, Object, Spec, VALUE};
use crate::session::Session;
use crate::sys::file;
use crate::sys::map::Map;

/// Layout version.
pub const VERSION: u32 = 1;

/// Word of the header's attributes that says which type the number has.
const TYPE: usize = 0;
const SIZE: usize = (BODY + BODY_SIZE).next_multiple_of(4096);

/// The type of the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// 64 bits with a sign.
    Int = 1,
    /// 64 bits, IEEE 754.
    Float = 2,
}

impl Type {
    fn of(attributes: &[u64; 16]) -> Result<Type> {
        match attributes[TYPE] {
            1 => Ok(Type::Int),
            2 => Ok(Type::Float),
            other => Err(Error::Corrupt(format!("the value's header gives a type of {other}"))),
        }
    }

    /// The type in the header of a file of this length.
    fn checked(attributes: &[u64; 16], size: u64) -> Result<Type> {
        if size != SIZE as u64 {
            return Err(Error::Corrupt(format!("a value takes {SIZE} bytes, this file has {size}")));
        }
        Type::of(attributes)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Int => "int",
            Type::Float => "float",
        })
    }
}

/// A number and its type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Typed {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
}

impl Typed {
    fn kind(self) -> Type {
        match self {
            Typed::Int(_) => Type::Int,
            Typed::Float(_) => Type::Float,
        }
    }

    fn word(self) -> u64 {
        match self {
            Typed::Int(number) => number.to_word(),
            Typed::Float(number) => number.to_word(),
        }
    }
}

/// What a new value is to be like; an existing one is accepted in everything that is `None`.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    /// The number a new one begins with, and with it its type.
    pub initial: Typed,
    /// The type that an existing one has to have.
    pub kind: Option<Type>,
    /// Whether the value outlives its last user.
    pub persistent: Option<bool>,
}

impl Attributes {
    fn spec(&self) -> Spec {
        let mut attributes = [0; 16];
        attributes[TYPE] = self.initial.kind() as u64;
        Spec {
            kind: VALUE,
            version: VERSION,
            size: SIZE as u64,
            attributes,
            persistent: self.persistent.unwrap_or(false),
        }
    }

    /// Refuses an existing value of another type.
    fn check(&self, found: &[u64; 16], size: u64) -> Result<()> {
        let found = Type::checked(found, size)?;
        match self.kind {
            Some(asked) if asked != found => Err(Error::Incompatible(format!(
                "the value exists with type={found} and type={asked} was asked for"
            ))),
            _ => Ok(()),
        }
    }

    /// Writes the first number into a new value.
    fn format(&self, map: &Map) {
        map.word(BODY).store(self.initial.word(), Ordering::Relaxed);
    }
}

/// An open value.
pub struct ValueHandle {
    // Before the session: it points into the session's mapping, and fields drop in order.
    value: Value<Mapping>,
    session: Session,
    kind: Type,
}

impl ValueHandle {
    /// Opens or creates a named value.
    pub fn open(
        namespace: &Arc<Namespace>,
        name: &str,
        mode: Mode,
        asked: &Attributes,
    ) -> Result<ValueHandle> {
        let init = |map: &Map| {
            asked.format(map);
            Ok(())
        };
        let object = Object::open(namespace, name, mode, &asked.spec(), &init, &|found, size| {
            asked.check(found, size)
        })?;
        if let Some(persistent) = asked.persistent.filter(|p| *p != object.persistent()) {
            return Err(Error::Incompatible(format!(
                "the value exists with persistent={} and {persistent} was asked for",
                object.persistent()
            )));
        }
        ValueHandle::new(object)
    }

    /// Makes a value without a name.
    pub fn anonymous(namespace: &Arc<Namespace>, asked: &Attributes) -> Result<ValueHandle> {
        let init = |map: &Map| {
            asked.format(map);
            Ok(())
        };
        ValueHandle::new(Object::anonymous(namespace, &asked.spec(), &init)?)
    }

    /// Opens the value behind another process's descriptor.
    pub fn from_fd_of(namespace: &Arc<Namespace>, pid: u32, fd: i32, nonce: u64) -> Result<ValueHandle> {
        let check = |found: &[u64; 16], size| Type::checked(found, size).map(drop);
        ValueHandle::new(Object::from_fd_of(namespace, pid, fd, nonce, (VALUE, VERSION), &check)?)
    }

    fn new(object: Object) -> Result<ValueHandle> {
        let kind = Type::of(&object.attributes())?;
        let session = Session::new(object)?;
        let value = Value::new(session.memory(), BODY);
        Ok(ValueHandle { value, session, kind })
    }

    /// The object and this process's part in it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The type of the number.
    #[inline]
    pub fn kind(&self) -> Type {
        self.kind
    }

    /// The structure in shared memory, for a handle that is open; its numbers are of [`ValueHandle::kind`].
    #[inline]
    pub fn value(&self) -> Result<&Value<Mapping>> {
        self.session.me()?;
        Ok(&self.value)
    }
}

/// The number in a named value that is only looked at: nothing stays open, nobody is disturbed.
pub fn peek(namespace: &Namespace, listing: &Listing) -> Option<Typed> {
    let kind = Type::of(&listing.attributes).ok()?;
    let file = file::open_at(namespace.directory(), &listing.name, false).ok()??;
    let found = file.stat().ok()?;
    // A hole would take memory to look at, and end by SIGBUS where there is none.
    if listing.version != VERSION || found.size != SIZE as u64 || found.reserved < found.size {
        return None;
    }
    let map = Map::read_only(&file, SIZE).ok()?;
    let word = map.word(BODY).load(Ordering::Acquire);
    Some(match kind {
        Type::Int => Typed::Int(i64::from_word(word)),
        Type::Float => Typed::Float(f64::from_word(word)),
    })
}
