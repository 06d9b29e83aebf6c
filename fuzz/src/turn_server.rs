use p2p_core::sim::laws::steer;
use p2p_core::sim::subjects::RelayerSubject;

/// A TURN server with several clients, strangers who write others' addresses on their datagrams, peers, and a driver that
/// is slow at times; bytes decide what happens and how time passes. The laws hold; nothing goes to a peer that was not
/// permitted, or to where nothing is relayed to; a source that has not proven its address gets no more than one and a half
/// times its bytes; the tables keep their bounds and agree.
pub fn turn_server(data: &[u8]) {
    steer::<RelayerSubject>(data);
}
