//! Who is alive: with processes that are killed, stopped, forked, replaced by exec, or robbed of their lock.
#![cfg(not(loom))]

mod common;

use std::sync::Arc;

use common::{Child, Parent, Scratch, fork, wait_until};
use isthmus_core::error::Error;
use isthmus_core::namespace::Namespace;
use isthmus_core::owner::Owner;
use isthmus_core::registry::Registry;

fn registry(scratch: &Scratch) -> Arc<Registry> {
    Registry::for_namespace(&scratch.open()).unwrap()
}

/// A child that claims a slot, says which, and then does as told.
fn claimer(scratch: &Scratch, body: impl FnOnce(&Registry, &mut Parent)) -> (Child, Owner) {
    let path = scratch.path().to_owned();
    let mut child = fork(move |parent| {
        let registry = Registry::for_namespace(&Namespace::open(Some(&path)).unwrap()).unwrap();
        parent.send(registry.me().unwrap().word());
        body(&registry, parent);
    });
    let owner = Owner::from_word(child.receive());
    (child, owner)
}

fn idle(_: &Registry, parent: &mut Parent) {
    parent.wait();
}

#[test]
fn a_process_has_one_slot_whoever_asks() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    let me = registry.me().unwrap();
    assert!(me.slot() >= 1 && me.generation() == 1 && me.context() == 0);
    let again = Registry::for_namespace(&scratch.open()).unwrap();
    assert!(Arc::ptr_eq(&registry, &again));
    let others: Vec<_> = (0..8)
        .map(|_| {
            let registry = registry.clone();
            std::thread::spawn(move || registry.me().unwrap())
        })
        .collect();
    assert!(others.into_iter().all(|thread| thread.join().unwrap() == me));
    assert!(!registry.is_dead(me) && !registry.is_dead(me.with_context(77)) && registry.is_me(me));
    let info = registry.describe(me).unwrap();
    assert_eq!((info.pid, info.alive), (std::process::id(), true));
    assert!(info.command.starts_with("registry"), "{}", info.command);
}

#[test]
fn owners_that_cannot_be_are_dead_and_not_an_error() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    registry.me().unwrap();
    for word in [0, u64::MAX, Owner::process(4095, 1).word(), Owner::process(2000, 9).word()] {
        let owner = Owner::from_word(word);
        assert!(registry.is_dead(owner) && registry.describe(owner).is_none());
        assert_eq!(registry.death(owner).pid, 0);
    }
}

#[test]
fn the_killed_are_dead_as_zombies_already_and_the_slot_gets_a_new_generation() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    registry.me().unwrap();
    let (mut child, owner) = claimer(&scratch, idle);
    assert!(!registry.is_dead(owner));
    child.kill_only();
    assert!(registry.is_dead(owner));
    let death = registry.death(owner);
    assert_eq!((death.owner, death.pid), (owner, child.pid as u32));
    assert!(death.since_ns > 1_600_000_000_000_000_000);
    assert!(!registry.describe(owner).unwrap().alive);
    child.collect();

    let (_next, reused) = claimer(&scratch, idle);
    assert_eq!((reused.slot(), reused.generation()), (owner.slot(), owner.generation() + 1));
    assert!(registry.is_dead(owner) && !registry.is_dead(reused));
    assert!(registry.describe(owner).is_none());
    assert_eq!(registry.death(owner).since_ns, 0);
    let living: Vec<u32> = registry.living().iter().map(|info| info.pid).collect();
    assert_eq!(living.len(), 2);
}

#[test]
fn a_slot_nobody_buried_is_taken_over_by_the_next_claimer() {
    let scratch = Scratch::new();
    let (mut child, owner) = claimer(&scratch, idle);
    child.kill();
    let me = registry(&scratch).me().unwrap();
    assert_eq!((me.slot(), me.generation()), (owner.slot(), owner.generation() + 1));
}

#[test]
fn the_stopped_live() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    let (child, owner) = claimer(&scratch, idle);
    child.signal(libc::SIGSTOP);
    wait_until("it is stopped", || {
        isthmus_core::sys::proc::stat(child.pid as u32).is_some_and(|stat| stat.state == b'T')
    });
    assert!(!registry.is_dead(owner));
}

