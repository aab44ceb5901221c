//! Who is to be next: keeps those who wait long from being passed for ever by those who come later.
//!
//! One word in shared memory, 0 or an owner. Locks are taken by whoever comes first, which is fast, and unfair: a
//! woken waiter often finds the lock taken again. One that has waited for 5 ms *claims* the object: as long as
//! the word names it, nobody else takes what becomes free.
//!
//! | transition | who | how |
//! |---|---|---|
//! | 0 → claimant | a waiter older than 5 ms | compare-and-swap |
//! | claimant → 0 | the claimant, with what it wanted or without | compare-and-swap |
//! | claimant → 0 | a waiter with proof of its death, or that has seen it leave what is free for a slice | compare-and-swap |
//!
//! A claim holds nothing: killed or stopped with it, the claimant delays others by a slice and no more, and
//! whoever loses a claim this way goes on waiting as before.

use std::time::Duration;

use crate::memory::{Memory, Peers};
use crate::owner::Owner;

/// A waiter older than this is served before those who come later.
pub const PATIENCE: Duration = Duration::from_millis(5);

/// A word that says who is to be next.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    at: usize,
}

impl Claim {
    /// The claim in the word at `at`.
    pub const fn new(at: usize) -> Claim {
        Claim { at }
    }

    /// Whether `me` may take what is free.
    #[inline]
    pub fn admits<M: Memory>(self, memory: &M, me: Owner) -> bool {
        let claim = memory.load(self.at);
        claim == 0 || claim == me.word()
    }

    /// Who is to be next; nobody in particular, mostly.
    pub fn holder<M: Memory>(self, memory: &M) -> Owner {
        Owner::from_word(memory.load(self.at))
    }

    /// Claims for `me`, unless another is to be next.
    pub fn take<M: Memory>(self, memory: &M, me: Owner) -> bool {
        memory.load(self.at) == me.word() || memory.compare_exchange(self.at, 0, me.word()).is_ok()
    }

    /// Gives the claim of `me` up; false where it has none.
    #[inline]
    pub fn give_up<M: Memory>(self, memory: &M, me: Owner) -> bool {
        memory.load(self.at) == me.word() && memory.compare_exchange(self.at, me.word(), 0).is_ok()
    }

    /// Gives up the claim of any thread or task of this process: for a handle that is closed under them.
    pub fn give_up_all<M: Memory>(self, memory: &M, process: Owner) {
        let holder = self.holder(memory);
        if !holder.is_none() && holder.as_process() == process.as_process() {
            let _ = memory.compare_exchange(self.at, holder.word(), 0);
        }
    }

    /// After a slice in which what is claimed was free: takes the claim from the dead, and, with `idle`, from a
    /// claimant that does not come. True where others may go on.
    pub fn revoke<M: Memory, P: Peers>(self, memory: &M, peers: &P, me: Owner, idle: bool) -> bool {
        let word = memory.load(self.at);
        let holder = Owner::from_word(word);
        // Flags are not written here, but damaged memory may read like it: flags without an owner are nobody's
        // claim, and nobody would ever give it up.
        if word == 0 || word == me.word() || !(idle || holder.is_none() || peers.is_dead(holder)) {
            return false;
        }
        memory.compare_exchange(self.at, word, 0).is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::crash::{Crashing, Oracle};
    use crate::owner::FLAGS;

    #[test]
    fn a_claim_that_nobody_could_give_up_is_revoked() {
        let (me, living, dead) = (Owner::process(1, 1), Owner::process(2, 1), Owner::process(3, 1));
        let (memory, oracle, claim) = (Crashing::new(8), Oracle::default(), Claim::new(0));
        oracle.kill(dead);
        for flags in 0..=FLAGS {
            for (owner, idle, revoked) in [
                (Owner::NONE, false, flags != 0),
                (dead, false, true),
                (living, false, false),
                (living, true, true),
                (me, true, flags != 0),
            ] {
                memory.store(0, owner.word() | flags);
                assert_eq!(claim.revoke(&memory, &oracle, me, idle), revoked, "{owner:?} {flags} {idle}");
                assert_eq!(claim.admits(&memory, me), revoked || owner == me || owner.is_none());
            }
        }
    }
}
