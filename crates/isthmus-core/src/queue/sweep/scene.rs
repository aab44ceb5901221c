//! A queue and its plain double, which do the same: every call is made on both and the answers are compared,
//! and what a kill leaves behind must be one of the states that the plain one goes through.

use super::calls::{Done, copy_of, end, free, letter, perform, take, take_lease};
use super::plain::{Bytes, Call, Known, LIMIT, Plain, Said, Stand};
use super::*;

pub(super) const HOLDER: Owner = Owner::process(4, 1);
pub(super) const GONE: Owner = Owner::process(5, 1);

/// Three levels, five leases, small rings: everything is soon full or wraps.
pub(super) const SHAPE: Geometry =
    Geometry { capacity: 64 << 10, levels: 3, ring_size: 4 << 10, leases: 5, units: 8 };

/// What survivors find: everything that can be told from outside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// What `get` gives, first first.
    order: Vec<(Bytes, u8, u64)>,
    /// What leases give, by level and number: which delivery it is.
    deliveries: Vec<(u8, u64, u32)>,
    /// What the living hold.
    leased: Vec<(Bytes, Owner, u32)>,
    /// The letters, and why they are there.
    letters: Vec<(Bytes, u32, String)>,
}

pub(super) struct Scene {
    world: World,
    pub(super) plain: Plain,
    dead: Vec<Owner>,
    leases: Vec<(Owner, Leased)>,
    /// Where every message that was put stands in its ring, as far as its producer lived to say so.
    places: Vec<((u8, u64), u64)>,
    numbers: u64,
}

impl Scene {
    pub(super) fn new() -> Scene {
        Scene {
            world: World::of(SHAPE),
            plain: Plain::default(),
            dead: vec![],
            leases: vec![],
            places: vec![],
            numbers: 0,
        }
    }

    /// The same on a memory of its own.
    pub(super) fn copy(&self) -> Scene {
        Scene {
            world: self.world.copy(&self.dead),
            plain: self.plain.clone(),
            dead: self.dead.clone(),
            leases: self.leases.clone(),
            places: self.places.clone(),
            numbers: self.numbers,
        }
    }

    pub(super) fn queue(&self) -> TestQueue {
        self.world.process()
    }

    pub(super) fn leases_of(&self, who: Owner) -> usize {
        self.leases.iter().filter(|(owner, _)| *owner == who).count()
    }

    /// The oldest lease of a process.
    pub(super) fn lease_of(&self, who: Owner) -> Leased {
        self.leases.iter().find(|(owner, _)| *owner == who).expect("it has one").1
    }

    /// A process dies between two calls.
    pub(super) fn kill(&mut self, who: Owner) {
        self.world.oracle.kill(who);
        self.dead.push(who);
        self.leases.retain(|(owner, _)| *owner != who);
    }

    /// Makes a call that nobody kills.
    pub(super) fn run(&mut self, who: Owner, call: &Call) -> Said {
        self.run_killed(who, call, None).expect("nobody was killed")
    }

    /// Several calls of one process.
    pub(super) fn run_all(&mut self, who: Owner, calls: &[Call]) {
        for call in calls {
            self.run(who, call);
        }
    }

