//! Random histories: puts, gets, batches, runs claimed and filled later, by processes that are killed at
//! random stores, against a plain `VecDeque`.
//!
//! After a kill the queue must hold what it held before that call or what it would have held after it; the
//! model goes on with the one that is found. Refusals are checked as well: where the ring has room by the
//! model's count, a put must not be refused, whoever died before.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

use super::*;

const PROCESSES: usize = 3;

#[derive(Clone, Debug)]
enum Action {
    Put(usize),
    PutMany(Vec<usize>),
    Get,
    GetMany(usize),
    /// Claims a run for a message of this length, to be put later.
    Claim(usize),
    /// Puts the message of the claimed run.
    Commit,
    /// Gives the claimed run back.
    Abandon,
    Reclaim,
}

/// One call of one process, killed at this store if it has as many.
#[derive(Clone, Debug)]
struct Turn {
    process: usize,
    action: Action,
    kill_at: Option<usize>,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let length =
        prop_oneof![3 => 0..200_usize, 2 => 0..9000_usize, 1 => Just(4096_usize), 1 => 4097..9000_usize];
    let many = prop::collection::vec(prop_oneof![4 => 0..100_usize, 1 => 0..2000_usize], 1..40);
    let action = prop_oneof![
        6 => length.clone().prop_map(Action::Put),
        2 => many.prop_map(Action::PutMany),
        5 => Just(Action::Get),
        2 => (1..30_usize).prop_map(Action::GetMany),
        2 => (4097..9000_usize).prop_map(Action::Claim),
        2 => Just(Action::Commit),
        1 => Just(Action::Abandon),
        1 => Just(Action::Reclaim),
    ];
    // Most kills fall into the first stores of a call: later ones exist only in batches.
    let kill =
        prop_oneof![3 => Just(None), 2 => (1..12_usize).prop_map(Some), 1 => (1..90_usize).prop_map(Some)];
    let turn = (0..PROCESSES, action, kill);
    let turn = turn.prop_map(|(process, action, kill_at)| Turn { process, action, kill_at });
    prop::collection::vec(turn, 1..80)
}

/// Bytes that a message takes in the ring.
fn in_ring(message: &[u8], inline_max: usize) -> usize {
    8 + if message.len() <= inline_max { message.len().next_multiple_of(8) } else { 16 }
}

struct Person {
    owner: Owner,
    claimed: Option<(Run, Vec<u8>)>,
}

/// What a call that completed answers.
#[derive(Debug, PartialEq)]
enum Said {
    Put(usize),
    Got(Vec<Vec<u8>>),
    Claimed(Option<Run>),
    Nothing,
}

struct History {
    world: World,
    people: Vec<Person>,
    inside: VecDeque<Vec<u8>>,
    numbers: u64,
    generations: u32,
}

impl History {
    fn new() -> History {
        let owner = |process| Owner::process(process as u32 + 10, 1);
        let people = (0..PROCESSES).map(|process| Person { owner: owner(process), claimed: None });
        History {
            world: World::new(),
            people: people.collect(),
            inside: VecDeque::new(),
            numbers: 0,
            generations: 1,
        }
    }

    fn inline_max(&self) -> usize {
        self.world.geometry.inline_max()
    }

    fn fresh(&mut self, length: usize) -> Vec<u8> {
        self.numbers += 1;
        message(self.numbers, length)
    }

    fn room(&self) -> usize {
        let used: usize = self.inside.iter().map(|message| in_ring(message, self.inline_max())).sum();
        self.world.geometry.ring_size - used - 8
    }

    /// How many of these a batch puts.
    fn fitting(&self, messages: &[Vec<u8>]) -> usize {
        let mut room = self.room();
        let fits = |message: &&Vec<u8>| {
            let need = in_ring(message, self.inline_max());
            let fits = need <= room;
            room = room.saturating_sub(need);
            fits
        };
        messages.iter().take_while(fits).count()
    }

    /// How many a batch takes: a large one comes alone.
    fn taken_by(&self, limit: usize) -> usize {
        let small = |message: &&Vec<u8>| message.len() <= self.inline_max();
        let leading = self.inside.iter().take(limit).take_while(small).count();
        if leading == 0 { limit.min(1).min(self.inside.len()) } else { leading }
    }

    /// Everything is one run: nothing large inside, and no run claimed by the living.
    fn blocks_are_free(&self) -> bool {
        self.inside.iter().all(|message| message.len() <= self.inline_max())
            && self.people.iter().all(|person| person.claimed.is_none())
    }

    /// The person dies and another comes in its place.
    fn replace(&mut self, process: usize) {
        self.generations += 1;
        self.world.oracle.kill(self.people[process].owner);
        self.people[process] =
            Person { owner: Owner::process(process as u32 + 10, self.generations), claimed: None };
    }

    /// What is inside, found out on a copy of the memory.
    fn found(&self) -> VecDeque<Vec<u8>> {
        let memory = self.world.memory.fork_memory();
        let copy = World { memory, oracle: self.world.oracle.clone(), geometry: self.world.geometry };
        drain(&copy.process(), SURVIVOR).into()
    }

