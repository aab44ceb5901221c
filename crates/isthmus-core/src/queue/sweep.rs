//! The crash sweep: each operation is killed at its first store, its second, … until it completes,
//! from several starting states; after each kill the survivors must find the queue as it was before or
//! after the operation, take and put everything, and get all of its capacity back.

mod calls;
mod damage;
mod fickle;
mod histories;
mod leases;
mod merges;
mod plain;
mod priorities;
mod properties;
mod scene;

use super::*;
use crate::memory::crash::{Crashing, Oracle, silence_kills};

const BODY: usize = 0;
const VICTIM: Owner = Owner::process(1, 1);
const SURVIVOR: Owner = Owner::process(2, 1);
const SECOND: Owner = Owner::process(3, 1);

type TestQueue = Queue<Crashing, Oracle>;

struct World {
    memory: Crashing,
    oracle: Oracle,
    geometry: Geometry,
}

impl World {
    fn new() -> World {
        // Smaller than any user's, so that rings fill and tables fragment quickly.
        World::of(Geometry { capacity: 64 << 10, levels: 2, ring_size: 16 << 10, leases: 6, units: 12 })
    }

    fn of(geometry: Geometry) -> World {
        let memory = Crashing::new(geometry.body_size());
        Queue::<Crashing, Oracle>::format(&memory, BODY, &geometry);
        World { memory, oracle: Oracle::default(), geometry }
    }

    /// The same memory once more, where these are dead.
    fn copy(&self, dead: &[Owner]) -> World {
        let oracle = Oracle::default();
        for owner in dead {
            oracle.kill(*owner);
        }
        World { memory: self.memory.fork_memory(), oracle, geometry: self.geometry }
    }

    fn process(&self) -> TestQueue {
        Queue::new(self.memory.process(), self.oracle.clone(), BODY, self.geometry, 3)
    }
}

/// Tries until done; a wait that cannot end in one thread fails the test.
fn drive<T>(queue: &TestQueue, me: Owner, mut step: impl FnMut(&Attempt) -> Result<Step<T>>) -> Option<T> {
    let mut attempt = Attempt::default();
    for _ in 0..6 {
        match step(&attempt).unwrap() {
            Step::Done(value) => return Some(value),
            Step::Wait(on) => {
                queue.wait(me, &mut attempt, on, None, false).unwrap();
            }
        }
    }
    None
}

fn message(number: u64, length: usize) -> Vec<u8> {
    (0..length).map(|i| (number as usize * 31 + i * 7 + length) as u8).collect()
}

fn put(queue: &TestQueue, me: Owner, bytes: &[u8]) -> bool {
    if bytes.len() <= queue.geometry().inline_max() {
        return drive(queue, me, |a| queue.try_put(me, a, 0, bytes)).is_some();
    }
    let Some(run) = drive(queue, me, |a| queue.try_claim(me, a, bytes.len())) else { return false };
    queue.memory().write(queue.run_offset(run), bytes);
    if drive(queue, me, |a| queue.try_put_run(me, a, 0, run, bytes.len())).is_none() {
        queue.free(me, run);
        return false;
    }
    true
}

fn get(queue: &TestQueue, me: Owner) -> Option<Vec<u8>> {
    let mut buffer = vec![MaybeUninit::new(0); INLINE_MAX];
    let taken = drive(queue, me, |a| queue.try_get(me, a, &mut buffer))?;
    Some(match taken.place {
        Place::Inline => filled(&buffer[..taken.length]),
        Place::Block(run) => take_block(queue, me, run, taken.length),
    })
}

fn filled(bytes: &[MaybeUninit<u8>]) -> Vec<u8> {
    // SAFETY: the tests initialise their buffers.
    bytes.iter().map(|byte| unsafe { byte.assume_init() }).collect()
}

fn take_block(queue: &TestQueue, me: Owner, run: Run, length: usize) -> Vec<u8> {
    let mut bytes = vec![MaybeUninit::new(0); length];
    queue.memory().read(queue.run_offset(run), &mut bytes);
    queue.free(me, run);
    filled(&bytes)
}

fn put_many(queue: &TestQueue, me: Owner, messages: &[Vec<u8>]) -> usize {
    let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    drive(queue, me, |a| queue.try_put_batch(me, a, 0, &slices)).unwrap_or(0)
}

fn get_many(queue: &TestQueue, me: Owner, limit: usize) -> Vec<Vec<u8>> {
    let mut lengths = Vec::new();
    queue.peek_lengths(limit, 64 << 10, &mut lengths);
    let mut buffers: Vec<_> = lengths.iter().map(|length| vec![MaybeUninit::new(0); *length]).collect();
    let mut slices: Vec<_> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    match drive(queue, me, |a| queue.try_get_batch(me, a, &mut slices)) {
        Some((_, Some(Taken { place: Place::Block(run), length, .. }))) => {
            vec![take_block(queue, me, run, length)]
        }
        Some((count, _)) => buffers[..count].iter().map(|buffer| filled(buffer)).collect(),
        None => vec![],
    }
}

