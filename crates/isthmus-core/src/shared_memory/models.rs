//! loom models of growth: every interleaving of small cases. Run with `RUSTFLAGS="--cfg loom"`.

use loom::model;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::*;
use crate::memory::loom::Loom;

/// A file that only becomes longer, as `fallocate` makes it.
#[derive(Clone)]
struct File(Arc<AtomicU64>);

impl File {
    fn reserve(&self, to: u64) -> Result<()> {
        self.0.fetch_max(to, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn loom_of_two_that_grow_the_larger_size_stays_and_a_reader_never_sees_more_than_there_is() {
    model(|| {
        let (extent, file) = (Extent::new(Loom::new(8), 0), File(Arc::new(AtomicU64::new(0))));
        let growers = [5, 9].map(|size| {
            let (extent, file) = (extent.clone(), file.clone());
            thread::spawn(move || extent.grow(size, |_, to| file.reserve(to)).unwrap())
        });
        let seen = extent.size();
        assert!(seen <= file.0.load(Ordering::Relaxed), "no ground under it");
        assert!(seen <= extent.size(), "it became smaller");
        let [small, large] = growers.map(|grower| grower.join().unwrap());
        assert!((small == 5 || small == 9) && large == 9);
        assert_eq!(extent.size(), 9);
    });
}
