//! Contenders in turns, so that whatever else the machine does meets all of them alike.

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// A glance that only shows that everything still works: its numbers mean nothing.
    pub(crate) quick: bool,
}

impl Scale {
    /// The one size or the other.
    pub(crate) fn pick<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Lets every contender run once in each round, each round beginning with another one.
pub(crate) fn in_turns<C>(rounds: usize, contenders: &[C], mut run: impl FnMut(&C)) {
    for round in 0..rounds {
        let first = round % contenders.len();
        let (later, sooner) = contenders.split_at(first);
        sooner.iter().chain(later).for_each(&mut run);
    }
}
