//! Objects: born whole, gone with their last user, refused when they do not fit.
#![cfg(not(loom))]

#[path = "../common/mod.rs"]
mod common;
mod lifetime;
mod processes;
mod refusals;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{Child, Scratch, fork};
use isthmus_core::error::Result;
use isthmus_core::namespace::Namespace;
use isthmus_core::object::{BODY, Mode, Object, QUEUE, Spec};
use isthmus_core::sys::map::Map;

const SIZE: u64 = 1 << 16;

/// Children forked by another test of this process would inherit, and so keep, this test's objects.
fn alone() -> (std::sync::MutexGuard<'static, ()>, Scratch) {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    (ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner), Scratch::new())
}

fn spec() -> Spec {
    Spec { kind: QUEUE, version: 1, size: SIZE, attributes: [7; 16], persistent: false }
}

fn persistent() -> Spec {
    Spec { persistent: true, ..spec() }
}

#[allow(clippy::unnecessary_wraps)] // the signature is the interface's
fn init(map: &Map) -> Result<()> {
    map.word(BODY).store(0xb0d1, Ordering::Relaxed);
    Ok(())
}

fn open_as(namespace: &Arc<Namespace>, name: &str, mode: Mode, spec: &Spec) -> Result<Object> {
    Object::open(namespace, name, mode, spec, &init, &|attributes, size| {
        assert_eq!(size, SIZE);
        assert_eq!(*attributes, [7; 16]);
        Ok(())
    })
}

fn open(namespace: &Arc<Namespace>, name: &str) -> Object {
    open_as(namespace, name, Mode::OpenOrCreate, &spec()).unwrap()
}

/// A child that opens the object and waits; a word makes it close and end.
fn user(scratch: &Scratch, name: &'static str, spec: Spec) -> Child {
    let path = scratch.path().to_owned();
    let mut child = fork(move |parent| {
        let namespace = Namespace::open(Some(&path)).unwrap();
        let object = open_as(&namespace, name, Mode::OpenOrCreate, &spec).unwrap();
        object.attach().unwrap();
        parent.send(u64::from(object.was_created()));
        parent.wait();
    });
    child.receive();
    child
}
