//! The crash sweep of the value: each call makes one store at most. Killed at it, nothing has changed; not
//! killed at it, the call completes without another one.

use super::*;
use crate::memory::crash::{Crashing, silence_kills};

/// Not zero, so that a forgotten offset shows.
const AT: usize = 64;

fn shared() -> Crashing {
    Crashing::new(AT + BODY_SIZE)
}

/// Calls `operation` on a value that is `before`, killed at its first store: it must be as before. Then kills
/// it at the second store: there must be none, and the value is `after`.
fn sweep<N, T>(before: N, after: N, result: T, operation: impl Fn(&Value<Crashing>) -> T)
where
    N: Number + PartialEq + std::fmt::Debug,
    T: PartialEq + std::fmt::Debug,
{
    silence_kills();
    let changes = before.to_word() != after.to_word();
    let memory = shared();
    Value::new(memory.process(), AT).exchange(before);
    let victim = memory.process();
    victim.kill_at(1);
    let killed = victim.run(|| operation(&Value::new(victim.clone(), AT)));
    assert_eq!(killed.is_none(), changes, "one store where something changes, else none");
    assert_eq!(Value::new(memory.process(), AT).get::<N>(), before);

    let lucky = memory.process();
    lucky.kill_at(2);
    assert_eq!(lucky.run(|| operation(&Value::new(lucky.clone(), AT))), Some(result), "a second store");
    assert_eq!(Value::new(memory, AT).get::<N>(), after);
}

#[test]
fn integers_change_by_one_store() {
    sweep(5, 7, Ok(7), |value| value.add(2));
    sweep(-5, i64::MIN, Ok(i64::MIN), |value| value.add(i64::MIN + 5));
    sweep(5, -1, 5, |value| value.exchange(-1));
    sweep(5, 6, true, |value| value.compare_and_set(5, 6));
}

#[test]
fn floats_change_by_one_store() {
    sweep(0.5, 0.75, Ok(0.75), |value| value.add(0.25));
    sweep(f64::MAX, f64::INFINITY, Ok(f64::INFINITY), |value| value.add(f64::MAX));
    sweep(0.5, -1.5, 0.5, |value| value.exchange(-1.5));
    sweep(0.5, 6.0, true, |value| value.compare_and_set(0.5, 6.0));
    sweep(-0.0, 6.0, true, |value| value.compare_and_set(0.0, 6.0));
}

#[test]
fn what_is_refused_stores_nothing() {
    sweep(i64::MAX, i64::MAX, Err(i64::MAX), |value| value.add(1));
    sweep(i64::MIN, i64::MIN, Err(i64::MIN), |value| value.add(-1));
    sweep(5, 5, false, |value| value.compare_and_set(4, 6));
    sweep(0.5, 0.5, false, |value| value.compare_and_set(f64::NAN, 6.0));
}

#[test]
fn floats_compare_by_value_and_not_by_bits() {
    let value = Value::new(shared(), AT);
    value.exchange(f64::NAN);
    assert!(!value.compare_and_set(f64::NAN, 1.0), "NaN is not itself");
    value.exchange(0.0);
    assert!(value.compare_and_set(-0.0, -0.0));
    assert!(value.get::<f64>().is_sign_negative());
}
