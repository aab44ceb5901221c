//! Leases: what is given back is found, one end of a lease wins, and whoever waits for it is woken. Sleeps have no
//! time-out here, so a message that nobody is sent to, or an end that nobody hears of, is a deadlock.

use loom::sync::atomic::{AtomicBool, Ordering};

use super::*;

const HOLDER: Owner = Owner::process(1, 1);
const ONE: Owner = Owner::process(2, 1);
const TWO: Owner = Owner::process(3, 1);

/// Who is declared dead is, though its threads run on: late comers must harm nobody.
#[derive(Clone, Copy)]
struct Declared(Owner);

impl Peers for Declared {
    fn is_dead(&self, owner: Owner) -> bool {
        owner == self.0
    }
    fn death(&self, owner: Owner) -> crate::error::Death {
        crate::error::Death { owner, ..Default::default() }
    }
    fn relock(&self) -> Result<()> {
        Ok(())
    }
}

type Any<P> = Queue<Loom, P>;

fn small(leases: usize) -> (Loom, Geometry) {
    let geometry = Geometry { capacity: 0, levels: 1, ring_size: 64, leases, units: 0 };
    (Loom::new(geometry.body_size()), geometry)
}

fn value(buffer: &[MaybeUninit<u8>; 16]) -> u64 {
    // SAFETY: initialised by whoever made the buffer.
    u64::from_le_bytes(std::array::from_fn(|i| unsafe { buffer[i].assume_init() }))
}

/// Tries once, waiting for the lock only.
fn step<T>(mut step: impl FnMut(&Attempt) -> Result<Step<T>>) -> std::result::Result<T, On> {
    loop {
        match step(&Attempt::default()).unwrap() {
            Step::Done(done) => return Ok(done),
            Step::Wait(On::ConsumerLock | On::ProducerLock) => thread::yield_now(),
            Step::Wait(on) => return Err(on),
        }
    }
}

fn try_lease<P: Peers>(queue: &Any<P>, me: Owner) -> std::result::Result<(u64, Leased), On> {
    let mut buffer = [MaybeUninit::new(0); 16];
    let leased = step(|attempt| queue.try_lease(me, attempt, 0, &mut buffer))?;
    Ok((value(&buffer), leased))
}

fn try_get<P: Peers>(queue: &Any<P>, me: Owner) -> std::result::Result<u64, On> {
    let mut buffer = [MaybeUninit::new(0); 16];
    step(|attempt| queue.try_get(me, attempt, &mut buffer))?;
    Ok(value(&buffer))
}

/// Gets the next message, asleep as long as there is none; `None` when none will come.
fn get_or_end(queue: &Queue<Loom, Immortal>, me: Owner) -> Option<u64> {
    loop {
        if let Ok(value) = try_get(queue, me) {
            return Some(value);
        }
        if queue.is_drained() {
            return None;
        }
        let ready = || queue.has_message() || queue.is_drained();
        queue.messages.sleep(queue.memory(), DATA_SLICE, ready);
    }
}

fn get_waiting(queue: &Queue<Loom, Immortal>, me: Owner) -> u64 {
    get_or_end(queue, me).expect("the queue is open")
}

/// A queue with these messages, all of them on lease.
fn leased(messages: &[u64]) -> (Loom, Geometry, Queue<Loom, Immortal>, Vec<Leased>) {
    let (memory, geometry) = small(messages.len());
    let holder = queue(&memory, geometry);
    for message in messages {
        put(&holder, TWO, *message);
    }
    let leases = messages.iter().map(|_| try_lease(&holder, HOLDER).unwrap().1).collect();
    (memory, geometry, holder, leases)
}

