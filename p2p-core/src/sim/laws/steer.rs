//! A subject in the hands of a fuzzer.

use std::time::Duration;

use super::{Dice, Subject, check_close, check_later, check_rest, check_spurious_timeout, drain_subject};
use crate::sim::epoch;
use crate::{Machine, Seed};

/// Lets `bytes` decide what happens to a subject and when, and holds it to the laws on the way. The first eight bytes
/// are its seed.
///
/// # Panics
/// When it breaks a law.
pub fn steer<S: Subject>(bytes: &[u8]) {
    let (first, rest) = bytes.split_at(bytes.len().min(8));
    let mut number = [0; 8];
    number[..first.len()].copy_from_slice(first);
    let number = u64::from_le_bytes(number);
    let mut dice = Dice::from_bytes(rest);
    let mut now = epoch() + Duration::from_secs(3_600);
    let mut subject = S::new(Seed::from_u64(number), now);
    let mut wait = drain_subject(&mut subject, now).wait;
    for _ in 0..MOST_STEPS {
        if dice.is_over() {
            break;
        }
        match dice.below(16) {
            0..4 => {
                now = wait.map_or(now, |deadline| deadline.at.max(now));
                subject.machine().handle_timeout(now);
                wait = drain_subject(&mut subject, now).wait;
                check_later(wait, now);
            }
            4 => {
                now += dice.up_to(Duration::from_secs(700));
                subject.machine().handle_timeout(now);
                wait = drain_subject(&mut subject, now).wait;
                check_later(wait, now);
            }
            5 => check_spurious_timeout(&mut subject, wait, now),
            6 => {
                let older = now.checked_sub(dice.up_to(Duration::from_secs(600))).unwrap_or(now);
                subject.machine().handle_timeout(older);
                drain_subject(&mut subject, older);
                subject.feed(&mut dice, older);
                wait = drain_subject(&mut subject, older).wait;
            }
            _ => {
                now += dice.up_to(Duration::from_millis(50));
                subject.feed(&mut dice, now);
                wait = drain_subject(&mut subject, now).wait;
            }
        }
    }
    if number.is_multiple_of(2) {
        let mut dice = Dice::new(Seed::from_u64(number));
        check_close(&mut subject, &mut dice, AFTER_CLOSE, now);
    } else {
        check_rest(&mut subject, now, WAKES);
    }
}

/// Steps of one input at most.
const MOST_STEPS: usize = 2_000;
/// Inputs after `close`.
const AFTER_CLOSE: usize = 30;
/// Wakes of a machine that is left alone.
const WAKES: u32 = 300;
