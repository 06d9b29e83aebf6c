//! Who dials which port from which, when: pure, and the same on both sides.
//!
//! A plan is made of what both sides have told each other and of nothing else, with chance from a seed that both
//! derive from the attempt. So both compute the same one, and neither has to believe a list of targets from the
//! other: all targets are ports of one address, and there are no more of them than the tactic allows.

use super::endpoint::Endpoint;
use super::layout::{Layout, SHORT_TAIL, TAIL};
use super::message::Timing;
use super::schedule::{Mode, NoPlan, Plan, Tactic};
use crate::Seed;
use crate::attempt::Role;
use crate::nat::meets;

impl Plan {
    /// The plan for these two. Both sides must be sound, see [`Endpoint::validate`]. `seed` must be the same at both.
    ///
    /// # Errors
    /// [`NoPlan`].
    pub fn new(
        mode: Mode,
        caller: &Endpoint,
        answerer: &Endpoint,
        timing: Timing,
        seed: &mut Seed,
    ) -> Result<Self, NoPlan> {
        let mut layout = Layout { caller, answerer, timing, seed, dials: [Vec::new(), Vec::new()] };
        if mode.is_local() {
            return Ok(layout.local());
        }
        let chosen = meets::choose(&caller.seat(), &answerer.seat()).ok_or(NoPlan)?;
        let role = |side| if side == meets::Side::A { Role::Caller } else { Role::Answerer };
        let tactic = match chosen.plan {
            meets::Plan::Now => Tactic::Now,
            meets::Plan::First(side) => Tactic::First(role(side)),
            // Behind a silent hop a port that is not the planned one meets nothing, however often it is dialled.
            meets::Plan::Ladder if layout.sliding().is_some() => Tactic::Ladder,
            meets::Plan::Ladder if caller.low_ttl => Tactic::LowTtl(Role::Caller),
            meets::Plan::Ladder if answerer.low_ttl => Tactic::LowTtl(Role::Answerer),
            meets::Plan::Ladder => Tactic::Ladder,
            meets::Plan::Open(side) => Tactic::Open(role(side)),
            meets::Plan::Window => Tactic::Window,
            meets::Plan::Birthday => Tactic::Birthday,
        };
        let lives = match tactic {
            Tactic::Now | Tactic::First(_) | Tactic::LowTtl(_) | Tactic::Ladder => {
                layout.pairs(tactic);
                [None; 2]
            }
            Tactic::Open(opener) => {
                layout.open(opener);
                [None; 2]
            }
            Tactic::Window => {
                layout.window();
                [None; 2]
            }
            Tactic::Birthday => layout.birthday(),
        };
        let tail = match tactic {
            Tactic::Birthday if layout.lax_opener().is_some() => TAIL,
            Tactic::Birthday | Tactic::Ladder => SHORT_TAIL,
            _ => TAIL,
        };
        Ok(layout.finish(tactic, chosen.probability, lives, tail))
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
