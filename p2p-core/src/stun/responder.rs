//! The server's side of STUN: the answer to each request, and the address it is sent from.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Transport;
use super::message::{Attribute, Class, Message, Method};
use super::wire::{Ending, HEADER, Header, Parsed, WireError};
use crate::Reach;
use crate::stun::dial_back::SynOutcome;

const CHANGE_REQUEST: u16 = 0x0003;
const RESPONSE_PORT: u16 = 0x0027;

/// The bounds of the wait for a dial back: enough for a round trip, and too short for anybody to keep a server busy.
const SHORTEST_DIAL: Duration = Duration::from_millis(50);
const LONGEST_DIAL: Duration = Duration::from_secs(3);

/// The most numbers that are listed in a 420.
const MOST_UNKNOWN: usize = 16;

/// IP and UDP headers, in bytes, without options.
const HEADERS_V4: usize = 20 + 8;
const HEADERS_V6: usize = 40 + 8;

/// A STUN server without sockets. It follows RFC 8489, with a second address also RFC 5780, and RFC 3489 for clients
/// that send no magic cookie. It knows Binding only, keeps no state and is cheap to copy.
///
/// # Amplification
///
/// Anybody can put anybody's address on a datagram, so an answer must not be much larger than its request:
///
/// | with IP and UDP headers | IPv4 | IPv6 |
/// |---|---|---|
/// | one address (RFC 8489) | 60 of 48 bytes: 1.3 | 92 of 68: 1.4 |
/// | with an alternate (RFC 5780, section 6.1 demands four addresses) | 96 of 48: 2.0 | 164 of 68: 2.4 |
///
/// Without an alternate every answer stays within [`most_unproven_answer`]: error responses lose their phrase for it, and
/// answers over IPv6 to clients that know RFC 3489 only, which has no IPv6, the SOURCE-ADDRESS. PADDING is answered with as
/// much padding as came and not, as RFC 5780 has it, with the size of the link. SOFTWARE is never sent.
#[derive(Clone, Copy, Debug)]
pub struct Responder {
    primary: SocketAddr,
    alternate: Option<SocketAddr>,
    is_response_port_allowed: bool,
    dials_back: bool,
}

/// An answer to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The bytes of the message.
    pub bytes: Vec<u8>,
    /// The address of the server to send from. Over TCP it is always the one the request came to.
    pub from: SocketAddr,
    /// The address to send to.
    pub to: SocketAddr,
    /// True for an error response.
    pub is_error: bool,
}

/// A reason why a message gets no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// The message is not STUN, or too broken to be answered.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The message is an answer or an indication, or its method is not Binding.
    #[error("not a Binding request")]
    NotARequest,
    /// The message came from an address that cannot be answered.
    #[error("the sender's address cannot be answered")]
    Source,
}

/// The largest answer, in bytes of UDP payload, to a request of `length` bytes that somebody may have sent in
/// `client`'s name: with all headers, one and a half times as much. Then nobody gains by having us answer a victim.
pub fn most_unproven_answer(client: SocketAddr, length: usize) -> usize {
    let headers = if client.ip().to_canonical().is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
    (length + headers) * 3 / 2 - headers
}

impl Responder {
    /// Returns a server on one address. RESPONSE-ORIGIN is not sent when `primary` is unspecified, nor without an
    /// alternate.
    pub fn new(primary: SocketAddr) -> Self {
        Self { primary, alternate: None, is_response_port_allowed: false, dials_back: false }
    }

    /// Returns the same server with a second address **and** a second port, so it must be able to send from all four
    /// combinations. `alternate` is ignored unless address and port both differ and the family is the same.
    pub fn with_alternate(mut self, alternate: SocketAddr) -> Self {
        let differs = alternate.ip() != self.primary.ip()
            && alternate.port() != self.primary.port()
            && alternate.is_ipv4() == self.primary.is_ipv4();
        if differs {
            self.alternate = Some(alternate);
        }
        self
    }

    /// Answers to the port that a request names in RESPONSE-PORT. **Off by default**, because a stranger could have
    /// packets sent to a port of a host that never spoke to us. They would pass the firewall that lets answers
    /// through. It is useful in a laboratory.
    pub fn with_response_port(mut self) -> Self {
        self.is_response_port_allowed = true;
        self
    }

    /// Offers, over TCP, to dial back. It dials only the address from which the request's own connection comes, so
    /// nobody who has not come himself. The owner of the sockets asks [`dial_wish`](Self::dial_wish) of each request,
    /// dials, and answers with [`respond_dialled`](Self::respond_dialled).
    pub fn with_dialling(mut self) -> Self {
        self.dials_back = true;
        self
    }