    /// Makes a call that is killed at its `n`-th store; `None` where it was. The plain queue is then where it was
    /// before: [`Scene::settle`] finds out what has happened.
    pub(super) fn run_killed(&mut self, who: Owner, call: &Call, n: Option<usize>) -> Option<Said> {
        let bytes = self.bytes_of(call);
        let (steps, expected) = self.plain.steps(who, call, &bytes, &self.dead, &SHAPE);
        let (after, before) = (steps.last().expect("at least one"), self.plain.clone());
        let mine = before.inside.iter().find(|known| known.stand == Stand::Leased(who)).map(Known::id);
        let lease = mine.map(|id| {
            let ours = |(owner, lease): &&(Owner, Leased)| {
                *owner == who && (lease.origin.level, lease.origin.number) == id
            };
            self.leases.iter().find(ours).expect("who lives knows its leases").1
        });
        let queue = self.queue();
        if let Some(n) = n {
            queue.memory().kill_at(n);
        }
        let done = queue.memory().run(|| perform(&queue, who, call, &bytes, lease));
        let Some(Done { said, place, lease: taken }) = done else {
            self.kill(who);
            return None;
        };
        self.plain = after.clone();
        if (&said, &expected) == (&Said::Put(false), &Said::Put(true)) {
            let large = bytes.0.len() > SHAPE.inline_max() || call.is_spare();
            let others = before.inside.iter().any(|known| known.large);
            assert!(large && others, "refused beside free blocks");
            self.plain = before;
        } else {
            assert_eq!(said, expected, "{call:?} of {who:?} with {:#?}", before.inside);
        }
        if let (Call::Put { level, .. }, Some(place)) = (call, place) {
            let number = self.plain.next[usize::from(*level)] - 1;
            self.places.push(((*level, number), place));
        }
        if matches!(call, Call::Acknowledge | Call::GiveBack { .. }) {
            self.leases.retain(|(_, other)| Some(*other) != lease);
        }
        self.leases.extend(taken.map(|taken| (who, taken)));
        self.check_fates();
        if queue.lock_owners() == [Owner::NONE; 2] {
            // Nobody was killed looking, so nobody is sent to look for nothing.
            assert!(
                queue.has_message() <= !self.plain.order().is_empty(),
                "a hint of nothing after {call:?}"
            );
        }
        Some(said)
    }

    fn bytes_of(&mut self, call: &Call) -> Bytes {
        self.numbers += 1;
        match call {
            Call::Put { length, .. } => Bytes(message(self.numbers, *length)),
            _ => Bytes::default(),
        }
    }

    /// The states that a call of `who` may leave behind when it is killed, from any of `from`.
    pub(super) fn outcomes(&mut self, from: &[Plain], who: Owner, call: &Call) -> Vec<Plain> {
        let bytes = match call {
            Call::Put { length, .. } => Bytes(message(self.numbers, *length)),
            _ => Bytes::default(),
        };
        from.iter().flat_map(|plain| plain.steps(who, call, &bytes, &self.dead, &SHAPE).0).collect()
    }

    /// Those of the states in which survivors find what they find: there may be several, because what the dead hold
    /// looks the same before and after it was given back.
    pub(super) fn matching(&self, outcomes: &[Plain]) -> Vec<Plain> {
        let seen = self.look();
        outcomes.iter().filter(|plain| self.expected(plain) == seen).cloned().collect()
    }

    /// After a kill: the state that survivors find must be one of `outcomes`; the plain queue takes it.
    pub(super) fn settle(&mut self, outcomes: &[Plain], what: &dyn std::fmt::Debug) {
        let Some(found) = self.matching(outcomes).into_iter().next() else {
            let expected: Vec<_> = outcomes.iter().map(|plain| self.expected(plain)).collect();
            panic!("{what:?}: found {:#?}, expected one of {expected:#?}", self.look());
        };
        self.plain = found;
        self.check_fates();
    }

    /// As [`Scene::settle`] where the story goes on: what cannot be told apart, and what was given back by one killed
    /// before saying so, is cleared up as a waiting consumer would do it.
    pub(super) fn settle_and_go_on(&mut self, outcomes: &[Plain], what: &dyn std::fmt::Debug) {
        self.settle(outcomes, what);
        let same = self.matching(outcomes).iter().all(|plain| *plain == self.plain);
        let returned = self.plain.inside.iter().any(|known| known.stand == Stand::Returned);
        if !same || returned && !self.queue().has_returned() {
            self.run(SURVIVOR, &Call::Redeliver);
        }
    }

