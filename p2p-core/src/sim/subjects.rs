//! Every machine of this crate with its surroundings: one [`Subject`](super::laws::Subject) each, held to the laws by the
//! tests here, and steered by the fuzz target `machines`.
//!
//! A new machine is a line here.

pub use crate::clock::ntp::client::subject::NtpClientSubject;
pub use crate::connect::subject::{
    AnswerSubject, AskPeerSubject, CallSubject, HappyEyeballsSubject, PunchingAnswerSubject,
    PunchingCallSubject,
};
pub use crate::nat::hop::subject::HopSubject;
pub use crate::nat::probe::subject::ProbeSubject;
pub use crate::node::{InterfaceSubject, RouterSubject};
pub use crate::proof::subject::ProofSubject;
pub use crate::punch::{AgreeSubject, PunchSubject, SynSenderSubject};
pub use crate::relay::circuit::subject::CircuitSubject;
pub use crate::signal::link::subject::LinkSubject;
pub use crate::signal::mqtt_server::subject::MqttServerSubject;
pub use crate::signal::{InboxSubject, TallySubject};
pub use crate::sim::node::NodeSubject;
pub use crate::stun::query::subject::QuerySubject;
pub use crate::stun::transaction::subject::TransactionSubject;
pub use crate::transport::{MessagesSubject, StreamSubject};
pub use crate::turn::allocation::subject::AllocationSubject;
pub use crate::turn::client::subject::TurnClientSubject;
pub use crate::turn::data::subject::DataConnectionSubject;
pub use crate::turn::server::subject::RelayerSubject;

/// A machine that a fuzzer can steer.
#[derive(Clone, Copy, Debug)]
pub struct Steerable {
    /// Its name.
    pub name: &'static str,
    /// Lets bytes decide what happens to it: [`steer`](super::laws::steer).
    pub steer: fn(&[u8]),
}

macro_rules! subjects {
    ($($name:ident: $subject:ty,)*) => {
        /// All of them. New ones are added at the end, so that old inputs of the fuzzer keep their meaning.
        pub const ALL: &[Steerable] = &[
            $(Steerable { name: stringify!($name), steer: super::laws::steer::<$subject> },)*
        ];

        #[cfg(test)]
        mod laws {
            use super::*;

            $(crate::machine_laws!($name: $subject);)*
        }
    };
}

subjects! {
    relayer: RelayerSubject,
    turn_client: TurnClientSubject,
    allocation: AllocationSubject,
    data_connection: DataConnectionSubject,
    transaction: TransactionSubject,
    query: QuerySubject,
    hop: HopSubject,
    probe: ProbeSubject,
    ntp_client: NtpClientSubject,
    proof: ProofSubject,
    inbox: InboxSubject,
    tally: TallySubject,
    link: LinkSubject,
    call: CallSubject,
    punching_call: PunchingCallSubject,
    answer: AnswerSubject,
    punching_answer: PunchingAnswerSubject,
    happy_eyeballs: HappyEyeballsSubject,
    ask_peer: AskPeerSubject,
    agree: AgreeSubject,
    syn_sender: SynSenderSubject,
    punch: PunchSubject,
    circuit: CircuitSubject,
    stream: StreamSubject,
    messages: MessagesSubject,
    interface: InterfaceSubject,
    router: RouterSubject,
    node: NodeSubject,
    mqtt_server: MqttServerSubject,
}
