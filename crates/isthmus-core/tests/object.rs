//! Objects: born whole, gone with their last user, refused when they do not fit.
#![cfg(not(loom))]

mod common;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{Child, Scratch, fork, wait_until};
use isthmus_core::error::{Error, Result};
use isthmus_core::namespace::Namespace;
use isthmus_core::object::{BODY, CELLS, MUTEX, Mode, Object, QUEUE, Spec, inspect};
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
    Object::open(namespace, name, mode, spec, &init, &|attributes| {
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
fn files_that_do_not_fit_are_refused_with_both_sides_and_stay() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    let patched = |name: &str, offset: u64, bytes: &[u8]| {
        drop(open_as(&namespace, name, Mode::Create, &persistent()).unwrap());
        let file = std::fs::File::options().write(true).open(scratch.path().join(name)).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        file
    };
    patched("version", 0x08, &[9]);
    patched("identity", 0x10, &[1, 2, 3, 4, 5, 6, 7, 8]);
    patched("total", 0x20, &(SIZE * 2).to_le_bytes());
    patched("magic", 0, &[0]);
    patched("cut", 0x30, &[1]).set_len(SIZE - 4096).unwrap();
    patched("stump", 0x30, &[1]).set_len(100).unwrap();
    patched("empty", 0x30, &[1]).set_len(0).unwrap();
    std::os::unix::fs::symlink("version", scratch.path().join("symlink")).unwrap();
    std::fs::create_dir(scratch.path().join("directory")).unwrap();
    let fifo = std::ffi::CString::new(scratch.path().join("fifo").to_str().unwrap()).unwrap();
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let table = [
        ("version", "version 9", "version 1"),
        ("identity", "registry", "0807060504030201"),
        ("total", "131072", "65536"),
        ("magic", "magic", "not an object"),
        ("cut", "65536", "61440"),
        ("stump", "65536", "has 100"),
        ("empty", "empty", "not an object"),
        ("symlink", "symlink", "not an object"),
        ("directory", "directory", "not an object"),
        ("fifo", "fifo", "not an object"),
    ];
    for (name, one, other) in table {
        for mode in [Mode::Open, Mode::OpenOrCreate] {
            let Err(Error::Incompatible(text)) = open_as(&namespace, name, mode, &spec()) else {
                panic!("{name} was not refused as incompatible")
            };
            assert!(text.contains(one) && text.contains(other), "{name}: {text}");
        }
        assert!(matches!(open_as(&namespace, name, Mode::Create, &spec()), Err(Error::Exists(_))), "{name}");
    }
    let kind = Spec { kind: MUTEX, ..spec() };
    let _held = open(&namespace, "held");
    let text = open_as(&namespace, "held", Mode::Open, &kind).unwrap_err().to_string();
    assert!(text.contains("a queue") && text.contains("a mutex"), "{text}");
    let refused = Object::open(&namespace, "held", Mode::Open, &spec(), &init, &|_| {
        Err(Error::Incompatible("attributes".to_owned()))
    });
    assert!(matches!(refused, Err(Error::Incompatible(text)) if text == "attributes"));

    let listed = inspect(&namespace).unwrap();
    assert_eq!(listed.len(), table.len() + 1);
    for listing in listed {
        let fits = ["held", "version"].contains(&listing.name.as_str());
        assert_eq!(listing.problem.is_none(), fits, "{listing:?}");
    }
    namespace.sweep().unwrap();
    assert!(scratch.names().len() >= table.len());
}

#[test]
fn a_refusal_does_not_keep_the_last_users_name() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    let object = open(&namespace, "x");
    let refused = Object::open(&namespace, "x", Mode::Open, &spec(), &init, &|_| {
        object.close(); // finds our shared lock and leaves the name to us
        Err(Error::Invalid("no".to_owned()))
    });
    assert!(refused.is_err());
    assert!(scratch.names().is_empty());
}

#[test]
fn a_failed_init_leaves_nothing() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    let failed = Object::open(
        &namespace,
        "x",
        Mode::Create,
        &spec(),
        &|_| Err(Error::Invalid("no".to_owned())),
        &|_| Ok(()),
    );
    assert!(failed.is_err() && scratch.names().is_empty());
    let small = Spec { size: 100, ..spec() };
    assert!(matches!(open_as(&namespace, "x", Mode::Create, &small), Err(Error::Invalid(_))));
}

