//! The content of STUN messages: classes, methods, transaction ids and attributes.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::stun::dial_back::SynOutcome;
use crate::{Family, Seed};

/// The first word of every transaction id since RFC 5389.
pub(crate) const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// The part of an exchange that a message is (RFC 8489, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A question that wants an answer.
    Request,
    /// A notice that wants no answer.
    Indication,
    /// The answer to a request that was carried out.
    Success,
    /// The answer to a request that was not carried out. ERROR-CODE tells the reason.
    Error,
}

/// The subject of a message, as a number of twelve bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(u16);

impl Method {
    /// Asks for the address that the server sees (RFC 8489, section 3).
    pub const BINDING: Self = Self(0x001);
    /// Asks for a relayed address (RFC 8656, section 7).
    pub const ALLOCATE: Self = Self(0x003);
    /// Asks to keep a relayed address, or gives it back (RFC 8656, section 8).
    pub const REFRESH: Self = Self(0x004);
    /// Carries data for a peer, as an indication (RFC 8656, section 11).
    pub const SEND: Self = Self(0x006);
    /// Carries data from a peer, as an indication (RFC 8656, section 11).
    pub const DATA: Self = Self(0x007);
    /// Asks to let packets of these peers through (RFC 8656, section 10).
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// Asks to call a peer by a channel number (RFC 8656, section 12).
    pub const CHANNEL_BIND: Self = Self(0x009);
    /// Asks the server to dial a peer (RFC 6062, section 4.3).
    pub const CONNECT: Self = Self(0x00a);
    /// Binds this connection to that of a peer (RFC 6062, section 4.3).
    pub const CONNECTION_BIND: Self = Self(0x00b);
    /// Tells that a peer has dialled us, as an indication (RFC 6062, section 4.4).
    pub const CONNECTION_ATTEMPT: Self = Self(0x00c);

    /// Returns the method of this number, or `None` above 0xfff.
    pub const fn new(number: u16) -> Option<Self> {
        if number < 0x1000 { Some(Self(number)) } else { None }
    }

    /// Returns the number of the method, 0 … 0xfff.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// The number of 128 bits that ties an answer to its question. The first 32 bits are the magic cookie, unless the
/// sender only knows RFC 3489.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId([u8; 16]);

impl TransactionId {
    /// Makes a new id of the cookie and 96 random bits.
    pub fn new(seed: &mut Seed) -> Self {
        Self::with_cookie(seed.array())
    }

    /// Makes an id of the magic cookie and these 96 bits.
    pub fn with_cookie(bits: [u8; 12]) -> Self {
        let mut all = [0; 16];
        all[..4].copy_from_slice(&MAGIC_COOKIE);
        all[4..].copy_from_slice(&bits);
        Self(all)
    }

