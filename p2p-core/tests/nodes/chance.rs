//! Anything that can happen to a small world of whole nodes, by chance.

use p2p_core::Seed;
use p2p_core::sim::scene::SmallWorld;

/// Operations in one world.
const STEPS: usize = 40;

#[test]
fn whatever_happens_both_ends_keep_the_same_and_nobody_else_is_dialled() {
    for number in 0..24 {
        let mut dice = Seed::from_u64(number);
        let mut world = SmallWorld::new(dice.number() as u8);
        for _ in 0..STEPS {
            let [what, who, with] = dice.array();
            world.step(what, who, with);
        }
        world.end();
    }
}
