//! loom models of the value: every interleaving of small cases. Run with `RUSTFLAGS="--cfg loom"`.

use loom::model;
use loom::thread;

use super::*;
use crate::memory::loom::Loom;

fn shared(initial: i64) -> Value<Loom> {
    let value = Value::new(Loom::new(BODY_SIZE), 0);
    value.exchange(initial);
    value
}

#[test]
fn loom_no_addition_is_lost() {
    model(|| {
        let value = shared(0);
        let other = value.clone();
        let thread = thread::spawn(move || (other.add(1i64), other.add(2i64)));
        let mine = value.add(4i64);
        let (first, second) = thread.join().unwrap();
        assert_eq!(value.get::<i64>(), 7);
        assert!([Ok(1), Ok(5)].contains(&first) && [Ok(3), Ok(7)].contains(&second));
        assert!([Ok(4), Ok(5), Ok(7)].contains(&mine));
    });
}

#[test]
fn loom_of_two_that_would_overflow_one_is_refused() {
    model(|| {
        let value = shared(i64::MAX - 1);
        let other = value.clone();
        let thread = thread::spawn(move || other.add(1i64));
        let results = [value.add(1i64), thread.join().unwrap()];
        assert!(results.contains(&Ok(i64::MAX)) && results.contains(&Err(i64::MAX)));
        assert_eq!(value.get::<i64>(), i64::MAX);
    });
}

#[test]
fn loom_one_of_two_sets_what_both_expected() {
    model(|| {
        let value = shared(0);
        let other = value.clone();
        let thread = thread::spawn(move || other.compare_and_set(0i64, 1));
        let mine = value.compare_and_set(0i64, 2);
        let theirs = thread.join().unwrap();
        assert!(mine != theirs);
        assert_eq!(value.get::<i64>(), if mine { 2 } else { 1 });
    });
}

#[test]
fn loom_changes_of_two_values_have_one_order() {
    // Each sets its own and looks at the other's: not both can have been first.
    model(|| {
        let memory = Loom::new(2 * BODY_SIZE);
        let (one, two) = (Value::new(memory.clone(), 0), Value::new(memory, BODY_SIZE));
        let (mine, theirs) = (one.clone(), two.clone());
        let thread = thread::spawn(move || {
            theirs.exchange(1i64);
            one.get::<i64>()
        });
        mine.exchange(1i64);
        let seen = two.get::<i64>();
        assert!(thread.join().unwrap() == 1 || seen == 1);
    });
}