    /// Makes an id of all 128 bits as they stand on the wire.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns all 128 bits as they stand on the wire.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Tells whether the sender speaks RFC 3489 only. Such an id has no cookie, so its sender understands no
    /// XOR-MAPPED-ADDRESS.
    pub fn is_classic(&self) -> bool {
        !self.0.starts_with(&MAGIC_COOKIE)
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An algorithm that makes a key of a password (RFC 8489, section 14.11).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PasswordAlgorithm {
    /// The number in the registry: 1 is MD5, 2 is SHA-256.
    pub number: u16,
    /// The parameters of the algorithm, which are empty for those two.
    pub parameters: Vec<u8>,
}

/// One attribute of a message.
///
/// MESSAGE-INTEGRITY and FINGERPRINT are not here: they are about the bytes and not the meaning, and belong to
/// [`wire`](super::wire). A new attribute is a variant here and a row in `wire/value.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Attribute {
    /// MAPPED-ADDRESS: the source address of the request. Some NATs rewrite it in passing; see `XorMappedAddress`.
    MappedAddress(SocketAddr),
    /// CHANGE-REQUEST: asks for an answer from the other address or port (RFC 5780, section 7.2).
    ChangeRequest {
        /// True for an answer from the alternate IP address.
        ip: bool,
        /// True for an answer from the alternate port.
        port: bool,
    },
    /// SOURCE-ADDRESS of RFC 3489: the source address of the answer.
    SourceAddress(SocketAddr),
    /// CHANGED-ADDRESS of RFC 3489: the source address of an answer with both changes asked for.
    ChangedAddress(SocketAddr),
    /// USERNAME: up to 512 bytes.
    Username(String),
    /// ERROR-CODE: a number in 300 … 599, and a phrase of up to 127 characters.
    ErrorCode {
        /// The class × 100 + the number.
        code: u16,
        /// The phrase, for people.
        reason: String,
    },
    /// UNKNOWN-ATTRIBUTES: the numbers of the attributes that caused a 420.
    UnknownAttributes(Vec<u16>),
    /// REALM: up to 127 characters.
    Realm(String),
    /// NONCE: up to 127 characters.
    Nonce(String),
    /// XOR-MAPPED-ADDRESS: the source address of the request, hidden from NATs that rewrite addresses they see.
    XorMappedAddress(SocketAddr),
    /// PADDING: this number of meaningless bytes (RFC 5780, section 7.6).
    Padding(u16),
    /// RESPONSE-PORT: asks for an answer to this port instead (RFC 5780, section 7.5).
    ResponsePort(u16),
    /// SOFTWARE: up to 127 characters.
    Software(String),
    /// ALTERNATE-SERVER: the server to ask instead (RFC 8489, section 14.15).
    AlternateServer(SocketAddr),
    /// RESPONSE-ORIGIN: the source address of the answer (RFC 5780, section 7.3).
    ResponseOrigin(SocketAddr),
    /// OTHER-ADDRESS: the source address of an answer with both changes asked for (RFC 5780, section 7.4).
    OtherAddress(SocketAddr),
    /// DIAL-BACK, in milliseconds; our own (0xFFB0, understanding optional). In a success response over TCP it offers
    /// to dial back when asked to, and names the longest wait. In a request over TCP it asks the server to dial the
    /// source address of this connection, to wait that long, and then to answer.
    DialBack(u16),
    /// DIALLED-BACK: the outcomes of a server's dials back; our own (0xFFB1, understanding optional).
    DialledBack {
        /// The outcome from the address the request came to, and another port.
        near: SynOutcome,
        /// The outcome from the server's other address; [`SynOutcome::Unavailable`] when it has none.
        far: SynOutcome,
    },
    /// CHANNEL-NUMBER: the channel of a peer (RFC 8656, section 18.1).
    ChannelNumber(u16),
    /// LIFETIME: the seconds an allocation lasts (RFC 8656, section 18.2).
    Lifetime(u32),
    /// XOR-PEER-ADDRESS: the address of the peer concerned (RFC 8656, section 18.3).
    XorPeerAddress(SocketAddr),
    /// DATA: the relayed bytes (RFC 8656, section 18.4).
    Data(Bytes),
    /// XOR-RELAYED-ADDRESS: the address allocated on the server (RFC 8656, section 18.5).
    XorRelayedAddress(SocketAddr),
    /// REQUESTED-ADDRESS-FAMILY: the family of the relayed address (RFC 8656, section 18.6).
    RequestedAddressFamily(Family),
    /// EVEN-PORT: asks for an even port (RFC 8656, section 18.7).
    EvenPort {
        /// True when the next port shall be reserved as well.
        reserve: bool,
    },
    /// REQUESTED-TRANSPORT: an IP protocol, 17 for UDP or 6 for TCP (RFC 8656, section 18.8; RFC 6062, section 6.2).
    RequestedTransport(u8),
    /// ADDITIONAL-ADDRESS-FAMILY: asks for one more address, of this family (RFC 8656, section 18.11).
    AdditionalAddressFamily(Family),
    /// ADDRESS-ERROR-CODE: the reason why there is no address of a family (RFC 8656, section 18.12).
    AddressErrorCode {
        /// The family concerned.
        family: Family,
        /// The class × 100 + the number.
        code: u16,
        /// The phrase, for people.
        reason: String,
    },
    /// CONNECTION-ID: the number of a connection with a peer (RFC 6062, section 6.2.1).
    ConnectionId(u32),
    /// PASSWORD-ALGORITHM: the algorithm by which the key was made (RFC 8489, section 14.12).
    PasswordAlgorithm(PasswordAlgorithm),
    /// PASSWORD-ALGORITHMS: the algorithms by which keys may be made, best first (RFC 8489, section 14.11).
    PasswordAlgorithms(Vec<PasswordAlgorithm>),
    /// USERHASH: the SHA-256 of user and realm, in place of USERNAME (RFC 8489, section 14.4).
    UserHash([u8; 32]),
    /// ALTERNATE-DOMAIN: the name in the certificate of the alternate server (RFC 8489, section 14.16).
    AlternateDomain(String),
}

impl Attribute {
    /// Tells whether the value is hidden with the magic cookie, without which it means nothing.
    pub(super) fn is_xored(&self) -> bool {
        matches!(self, Self::XorMappedAddress(_) | Self::XorPeerAddress(_) | Self::XorRelayedAddress(_))
    }
}

/// A STUN message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The class: question or answer.
    pub class: Class,
    /// The subject of the message.
    pub method: Method,
    /// The id that ties an answer to its question.
    pub transaction: TransactionId,
    /// The attributes, in order. Of several of a kind only the first counts.
    pub attributes: Vec<Attribute>,
}

impl Message {
    /// Returns a message without attributes.
    pub fn new(class: Class, method: Method, transaction: TransactionId) -> Self {
        Self { class, method, transaction, attributes: Vec::new() }
    }