    /// Makes a call from one of several states that look the same, killed at its `n`-th store; true where it
    /// completed before that.
    pub(super) fn run_from(
        &mut self,
        from: &[Plain],
        who: Owner,
        call: &Call,
        n: usize,
        what: &dyn std::fmt::Debug,
    ) -> bool {
        let queue = self.queue();
        queue.memory().kill_at(n);
        let done = queue.memory().run(|| perform(&queue, who, call, &Bytes::default(), None));
        let steps = |plain: &Plain| plain.steps(who, call, &Bytes::default(), &self.dead, &SHAPE);
        let outcomes: Vec<Plain> = match &done {
            None => from.iter().flat_map(|plain| steps(plain).0).collect(),
            Some(done) => {
                let answered = from.iter().map(steps).filter(|(_, said)| *said == done.said);
                answered.filter_map(|(steps, _)| steps.last().cloned()).collect()
            }
        };
        match done {
            None => self.kill(who),
            Some(done) => self.leases.extend(done.lease.map(|lease| (who, lease))),
        }
        self.settle(&outcomes, what);
        !self.dead.contains(&who)
    }

    /// What survivors find according to a plain queue.
    fn expected(&self, plain: &Plain) -> Seen {
        let mut plain = plain.clone();
        plain.redeliver(&self.dead, LIMIT);
        let order = plain.order();
        let next = |known: &&Known| (known.level, known.number, known.deliveries + 1);
        let mut deliveries: Vec<_> = order.iter().map(next).collect();
        deliveries.sort_unstable();
        let mut leased: Vec<_> = vec![];
        let mut letters: Vec<_> = vec![];
        for known in &plain.inside {
            match known.stand {
                Stand::Leased(owner) => leased.push((known.bytes.clone(), owner, known.deliveries)),
                Stand::Dead => letters.push((known.bytes.clone(), known.deliveries, known.reason.clone())),
                Stand::Ring | Stand::Returned => {}
            }
        }
        leased.sort_by_key(|(bytes, owner, _)| (bytes.clone(), owner.word()));
        letters.sort();
        let order = order.iter().map(|known| (known.bytes.clone(), known.level, known.number)).collect();
        Seen { order, deliveries, leased, letters }
    }

    /// What survivors find, on a copy of the memory.
    fn look(&self) -> Seen {
        let copy = self.world.copy(&self.dead);
        let queue = copy.process();
        queue.peek(usize::MAX, usize::MAX).expect("whoever only looks finds nothing wrong either");
        queue.redeliver(SURVIVOR, &Attempt::default()).unwrap();
        let shown = queue.peek(usize::MAX, usize::MAX).unwrap();
        let mut leased = vec![];
        let held: Vec<_> = queue.leases.all(queue.memory()).collect();
        for (index, held) in
            held.into_iter().filter(|(_, held)| held.state == super::super::leases::State::Leased)
        {
            let record = queue.leases.read(queue.memory(), index).unwrap();
            let slot = queue.leases.slot(index);
            leased.push((copy_of(&queue, record.place, slot, record.length), held.owner, held.deliveries));
            assert!(queue.leases.end(queue.memory(), index, held, None));
            free(&queue, held.owner, record.place);
        }
        leased.sort_by_key(|(bytes, owner, _)| (bytes.clone(), owner.word()));
        let mut letters: Vec<_> = std::iter::from_fn(|| letter(&queue, SURVIVOR)).collect();
        letters.sort();
        let order = {
            let copy = World { memory: copy.memory.fork_memory(), oracle: copy.oracle.clone(), ..copy };
            let queue = copy.process();
            std::iter::from_fn(|| take(&queue, SURVIVOR))
                .map(|(bytes, taken)| (bytes, taken.origin.level, taken.origin.number))
                .collect()
        };
        let mut deliveries = vec![];
        while let Some((_, lease)) = take_lease(&queue, SURVIVOR) {
            deliveries.push((lease.origin.level, lease.origin.number, lease.deliveries()));
            end(&queue, SURVIVOR, &lease);
        }
        deliveries.sort_unstable();
        let seen = Seen { order, deliveries, leased, letters };
        compare(&shown, &seen);
        seen
    }

