//! Sets of numbers, kept as ranges.

use std::collections::VecDeque;
use std::ops::Range;

/// A set of numbers: half-open ranges in rising order that neither overlap nor touch.
///
/// It has no bound of its own. Who inserts what a stranger says looks at [`len`](Self::len) first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(VecDeque<Range<u64>>);

impl Ranges {
    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The ranges, lowest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Range<u64>> + ExactSizeIterator + Clone {
        self.0.iter()
    }

    pub(super) fn first(&self) -> Option<&Range<u64>> {
        self.0.front()
    }

    pub(super) fn last(&self) -> Option<&Range<u64>> {
        self.0.back()
    }

    pub(super) fn pop_first(&mut self) -> Option<Range<u64>> {
        self.0.pop_front()
    }

    /// The index of the first range that ends at `number` or later.
    fn touching(&self, number: u64) -> usize {
        // Most of what is asked for is at the end.
        match self.0.back() {
            Some(last) if last.end < number => self.0.len(),
            Some(last) if last.start <= number => self.0.len() - 1,
            _ => self.0.partition_point(|range| range.end < number),
        }
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.0.get(self.touching(number.saturating_add(1))).is_some_and(|range| range.contains(&number))
    }

    /// Whether all of `wanted` is in the set.
    pub(super) fn covers(&self, wanted: &Range<u64>) -> bool {
        wanted.is_empty()
            || self
                .0
                .get(self.touching(wanted.end))
                .is_some_and(|range| range.start <= wanted.start && wanted.end <= range.end)
    }

    /// Whether inserting `new` would make one range more.
    pub(super) fn would_grow(&self, new: &Range<u64>) -> bool {
        !new.is_empty() && self.0.get(self.touching(new.start)).is_none_or(|range| range.start > new.end)
    }

    /// Puts a range in. Answers whether the set has changed.
    pub(super) fn insert(&mut self, new: Range<u64>) -> bool {
        if new.is_empty() {
            return false;
        }
        let at = self.touching(new.start);
        let Some(range) = self.0.get_mut(at).filter(|range| range.start <= new.end) else {
            self.0.insert(at, new);
            return true;
        };
        if range.start <= new.start && new.end <= range.end {
            return false;
        }
        range.start = range.start.min(new.start);
        range.end = range.end.max(new.end);
        let end = range.end;
        // Those after it that it has grown into.
        let mut grown = end;
        let mut swallowed = 0;
        while let Some(next) = self.0.get(at + 1 + swallowed).filter(|next| next.start <= end) {
            grown = grown.max(next.end);
            swallowed += 1;
        }
        if swallowed > 0 {
            self.0[at].end = grown;
            self.0.drain(at + 1..at + 1 + swallowed);
        }
        true
    }

    /// Takes a range out.
    pub(super) fn remove(&mut self, old: &Range<u64>) {
        if old.is_empty() {
            return;
        }
        let mut at = self.touching(old.start.saturating_add(1));
        while let Some(range) = self.0.get(at).cloned().filter(|range| range.start < old.end) {
            match (range.start < old.start, range.end > old.end) {
                (false, false) => {
                    self.0.remove(at);
                    continue;
                }
                (true, false) => self.0[at].end = old.start,
                (false, true) => self.0[at].start = old.end,
                (true, true) => {
                    self.0[at].end = old.start;
                    self.0.insert(at + 1, old.end..range.end);
                }
            }
            at += 1;
        }
    }

    /// Takes out everything below `floor`.
    pub(super) fn remove_below(&mut self, floor: u64) {
        while let Some(first) = self.0.front_mut() {
            if first.start >= floor {
                return;
            }
            if first.end > floor {
                first.start = floor;
                return;
            }
            self.0.pop_front();
        }
    }

    /// The parts of `whole` that are not in the set, lowest first.
    pub(super) fn missing(&self, whole: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = self.touching(whole.start.saturating_add(1));
        let mut from = whole.start;
        std::iter::from_fn(move || {
            while from < whole.end {
                let Some(range) = self.0.get(at).filter(|range| range.start < whole.end) else {
                    let rest = from..whole.end;
                    from = whole.end;
                    return Some(rest);
                };
                at += 1;
                let gap = from..range.start;
                from = range.end.max(from);
                if !gap.is_empty() {
                    return Some(gap);
                }
            }
            None
        })
    }

    /// Gives unused room back.
    pub(super) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        self.0.capacity() * size_of::<Range<u64>>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Range<u64>),
        Remove(Range<u64>),
        Below(u64),
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = || (0u64..60, 0u64..12).prop_map(|(start, len)| start..start + len);
        prop_oneof![
            4 => range().prop_map(Step::Insert),
            3 => range().prop_map(Step::Remove),
            1 => (0u64..30).prop_map(Step::Below),
            1 => Just(Step::Pop),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in proptest::collection::vec(step(), 0..60), asked in (0u64..70, 0u64..20)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Insert(range) => {
                        let before = ranges.len();
                        let grows = ranges.would_grow(&range);
                        let news = range.clone().any(|number| !model.contains(&number));
                        prop_assert_eq!(ranges.insert(range.clone()), news);
                        prop_assert_eq!(ranges.len() > before, grows);
                        model.extend(range);
                    }
                    Step::Remove(range) => {
                        ranges.remove(&range);
                        model.retain(|number| !range.contains(number));
                    }
                    Step::Below(floor) => {
                        ranges.remove_below(floor);
                        model.retain(|number| *number >= floor);
                    }
                    Step::Pop => {
                        if let Some(first) = ranges.pop_first() {
                            model.retain(|number| !first.contains(number));
                        }
                    }
                }
                let listed: Vec<u64> = ranges.iter().cloned().flatten().collect();
                prop_assert!(listed.iter().eq(model.iter()), "{listed:?} {model:?}");
                let all: Vec<Range<u64>> = ranges.iter().cloned().collect();
                prop_assert!(all.windows(2).all(|two| two[0].end < two[1].start), "they touch: {all:?}");
                let wanted = asked.0..asked.0 + asked.1;
                prop_assert_eq!(ranges.covers(&wanted), wanted.clone().all(|number| model.contains(&number)));
                prop_assert_eq!(ranges.contains(asked.0), model.contains(&asked.0));
                let missing: Vec<u64> = ranges.missing(wanted.clone()).flatten().collect();
                let expected: Vec<u64> = wanted.filter(|number| !model.contains(number)).collect();
                prop_assert_eq!(missing, expected);
            }
        }
    }
}
