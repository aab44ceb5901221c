//! Many processes at one object: killed while they make, open and close it; who is attached.

use isthmus_core::error::Error;
use isthmus_core::namespace::Namespace;
use isthmus_core::object::{CELLS, Mode, QUEUE, inspect};

use crate::common::{Child, fork};
use crate::{SIZE, alone, open, open_as, persistent, spec, user};

#[test]
fn killed_anywhere_in_creation_leaves_nothing_or_a_whole_object() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    isthmus_core::registry::Registry::for_namespace(&namespace).unwrap();
    let (mut nothing, mut whole) = (0, 0);
    for round in 0..300_u32 {
        let path = scratch.path().to_owned();
        let mut child = fork(move |parent| {
            let namespace = Namespace::open(Some(&path)).unwrap();
            parent.send(0);
            let _object = open_as(&namespace, "x", Mode::Create, &spec()).unwrap();
            parent.wait();
        });
        child.receive();
        isthmus_core::sys::clock::nap_us(round * 3);
        child.kill();
        let listed = inspect(&namespace).unwrap();
        match listed.as_slice() {
            [] => nothing += 1,
            [one] => {
                assert_eq!((one.problem.as_deref(), one.size, one.kind), (None, SIZE, QUEUE));
                whole += 1;
            }
            more => panic!("{more:?}"),
        }
        drop(open(&namespace, "x"));
        assert!(scratch.names().is_empty());
    }
    assert!(nothing > 0 && whole > 0, "{nothing} and {whole}: the kills did not spread");
}

#[test]
fn opening_and_closing_by_many_at_once_keeps_every_holder_on_one_object() {
    let (_alone, scratch) = alone();
    let mut children: Vec<Child> = (0..6)
        .map(|_| {
            let path = scratch.path().to_owned();
            fork(move |parent| {
                let namespace = Namespace::open(Some(&path)).unwrap();
                for _ in 0..300 {
                    let one = open(&namespace, "x");
                    // While `one` is held, the name must lead to it.
                    let two = open(&namespace, "x");
                    assert_eq!(one.nonce(), two.nonce());
                }
                parent.send(0);
            })
        })
        .collect();
    for child in &mut children {
        child.receive();
        child.join();
    }
    assert!(scratch.names().is_empty());
}

#[test]
fn killing_openers_and_closers_leaves_no_name_behind_after_the_next_use() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    let steady = open(&namespace, "steady");
    for round in 0..60_u32 {
        let mut children: Vec<Child> = (0..2)
            .map(|_| {
                let path = scratch.path().to_owned();
                fork(move |parent| {
                    let namespace = Namespace::open(Some(&path)).unwrap();
                    parent.send(0);
                    loop {
                        let nonce = open(&namespace, "steady").nonce();
                        assert_eq!(nonce, open(&namespace, "steady").nonce());
                        drop(open(&namespace, "x"));
                    }
                })
            })
            .collect();
        for child in &mut children {
            child.receive();
        }
        isthmus_core::sys::clock::nap_us(1000 + round * 37);
        children.iter_mut().for_each(Child::kill);
        assert_eq!(open(&namespace, "steady").nonce(), steady.nonce());
    }
    namespace.sweep().unwrap();
    assert_eq!(scratch.names(), ["steady"]);
}

#[test]
fn a_stopped_remover_gives_openers_an_error_and_not_a_hang() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    drop(open_as(&namespace, "x", Mode::Create, &persistent()).unwrap());
    let file = std::fs::File::open(scratch.path().join("x")).unwrap();
    // SAFETY: plays the part of the stopped remover.
    unsafe { libc::flock(std::os::fd::AsRawFd::as_raw_fd(&file), libc::LOCK_EX) };
    let refused = open_as(&namespace, "x", Mode::Open, &spec()).unwrap_err();
    assert!(matches!(&refused, Error::Timeout(text) if text.contains("stopped")), "{refused}");
    drop(file);
    open_as(&namespace, "x", Mode::Open, &spec()).unwrap();
}

#[test]
fn cells_belong_to_their_process_and_the_deads_are_taken_over_last() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    let object = open(&namespace, "x");
    let mine = object.attach().unwrap();
    object.set_roles(mine, 3);
    let mut child = user(&scratch, "x", spec());
    let found = object.attachments();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], (mine, object.registry().me().unwrap(), 3));
    let (cell, theirs, _) = found[1];
    assert!(!object.evict(cell, theirs));
    child.kill();
    assert_eq!(object.attachments().len(), 2);
    let more: Vec<usize> = (0..CELLS - 2).map(|_| object.attach().unwrap()).collect();
    assert!(!more.contains(&cell), "free cells come first");
    assert_eq!(object.attach().unwrap(), cell);
    assert!(!object.evict(cell, theirs));
    assert!(matches!(object.attach(), Err(Error::TooLarge { limit: 256, .. })));
    for cell in more {
        object.detach(cell);
    }
    object.detach(9999);
    assert_eq!(object.attachments().len(), 2);

    let mut child = user(&scratch, "x", spec());
    child.kill();
    let (cell, theirs, _) = *object.attachments().last().unwrap();
    assert!(object.evict(cell, theirs) && object.attachments().len() == 2);
}

#[test]
fn listing_names_users_once_and_disturbs_nobody() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    let object = open(&namespace, "x");
    object.attach().unwrap();
    object.attach().unwrap();
    let mut child = user(&scratch, "x", spec());
    let listed = inspect(&namespace).unwrap();
    assert_eq!(listed.len(), 1);
    let pids: Vec<u32> = listed[0].attached.iter().map(|info| info.pid).collect();
    assert_eq!(pids, [std::process::id(), child.pid as u32]);
    assert_eq!((listed[0].attributes, listed[0].created_ns), ([7; 16], object.created_ns()));
    child.kill();
    assert_eq!(inspect(&namespace).unwrap()[0].attached.len(), 1);
    drop(object);
    assert!(scratch.names().is_empty());
}