#[test]
fn a_sparse_copy_gets_its_memory_reserved_before_it_is_mapped() {
    let (_alone, scratch) = alone();
    let namespace = scratch.open();
    drop(open_as(&namespace, "x", Mode::Create, &persistent()).unwrap());
    let header = std::fs::read(scratch.path().join("x")).unwrap();
    let copy = std::fs::File::create(scratch.path().join("copy")).unwrap();
    copy.write_all_at(&header[..4096], 0).unwrap();
    copy.set_len(SIZE).unwrap();
    let object = open(&namespace, "copy");
    let found = std::os::unix::fs::MetadataExt::blocks(&copy.metadata().unwrap()) * 512;
    assert_eq!(found, SIZE);
    assert_eq!(object.map().word(BODY).load(Ordering::Relaxed), 0);
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
        Object::from_fd_of(namespace, pid, fd, nonce, kind, &|_| Ok(()))
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
    let gone = Object::from_fd_of(&namespace, 1 << 30, 3, nonce, (QUEUE, 1), &|_| Ok(()));
    assert!(gone.unwrap_err().to_string().contains("must live"));
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

/// In a mount namespace of its own, with a tmpfs of `size` at the path; needs root.
fn on_small_tmpfs(size: &str, body: impl FnOnce(&Arc<Namespace>)) {
    let (_alone, scratch) = alone();
    fork(|_| {
        let path = std::ffi::CString::new(scratch.path().to_str().unwrap()).unwrap();
        let options = std::ffi::CString::new(format!("size={size},mode=700")).unwrap();
        let none = std::ptr::null();
        // SAFETY: C strings; mounts in a namespace of this child alone.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0, "this test needs root");
            assert_eq!(
                libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()),
                0
            );
            let kind = c"tmpfs".as_ptr();
            assert_eq!(libc::mount(kind, path.as_ptr(), kind, 0, options.as_ptr().cast()), 0);
        }
        body(&Namespace::open(Some(scratch.path())).unwrap());
    })
    .join();
}

#[test]
fn a_full_tmpfs_is_a_clear_error_that_leaves_nothing_and_garbage_is_swept_first() {
    on_small_tmpfs("4m", |namespace| {
        let three = Spec { size: 3 << 20, ..spec() };
        let two = Spec { size: 2 << 20, ..spec() };
        let held = open_as(namespace, "held", Mode::Create, &two).unwrap();
        let Err(Error::NoSpace(text)) = open_as(namespace, "x", Mode::Create, &three) else {
            panic!("three and two megabytes fit into four")
        };
        for part in ["3072 KiB", "file system of", "capacity=", "--shm-size", "leaves"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(namespace.list().unwrap(), ["held"]);
        assert_eq!(held.map().word(BODY).load(Ordering::Relaxed), 0xb0d1);
        drop(held);

        let path = namespace.path().to_owned();
        let mut child = fork(move |parent| {
            let namespace = Namespace::open(Some(&path)).unwrap();
            let two = Spec { size: 2 << 20, ..spec() };
            let _object = open_as(&namespace, "killed", Mode::Create, &two).unwrap();
            parent.send(0);
            parent.wait();
        });
        child.receive();
        child.kill();
        let object = open_as(namespace, "x", Mode::Create, &three).unwrap();
        assert_eq!(namespace.list().unwrap(), ["x"]);
        drop(object);
    });
}

#[test]
fn a_memory_cgroup_is_asked_before_it_kills() {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let one = own.lines().find_map(|line| line.split_once(":memory:")).map(|(_, path)| path.to_owned());
    let two = own.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned);
    let name = format!("isthmus-test-{}", std::process::id());
    let (folder, limit) = match (one, two) {
        (Some(path), _) => (format!("/sys/fs/cgroup/memory{path}/{name}"), "memory.limit_in_bytes"),
        (None, Some(path)) => (format!("/sys/fs/cgroup{path}/{name}"), "memory.max"),
        _ => panic!("no cgroups on this machine"),
    };
    std::fs::create_dir(&folder).expect("this test needs root");
    std::fs::write(format!("{folder}/{limit}"), "33554432").expect("the memory controller is not delegated");
    let (_alone, scratch) = alone();
    let mut child = fork(|_| {
        std::fs::write(format!("{folder}/cgroup.procs"), std::process::id().to_string()).unwrap();
        let namespace = Namespace::open(Some(scratch.path())).unwrap();
        let big = Spec { size: 64 << 20, ..spec() };
        for result in
            [open_as(&namespace, "x", Mode::Create, &big), Object::anonymous(&namespace, &big, &init)]
        {
            let Err(Error::NoSpace(text)) = result else { panic!("64 MiB in a group of 32") };
            assert!(
                text.contains("64 MiB") && text.contains("cgroup") && text.contains("--memory"),
                "{text}"
            );
        }
        let fits = Spec { size: 16 << 20, ..spec() };
        open_as(&namespace, "y", Mode::Create, &fits).unwrap();
    });
    let status = child.collect();
    wait_until("the group is empty", || std::fs::remove_dir(&folder).is_ok());
    assert_eq!(status, 0);
    assert!(scratch.names().is_empty());
}

#[test]
fn a_file_size_limit_is_an_error_and_not_a_signal() {
    let (_alone, scratch) = alone();
    fork(|_| {
        let namespace = Namespace::open(Some(scratch.path())).unwrap();
        let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
        // SAFETY: a valid rlimit; only this child is limited.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
        let big = Spec { size: 2 << 20, ..spec() };
        let Err(Error::NoSpace(text)) = open_as(&namespace, "x", Mode::Create, &big) else {
            panic!("over the file size limit")
        };
        assert!(text.contains("ulimit -f"), "{text}");
    })
    .join();
}
