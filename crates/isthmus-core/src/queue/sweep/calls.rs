//! Calls of one process, with the bytes of the messages: what the core leaves to its callers.

use super::plain::{Bytes, Call, GIVEN_BACK, NOT_VALID, Said};
use super::*;

/// A call that completed.
pub(super) struct Done {
    pub(super) said: Said,
    /// Where it was put.
    pub(super) place: Option<u64>,
    pub(super) lease: Option<Leased>,
}

pub(super) fn perform(
    queue: &TestQueue,
    who: Owner,
    call: &Call,
    bytes: &Bytes,
    lease: Option<Leased>,
) -> Done {
    let (mut place, mut taken) = (None, None);
    let said = match call {
        Call::Put { level, spare, .. } => {
            place = put_at(queue, who, *level, bytes, *spare);
            Said::Put(place.is_some())
        }
        Call::Get => Said::Got(take(queue, who).map(|(bytes, _)| bytes)),
        Call::GetBad => Said::Got(take_bad(queue, who)),
        Call::Lease => Said::Leased(take_lease(queue, who).map(|(bytes, lease)| {
            taken = Some(lease);
            (bytes, lease.deliveries())
        })),
        Call::Acknowledge => Said::Ended(lease.is_some_and(|lease| {
            end(queue, who, &lease);
            true
        })),
        Call::GiveBack { for_good } => Said::Ended(lease.is_some_and(|lease| {
            assert!(queue.give_back(&lease, GIVEN_BACK, *for_good), "the lease was still its owner's");
            true
        })),
        Call::TakeLetter => Said::Letter(letter(queue, who)),
        Call::Requeue => Said::Requeued(drive(queue, who, |a| queue.try_requeue(who, a)).unwrap()),
        Call::Redeliver => {
            queue.redeliver(who, &Attempt::default()).unwrap();
            Said::Nothing
        }
        Call::Reclaim => {
            queue.reclaim(who, &Attempt::default()).unwrap();
            Said::Nothing
        }
    };
    Done { said, place, lease: taken }
}

fn put_at(queue: &TestQueue, who: Owner, level: u8, bytes: &Bytes, spare: usize) -> Option<u64> {
    if bytes.0.len() + spare <= queue.geometry().inline_max() {
        return drive(queue, who, |a| queue.try_put(who, a, level, &bytes.0));
    }
    let run = drive(queue, who, |a| queue.try_claim(who, a, bytes.0.len() + spare))?;
    queue.memory().write(queue.run_offset(run), &bytes.0);
    let place = drive(queue, who, |a| queue.try_put_run(who, a, level, run, bytes.0.len()));
    if place.is_none() {
        assert!(queue.free(who, run), "the run was still its owner's");
    }
    place
}

fn buffer() -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::new(0); INLINE_MAX]
}

pub(super) fn copy_of(queue: &TestQueue, place: Place, slot: usize, length: usize) -> Bytes {
    let mut bytes = vec![MaybeUninit::new(0); length];
    let at = if let Place::Block(run) = place { queue.run_offset(run) } else { slot };
    queue.memory().read(at, &mut bytes);
    Bytes(filled(&bytes))
}

/// The bytes of a message: in `small`, or in a run.
pub(super) fn bytes_of(queue: &TestQueue, place: Place, small: &[MaybeUninit<u8>], length: usize) -> Bytes {
    match place {
        Place::Inline => Bytes(filled(&small[..length])),
        Place::Block(_) => copy_of(queue, place, 0, length),
    }
}

pub(super) fn free(queue: &TestQueue, who: Owner, place: Place) {
    if let Place::Block(run) = place {
        assert!(queue.free(who, run), "the run was still its owner's");
    }
}

pub(super) fn take(queue: &TestQueue, who: Owner) -> Option<(Bytes, Taken)> {
    let mut small = buffer();
    let taken = drive(queue, who, |a| queue.try_get(who, a, &mut small))?;
    let bytes = bytes_of(queue, taken.place, &small, taken.length);
    free(queue, who, taken.place);
    Some((bytes, taken))
}

fn take_bad(queue: &TestQueue, who: Owner) -> Option<Bytes> {
    let mut small = buffer();
    let taken = drive(queue, who, |a| queue.try_get(who, a, &mut small))?;
    let bytes = bytes_of(queue, taken.place, &small, taken.length);
    if drive(queue, who, |a| queue.try_bury(who, a, &taken, &bytes.0, NOT_VALID)) == Some(false) {
        free(queue, who, taken.place);
    }
    Some(bytes)
}

pub(super) fn take_lease(queue: &TestQueue, who: Owner) -> Option<(Bytes, Leased)> {
    let mut small = buffer();
    let lease = drive(queue, who, |a| queue.try_lease(who, a, 0, &mut small))?;
    Some((bytes_of(queue, lease.place, &small, lease.length), lease))
}

pub(super) fn end(queue: &TestQueue, who: Owner, lease: &Leased) {
    assert!(queue.acknowledge(lease), "the lease was still its owner's");
    free(queue, who, lease.place);
}

pub(super) fn letter(queue: &TestQueue, who: Owner) -> Option<(Bytes, u32, String)> {
    let mut small = buffer();
    let letter = drive(queue, who, |a| queue.try_take_letter(who, a, &mut small))??;
    let bytes = bytes_of(queue, letter.place, &small, letter.length);
    free(queue, who, letter.place);
    Some((bytes, letter.deliveries, letter.reason))
}
