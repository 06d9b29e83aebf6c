use p2p_core::sim::scene::SmallWorld;

/// Steps of one story at most: a story of this many takes about a second.
const MOST_STEPS: usize = 64;

/// A small world of whole nodes: the first byte makes it, three bytes are a step. Whatever happens to interfaces, NATs,
/// servers, clocks and processes, no third party is sent anything, both ends of an attempt keep the same connection and
/// nobody another, every call has an end, and every node comes to rest with nothing left.
pub fn node_world(data: &[u8]) {
    let Some((kind, steps)) = data.split_first() else { return };
    let mut world = SmallWorld::new(*kind);
    for step in steps.chunks_exact(3).take(MOST_STEPS) {
        world.step(step[0], step[1], step[2]);
    }
    world.end();
}
