//! What is refused: files that do not fit, an init that fails, memory that is not there.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use isthmus_core::error::Error;
use isthmus_core::namespace::Namespace;
use isthmus_core::object::{BODY, MUTEX, Mode, Object, Spec, inspect};

use crate::common::{fork, wait_until};
use crate::{SIZE, alone, init, open, open_as, persistent, spec};

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
    let refused = Object::open(&namespace, "held", Mode::Open, &spec(), &init, &|_, _| {
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
    let refused = Object::open(&namespace, "x", Mode::Open, &spec(), &init, &|_, _| {
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
        &|_, _| Ok(()),
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
