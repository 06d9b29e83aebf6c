use p2p_core::sim::subjects::ALL;

/// Any machine of the core: the first byte chooses which, the next eight are its seed, the rest are inputs and time. The
/// laws of every machine hold.
pub fn machines(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    (ALL[usize::from(*which) % ALL.len()].steer)(rest);
}