    /// Returns the time to wait for the outcome of dialling back, when a request over TCP wants that.
    pub fn dial_wish(&self, bytes: &[u8]) -> Option<Duration> {
        let header = Header::decode(bytes).ok()?;
        let is_binding = header.class == Class::Request && header.method == Method::BINDING;
        let parsed = Parsed::decode(bytes, Transport::Tcp).ok().filter(|_| self.dials_back && is_binding)?;
        parsed.message.dial_back().map(|wish| wish.clamp(SHORTEST_DIAL, LONGEST_DIAL))
    }

    /// Returns the IP address to dial from that the client does not know, when the request came to `destination`.
    pub fn other_ip(&self, destination: SocketAddr) -> Option<IpAddr> {
        self.change(destination, Wish { ip: true, ..Wish::default() }).map(|other| other.ip())
    }

    /// Returns the addresses that the server answers on: one, or four.
    pub fn sockets(&self) -> Vec<SocketAddr> {
        let Some(alternate) = self.alternate else {
            return vec![self.primary];
        };
        vec![
            self.primary,
            SocketAddr::new(self.primary.ip(), alternate.port()),
            SocketAddr::new(alternate.ip(), self.primary.port()),
            alternate,
        ]
    }

    /// Answers one message that came from `source` to the server's address `destination`.
    ///
    /// # Errors
    /// [`Silence`], the reason why there is no answer, for counters.
    pub fn respond(
        &self,
        bytes: &[u8],
        source: SocketAddr,
        destination: SocketAddr,
        transport: Transport,
    ) -> Result<Reply, Silence> {
        self.respond_with(bytes, source, destination, transport, None)
    }

    /// Answers one message over TCP after dialling back, with the outcomes from near and from far.
    ///
    /// # Errors
    /// As [`respond`](Self::respond).
    pub fn respond_dialled(
        &self,
        bytes: &[u8],
        source: SocketAddr,
        destination: SocketAddr,
        outcomes: (SynOutcome, SynOutcome),
    ) -> Result<Reply, Silence> {
        self.respond_with(bytes, source, destination, Transport::Tcp, Some(outcomes))
    }

    fn respond_with(
        &self,
        bytes: &[u8],
        source: SocketAddr,
        destination: SocketAddr,
        transport: Transport,
        dialled: Option<(SynOutcome, SynOutcome)>,
    ) -> Result<Reply, Silence> {
        let header = Header::decode(bytes)?;
        if header.class != Class::Request || header.method != Method::BINDING {
            return Err(Silence::NotARequest);
        }
        if source.port() == 0 || Reach::of(source.ip()) == Reach::Nowhere {
            return Err(Silence::Source);
        }
        let parsed = match Parsed::decode(bytes, transport) {
            Ok(parsed) => parsed,
            Err(WireError::Malformed { .. }) => {
                return self.refuse(&header, 400, Vec::new(), false, (source, destination), transport);
            }
            Err(error) => return Err(error.into()),
        };
        let wish = Wish::of(&parsed.message);
        let sign = parsed.is_fingerprinted;
        let mut unknown = parsed.unknown;
        if wish.changes() && (transport == Transport::Tcp || self.change(destination, wish).is_none()) {
            unknown.push(CHANGE_REQUEST);
        }
        if wish.port.is_some() && !(self.is_response_port_allowed && transport == Transport::Udp) {
            unknown.push(RESPONSE_PORT);
        }
        if !unknown.is_empty() {
            return self.refuse(&header, 420, unknown, sign, (source, destination), transport);
        }
        // RFC 5780, section 6.1: the two attributes together would make the best amplifier.
        if wish.padding.is_some() && wish.port.is_some() || wish.port == Some(0) {
            return self.refuse(&header, 400, Vec::new(), sign, (source, destination), transport);
        }
        let from = self.change(destination, wish).unwrap_or(destination);
        let to = SocketAddr::new(source.ip(), wish.port.unwrap_or(source.port()));
        let mut message = self.success(&header, source, destination, from, wish.padding);
        if self.dials_back && transport == Transport::Tcp && !header.transaction.is_classic() {
            message = message.with(Attribute::DialBack(LONGEST_DIAL.as_millis() as u16));
        }
        if let Some((near, far)) = dialled {
            message = message.with(Attribute::DialledBack { near, far });
        }
        let bytes = message.encode_with(transport, Ending { signature: None, fingerprint: sign })?;
        Ok(Reply { bytes, from, to: with_scope(to, source), is_error: false })
    }

