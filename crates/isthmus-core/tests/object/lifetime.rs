//! From the first user to the last: the name, what the killed leave, unlinking, going without a name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use isthmus_core::error::Error;
use isthmus_core::namespace::Namespace;
use isthmus_core::object::{BODY, MUTEX, Mode, Object, QUEUE};

use crate::common::{Scratch, fork};
use crate::{SIZE, alone, init, open, open_as, persistent, spec, user};

#[test]
fn modes_insist_on_what_they_say() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    assert!(matches!(open_as(&namespace, "x", Mode::Open, &spec()), Err(Error::NotFound(_))));
    let first = open_as(&namespace, "x", Mode::Create, &spec()).unwrap();
    assert!(first.was_created());
    assert!(matches!(open_as(&namespace, "x", Mode::Create, &spec()), Err(Error::Exists(_))));
    let second = open_as(&namespace, "x", Mode::Open, &spec()).unwrap();
    let third = open(&namespace, "x");
    for other in [&second, &third] {
        assert!(!other.was_created());
        assert_eq!((other.nonce(), other.size(), other.attributes()), (first.nonce(), SIZE, [7; 16]));
        assert_eq!(other.map().word(BODY).load(Ordering::Relaxed), 0xb0d1);
    }
    first.map().word(BODY + 8).store(5, Ordering::Relaxed);
    assert_eq!(third.map().word(BODY + 8).load(Ordering::Relaxed), 5);
    assert_eq!((first.name(), first.creator()), (Some("x"), std::process::id()));
    for bad in ["", ".registry", "a/b"] {
        assert!(matches!(open_as(&namespace, bad, Mode::Open, &spec()), Err(Error::Invalid(_))));
    }
}

#[test]
fn the_name_goes_with_the_last_handle_and_never_before() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    let (first, second) = (open(&namespace, "x"), open(&namespace, "x"));
    first.close();
    first.close();
    assert_eq!((first.is_closed(), first.fd()), (true, -1));
    assert_eq!(scratch.names(), ["x"]);
    assert_eq!(first.map().word(BODY).load(Ordering::Relaxed), 0xb0d1, "mapped until dropped");
    assert!(matches!(first.attach(), Err(Error::Closed)));
    drop(second);
    assert!(scratch.names().is_empty());
}

#[test]
fn the_name_goes_with_the_last_process_also_if_it_inherited_its_handle() {
    let (_alone, scratch) = alone();
    let object = open(&scratch.open(), "x");
    let mut child = fork(|parent| {
        parent.wait();
        object.close();
        parent.send(0);
        parent.wait();
    });
    object.close();
    assert_eq!(scratch.names(), ["x"], "the child still has it");
    child.send(0);
    child.receive();
    assert!(scratch.names().is_empty());
}

#[test]
fn a_child_that_closes_its_copy_takes_nothing_from_its_parent() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    let object = open(&namespace, "x");
    let cell = object.attach().unwrap();
    fork(|_| {
        object.detach(cell);
        object.close();
    })
    .join();
    assert_eq!(scratch.names(), ["x"]);
    assert_eq!(object.attachments().len(), 1);
    assert!(namespace.sweep().unwrap().is_empty());
}

#[test]
fn what_the_killed_leave_is_swept_and_does_not_count_as_existing() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    user(&scratch, "x", spec()).kill();
    assert_eq!(scratch.names(), ["x"]);
    assert!(matches!(open_as(&namespace, "x", Mode::Open, &spec()), Err(Error::NotFound(_))));
    assert!(scratch.names().is_empty());

    user(&scratch, "x", spec()).kill();
    assert!(open_as(&namespace, "x", Mode::Create, &spec()).unwrap().was_created());

    user(&scratch, "x", spec()).kill();
    assert_eq!(namespace.sweep().unwrap(), ["x"]);

    user(&scratch, "y", spec()).kill();
    // The first use of the namespace in a process sweeps.
    let path = scratch.path().to_owned();
    fork(move |_| {
        Namespace::open(Some(&path)).unwrap(); // this process inherited "already swept"
    })
    .join();
    let held = open(&namespace, "held");
    std::fs::write(scratch.path().join("foreign"), vec![0; 20_000]).unwrap();
    let keep = open_as(&namespace, "keep", Mode::Create, &persistent()).unwrap();
    drop(keep);
    assert_eq!(namespace.sweep().unwrap(), ["y"]);
    assert_eq!(scratch.names(), ["foreign", "held", "keep"]);
    drop(held);
}

