//! What only the inside can bring about: burial of the living, and states left by killed claimers.

use super::*;

fn scratch() -> (PathBuf, Arc<Registry>) {
    let path = PathBuf::from(format!("/dev/shm/isthmus-unit-{:x}", proc::random_word()));
    let registry = Registry::for_namespace(&Namespace::open(Some(&path)).unwrap()).unwrap();
    (path, registry)
}

fn set_word(registry: &Registry, slot: u32, value: u64) {
    registry.map.word(at(slot, layout::WORD)).store(value, Ordering::Release);
}

#[test]
fn the_buried_get_an_error_everywhere_and_for_ever() {
    let (path, registry) = scratch();
    let me = registry.me().unwrap();
    registry.relock().unwrap();
    assert!(registry.bury(me.slot(), word(me.generation(), LIVE)));
    for _ in 0..2 {
        assert!(matches!(registry.me(), Err(Error::Buried)));
        assert!(matches!(registry.relock(), Err(Error::Buried)));
    }
    assert!(registry.is_dead(me) && !registry.describe(me).unwrap().alive);
    assert_ne!(registry.death(me).since_ns, 0);
    // Also when the slot belongs to another by now.
    set_word(&registry, me.slot(), word(me.generation() + 1, LIVE));
    assert!(matches!(registry.me(), Err(Error::Buried)));
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_second_burial_changes_nothing() {
    let (path, registry) = scratch();
    set_word(&registry, 9, word(4, BURIED));
    assert!(registry.bury(9, word(4, LIVE)));
    assert_eq!(registry.field(9, layout::NOTICED), 0);
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn what_a_killed_claimer_leaves_is_vacant() {
    let (path, registry) = scratch();
    let own = Identity::own();
    for (left, next) in [
        (0, 1),
        (word(7, layout::CLAIMING), 8),
        (word(7, BURIED), 8),
        (word(crate::owner::MAX_GENERATION, BURIED), 1),
    ] {
        set_word(&registry, 5, left);
        assert_eq!(registry.claim_locked(5, &own), Some(Owner::process(5, next)));
    }
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_slot_in_a_state_nobody_writes_is_left_alone() {
    let (path, registry) = scratch();
    for slot in 1..4 {
        set_word(&registry, slot, word(1, 0x77));
    }
    assert!(registry.is_dead(Owner::process(2, 1)));
    assert_eq!(registry.me().unwrap().slot(), 4);
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_slot_of_this_very_process_is_not_taken_for_another_copy_of_this_library() {
    let (path, registry) = scratch();
    registry.write_fields(1, &Identity::own());
    set_word(&registry, 1, word(3, LIVE));
    assert_eq!(registry.me().unwrap().slot(), 2);
    assert!(!registry.is_dead(Owner::process(1, 3)));
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn fields_that_another_wrote_over_are_put_right() {
    let (path, registry) = scratch();
    let me = registry.me().unwrap();
    registry.map.word(at(me.slot(), layout::START)).store(1, Ordering::Release);
    registry.relock().unwrap();
    assert_eq!(registry.identity_in(me.slot()), Identity::own());
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_full_registry_says_so() {
    let (path, registry) = scratch();
    for slot in 1..SLOTS as u32 {
        registry.write_fields(slot, &Identity::own());
        set_word(&registry, slot, word(1, LIVE));
    }
    let Err(Error::NoSpace(text)) = registry.me() else { panic!("a full registry had room") };
    assert!(text.contains("2047"), "{text}");
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn registries_of_deleted_namespaces_are_let_go() {
    for _ in 0..50 {
        let (path, registry) = scratch();
        registry.me().unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }
    let (path, _registry) = scratch();
    let deleted = OPEN.lock().items().iter().filter(|it| it.file.stat().unwrap().links == 0).count();
    assert!(deleted < 20, "{deleted} are still open"); // other tests run at the same time
    std::fs::remove_dir_all(path).unwrap();
}