#[test]
fn loom_what_is_given_back_during_a_look_is_found() {
    model(|| {
        let (memory, geometry, holder, leases) = leased(&[1, 2]);
        assert!(holder.give_back(&leases[1], "", false));
        let late = leases[0];
        // The look for the other one lowers the hint; this one comes meanwhile.
        let thread = thread::spawn(move || assert!(holder.give_back(&late, "", false)));
        let consumer = queue(&memory, geometry);
        let got = [get_waiting(&consumer, ONE), get_waiting(&consumer, ONE)];
        assert!(got == [1, 2] || got == [2, 1], "{got:?}");
        thread.join().unwrap();
        // The hint may come after the message was taken; the next look ends it.
        assert_eq!(try_get(&consumer, ONE), Err(On::Messages));
        assert!(!consumer.has_message());
    });
}

#[test]
fn loom_each_consumer_hears_of_what_is_given_back() {
    model(|| {
        let (memory, geometry, holder, leases) = leased(&[1, 2]);
        for lease in &leases {
            assert!(holder.give_back(lease, "", false));
        }
        // Who looks while the other one looks finds the hint lowered and sleeps.
        let thread = thread::spawn(move || get_waiting(&holder, TWO));
        let consumer = queue(&memory, geometry);
        let got = get_waiting(&consumer, ONE);
        assert_eq!(got + thread.join().unwrap(), 3);
    });
}

#[test]
fn loom_requeueing_nothing_hides_nothing() {
    model(|| {
        let (memory, geometry, holder, leases) = leased(&[1]);
        let thread = thread::spawn(move || assert!(holder.give_back(&leases[0], "", false)));
        let consumer = queue(&memory, geometry);
        assert_eq!(step(|attempt| consumer.try_requeue(ONE, attempt)), Ok(0));
        assert_eq!(get_waiting(&consumer, ONE), 1);
        thread.join().unwrap();
    });
}

#[test]
fn loom_an_acknowledgement_or_a_redelivery_wins() {
    model(|| {
        let (memory, geometry, holder, leases) = leased(&[7]);
        let thread = thread::spawn(move || holder.acknowledge(&leases[0]));
        let consumer = Queue::new(memory, Declared(HOLDER), 0, geometry, 3);
        while consumer.redeliver(ONE, &Attempt::default()).is_err() {}
        let got = try_get(&consumer, ONE);
        let acknowledged = thread.join().unwrap();
        assert_eq!(got, if acknowledged { Err(On::Messages) } else { Ok(7) });
        assert!(!consumer.has_leases());
    });
}

#[test]
fn loom_a_late_give_back_or_a_redelivery_wins() {
    model(|| {
        let (memory, geometry, holder, leases) = leased(&[7]);
        let thread = thread::spawn(move || holder.give_back(&leases[0], "too late", false));
        let consumer = Queue::new(memory, Declared(HOLDER), 0, geometry, 3);
        consumer.redeliver(ONE, &Attempt::default()).unwrap();
        thread.join().unwrap();
        let (value, again) = try_lease(&consumer, ONE).expect("one of both gave it back");
        assert_eq!((value, again.deliveries()), (7, 2));
        assert_eq!(try_get(&consumer, ONE), Err(On::Messages), "and only one");
    });
}

#[test]
fn loom_two_consumers_lease_different_messages() {
    model(|| {
        let (memory, geometry) = small(2);
        let (one, two) = (queue(&memory, geometry), queue(&memory, geometry));
        put(&one, HOLDER, 1);
        put(&one, HOLDER, 2);
        let thread = thread::spawn(move || {
            let (value, lease) = try_lease(&two, TWO).unwrap();
            assert!(two.acknowledge(&lease));
            value
        });
        let (value, lease) = try_lease(&one, ONE).unwrap();
        assert_eq!(value + thread.join().unwrap(), 3);
        assert!(one.acknowledge(&lease));
        assert!(!one.has_leases() && !one.has_message());
    });
}

/// Leases the next message, asleep as long as every record is in use.
fn lease_waiting(queue: &Queue<Loom, Immortal>, me: Owner) -> u64 {
    loop {
        match try_lease(queue, me) {
            Ok((value, _)) => return value,
            Err(on) => {
                assert_eq!(on, On::Leases);
                queue.progress.sleep(queue.memory(), DATA_SLICE, || queue.is_ready(on));
            }
        }
    }
}

