//! The directory of named objects: what is accepted, what is refused, and what the refusal says.
#![cfg(not(loom))]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::{Scratch, fork};
use isthmus_core::error::Error;
use isthmus_core::namespace::Namespace;
use isthmus_core::registry::Registry;

fn refusal(path: &Path) -> String {
    match Namespace::open(Some(path)) {
        Err(Error::Permission(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The environment belongs to the whole process, so it is changed in a child.
fn with_environment(variables: &[(&str, &str)], body: impl FnOnce()) {
    fork(|_| {
        for (name, value) in variables {
            // SAFETY: the child has one thread.
            unsafe { std::env::set_var(name, value) };
        }
        body();
    })
    .join();
}

#[test]
fn a_missing_directory_is_created_for_its_user_alone_whatever_the_umask() {
    let scratch = Scratch::new();
    let path = scratch.path().join("inner");
    fork(|_| {
        // SAFETY: the child's own umask.
        unsafe { libc::umask(0o277) };
        Namespace::open(Some(&path)).unwrap();
    })
    .join();
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700);
    let namespace = Namespace::open(Some(&path)).unwrap();
    assert_eq!(namespace.path(), path);
    Registry::for_namespace(&namespace).unwrap();
    assert_eq!(path.join(".registry").metadata().unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn a_symlink_is_refused_even_with_a_slash_behind_it() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path().join("real")).unwrap();
    set_mode(&scratch.path().join("real"), 0o700);
    let link = scratch.path().join("link");
    symlink("real", &link).unwrap();
    assert!(refusal(&link).contains("symlink"));
    assert!(refusal(Path::new(&format!("{}/", link.display()))).contains("symlink"));
    let file = scratch.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(refusal(&file).contains("not a directory"));
}

#[test]
fn a_directory_open_to_others_is_refused_unless_asked_for() {
    let scratch = Scratch::new();
    set_mode(scratch.path(), 0o770);
    let text = refusal(scratch.path());
    assert!(text.contains("0770") && text.contains("ISTHMUS_NAMESPACE_MODE=770"));
    with_environment(&[("ISTHMUS_NAMESPACE_MODE", "770")], || {
        let namespace = Namespace::open(Some(scratch.path())).unwrap();
        Registry::for_namespace(&namespace).unwrap();
    });
    assert_eq!(scratch.path().join(".registry").metadata().unwrap().mode() & 0o7777, 0o660);
    set_mode(scratch.path(), 0o777);
    with_environment(&[("ISTHMUS_NAMESPACE_MODE", "770")], || {
        assert!(refusal(scratch.path()).contains("0777"));
    });
}

#[test]
fn somebody_elses_directory_is_refused_to_everybody_root_included() {
    let scratch = Scratch::new();
    std::os::unix::fs::chown(scratch.path(), Some(4242), None).unwrap();
    assert!(refusal(scratch.path()).contains("belongs to user 4242"));
    std::os::unix::fs::chown(scratch.path(), Some(0), None).unwrap();
    drop(Namespace::open(Some(scratch.path())).unwrap());
    fork(|_| {
        // SAFETY: the child gives up its rights; one thread.
        unsafe {
            assert_eq!(libc::setgid(4242), 0);
            assert_eq!(libc::setuid(4242), 0);
        }
        match Namespace::open(Some(scratch.path())) {
            Err(Error::Permission(_) | Error::Os { errno: libc::EACCES, .. }) => {}
            other => panic!("not refused: {other:?}"),
        }
    })
    .join();
}

#[test]
fn the_environment_names_the_namespace_and_an_argument_goes_before_it() {
    let (one, other) = (Scratch::new(), Scratch::new());
    with_environment(&[("ISTHMUS_NAMESPACE", one.path().to_str().unwrap())], || {
        assert_eq!(Namespace::open(None).unwrap().path(), one.path());
        assert_eq!(Namespace::open(Some(other.path())).unwrap().path(), other.path());
    });
    with_environment(&[("ISTHMUS_NAMESPACE", "")], || {
        // SAFETY: takes nothing; the child changes to a user whose namespace nobody uses.
        unsafe { assert_eq!(libc::setuid(54321), 0) };
        let path = Path::new("/dev/shm/isthmus-54321");
        assert_eq!(Namespace::open(None).unwrap().path(), path);
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700);
        std::fs::remove_dir_all(path).unwrap();
    });
}

#[test]
fn a_missing_parent_and_a_missing_dev_shm_say_what_to_do() {
    let scratch = Scratch::new();
    let missing = scratch.path().join("no/such");
    assert!(matches!(Namespace::open(Some(&missing)), Err(Error::NotFound(path)) if path == missing));
    fork(|_| {
        let none = std::ptr::null();
        // SAFETY: hides /dev/shm in a mount namespace of this child alone.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0, "this test needs root");
            assert_eq!(
                libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()),
                0
            );
            let (kind, flags) = (c"tmpfs".as_ptr(), libc::MS_RDONLY);
            assert_eq!(libc::mount(kind, c"/dev/shm".as_ptr(), kind, flags, none.cast()), 0);
        }
        let text = Namespace::open(None).unwrap_err().to_string();
        assert!(text.contains("ISTHMUS_NAMESPACE") && text.contains("tmpfs"), "{text}");
    })
    .join();
}

#[test]
fn a_deleted_directory_gives_an_error_and_not_a_hang() {
    let scratch = Scratch::new();
    let namespace = scratch.open();
    std::fs::remove_dir_all(scratch.path()).unwrap();
    let text = Registry::for_namespace(&namespace).unwrap_err().to_string();
    assert!(text.contains("removed while in use"), "{text}");
}

#[test]
fn only_names_that_can_be_objects_are_listed() {
    let scratch = Scratch::new();
    let namespace = scratch.open();
    Registry::for_namespace(&namespace).unwrap();
    for name in ["b", "a", ".hidden"] {
        std::fs::write(scratch.path().join(name), b"x").unwrap();
    }
    assert_eq!(namespace.list().unwrap(), ["a", "b"]);
}
