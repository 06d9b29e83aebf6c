//! Counters that many tasks share.

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares what is counted: a struct of numbers to look at, and one of atomics to count with.
macro_rules! counters {
    (
        $(#[$type_doc:meta])* $counters:ident, $tally:ident;
        $($(#[$doc:meta])* $name:ident,)*
    ) => {
        $(#[$type_doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        struct $tally {
            $($name: std::sync::atomic::AtomicU64,)*
        }

        impl $tally {
            fn read(&self) -> $counters {
                $counters { $($name: self.$name.load(std::sync::atomic::Ordering::Relaxed),)* }
            }
        }
    };
}

pub(super) use counters;

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
