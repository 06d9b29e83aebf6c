//! What a request wants, in its attributes.

use std::net::SocketAddr;

use crate::Family;
use crate::stun::{Attribute, Message};
use crate::turn::allocation::ConnectionId;

/// The attributes of a request. The first of each kind counts.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestAttributes {
    pub(super) transport: Option<u8>,
    pub(super) lifetime: Option<u32>,
    pub(super) family: Option<Family>,
    pub(super) additional: Option<Family>,
    /// An even port, and whether the next one as well.
    pub(super) even: Option<bool>,
    pub(super) peers: Vec<SocketAddr>,
    pub(super) channel: Option<u16>,
    pub(super) connection: Option<ConnectionId>,
}

impl RequestAttributes {
    pub(super) fn of(message: &Message) -> Self {
        let mut all = Self::default();
        for attribute in &message.attributes {
            match attribute {
                Attribute::RequestedTransport(protocol) => {
                    all.transport = all.transport.or(Some(*protocol));
                }
                Attribute::Lifetime(seconds) => all.lifetime = all.lifetime.or(Some(*seconds)),
                Attribute::RequestedAddressFamily(family) => all.family = all.family.or(Some(*family)),
                Attribute::AdditionalAddressFamily(family) => {
                    all.additional = all.additional.or(Some(*family));
                }
                Attribute::EvenPort { reserve } => all.even = all.even.or(Some(*reserve)),
                Attribute::XorPeerAddress(peer) => all.peers.push(*peer),
                Attribute::ChannelNumber(number) => all.channel = all.channel.or(Some(*number)),
                Attribute::ConnectionId(id) => all.connection = all.connection.or(Some(ConnectionId(*id))),
                _ => {}
            }
        }
        all
    }
}