    /// Returns a Binding request with a new transaction id.
    pub fn binding(seed: &mut Seed) -> Self {
        Self::new(Class::Request, Method::BINDING, TransactionId::new(seed))
    }

    /// Returns the same message with one more attribute.
    pub fn with(mut self, attribute: Attribute) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// Returns the address that the server saw: XOR-MAPPED-ADDRESS if there is one, else MAPPED-ADDRESS.
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

    /// Returns the server's other address: OTHER-ADDRESS, or CHANGED-ADDRESS from an old server.
    pub fn other_address(&self) -> Option<SocketAddr> {
        self.find(|attribute| match attribute {
            Attribute::OtherAddress(address) | Attribute::ChangedAddress(address) => Some(*address),
            _ => None,
        })
    }

    /// Returns the time in DIAL-BACK: the longest wait that is offered, or the wait that is asked for.
    pub fn dial_back(&self) -> Option<Duration> {
        self.find(|attribute| match attribute {
            Attribute::DialBack(ms) => Some(Duration::from_millis(u64::from(*ms))),
            _ => None,
        })
    }

    /// Returns the outcomes in DIALLED-BACK: from near and from far.
    pub fn dialled_back(&self) -> Option<(SynOutcome, SynOutcome)> {
        self.find(|attribute| match attribute {
            Attribute::DialledBack { near, far } => Some((*near, *far)),
            _ => None,
        })
    }

    /// Returns the number and the phrase in ERROR-CODE.
    pub fn error_code(&self) -> Option<(u16, &str)> {
        self.find(|attribute| match attribute {
            Attribute::ErrorCode { code, reason } => Some((*code, reason.as_str())),
            _ => None,
        })
    }

    /// Returns the first result that `pick` gives for an attribute.
    pub fn find<'a, T>(&'a self, pick: impl FnMut(&'a Attribute) -> Option<T>) -> Option<T> {
        self.attributes.iter().find_map(pick)
    }
}
