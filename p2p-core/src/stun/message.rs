//! What a STUN message says.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::stun::dial_back::SynOutcome;
use crate::{Family, Seed};

/// The first word of every transaction id since RFC 5389.
pub(crate) const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// Which part of an exchange a message is (RFC 8489, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// The answer: done.
    Success,
    /// The answer: not done, ERROR-CODE says why.
    Error,
}

/// What a message is about: twelve bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(u16);

impl Method {
    /// "Which address do you see?" (RFC 8489, section 3).
    pub const BINDING: Self = Self(0x001);
    /// "Give me a relayed address" (RFC 8656, section 7).
    pub const ALLOCATE: Self = Self(0x003);
    /// "Keep it for me", or give it back (RFC 8656, section 8).
    pub const REFRESH: Self = Self(0x004);
    /// Indication: data for a peer (RFC 8656, section 11).
    pub const SEND: Self = Self(0x006);
    /// Indication: data from a peer (RFC 8656, section 11).
    pub const DATA: Self = Self(0x007);
    /// "Let these peers through" (RFC 8656, section 10).
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// "Call this peer by a number" (RFC 8656, section 12).
    pub const CHANNEL_BIND: Self = Self(0x009);
    /// "Dial this peer" (RFC 6062, section 4.3).
    pub const CONNECT: Self = Self(0x00a);
    /// "This is the connection for that peer" (RFC 6062, section 4.3).
    pub const CONNECTION_BIND: Self = Self(0x00b);
    /// Indication: a peer has dialled us (RFC 6062, section 4.4).
    pub const CONNECTION_ATTEMPT: Self = Self(0x00c);

    /// A method by its number, or `None` above 0xfff.
    pub const fn new(number: u16) -> Option<Self> {
        if number < 0x1000 { Some(Self(number)) } else { None }
    }

    /// Its number, 0 … 0xfff.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// Ties an answer to its question: 128 bits, of which the first 32 are the magic cookie unless the sender
/// only knows RFC 3489.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId([u8; 16]);

impl TransactionId {
    /// A new one: 96 random bits behind the cookie.
    pub fn new(seed: &mut Seed) -> Self {
        Self::with_cookie(seed.array())
    }

    /// The magic cookie and these 96 bits.
    pub fn with_cookie(bits: [u8; 12]) -> Self {
        let mut all = [0; 16];
        all[..4].copy_from_slice(&MAGIC_COOKIE);
        all[4..].copy_from_slice(&bits);
        Self(all)
    }

