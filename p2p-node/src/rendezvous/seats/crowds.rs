//! Connections of one rank by network and source, so that the largest crowd is known at once.

use std::collections::{BTreeSet, HashMap};

use p2p_core::rate::{Source, SourceNet};

/// Which member of the largest crowd goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    OldestFirst,
    YoungestFirst,
}

impl Order {
    /// The place of the member who goes first among others: the greatest one goes.
    fn place(self, numbers: &BTreeSet<u64>) -> i64 {
        let signed = |number: Option<&u64>| number.map_or(0, |number| *number as i64);
        match self {
            Self::OldestFirst => -signed(numbers.first()),
            Self::YoungestFirst => signed(numbers.last()),
        }
    }

    fn first(self, numbers: &BTreeSet<u64>) -> Option<u64> {
        match self {
            Self::OldestFirst => numbers.first().copied(),
            Self::YoungestFirst => numbers.last().copied(),
        }
    }
}

/// The connections of one rank.
#[derive(Debug)]
pub(super) struct Crowds {
    order: Order,
    nets: HashMap<SourceNet, NetCrowd>,
    /// Networks by size, and among equals by who goes first.
    by_size: BTreeSet<(usize, i64, SourceNet)>,
    members: usize,
}

/// The connections of one rank and one network.
#[derive(Debug, Default)]
struct NetCrowd {
    numbers: BTreeSet<u64>,
    sources: HashMap<Source, BTreeSet<u64>>,
    by_size: BTreeSet<(usize, i64, Source)>,
}

/// The one who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InTheWay {
    pub(super) number: u64,
    pub(super) source: Source,
}

impl Crowds {
    pub(super) fn new(order: Order) -> Self {
        Self { order, nets: HashMap::new(), by_size: BTreeSet::new(), members: 0 }
    }

    /// Returns the number of connections.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    pub(super) fn insert(&mut self, source: Source, number: u64) {
        self.change(source, |numbers| numbers.insert(number));
    }

    pub(super) fn remove(&mut self, source: Source, number: u64) {
        self.change(source, |numbers| numbers.remove(&number));
    }

    /// Changes the numbers of a network and of a source, and puts both in their places.
    fn change(&mut self, source: Source, what: impl Fn(&mut BTreeSet<u64>) -> bool) {
        let (order, net) = (self.order, source.net());
        let crowd = self.nets.entry(net).or_default();
        let before = crowd.numbers.len();
        self.by_size.remove(&(before, order.place(&crowd.numbers), net));
        what(&mut crowd.numbers);
        let numbers = crowd.sources.entry(source).or_default();
        crowd.by_size.remove(&(numbers.len(), order.place(numbers), source));
        what(numbers);
        match numbers.is_empty() {
            true => drop(crowd.sources.remove(&source)),
            false => drop(crowd.by_size.insert((numbers.len(), order.place(numbers), source))),
        }
        self.members = self.members - before + crowd.numbers.len();
        match crowd.numbers.is_empty() {
            true => drop(self.nets.remove(&net)),
            false => drop(self.by_size.insert((crowd.numbers.len(), order.place(&crowd.numbers), net))),
        }
    }

    /// Returns who goes first of this source.
    pub(super) fn first_of(&self, source: Source) -> Option<u64> {
        self.order.first(self.nets.get(&source.net())?.sources.get(&source)?)
    }

    /// Returns who goes first of the source with the most connections of the network with the most.
    pub(super) fn first(&self) -> Option<InTheWay> {
        let (_, _, net) = self.by_size.last()?;
        let (_, _, source) = self.nets.get(net)?.by_size.last()?;
        Some(InTheWay { number: self.first_of(*source)?, source: *source })
    }

    /// Returns the connections of the network of a source, and those of the source.
    pub(super) fn weight(&self, source: Source) -> (usize, usize) {
        self.nets.get(&source.net()).map_or((0, 0), |crowd| {
            (crowd.numbers.len(), crowd.sources.get(&source).map_or(0, BTreeSet::len))
        })
    }

    /// Returns all connections.
    pub(super) fn all(&self) -> impl Iterator<Item = u64> + '_ {
        self.nets.values().flat_map(|crowd| crowd.numbers.iter().copied())
    }
}