#[test]
fn the_first_use_of_a_namespace_in_a_process_sweeps() {
    let (_alone, scratch) = alone(); // not opened by this process before the fork
    user(&scratch, "x", spec()).kill();
    drop(Namespace::open(Some(scratch.path())).unwrap());
    assert!(scratch.names().is_empty());
}

#[test]
fn persistent_objects_stay_with_what_is_in_them_until_unlinked() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    let object = open_as(&namespace, "x", Mode::Create, &persistent()).unwrap();
    object.map().word(BODY + 8).store(99, Ordering::Relaxed);
    drop(object);
    user(&scratch, "x", persistent()).kill();
    assert!(namespace.sweep().unwrap().is_empty());
    let again = open(&namespace, "x");
    assert!(again.persistent() && !again.was_created());
    assert_eq!(again.map().word(BODY + 8).load(Ordering::Relaxed), 99);
    again.close();
    again.unlink().unwrap();
    assert!(matches!(again.unlink(), Err(Error::NotFound(_))));
    assert!(scratch.names().is_empty());
}

#[test]
fn unlink_removes_only_its_own_name() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    let old = open(&namespace, "x");
    old.unlink().unwrap();
    let new = open(&namespace, "x");
    assert_ne!(old.nonce(), new.nonce());
    assert!(matches!(old.unlink(), Err(Error::NotFound(_))));
    old.close();
    assert_eq!(scratch.names(), ["x"]);
    namespace.unlink("x").unwrap();
    assert!(matches!(namespace.unlink("x"), Err(Error::NotFound(_))));
    std::fs::write(scratch.path().join("foreign"), b"text").unwrap();
    assert!(matches!(namespace.unlink("foreign"), Err(Error::Incompatible(_))));
    assert_eq!(scratch.names(), ["foreign"]);
}

#[test]
fn anonymous_objects_travel_as_pid_descriptor_and_nonce() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    let object = Object::anonymous(&namespace, &spec(), &init).unwrap();
    assert!(scratch.names().is_empty() && object.name().is_none());
    assert!(object.unlink().is_err());
    let (pid, fd, nonce) = (std::process::id(), object.fd(), object.nonce());
    let path = scratch.path().to_owned();
    let receive = |namespace: &Arc<Namespace>, nonce: u64, kind: (u32, u32)| {
        Object::from_fd_of(namespace, pid, fd, nonce, kind, &|_, _| Ok(()))
    };
    fork(|_| {
        let namespace = Namespace::open(Some(&path)).unwrap();
        let same = receive(&namespace, nonce, (QUEUE, 1)).unwrap();
        same.map().word(BODY).store(1, Ordering::Relaxed);
        assert!(matches!(receive(&namespace, nonce + 1, (QUEUE, 1)), Err(Error::NotFound(_))));
        assert!(matches!(receive(&namespace, nonce, (MUTEX, 1)), Err(Error::Incompatible(_))));
        assert!(matches!(receive(&namespace, nonce, (QUEUE, 2)), Err(Error::Incompatible(_))));
        let other = Scratch::new();
        assert!(matches!(receive(&other.open(), nonce, (QUEUE, 1)), Err(Error::Incompatible(_))));
    })
    .join();
    assert_eq!(object.map().word(BODY).load(Ordering::Relaxed), 1);
    // Nobody can truncate it under the mapping.
    let direct = std::fs::File::options().write(true).open(format!("/proc/self/fd/{fd}")).unwrap();
    assert!(direct.set_len(0).is_err());
    object.close();
    assert!(matches!(
        receive(&namespace, nonce, (QUEUE, 1)),
        Err(Error::NotFound(_) | Error::Incompatible(_))
    ));
    let gone = Object::from_fd_of(&namespace, 1 << 30, 3, nonce, (QUEUE, 1), &|_, _| Ok(()));
    assert!(gone.unwrap_err().to_string().contains("must live"));
}
