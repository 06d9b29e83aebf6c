//! A relayed stream and the kernel's TCP, run one after the other over the same bad cable.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, TcpCongestion};
use nix::sys::time::TimeSpec;
use p2p_core::sim::link::LinkConfig;
use p2p_core::transport::{Read, Stream, Token, Tokens, TransportConfig};
use p2p_core::{Machine, Seed};
use serde::Serialize;

use crate::error::LabError;
use crate::lab::Lab;
use crate::scenario::Scenario;

const PORT: u16 = 5_001;
/// The bytes that a socket holds, so that a program that is late loses none: such losses are not to be measured.
const RECEIVE_BUFFER: usize = 16 << 20;
/// The most datagrams taken from the socket before the stream is looked at.
const BATCH: usize = 64;

/// The transport that carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier<'a> {
    /// Our own [`Stream`] over UDP.
    Ours,
    /// The kernel's TCP with this congestion control.
    Kernel(&'a str),
}

/// The bytes that came through one cable, and their time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Carried {
    /// The bytes that were read at the other end.
    pub bytes: usize,
    /// The time from the first byte sent to the last byte read, in seconds.
    pub seconds: f64,
}

impl Carried {
    /// Returns the goodput in megabits a second.
    pub fn mbit_per_s(&self) -> f64 {
        self.bytes as f64 * 8e-6 / self.seconds
    }
}

/// Sends `bytes` from one host to another over `cable`, which is the same in both directions, for `patience` at most.
///
/// # Errors
/// [`LabError`] when the lab cannot be made, its sockets fail, or the bytes arrive changed.
pub fn carry(
    carrier: Carrier<'_>,
    cable: LinkConfig,
    bytes: usize,
    patience: Duration,
) -> Result<Carried, LabError> {
    let mut lab = Lab::new(&Scenario::short("homes:open+open?rtt=0")?)?;
    lab.set_link("a", 0, cable)?;
    lab.set_link("b", 0, LinkConfig::default())?;
    match carrier {
        Carrier::Ours => ours(&lab, bytes, patience),
        Carrier::Kernel(congestion) => kernel(&lab, congestion, bytes, patience),
    }
}

fn step() -> impl FnOnce(io::Error) -> LabError {
    LabError::system("carrying bytes over a cable")
}

fn data(bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    Seed::from_u64(5).fill(&mut data);
    data
}

fn kernel(lab: &Lab, congestion: &str, bytes: usize, patience: Duration) -> Result<Carried, LabError> {
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let listener = b.enter(|| TcpListener::bind(("0.0.0.0", PORT)))?.map_err(step())?;
    let to = SocketAddr::new(b.address(), PORT);
    let congestion = congestion.to_owned();
    let start = Instant::now();
    let sender = a.spawn(move || -> io::Result<()> {
        let mut stream = TcpStream::connect(to)?;
        setsockopt(&stream, TcpCongestion, &congestion.into())?;
        stream.set_write_timeout(Some(patience))?;
        match stream.write_all(&data(bytes)) {
            // The receiver has had enough, or nothing moves any more. The bytes that have come count.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    })?;
    let (mut stream, _) = listener.accept().map_err(step())?;
    let (mut read, mut last) = (0, start);
    let mut out = vec![0; 256 * 1024];
    while start.elapsed() < patience {
        let left = patience.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).map_err(step())?;
        match stream.read(&mut out) {
            Ok(0) => break,
            Ok(count) => (read, last) = (read + count, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(step()(error)),
        }
    }
    drop(stream);
    sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(step())?;
    Ok(Carried { bytes: read, seconds: (last - start).as_secs_f64() })
}

/// One end of a stream, with its socket.
struct End {
    stream: Stream,
    socket: UdpSocket,
}

impl End {
    fn new(socket: UdpSocket, me: usize) -> Self {
        let token = |whose: usize| Token([whose as u8; 8]);
        let tokens = Tokens { ours: token(me), theirs: token(1 - me) };
        let stream = Stream::new(TransportConfig::new(tokens), Seed::from_u64(me as u64), Instant::now());
        Self { stream, socket }
    }

    /// Sends what is due, waits for a datagram or until `until`, and takes the datagrams that have come.
    fn turn(&mut self, until: Instant) -> io::Result<()> {
        let mut packet = [0; 2_048];
        while let Some(length) = self.stream.poll_transmit(&mut packet) {
            match self.socket.send(&packet[..length]) {
                // A full buffer loses the datagram, as a cable may.
                Err(error)
                    if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) =>
                {
                    return Err(error);
                }
                _ => {}
            }
        }
        while self.stream.poll_event().is_some() {}
        let wake = self.stream.deadline().map_or(until, |deadline| deadline.at.min(until));
        let wait = wake.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, Some(TimeSpec::from(wait)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        for _ in 0..BATCH {
            match self.socket.recv(&mut packet) {
                Ok(length) => self.stream.handle_datagram(&packet[..length], Instant::now()),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.stream.handle_timeout(Instant::now());
        Ok(())
    }
}

fn ours(lab: &Lab, bytes: usize, patience: Duration) -> Result<Carried, LabError> {
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let open = |from: &crate::host::Host, to: &crate::host::Host| -> Result<UdpSocket, LabError> {
        let to = SocketAddr::new(to.address(), PORT);
        let socket = from.enter(|| -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
            setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)?;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        socket.map_err(step())
    };
    let (here, there) = (open(a, b)?, open(b, a)?);
    let start = Instant::now();
    let end = start + patience;
    let sender = a.spawn(move || -> io::Result<()> {
        let (mut end_a, data) = (End::new(here, 0), data(bytes));
        let mut written = 0;
        while !end_a.stream.is_delivered() || written < data.len() {
            if written < data.len() {
                written += end_a.stream.write(&data[written..], Instant::now()).map_err(io::Error::other)?;
            } else {
                end_a.stream.finish(Instant::now()).map_err(io::Error::other)?;
            }
            if Instant::now() > end {
                return Ok(());
            }
            end_a.turn(end)?;
        }
        Ok(())
    })?;
    let receiver = b.spawn(move || -> io::Result<Carried> {
        let (mut end_b, data) = (End::new(there, 1), data(bytes));
        let (mut read, mut last) = (0, start);
        let mut out = vec![0; 256 * 1024];
        while Instant::now() < end {
            end_b.turn(end)?;
            loop {
                match end_b.stream.read(&mut out, Instant::now()).map_err(io::Error::other)? {
                    Read::Bytes(count) => {
                        if out[..count] != data[read..read + count] {
                            return Err(io::Error::other(format!("not what was sent, after {read} bytes")));
                        }
                        (read, last) = (read + count, Instant::now());
                    }
                    Read::Nothing => break,
                    Read::End => {
                        // The last ack is on the way.
                        end_b.turn(Instant::now())?;
                        return Ok(Carried { bytes: read, seconds: (last - start).as_secs_f64() });
                    }
                }
            }
        }
        Ok(Carried { bytes: read, seconds: (last - start).as_secs_f64() })
    })?;
    let carried = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(step())?;
    // The sender's time after that does not count, as a lost last ack may keep it for a while.
    drop(sender);
    Ok(carried)
}