#[test]
fn a_forked_child_gets_a_slot_of_its_own_and_leaves_its_parents_alone() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    let mine = registry.me().unwrap();
    let in_child = registry.clone();
    let mut child = fork(move |parent| {
        assert!(!in_child.is_me(mine) && !in_child.is_dead(mine));
        in_child.relock().unwrap(); // nothing claimed yet: does nothing
        parent.send(in_child.me().unwrap().word());
        parent.wait();
    });
    let theirs = Owner::from_word(child.receive());
    assert_ne!(mine, theirs);
    assert!(!registry.is_dead(theirs) && registry.me().unwrap() == mine);
    child.kill();
    assert!(registry.is_dead(theirs) && !registry.is_dead(mine));
}

#[test]
fn who_lost_its_lock_by_a_foreign_close_lives_keeps_its_slot_and_locks_again() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    registry.me().unwrap();
    let file = scratch.path().join(".registry");
    let (mut child, owner) = claimer(&scratch, move |registry, parent| {
        drop(std::fs::File::open(file).unwrap());
        parent.send(0);
        parent.wait();
        registry.relock().unwrap();
        parent.send(0);
        parent.wait();
    });
    let directory = isthmus_core::sys::file::open_directory(scratch.path()).unwrap();
    // A description that is never closed: closing it would drop the lock of this process.
    let probe = isthmus_core::sys::file::open_at(&directory, ".registry", true).unwrap().unwrap();
    let holder = || isthmus_core::sys::lock::holder_of_byte(&probe, u64::from(owner.slot())).unwrap();
    child.receive();
    assert_eq!(holder(), None);
    assert!(!registry.is_dead(owner));
    let (_other, theirs) = claimer(&scratch, idle);
    assert_ne!(theirs.slot(), owner.slot());
    assert!(!registry.is_dead(owner));
    child.send(0);
    child.receive();
    assert_eq!(holder(), Some(child.pid as u32));
    registry.relock().unwrap();
    probe.leak();
}

#[test]
fn a_zombie_leader_with_a_living_thread_lives() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    let (mut child, owner) = claimer(&scratch, |_, parent| {
        parent.send(0);
        std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(60)));
        // SAFETY: ends only this thread, the leader.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    child.receive();
    wait_until("the leader is a zombie", || {
        isthmus_core::sys::proc::stat(child.pid as u32).is_some_and(|stat| stat.state == b'Z')
    });
    assert!(!registry.is_dead(owner));
    child.signal(libc::SIGKILL);
    wait_until("it is dead", || registry.is_dead(owner));
}

fn exec_away(randomize: bool) {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    let (child, owner) = claimer(&scratch, move |_, parent| {
        if !randomize {
            // SAFETY: changes only how the next exec lays out memory.
            unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
        }
        parent.wait();
        let program = c"/bin/sleep";
        let arguments = [program.as_ptr(), c"60".as_ptr(), std::ptr::null()];
        // SAFETY: C strings, and a list that ends with null.
        unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) };
        panic!("no exec");
    });
    let mut child = child;
    assert!(!registry.is_dead(owner));
    child.send(0);
    wait_until("the process that went through exec is dead", || registry.is_dead(owner));
    assert_eq!(registry.death(owner).pid, child.pid as u32);
    assert!(isthmus_core::sys::proc::exists(child.pid as u32));
}

#[test]
fn a_process_that_went_through_exec_is_dead_although_its_pid_lives() {
    exec_away(true);
    exec_away(false);
}

#[test]
fn a_process_whose_descriptors_were_all_closed_lives_and_recovers() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    let mine = registry.me().unwrap();
    let (mut child, owner) = claimer(&scratch, move |registry, parent| {
        // What daemons do. Numbers are then used again by other files.
        for fd in 3..256 {
            let own = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
            if !own.to_string_lossy().starts_with("pipe:") {
                // SAFETY: hostile on purpose; nothing in this process uses those descriptors.
                unsafe { libc::close(fd) };
            }
        }
        let _others: Vec<_> = (0..64).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(!registry.is_dead(mine));
        registry.relock().unwrap();
        assert_eq!(registry.me().unwrap().word() >> 39, 1);
        parent.send(0);
        parent.wait();
    });
    child.receive();
    assert!(!registry.is_dead(owner));
    child.kill();
    assert!(registry.is_dead(owner));
}

