//! The name of a peer, its keys, and the statement it publishes of where it can be met.
//!
//! | noun | meaning | text |
//! |---|---|---|
//! | [`Identity`] | the secret key of a node | `p2psk1…` |
//! | [`PeerId`] | its public key, the only name a peer has | `p2pid1…` |
//! | [`PeerAddr`] | a signed statement of where it can be met | `p2p1…` |
//! | [`BrokerUrl`] | a message broker it listens on | `mqtts://host` |
//! | [`InterfaceAddr`] | one address of one network interface, and the NAT in front of it | |
//! | [`MachineTag`] | the machine it runs on, for peers on the same machine only | |
//!
//! All three texts are lower-case base32 (RFC 4648) with a CRC-32. They survive upper-casing, line wrapping
//! and white space, and tell a mistyped copy from one that was cut off.

mod addr;
mod broker;
mod id;
mod identity;
mod interface;
mod machine_tag;
mod text;

#[cfg(test)]
mod addr_tests;
#[cfg(test)]
mod broker_tests;

pub use addr::{AddrError, Contents, PeerAddr};
pub use broker::{BrokerUrl, BrokerUrlError, Host, MqttVersion, Scheme};
pub use id::{IdError, PeerId, SignatureError};
pub use identity::{Identity, IdentityError};
pub use interface::InterfaceAddr;
pub use machine_tag::MachineTag;
pub use text::TextError;
