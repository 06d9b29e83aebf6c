//! QUIC by quinn-proto.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, ServerConfig,
    StreamId, TransportConfig, VarInt,
};
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::{CHUNK, DATAGRAM, WINDOW, Wire};

/// The datagrams written at once, as for one system call with segmentation offload.
const BATCH: usize = 10;

struct End {
    address: SocketAddr,
    peer: SocketAddr,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
}

impl End {
    fn hear(&mut self, datagram: &[u8], now: Instant) {
        let bytes = BytesMut::from(datagram);
        let mut answer = Vec::new();
        match self.endpoint.handle(now, self.peer, None, None, bytes, &mut answer) {
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                let (_, connection) = self.connection.as_mut().expect("there is one");
                connection.handle_event(event);
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.endpoint.accept(incoming, now, &mut answer, None);
                self.connection = Some(accepted.unwrap_or_else(|error| panic!("{}", error.cause)));
            }
            Some(DatagramEvent::Response(_)) | None => {}
        }
    }

    /// Passes events between the connection and its endpoint, and sends what is due, in segments.
    fn drain(&mut self, now: Instant, mut send: impl FnMut(&[u8]), buffer: &mut Vec<u8>) {
        let Some((handle, connection)) = &mut self.connection else { return };
        loop {
            buffer.clear();
            let Some(transmit) = connection.poll_transmit(now, BATCH, buffer) else { break };
            assert_eq!(transmit.destination, self.peer, "from {}", self.address);
            buffer[..transmit.size]
                .chunks(transmit.segment_size.unwrap_or(transmit.size))
                .for_each(&mut send);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while connection.poll().is_some() {}
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let window = VarInt::from_u32(WINDOW as u32);
    config.stream_receive_window(window).send_window(2 * WINDOW as u64);
    config.initial_mtu(DATAGRAM as u16).mtu_discovery_config(None);
    Arc::new(config)
}

fn ends(now: Instant) -> [End; 2] {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut server =
        ServerConfig::with_single_cert(vec![made.cert.der().clone()], key.into()).expect("a key that fits");
    server.transport_config(transport());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots)).expect("roots");
    client.transport_config(transport());
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let endpoint = |server| Endpoint::new(Arc::new(EndpointConfig::default()), server, true, None);
    let mut caller = endpoint(None);
    let connection = caller.connect(now, client, address(2), "localhost").expect("a call");
    let ours = End { address: address(1), peer: address(2), endpoint: caller, connection: Some(connection) };
    let called = endpoint(Some(Arc::new(server)));
    let theirs = End { address: address(2), peer: address(1), endpoint: called, connection: None };
    [ours, theirs]
}

/// Carries this number of bytes from one end to the other.
pub(crate) fn carry(bytes: usize) {
    let mut wire = Wire::new();
    let mut ends = ends(wire.now);
    let chunk = vec![0x5a; CHUNK];
    let (mut written, mut given) = (0, 0);
    let mut stream: [Option<StreamId>; 2] = [None; 2];
    let mut buffer = Vec::new();
    while given < bytes {
        for (me, end) in ends.iter_mut().enumerate() {
            while let Some(datagram) = wire.receive(me) {
                end.hear(&datagram, wire.now);
                wire.spare.push(datagram);
            }
            if let Some((_, connection)) = &mut end.connection {
                connection.handle_timeout(wire.now);
            }
        }
        if let Some((_, connection)) = ends[0].connection.as_mut().filter(|(_, one)| !one.is_handshaking()) {
            stream[0] = stream[0].or_else(|| connection.streams().open(Dir::Uni));
            while let Some(id) = stream[0].filter(|_| written < bytes) {
                let left = (bytes - written).min(chunk.len());
                match connection.send_stream(id).write(&chunk[..left]) {
                    Ok(count) => written += count,
                    Err(_) => break,
                }
            }
        }
        if let Some((_, connection)) = &mut ends[1].connection {
            stream[1] = stream[1].or_else(|| connection.streams().accept(Dir::Uni));
            if let Some(id) = stream[1] {
                let mut receiving = connection.recv_stream(id);
                let mut chunks = receiving.read(true).expect("readable");
                while let Ok(Some(chunk)) = chunks.next(CHUNK) {
                    assert_eq!(chunk.bytes[0], 0x5a);
                    given += chunk.bytes.len();
                }
                let _ = chunks.finalize();
            }
        }
        for (me, end) in ends.iter_mut().enumerate() {
            let now = wire.now;
            end.drain(now, |datagram| wire.send(1 - me, datagram), &mut buffer);
        }
        if given < bytes {
            wire.pass(
                ends.each_mut().map(|end| end.connection.as_mut().and_then(|(_, one)| one.poll_timeout())),
            );
        }
    }
}