    fn turn(&mut self, turn: Turn) {
        let Turn { process, action, kill_at } = turn;
        let owner = self.people[process].owner;
        let queue = self.world.process();
        let claimed = match action {
            Action::Commit | Action::Abandon => self.people[process].claimed.take(),
            _ => None,
        };
        // What the call offers, and how many of that would be put, or of those inside taken.
        let offered = match &action {
            Action::Put(length) => vec![self.fresh(*length)],
            Action::PutMany(lengths) => lengths.iter().map(|length| self.fresh(*length)).collect(),
            Action::Commit => claimed.iter().map(|(_, message)| message.clone()).collect(),
            _ => vec![],
        };
        let mut puts = self.fitting(&offered);
        let takes = match &action {
            Action::Get => self.inside.len().min(1),
            Action::GetMany(limit) => self.taken_by(*limit),
            _ => 0,
        };
        if let Some(n) = kill_at {
            queue.memory().kill_at(n);
        }
        let said = queue.memory().run(|| match &action {
            Action::Put(_) => Said::Put(usize::from(put(&queue, owner, &offered[0]))),
            Action::PutMany(_) => Said::Put(put_many(&queue, owner, &offered)),
            Action::Get => Said::Got(get(&queue, owner).into_iter().collect()),
            Action::GetMany(limit) => Said::Got(get_many(&queue, owner, *limit)),
            Action::Claim(_) if self.people[process].claimed.is_some() => Said::Nothing,
            Action::Claim(length) => {
                Said::Claimed(drive(&queue, owner, |a| queue.try_claim(owner, a, *length)))
            }
            Action::Commit => match &claimed {
                Some((run, message)) => {
                    queue.memory().write(queue.run_offset(*run), message);
                    let done = drive(&queue, owner, |a| queue.try_put_run(owner, a, 0, *run, message.len()));
                    if done.is_none() {
                        assert!(queue.free(owner, *run), "the run was still its owner's");
                    }
                    Said::Put(usize::from(done.is_some()))
                }
                None => Said::Put(0),
            },
            Action::Abandon => {
                if let Some((run, _)) = &claimed {
                    assert!(queue.free(owner, *run), "the run was still its owner's");
                }
                Said::Nothing
            }
            Action::Reclaim => {
                queue.reclaim(owner, &Attempt::default()).unwrap();
                Said::Nothing
            }
        });
        let Some(said) = said else {
            self.after_kill(process, &offered[..puts], takes);
            return;
        };
        match said {
            Said::Put(count) => {
                // A large one also needs a run of units, which others may hold.
                let large = matches!(action, Action::Put(length) if length > self.inline_max());
                if large && count == 0 {
                    assert!(puts == 0 || !self.blocks_are_free(), "refused beside free blocks");
                    puts = 0;
                }
                assert_eq!(count, puts, "of {} messages with {} bytes of room", offered.len(), self.room());
                self.inside.extend(offered.into_iter().take(count));
            }
            Said::Got(messages) => {
                let expected: Vec<_> = self.inside.drain(..takes).collect();
                assert!(messages == expected, "{} messages instead of {}", messages.len(), expected.len());
            }
            Said::Claimed(Some(run)) => {
                let Action::Claim(length) = action else { unreachable!("only a claim answers so") };
                let message = self.fresh(length);
                self.people[process].claimed = Some((run, message));
            }
            Said::Claimed(None) => assert!(!self.blocks_are_free(), "refused beside free blocks"),
            Said::Nothing => {}
        }
        let queue = self.world.process();
        // Exact, unless one who died in the middle of a call has not been cleared away yet.
        if queue.lock_owners() == [Owner::NONE; 2] {
            assert_eq!(queue.depth(), self.inside.len() as u64);
        }
    }

    /// The call was killed: either it happened or it did not.
    fn after_kill(&mut self, process: usize, put: &[Vec<u8>], takes: usize) {
        self.replace(process);
        let found = self.found();
        let mut after = self.inside.clone();
        after.drain(..takes);
        after.extend(put.iter().cloned());
        assert!(
            found == self.inside || found == after,
            "{} messages are inside; {} before the call that was killed, {} after it",
            found.len(),
            self.inside.len(),
            after.len()
        );
        self.inside = found;
    }

    /// Everything comes out, in order, and all room comes back from the living and the dead.
    fn end(mut self) {
        let queue = self.world.process();
        for person in &mut self.people {
            if let Some((run, _)) = person.claimed.take() {
                assert!(queue.free(person.owner, run), "the run was still its owner's");
            }
        }
        assert!(self.inside == drain(&queue, SURVIVOR), "what is left at the end");
        check_capacity(&queue);
    }
}

proptest! {
    #![proptest_config(Config {
        cases: 300,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    })]

    #[test]
    fn any_history_of_calls_and_kills_is_one_of_a_plain_queue(turns in turns()) {
        silence_kills();
        let mut history = History::new();
        for turn in turns {
            history.turn(turn);
        }
        history.end();
    }
}