#[test]
fn a_stopped_claimer_that_looks_at_a_dead_slot_hides_no_death() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    let (mut dead, owner) = claimer(&scratch, idle);
    dead.kill();
    let path = scratch.path().to_owned();
    let mut looker = fork(move |parent| {
        let directory = isthmus_core::sys::file::open_directory(&path).unwrap();
        let file = isthmus_core::sys::file::open_at(&directory, ".registry", true).unwrap().unwrap();
        assert!(isthmus_core::sys::lock::lock_byte(&file, u64::from(owner.slot())).unwrap());
        parent.send(0);
        parent.wait();
    });
    looker.receive();
    looker.signal(libc::SIGSTOP);
    assert!(registry.is_dead(owner));
}

#[test]
fn many_claim_at_once_and_nobody_shares() {
    let scratch = Scratch::new();
    let mut children: Vec<Child> = (0..48)
        .map(|_| {
            let path = scratch.path().to_owned();
            fork(move |parent| {
                parent.wait();
                let registry = Registry::for_namespace(&Namespace::open(Some(&path)).unwrap()).unwrap();
                parent.send(registry.me().unwrap().word());
                parent.wait();
            })
        })
        .collect();
    for child in &mut children {
        child.send(0);
    }
    let mut owners: Vec<u64> = children.iter_mut().map(Child::receive).collect();
    owners.sort_unstable();
    owners.dedup();
    assert_eq!(owners.len(), 48);
    let registry = registry(&scratch);
    assert!(owners.iter().all(|&owner| !registry.is_dead(Owner::from_word(owner))));
    children.iter_mut().for_each(Child::kill);
    assert!(owners.iter().all(|&owner| registry.is_dead(Owner::from_word(owner))));
}

#[test]
fn killed_anywhere_in_a_claim_the_registry_stays_usable() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    registry.me().unwrap();
    for round in 0..300_u32 {
        let path = scratch.path().to_owned();
        let mut child = fork(move |parent| {
            parent.send(0);
            let registry = Registry::for_namespace(&Namespace::open(Some(&path)).unwrap()).unwrap();
            registry.me().unwrap();
            parent.wait();
        });
        child.receive();
        isthmus_core::sys::clock::nap_us(round * 2);
        child.kill();
    }
    assert_eq!(registry.living().len(), 1);
    let (_child, owner) = claimer(&scratch, idle);
    assert!(owner.slot() <= 3, "{owner:?}: slots of the killed were not reused");
}

#[test]
fn fork_while_other_threads_open_and_claim_never_hangs_the_child() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (stop, path) = (stop.clone(), scratch.path().to_owned());
            std::thread::spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let other = Scratch::new();
                    let namespace = Namespace::open(Some(&path)).unwrap();
                    Registry::for_namespace(&namespace).unwrap().me().unwrap();
                    Registry::for_namespace(&other.open()).unwrap().me().unwrap();
                }
            })
        })
        .collect();
    for _ in 0..100 {
        let registry = registry.clone();
        let path = scratch.path().to_owned();
        let mut child = fork(move |parent| {
            let again = Registry::for_namespace(&Namespace::open(Some(&path)).unwrap()).unwrap();
            assert_eq!(again.identity(), registry.identity());
            parent.send(again.me().unwrap().word());
        });
        child.receive();
        child.join();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_registry_that_was_deleted_is_not_mixed_with_its_successor() {
    let scratch = Scratch::new();
    let old = registry(&scratch);
    std::fs::remove_file(scratch.path().join(".registry")).unwrap();
    let new = registry(&scratch);
    assert_ne!(old.identity(), new.identity());
    assert_ne!(new.identity(), [0, 0]);
    old.me().unwrap();
    new.me().unwrap();
}

#[test]
fn a_damaged_registry_is_refused_with_its_name() {
    for damage in [0_usize, 8, 0x20] {
        let scratch = Scratch::new();
        let path = scratch.path().to_owned();
        fork(move |_| {
            let _ = Registry::for_namespace(&Namespace::open(Some(&path)).unwrap()).unwrap();
        })
        .join();
        let file = scratch.path().join(".registry");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[damage] ^= 0x40;
        std::fs::write(&file, bytes).unwrap();
        let refused = Registry::for_namespace(&scratch.open()).unwrap_err();
        assert!(matches!(refused, Error::Incompatible(_)), "{refused}");
        assert!(refused.to_string().contains(".registry"), "{refused}");
    }
    let scratch = Scratch::new();
    std::fs::write(scratch.path().join(".registry"), b"short").unwrap();
    assert!(matches!(Registry::for_namespace(&scratch.open()), Err(Error::Incompatible(_))));
}

/// Runs `body` as process 1 of a new PID namespace with its own /proc; needs root.
fn in_new_pid_namespace(scratch: &Scratch, body: impl FnOnce(&Registry, &mut Parent)) -> (Child, Owner) {
    let path = scratch.path().to_owned();
    let mut child = fork(move |parent| {
        // SAFETY: plain system calls of this single-threaded child.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS), 0, "these tests need root");
            let none = std::ptr::null();
            let private = libc::MS_REC | libc::MS_PRIVATE;
            assert_eq!(libc::mount(none, c"/".as_ptr(), none, private, none.cast()), 0);
        }
        let mut inner = fork(|up| {
            let proc = c"proc".as_ptr();
            // SAFETY: C strings that live long enough.
            assert_eq!(unsafe { libc::mount(proc, c"/proc".as_ptr(), proc, 0, std::ptr::null()) }, 0);
            assert_eq!(std::process::id(), 1);
            let registry = Registry::for_namespace(&Namespace::open(Some(&path)).unwrap()).unwrap();
            up.send(registry.me().unwrap().word());
            body(&registry, up);
        });
        parent.send(inner.receive());
        loop {
            let word = parent.wait();
            inner.send(word);
            parent.send(inner.receive());
        }
    });
    let owner = Owner::from_word(child.receive());
    (child, owner)
}