    /// What has become of every message that was put.
    fn check_fates(&self) {
        let queue = self.queue();
        for (id, position) in &self.places {
            let fate = queue.fate(id.0, *position).unwrap();
            let expected = match self.plain.of(*id).map(|known| (known.stand, &known.reason)) {
                None => Fate::Done,
                Some((Stand::Ring, _)) => Fate::Waiting,
                Some((Stand::Leased(_) | Stand::Returned, _)) => Fate::Leased,
                Some((Stand::Dead, reason)) => Fate::Dead(reason.clone()),
            };
            // Leases of the dead may have been given up already.
            let spent = matches!(self.plain.of(*id).map(|known| known.stand), Some(Stand::Leased(owner)) if self.dead.contains(&owner));
            assert!(
                fate == expected || spent && matches!(fate, Fate::Dead(_)),
                "{id:?}: {fate:?} instead of {expected:?}"
            );
        }
    }

    /// Everything comes out as expected, and all room comes back: rings, blocks, records of leases.
    pub(super) fn finish(mut self) {
        let queue = self.queue();
        let living: Vec<(Owner, Leased)> = self.leases.drain(..).collect();
        for (owner, lease) in living {
            assert!(queue.acknowledge(&lease), "the lease of {owner:?} is still its own");
            free(&queue, owner, lease.place);
        }
        // Whoever waits for a message finds what the dead had: nobody else needs to look after them.
        while take(&queue, SURVIVOR).is_some() {}
        while letter(&queue, SURVIVOR).is_some() {}
        check_leases(&queue);
        check_capacity(&queue);
    }
}

/// What is shown without being taken must be what is found when it is taken.
fn compare(shown: &Look, seen: &Seen) {
    let bytes = |seen: &look::Seen| Bytes(seen.bytes.clone());
    let order: Vec<_> =
        shown.next.iter().map(|seen| (bytes(seen), seen.origin.level, seen.origin.number)).collect();
    assert_eq!(order, seen.order, "shown as the next ones");
    let mut leased: Vec<_> =
        shown.leased.iter().map(|seen| (bytes(seen), seen.holder, seen.deliveries)).collect();
    leased.sort_by_key(|(bytes, owner, _)| (bytes.clone(), owner.word()));
    assert_eq!(leased, seen.leased, "shown as leased");
    let letter = |seen: &look::Seen| (bytes(seen), seen.deliveries, seen.reason.clone());
    let mut letters: Vec<_> = shown.dead.iter().map(letter).collect();
    letters.sort();
    assert_eq!(letters, seen.letters, "shown as dead");
    let mut deliveries: Vec<_> =
        shown.next.iter().map(|seen| ((seen.origin.level, seen.origin.number), seen.deliveries)).collect();
    deliveries.sort_unstable();
    let found: Vec<_> = seen.deliveries.iter().map(|(level, number, n)| ((*level, *number), n - 1)).collect();
    assert_eq!(deliveries, found, "shown deliveries");
}

/// As many leases can be out as there are records, and no more.
fn check_leases(queue: &TestQueue) {
    let leases = queue.geometry().leases;
    for number in 0..=leases {
        assert!(put(queue, SURVIVOR, &message(number as u64, 64)));
    }
    let out: Vec<_> = (0..leases).map(|_| take_lease(queue, SURVIVOR).expect("a record is free").1).collect();
    assert!(take_lease(queue, SURVIVOR).is_none(), "and no more");
    for lease in out {
        end(queue, SURVIVOR, &lease);
    }
    assert!(take(queue, SURVIVOR).is_some());
    assert!(!queue.has_leases() && !queue.has_message());
}
