//! The plainest punch there is: two programs with ordinary sockets dial each other's mapped address.
//!
//! It is what traversal code is measured against, and how the lab itself is judged: no knowledge of NATs, no
//! clock but the one both programs share.

mod simulated;

pub use simulated::{SimulatedCrossingError, cross_simulated};

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::error::LabError;
use crate::host::Host;
use crate::lab::Lab;

/// The port of the server that tells clients what they look like.
pub const SOURCE_PORT: u16 = 3_000;
/// From where a dials; the other one dials from the next port.
const LOCAL_PORT: u16 = 40_001;
/// How long a step on the way to the punch may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for both programs to get ready.
const RUN_UP: Duration = Duration::from_millis(50);

/// How a dial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// With a connection.
    Connected,
    /// By a RST against our SYN.
    Refused,
    /// By a RST after the other side's SYN had come.
    Reset,
    /// By an ICMP error.
    Unreachable,
    /// Not before we lost patience.
    Silent,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
        })
    }
}

impl Serialize for Ended {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One side of a crossing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Dialled {
    /// How its dial ended.
    pub ended: Ended,
    /// How long after the agreed moment that was.
    pub after: Duration,
}

/// What became of a punch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Crossing {
    /// The side that dials at the agreed moment.
    pub first: Dialled,
    /// The side that dials later by the skew.
    pub second: Dialled,
}

impl Crossing {
    /// How long it took until both had a connection, if both had.
    pub fn met_after(&self) -> Option<Duration> {
        let both = [self.first, self.second];
        both.iter()
            .all(|side| side.ended == Ended::Connected)
            .then(|| self.first.after.max(self.second.after))
    }
}

/// A server that tells each client what its address looks like from here, and keeps the connection until the
/// client ends it: a mapping may go with it. Serves until the lab ends.
///
/// # Errors
/// When the port is taken.
pub fn serve_sources(host: &Host) -> Result<(), LabError> {
    let ips: Vec<IpAddr> = host.addresses().to_vec();
    let listeners = host.enter(|| {
        let listen = |ip: IpAddr| TcpListener::bind((ip, SOURCE_PORT));
        ips.into_iter().map(listen).collect::<io::Result<Vec<_>>>()
    })?;
    for listener in listeners.map_err(LabError::system("listening for those who ask for their address"))? {
        host.spawn(move || {
            let mut kept = Vec::new();
            while let Ok((mut stream, from)) = listener.accept() {
                // A client that is gone again does not want to know.
                let _ = writeln!(stream, "{from}");
                kept.push(stream);
            }
        })?;
    }
    Ok(())
}

/// Asks a server made by [`serve_sources`] for the mapped address of a local port. The connection is to be
/// kept as long as the mapping is needed. To be called inside a host.
///
/// # Errors
/// When the server cannot be reached or talks nonsense.
pub fn ask_source(local: u16, server: IpAddr) -> io::Result<(SocketAddr, TcpStream)> {
    let socket = bound(local, server)?;
    socket.connect_timeout(&SockAddr::from(SocketAddr::new(server, SOURCE_PORT)), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 64 && stream.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    let text = String::from_utf8_lossy(&line).into_owned();
    let mapped = text
        .parse()
        .map_err(|_| io::Error::other(format!("`{text}` is no address")))?;
    Ok((mapped, stream))
}

/// A TCP socket on a local port that others may share.
fn bound(local: u16, towards: IpAddr) -> io::Result<Socket> {
    let (domain, any): (_, IpAddr) = match towards {
        IpAddr::V4(_) => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(any, local)))?;
    Ok(socket)
}

/// Dials `to` from a local port at `at`. To be called inside a host.
fn dial(
    local: u16,
    to: SocketAddr,
    at: Instant,
    start: Instant,
    patience: Duration,
) -> io::Result<(Dialled, Option<TcpStream>)> {
    let socket = bound(local, to.ip())?;
    thread::sleep(at.saturating_duration_since(Instant::now()));
    let outcome = socket.connect_timeout(&SockAddr::from(to), patience);
    let after = start.elapsed();
    let ended = match &outcome {
        Ok(()) => Ended::Connected,
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Ended::Refused,
            io::ErrorKind::ConnectionReset => Ended::Reset,
            io::ErrorKind::TimedOut => Ended::Silent,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Ended::Unreachable,
            // Linux: an ICMP 3/13 is "permission denied" over IPv6, "no route" over IPv4.
            io::ErrorKind::PermissionDenied => Ended::Unreachable,
            _ => return Err(io::Error::new(error.kind(), format!("dialling {to}: {error}"))),
        },
    };
    let stream = outcome.is_ok().then(|| TcpStream::from(socket));
    Ok((Dialled { ended, after }, stream))
}

/// Lets hosts `a` and `b` learn their mapped addresses from host `s`, then dial each other, `b` later by
/// `skew`. Each gives up after `patience`.
///
/// # Errors
/// When the way to the punch fails, or both are connected but not with each other.
pub fn cross(lab: &Lab, skew: Duration, patience: Duration) -> Result<Crossing, LabError> {
    let server = lab.host("s")?;
    serve_sources(server)?;
    let mut sides = Vec::new();
    for (name, local) in [("a", LOCAL_PORT), ("b", LOCAL_PORT + 1)] {
        let host = lab.host(name)?;
        let is_v4 = host.address().is_ipv4();
        let towards = server
            .addresses()
            .iter()
            .copied()
            .find(|ip| ip.is_ipv4() == is_v4);
        let towards =
            towards.ok_or_else(|| LabError::Unknown(format!("address of `s` for host `{name}`")))?;
        let asked = host.enter(|| ask_source(local, towards))?;
        let (mapped, kept) = asked.map_err(LabError::system(format!(
            "asking for the mapped address of `{name}`"
        )))?;
        sides.push((host, local, mapped, kept));
    }
    let [(a, from_a, mapped_a, _kept_a), (b, from_b, mapped_b, _kept_b)] = sides.as_slice() else {
        unreachable!("two sides were pushed");
    };
    let start = Instant::now() + RUN_UP;
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| a.enter(|| dial(*from_a, *mapped_b, start, start, patience)));
        let second = scope.spawn(|| b.enter(|| dial(*from_b, *mapped_a, start + skew, start, patience)));
        (first.join(), second.join())
    });
    let step = |name| LabError::system(format!("the punch of `{name}`"));
    let passed_on = |panic| std::panic::resume_unwind(panic);
    let (first, stream_a) = first.unwrap_or_else(passed_on)?.map_err(step("a"))?;
    let (second, stream_b) = second.unwrap_or_else(passed_on)?.map_err(step("b"))?;
    if let (Some(stream_a), Some(stream_b)) = (stream_a, stream_b) {
        greet(stream_a, stream_b).map_err(LabError::system("talking through the punched connection"))?;
    }
    Ok(Crossing { first, second })
}

/// What one end of a connection says must come out of the other.
fn greet(a: TcpStream, b: TcpStream) -> io::Result<()> {
    for (mut from, mut to) in [(&a, &b), (&b, &a)] {
        to.set_read_timeout(Some(PATIENCE))?;
        from.write_all(b"hello")?;
        let mut heard = [0; 5];
        to.read_exact(&mut heard)?;
        if heard != *b"hello" {
            return Err(io::Error::other("the two connections are not one"));
        }
    }
    Ok(())
}