    /// All 128 bits as they stand on the wire.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// All 128 bits as they stand on the wire.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether the sender speaks RFC 3489 only: no cookie, so no XOR-MAPPED-ADDRESS for it.
    pub fn is_classic(&self) -> bool {
        !self.0.starts_with(&MAGIC_COOKIE)
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A way to make a key of a password (RFC 8489, section 14.11).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PasswordAlgorithm {
    /// Its number in the registry: 1 is MD5, 2 is SHA-256.
    pub number: u16,
    /// What it needs to know; nothing for those two.
    pub parameters: Vec<u8>,
}

/// One thing a message says.
///
/// MESSAGE-INTEGRITY and FINGERPRINT are not here: they are about the bytes, not the meaning, and belong to
/// [`wire`](super::wire). A new attribute is a variant here and a row in `wire/value.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Attribute {
    /// MAPPED-ADDRESS: where the request came from. Some NATs rewrite it in passing; see `XorMappedAddress`.
    MappedAddress(SocketAddr),
    /// CHANGE-REQUEST: answer from the other address or port (RFC 5780, section 7.2).
    ChangeRequest {
        /// From the alternate IP address.
        ip: bool,
        /// From the alternate port.
        port: bool,
    },
    /// SOURCE-ADDRESS of RFC 3489: where the answer comes from.
    SourceAddress(SocketAddr),
    /// CHANGED-ADDRESS of RFC 3489: where it would come from with both changes asked for.
    ChangedAddress(SocketAddr),
    /// USERNAME: up to 512 bytes.
    Username(String),
    /// ERROR-CODE: 300 … 599 and a phrase of up to 127 characters.
    ErrorCode {
        /// Class × 100 + number.
        code: u16,
        /// For people.
        reason: String,
    },
    /// UNKNOWN-ATTRIBUTES: the numbers behind a 420.
    UnknownAttributes(Vec<u16>),
    /// REALM: up to 127 characters.
    Realm(String),
    /// NONCE: up to 127 characters.
    Nonce(String),
    /// XOR-MAPPED-ADDRESS: where the request came from, hidden from NATs that rewrite addresses they see.
    XorMappedAddress(SocketAddr),
    /// PADDING: this many bytes of nothing (RFC 5780, section 7.6).
    Padding(u16),
    /// RESPONSE-PORT: answer to this port instead (RFC 5780, section 7.5).
    ResponsePort(u16),
    /// SOFTWARE: up to 127 characters.
    Software(String),
    /// ALTERNATE-SERVER: go there instead (RFC 8489, section 14.15).
    AlternateServer(SocketAddr),
    /// RESPONSE-ORIGIN: where the answer comes from (RFC 5780, section 7.3).
    ResponseOrigin(SocketAddr),
    /// OTHER-ADDRESS: where it would come from with both changes asked for (RFC 5780, section 7.4).
    OtherAddress(SocketAddr),
    /// DIAL-BACK, our own (0xFFB0, understanding optional). In a success response over TCP: this server dials back
    /// when asked to, and waits so many milliseconds at most. In a request over TCP: dial the address this
    /// connection comes from, wait so long, and answer then.
    DialBack(u16),
    /// DIALLED-BACK, our own (0xFFB1, understanding optional): what a server got when it dialled back.
    DialledBack {
        /// From the address the request came to, and another port.
        near: SynOutcome,
        /// From its other address; [`SynOutcome::Unavailable`] when it has none.
        far: SynOutcome,
    },
    /// CHANNEL-NUMBER (RFC 8656, section 18.1).
    ChannelNumber(u16),
    /// LIFETIME: seconds (RFC 8656, section 18.2).
    Lifetime(u32),
    /// XOR-PEER-ADDRESS: whom it is about (RFC 8656, section 18.3).
    XorPeerAddress(SocketAddr),
    /// DATA: what is relayed (RFC 8656, section 18.4).
    Data(Bytes),
    /// XOR-RELAYED-ADDRESS: what the server has for us (RFC 8656, section 18.5).
    XorRelayedAddress(SocketAddr),
    /// REQUESTED-ADDRESS-FAMILY (RFC 8656, section 18.6).
    RequestedAddressFamily(Family),
    /// EVEN-PORT: an even port, and whether the next one is wanted later (RFC 8656, section 18.7).
    EvenPort {
        /// The next one shall be kept.
        reserve: bool,
    },
    /// REQUESTED-TRANSPORT: an IP protocol, 17 for UDP, 6 for TCP (RFC 8656, section 18.8; RFC 6062, section 6.2).
    RequestedTransport(u8),
    /// ADDITIONAL-ADDRESS-FAMILY: one more address, of this family (RFC 8656, section 18.11).
    AdditionalAddressFamily(Family),
    /// ADDRESS-ERROR-CODE: why there is none of this family (RFC 8656, section 18.12).
    AddressErrorCode {
        /// Of which family.
        family: Family,
        /// Class × 100 + number.
        code: u16,
        /// For people.
        reason: String,
    },
    /// CONNECTION-ID: which connection of a peer (RFC 6062, section 6.2.1).
    ConnectionId(u32),
    /// PASSWORD-ALGORITHM: how the key was made (RFC 8489, section 14.12).
    PasswordAlgorithm(PasswordAlgorithm),
    /// PASSWORD-ALGORITHMS: how keys may be made, best first (RFC 8489, section 14.11).
    PasswordAlgorithms(Vec<PasswordAlgorithm>),
    /// USERHASH: SHA-256 of user and realm, in place of USERNAME (RFC 8489, section 14.4).
    UserHash([u8; 32]),
    /// ALTERNATE-DOMAIN: the name in the certificate of the alternate server (RFC 8489, section 14.16).
    AlternateDomain(String),
}

impl Attribute {
    /// Whether its value is hidden with the magic cookie, without which it means nothing.
    pub(super) fn is_xored(&self) -> bool {
        matches!(self, Self::XorMappedAddress(_) | Self::XorPeerAddress(_) | Self::XorRelayedAddress(_))
    }
}

/// A STUN message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Question or answer.
    pub class: Class,
    /// About what.
    pub method: Method,
    /// Which question.
    pub transaction: TransactionId,
    /// What it says, in order. Of several of a kind only the first counts.
    pub attributes: Vec<Attribute>,
}

impl Message {
    /// A message that says nothing yet.
    pub fn new(class: Class, method: Method, transaction: TransactionId) -> Self {
        Self { class, method, transaction, attributes: Vec::new() }
    }

    /// A Binding request with a new transaction id.
    pub fn binding(seed: &mut Seed) -> Self {
        Self::new(Class::Request, Method::BINDING, TransactionId::new(seed))
    }

    /// The same message, saying this as well.
    pub fn with(mut self, attribute: Attribute) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// What the server saw: XOR-MAPPED-ADDRESS if there is one, else MAPPED-ADDRESS.
    pub fn mapped(&self) -> Option<SocketAddr> {
        let xor = self.find(|attribute| match attribute {
            Attribute::XorMappedAddress(address) => Some(*address),
            _ => None,
        });
        xor.or_else(|| {
            self.find(|attribute| match attribute {
                Attribute::MappedAddress(address) => Some(*address),
                _ => None,
            })
        })
    }

    /// The server's other address: OTHER-ADDRESS, or CHANGED-ADDRESS from an old one.
    pub fn other_address(&self) -> Option<SocketAddr> {
        self.find(|attribute| match attribute {
            Attribute::OtherAddress(address) | Attribute::ChangedAddress(address) => Some(*address),
            _ => None,
        })
    }

    /// DIAL-BACK: how long the other side waits, or is to wait.
    pub fn dial_back(&self) -> Option<Duration> {
        self.find(|attribute| match attribute {
            Attribute::DialBack(ms) => Some(Duration::from_millis(u64::from(*ms))),
            _ => None,
        })
    }

    /// DIALLED-BACK: from near and from far.
    pub fn dialled_back(&self) -> Option<(SynOutcome, SynOutcome)> {
        self.find(|attribute| match attribute {
            Attribute::DialledBack { near, far } => Some((*near, *far)),
            _ => None,
        })
    }

    /// ERROR-CODE: its number and phrase.
    pub fn error_code(&self) -> Option<(u16, &str)> {
        self.find(|attribute| match attribute {
            Attribute::ErrorCode { code, reason } => Some((*code, reason.as_str())),
            _ => None,
        })
    }

    /// The first attribute that `pick` takes.
    pub fn find<'a, T>(&'a self, pick: impl FnMut(&'a Attribute) -> Option<T>) -> Option<T> {
        self.attributes.iter().find_map(pick)
    }
}