/// Everything that is inside, in order.
fn drain(queue: &TestQueue, me: Owner) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| get(queue, me)).collect()
}

/// Whole capacity is there: one message of the largest size, and a ring full of small ones.
fn check_capacity(queue: &TestQueue) {
    let largest = message(9, queue.geometry().message_max());
    assert!(put(queue, SURVIVOR, &largest), "a message as large as the block area fits");
    assert_eq!(get(queue, SURVIVOR).as_ref(), Some(&largest));
    let fits = (queue.geometry().ring_size - 8) / 72;
    for number in 0..fits {
        assert!(put(queue, SURVIVOR, &message(number as u64, 64)), "small message {number} of {fits} fits");
    }
    assert!(!put(queue, SURVIVOR, &message(0, 64)), "and no more");
    assert_eq!(queue.depth(), fits as u64);
    for number in 0..fits {
        assert_eq!(get(queue, SURVIVOR), Some(message(number as u64, 64)));
    }
    assert_eq!(queue.numbers().bytes_in_use, 0);
    assert_eq!(queue.depth(), 0);
}

/// Starting states: empty; a few small and large messages; near the end of the ring, so that headers
/// and payloads wrap; a table cut into many runs; and a lock that another dead process left behind.
type State = (&'static str, fn(&TestQueue));

fn states() -> Vec<State> {
    fn mixed(queue: &TestQueue) {
        for (number, length) in [0, 1, 64, 5000, 4096, 20_000, 7].into_iter().enumerate() {
            assert!(put(queue, SURVIVOR, &message(number as u64, length)));
        }
    }
    fn wrapping(queue: &TestQueue) {
        for number in 0..(queue.geometry().ring_size - 40) / 72 {
            assert!(put(queue, SURVIVOR, &message(number as u64, 64)));
        }
        while queue.depth() > 2 {
            get(queue, SURVIVOR).unwrap();
        }
    }
    fn fragmented(queue: &TestQueue) {
        for number in 0..6 {
            assert!(put(queue, SURVIVOR, &message(number, 4097)));
        }
        for _ in 0..4 {
            get(queue, SURVIVOR).unwrap();
        }
    }
    vec![("empty", |_| {}), ("mixed", mixed), ("wrapping", wrapping), ("fragmented", fragmented)]
}

type Operation = (&'static str, fn(&TestQueue) -> Vec<Vec<u8>>);

/// Operations of the victim; each returns what it took.
fn operations() -> Vec<Operation> {
    vec![
        ("put small", |q| {
            put(q, VICTIM, &message(100, 64));
            vec![]
        }),
        ("put empty", |q| {
            put(q, VICTIM, b"");
            vec![]
        }),
        ("put large", |q| {
            put(q, VICTIM, &message(100, 9000));
            vec![]
        }),
        ("put many", |q| {
            put_many(q, VICTIM, &[message(100, 64), message(101, 0), message(102, 700)]);
            vec![]
        }),
        ("claim and free", |q| {
            let run = drive(q, VICTIM, |a| q.try_claim(VICTIM, a, 12_000)).unwrap();
            q.free(VICTIM, run);
            vec![]
        }),
        ("get", |q| get(q, VICTIM).into_iter().collect()),
        ("get all", |q| drain(q, VICTIM)),
        ("get many", |q| get_many(q, VICTIM, 3)),
        ("shut down", |q| {
            drive(q, VICTIM, |a| q.try_shut_down(VICTIM, a)).unwrap();
            vec![]
        }),
        ("reclaim", |q| {
            q.reclaim(VICTIM, &Attempt::default()).unwrap();
            vec![]
        }),
    ]
}

fn put_by(name: &str) -> Vec<Vec<u8>> {
    match name {
        "put small" => vec![message(100, 64)],
        "put empty" => vec![vec![]],
        "put large" => vec![message(100, 9000)],
        "put many" => vec![message(100, 64), message(101, 0), message(102, 700)],
        _ => vec![],
    }
}

/// Kills `operation` at its `n`-th store; false once it completes before that.
fn sweep_once(
    state: fn(&TestQueue),
    name: &str,
    operation: fn(&TestQueue) -> Vec<Vec<u8>>,
    n: usize,
) -> bool {
    let world = World::new();
    let survivor = world.process();
    state(&survivor);
    let before = {
        let copy = World { memory: world.memory.fork_memory(), oracle: Oracle::default(), ..world };
        drain(&copy.process(), SURVIVOR)
    };
    let victim = world.process();
    victim.memory().kill_at(n);
    let completed = victim.memory().run(|| operation(&victim));
    world.oracle.kill(VICTIM);

    let left = drain(&survivor, SURVIVOR);
    // Whatever was inside comes out in order; only messages at the front may be gone, taken by the
    // victim: one for each call that was killed, all of the batch for get_many.
    let added = put_by(name);
    let with: Vec<_> = before.iter().chain(&added).cloned().collect();
    let may_take = match name {
        "get" => 1,
        "get many" => 3,
        "get all" => before.len(),
        _ => 0,
    };
    let fits = |all: &[Vec<u8>]| (0..=may_take.min(all.len())).any(|gone| left == all[gone..]);
    assert!(
        fits(&before) || fits(&with),
        "killed at store {n} of {name}: {} messages left of {} (+{})",
        left.len(),
        before.len(),
        added.len()
    );
    if let Some(taken) = &completed {
        let all: Vec<_> = taken.iter().chain(&left).cloned().collect();
        assert!(all == with, "{name} completed with {} messages of {}", all.len(), with.len());
    }
    if survivor.flags() & SHUT == 0 {
        check_capacity(&survivor);
    }
    completed.is_none()
}

#[test]
fn every_operation_killed_at_every_store_leaves_a_whole_queue() {
    silence_kills();
    let mut kills = 0;
    for (state_name, state) in states() {
        for (name, operation) in operations() {
            let mut n = 1;
            while sweep_once(state, name, operation, n) {
                n += 1;
                assert!(n < 5000, "{name} from {state_name} never completes");
            }
            kills += n - 1;
        }
    }
    assert!(kills > 300, "the sweep killed only {kills} times");
}

#[test]
fn a_survivor_killed_while_repairing_is_survived_too() {
    silence_kills();
    let mut kills = 0;
    for (_, state) in states() {
        for (name, operation) in operations() {
            for n in 1..60 {
                for m in 1..40 {
                    let world = World::new();
                    state(&world.process());
                    let victim = world.process();
                    victim.memory().kill_at(n);
                    if victim.memory().run(|| operation(&victim)).is_some() {
                        break;
                    }
                    world.oracle.kill(VICTIM);
                    let second = world.process();
                    second.memory().kill_at(m);
                    let done = second.memory().run(|| second.reclaim(SECOND, &Attempt::default()).unwrap());
                    world.oracle.kill(SECOND);
                    let survivor = world.process();
                    drain(&survivor, SURVIVOR);
                    if survivor.flags() & SHUT == 0 {
                        check_capacity(&survivor);
                    }
                    kills += 1;
                    if done.is_some() {
                        break;
                    }
                }
            }
            let _ = name;
        }
    }
    assert!(kills > 300, "killed only {kills} times");
}

#[test]
fn one_who_was_declared_dead_and_comes_back_harms_nobody() {
    let world = World::new();
    let (late, survivor) = (world.process(), world.process());
    let run = drive(&late, VICTIM, |a| late.try_claim(VICTIM, a, 20_000)).unwrap();
    world.oracle.kill(VICTIM);
    assert!(survivor.reclaim(SURVIVOR, &Attempt::default()).unwrap());
    let taken = drive(&survivor, SURVIVOR, |a| survivor.try_claim(SURVIVOR, a, 20_000)).unwrap();
    assert_eq!(taken, run, "the run came back");
    late.free(VICTIM, run);
    assert_eq!(survivor.numbers().bytes_in_use, 5 * UNIT as u64, "the late free changed nothing");
    survivor.free(SURVIVOR, taken);
    check_capacity(&survivor);
}

#[test]
fn damage_is_an_error_and_never_a_wild_access() {
    // Each word that a reader trusts, overwritten with values that no correct peer writes.
    let values = [1, 7, 0xdead_beef, u64::MAX, 1 << 63, (1 << 63) | (1 << 56) | 0xffff_ffff, 4096, 1 << 40];
    let geometry = World::new().geometry;
    let words = [
        layout::TAIL,
        layout::TAIL + 8,
        layout::HEAD,
        layout::HEAD + 8,
        layout::TAIL + 16,
        layout::ROVER,
        layout::HINT,
        layout::RETURNED,
        geometry.level_at(0).2,
        geometry.level_at(0).2 + 8,
        geometry.level_at(0).2 + 16,
        geometry.leases_at(),
        geometry.leases_at() + 8,
        geometry.leases_at() + 16,
        geometry.leases_at() + 40,
        geometry.table_at(),
        geometry.table_at() + 8,
        geometry.table_at() + 16,
    ];
    for word in words {
        for value in values {
            let world = World::new();
            let queue = world.process();
            assert!(put(&queue, SURVIVOR, &message(1, 9000)) && put(&queue, SURVIVOR, &message(2, 64)));
            world.memory.store(word, value);
            let attempt = Attempt::default();
            let mut buffer = vec![MaybeUninit::new(0); INLINE_MAX];
            for _ in 0..4 {
                let _ = queue.peek(20, usize::MAX);
                let _ = queue.try_get(SURVIVOR, &attempt, &mut buffer).map(|step| {
                    if let Step::Done(Taken { place: Place::Block(run), length, .. }) = step {
                        assert!(length <= geometry.message_max());
                        queue.free(SURVIVOR, run);
                    }
                });
                let _ = queue.try_put(SURVIVOR, &attempt, 0, b"xyz");
                let _ = queue.try_claim(SURVIVOR, &attempt, 5000).map(|step| {
                    if let Step::Done(run) = step {
                        queue.memory().write(queue.run_offset(run), &[0; 5000]);
                    }
                });
                let _ = queue.reclaim(SURVIVOR, &attempt);
                let _ = queue.numbers();
            }
        }
    }
}