#[test]
fn a_shifted_clock_of_a_time_namespace_is_no_proof_of_death() {
    let scratch = Scratch::new();
    let registry = registry(&scratch);
    let path = scratch.path().to_owned();
    let mut shell = fork(move |parent| {
        // SAFETY: concerns only children of this child.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWTIME) }, 0, "this test needs root");
        std::fs::write("/proc/self/timens_offsets", "boottime 100000 0").unwrap();
        let mut inner = fork(|up| {
            let registry = Registry::for_namespace(&Namespace::open(Some(&path)).unwrap()).unwrap();
            let me = registry.me().unwrap();
            drop(std::fs::File::open(path.join(".registry")).unwrap());
            up.send(me.word());
            up.wait();
        });
        parent.send(inner.receive());
        parent.wait();
    });
    let owner = Owner::from_word(shell.receive());
    assert!(!registry.is_dead(owner));
    let inner = registry.describe(owner).unwrap().pid;
    // SAFETY: the grandchild started above.
    assert_eq!(unsafe { libc::kill(inner as i32, libc::SIGKILL) }, 0);
    wait_until("it is dead", || registry.is_dead(owner));
}

#[test]
fn two_pid_namespaces_on_one_directory() {
    let scratch = Scratch::new();
    let outer = registry(&scratch);
    let mine = outer.me().unwrap();
    let file = scratch.path().join(".registry");
    // Both are process 1 of their namespaces, and neither can see the other.
    let (first, first_owner) = in_new_pid_namespace(&scratch, move |registry, parent| {
        loop {
            match parent.wait() {
                0 => drop(std::fs::File::open(&file).unwrap()),
                1 => registry.relock().unwrap(),
                _ => {}
            }
            parent.send(u64::from(matches!(registry.me(), Err(Error::Buried))));
        }
    });
    let (second, second_owner) = in_new_pid_namespace(&scratch, move |registry, parent| {
        loop {
            let asked = Owner::from_word(parent.wait());
            parent.send(u64::from(registry.is_dead(asked)));
        }
    });
    let (mut first, mut second) = (first, second);
    assert_ne!(first_owner, second_owner);
    assert_eq!(outer.describe(first_owner).unwrap().pid, 1);
    let mut ask_second = |about: Owner| {
        second.send(about.word());
        second.receive()
    };
    assert_eq!((ask_second(first_owner), ask_second(mine)), (0, 0));
    assert!(!outer.is_dead(first_owner) && !outer.is_dead(second_owner));

    // Robbed of its lock, the first is seen alive from the outside, whose /proc shows it.
    first.send(0);
    assert_eq!(first.receive(), 0);
    assert!(!outer.is_dead(first_owner), "seen through NSpid");
    first.send(1);
    assert_eq!(first.receive(), 0);
    assert_eq!(ask_second(first_owner), 0);

    // The second cannot see it: there a free lock condemns, and the condemned learns it.
    first.send(0);
    assert_eq!(first.receive(), 0);
    assert_eq!(ask_second(first_owner), 1);
    first.send(2);
    assert_eq!(first.receive(), 1);
    assert!(outer.is_dead(first_owner));

    second.kill();
    wait_until("the init of the namespace is dead", || outer.is_dead(second_owner));
    assert!(!outer.is_dead(mine));
}