    fn success(
        &self,
        header: &Header,
        source: SocketAddr,
        destination: SocketAddr,
        from: SocketAddr,
        padding: Option<u16>,
    ) -> Message {
        let seen = SocketAddr::new(source.ip().to_canonical(), source.port());
        let mut message = Message::new(Class::Success, header.method, header.transaction);
        let other = self.change(destination, Wish { ip: true, other_port: true, ..Wish::default() });
        if header.transaction.is_classic() {
            message = message.with(Attribute::MappedAddress(seen));
            if seen.is_ipv4() || other.is_some() {
                message = message.with(Attribute::SourceAddress(from));
            }
            if let Some(other) = other {
                message = message.with(Attribute::ChangedAddress(other));
            }
        } else {
            message = message.with(Attribute::XorMappedAddress(seen));
            if let Some(other) = other {
                message = message
                    .with(Attribute::MappedAddress(seen))
                    .with(Attribute::ResponseOrigin(from))
                    .with(Attribute::OtherAddress(other));
            }
        }
        match padding {
            Some(length) => message.with(Attribute::Padding(length)),
            None => message,
        }
    }

    fn refuse(
        &self,
        header: &Header,
        code: u16,
        mut unknown: Vec<u16>,
        fingerprint: bool,
        (source, destination): (SocketAddr, SocketAddr),
        transport: Transport,
    ) -> Result<Reply, Silence> {
        unknown.truncate(MOST_UNKNOWN);
        let encode = |reason: &str| {
            let mut message = Message::new(Class::Error, header.method, header.transaction)
                .with(Attribute::ErrorCode { code, reason: reason.into() });
            if !unknown.is_empty() {
                message = message.with(Attribute::UnknownAttributes(unknown.clone()));
            }
            message.encode_with(transport, Ending { signature: None, fingerprint })
        };
        let mut bytes = encode(if code == 420 { "Unknown Attribute" } else { "Bad Request" })?;
        let request = HEADER + usize::from(header.length);
        if transport == Transport::Udp && bytes.len() > most_unproven_answer(source, request) {
            bytes = encode("")?;
        }
        Ok(Reply { bytes, from: destination, to: source, is_error: true })
    }

    /// Returns the address that differs from `destination` as wished, or `None` when that is impossible.
    fn change(&self, destination: SocketAddr, wish: Wish) -> Option<SocketAddr> {
        if !wish.changes() {
            return Some(destination);
        }
        let alternate = self.alternate?;
        let swap_ip = |ip: IpAddr| [alternate.ip(), self.primary.ip()][usize::from(ip == alternate.ip())];
        let swap_port =
            |port: u16| [alternate.port(), self.primary.port()][usize::from(port == alternate.port())];
        self.sockets().contains(&destination).then(|| {
            let (ip, port) = (destination.ip(), destination.port());
            SocketAddr::new(
                if wish.ip { swap_ip(ip) } else { ip },
                if wish.other_port { swap_port(port) } else { port },
            )
        })
    }
}

/// The wishes of a request about its answer.
#[derive(Clone, Copy, Default)]
struct Wish {
    ip: bool,
    other_port: bool,
    port: Option<u16>,
    padding: Option<u16>,
}

impl Wish {
    /// Reads the wishes of a request, of which the first of each kind counts.
    fn of(message: &Message) -> Self {
        let mut wish = Self::default();
        let change = message.find(|attribute| match attribute {
            Attribute::ChangeRequest { ip, port } => Some((*ip, *port)),
            _ => None,
        });
        (wish.ip, wish.other_port) = change.unwrap_or_default();
        wish.port = message.find(|attribute| match attribute {
            Attribute::ResponsePort(port) => Some(*port),
            _ => None,
        });
        wish.padding = message.find(|attribute| match attribute {
            Attribute::Padding(length) => Some(*length),
            _ => None,
        });
        wish
    }

    fn changes(self) -> bool {
        self.ip || self.other_port
    }
}

/// Returns `to` with the scope of `like`, because a link-local address is of no use without its scope.
fn with_scope(mut to: SocketAddr, like: SocketAddr) -> SocketAddr {
    if let (SocketAddr::V6(to), SocketAddr::V6(like)) = (&mut to, like) {
        to.set_scope_id(like.scope_id());
    }
    to
}

#[cfg(test)]
#[path = "responder_tests.rs"]
mod tests;
