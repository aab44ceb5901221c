//! Fork detection with real forks.
#![cfg(not(loom))]

mod common;

use common::fork;
use isthmus_core::process::{context, epoch};

#[test]
fn a_forked_child_has_another_epoch_and_so_has_its_child() {
    let mine = epoch();
    let mut child = fork(|parent| {
        let own = epoch();
        parent.send(own);
        assert_eq!(own, epoch());
        let mut grandchild = fork(|parent| parent.send(epoch()));
        parent.send(grandchild.receive());
        grandchild.join();
    });
    let (theirs, grandchilds) = (child.receive(), child.receive());
    child.join();
    assert!(mine != 0 && theirs != 0 && grandchilds != 0);
    assert!(mine != theirs && theirs != grandchilds && mine != grandchilds);
    assert_eq!(mine, epoch());
}

#[test]
fn a_clone_behind_the_back_of_every_hook_is_noticed() {
    let mine = epoch();
    // SAFETY: a plain fork by system call, which runs no atfork handlers; the child only exits.
    unsafe {
        let none = 0usize;
        let pid = libc::syscall(libc::SYS_clone, libc::SIGCHLD, none, none, none, none);
        if pid == 0 {
            libc::_exit(i32::from(epoch() == mine));
        }
        let mut status = 0;
        assert_eq!(i64::from(libc::waitpid(pid as i32, &raw mut status, 0)), pid);
        assert_eq!(status, 0);
    }
}

#[test]
fn the_context_of_a_forked_thread_is_its_own() {
    let mine = context();
    let mut child = fork(|parent| {
        parent.send(u64::from(context()));
        assert_eq!(context(), isthmus_core::sys::proc::thread_id());
    });
    assert_ne!(child.receive(), u64::from(mine));
    child.join();
}