#[test]
fn loom_a_record_that_is_freed_is_heard_of() {
    model(|| {
        let (memory, geometry, holder, leases) = leased(&[1]);
        put(&holder, TWO, 2);
        let thread = thread::spawn(move || assert!(holder.acknowledge(&leases[0])));
        assert_eq!(lease_waiting(&queue(&memory, geometry), ONE), 2);
        thread.join().unwrap();
    });
}

#[test]
fn loom_with_all_records_in_use_what_is_given_back_is_heard_of() {
    model(|| {
        let (memory, geometry, holder, leases) = leased(&[1]);
        put(&holder, TWO, 2);
        let thread = thread::spawn(move || assert!(holder.give_back(&leases[0], "", false)));
        assert_eq!(lease_waiting(&queue(&memory, geometry), ONE), 1);
        thread.join().unwrap();
    });
}

#[test]
fn loom_with_all_records_in_use_what_is_requeued_is_heard_of() {
    model(|| {
        let (memory, geometry, holder, leases) = leased(&[1]);
        put(&holder, TWO, 2);
        assert!(holder.give_back(&leases[0], "", true));
        let thread = thread::spawn(move || step(|attempt| holder.try_requeue(HOLDER, attempt)));
        assert_eq!(lease_waiting(&queue(&memory, geometry), ONE), 1);
        assert_eq!(thread.join().unwrap(), Ok(1));
    });
}

#[test]
fn loom_the_last_acknowledgement_ends_a_queue_for_all_who_wait() {
    model(|| {
        let (memory, geometry, holder, leases) = leased(&[1]);
        step(|attempt| holder.try_shut_down(HOLDER, attempt)).unwrap();
        let thread = thread::spawn(move || assert!(holder.acknowledge(&leases[0])));
        let consumer = queue(&memory, geometry);
        assert_eq!(get_or_end(&consumer, ONE), None);
        thread.join().unwrap();
    });
}

#[test]
fn loom_the_last_message_given_back_ends_a_queue_for_all_who_wait() {
    model(|| {
        let (memory, geometry, holder, leases) = leased(&[1]);
        step(|attempt| holder.try_shut_down(HOLDER, attempt)).unwrap();
        assert!(holder.give_back(&leases[0], "", false));
        let thread = thread::spawn(move || get_or_end(&holder, TWO));
        let consumer = queue(&memory, geometry);
        let got = [get_or_end(&consumer, ONE), thread.join().unwrap()];
        assert!(got == [Some(1), None] || got == [None, Some(1)], "{got:?}");
    });
}

#[test]
fn loom_a_message_is_not_done_before_it_is_acknowledged() {
    model(|| {
        let (memory, geometry) = small(1);
        let (holder, producer) = (queue(&memory, geometry), queue(&memory, geometry));
        put(&producer, TWO, 5);
        let acknowledged = loom::sync::Arc::new(AtomicBool::new(false));
        let said = loom::sync::Arc::clone(&acknowledged);
        // The one who only looks is the other thread: loom sends it between the stores of this one.
        let thread = thread::spawn(move || {
            let mut rank = 0;
            for _ in 0..2 {
                let fate = producer.fate(0, 0).unwrap();
                let now = [Fate::Waiting, Fate::Leased, Fate::Done].iter().position(|it| *it == fate);
                assert!(now >= Some(rank), "{fate:?} after {rank}");
                rank = now.unwrap_or_default();
                assert!(fate != Fate::Done || said.load(Ordering::Relaxed));
            }
        });
        let (_, lease) = try_lease(&holder, HOLDER).unwrap();
        acknowledged.store(true, Ordering::Relaxed);
        assert!(holder.acknowledge(&lease));
        thread.join().unwrap();
        assert_eq!(holder.fate(0, 0).unwrap(), Fate::Done);
    });
}
