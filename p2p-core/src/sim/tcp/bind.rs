//! The rules by which sockets get and share ports.

use std::net::SocketAddr;

use super::{Role, Socket, SocketError, TcpSocket, TcpStack};

/// The ports that Linux gives to sockets that name none: `ip_local_port_range`.
const EPHEMERAL: std::ops::Range<u16> = 32_768..61_000;

/// Tells whether two sockets on one port conflict by their addresses.
fn overlaps(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    same_family && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

impl TcpStack {
    /// Binds a socket and returns its address; port 0 stands for any.
    ///
    /// # Errors
    /// [`SocketError::AddressInUse`] by the rules of Linux. Two sockets share a port when both have `SO_REUSEPORT`,
    /// or when both have `SO_REUSEADDR` and the older one does not listen.
    pub fn bind(&mut self, id: TcpSocket, local: SocketAddr) -> Result<SocketAddr, SocketError> {
        let socket = self.sockets.get(&id).ok_or(SocketError::NoSuchSocket)?;
        if socket.bound.is_some() {
            return Err(SocketError::AlreadyUsed);
        }
        let local = if local.port() == 0 {
            let free = |stack: &Self, port| !stack.is_port_used(port);
            let port = self.ephemeral(1, free).ok_or(SocketError::NoPort)?;
            SocketAddr::new(local.ip(), port)
        } else if self.is_in_use(id, local) {
            return Err(SocketError::AddressInUse);
        } else {
            local
        };
        self.set_bound(id, local);
        Ok(local)
    }

    pub(super) fn set_bound(&mut self, id: TcpSocket, local: SocketAddr) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            if let Some(old) = socket.bound.replace(local) {
                self.by_port.remove(&(old.port(), id));
            }
            self.by_port.insert((local.port(), id));
        }
    }

    pub(super) fn on_port(&self, port: u16) -> impl Iterator<Item = (TcpSocket, &Socket)> {
        let all = (port, TcpSocket(0))..=(port, TcpSocket(u32::MAX));
        self.by_port.range(all).filter_map(|(_, id)| Some((*id, self.sockets.get(id)?)))
    }

    pub(super) fn is_port_used(&self, port: u16) -> bool {
        self.on_port(port).next().is_some()
    }

    pub(super) fn is_in_use(&self, id: TcpSocket, local: SocketAddr) -> bool {
        let Some(options) = self.sockets.get(&id).map(|socket| socket.options) else {
            return true;
        };
        self.on_port(local.port()).any(|(other_id, other)| {
            let share_port = options.reuse_port && other.options.reuse_port;
            let listens = matches!(other.role, Role::Listener { .. });
            let share_address = options.reuse_address && other.options.reuse_address && !listens;
            let collides = other.bound.is_some_and(|bound| overlaps(bound, local));
            other_id != id && collides && !share_port && !share_address
        })
    }

    /// Returns a free ephemeral port. Linux prefers odd ones for `bind` and even ones for `connect`.
    pub(super) fn ephemeral(&mut self, parity: u16, free: impl Fn(&Self, u16) -> bool) -> Option<u16> {
        let half = (EPHEMERAL.end - EPHEMERAL.start) / 2;
        let start = self.seed.below(u64::from(half)) as u16;
        let of_parity =
            |parity| (0..half).map(move |step| EPHEMERAL.start + 2 * ((start + step) % half) + parity);
        of_parity(parity).chain(of_parity(1 - parity)).find(|port| free(self, *port))
    }
}
