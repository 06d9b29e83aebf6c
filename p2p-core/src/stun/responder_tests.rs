use proptest::prelude::*;

use super::*;
use crate::Seed;
use crate::stun::TransactionId;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn primary() -> SocketAddr {
    address("203.0.113.1:3478")
}

fn other() -> SocketAddr {
    address("203.0.113.2:3479")
}

fn client() -> SocketAddr {
    address("198.51.100.7:4242")
}

fn two() -> Responder {
    Responder::new(primary()).with_alternate(other())
}

fn binding() -> Message {
    Message::binding(&mut Seed::from_u64(1))
}

fn ask(responder: Responder, message: &Message, transport: Transport) -> (Message, SocketAddr, SocketAddr) {
    let bytes = message.encode(transport).unwrap();
    let reply = responder.respond(&bytes, client(), primary(), transport).unwrap();
    let parsed = Parsed::decode(&reply.bytes, transport).unwrap();
    assert_eq!(parsed.message.transaction, message.transaction);
    assert_eq!(parsed.message.class == Class::Error, reply.is_error);
    (parsed.message, reply.from, reply.to)
}

#[test]
fn a_plain_server_says_one_thing() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let (message, from, to) = ask(Responder::new(primary()), &binding(), transport);
        assert_eq!(message.attributes, [Attribute::XorMappedAddress(client())]);
        assert_eq!((from, to), (primary(), client()));
    }
}

#[test]
fn with_an_alternate_all_four_addresses_and_all_four_ways() {
    for (ip, port, expected) in [
        (false, false, "203.0.113.1:3478"),
        (true, false, "203.0.113.2:3478"),
        (false, true, "203.0.113.1:3479"),
        (true, true, "203.0.113.2:3479"),
    ] {
        let request = binding().with(Attribute::ChangeRequest { ip, port });
        let (message, from, to) = ask(two(), &request, Transport::Udp);
        assert_eq!((from, to), (address(expected), client()));
        assert_eq!(
            message.attributes,
            [
                Attribute::XorMappedAddress(client()),
                Attribute::MappedAddress(client()),
                Attribute::ResponseOrigin(from),
                Attribute::OtherAddress(other()),
            ]
        );
    }
}

#[test]
fn from_any_of_its_addresses_the_other_is_the_opposite() {
    let bytes = binding().encode(Transport::Udp).unwrap();
    let sockets = two().sockets();
    assert_eq!(sockets.len(), 4);
    for (socket, opposite) in sockets.iter().zip(sockets.iter().rev()) {
        let reply = two().respond(&bytes, client(), *socket, Transport::Udp).unwrap();
        let parsed = Parsed::decode(&reply.bytes, Transport::Udp).unwrap();
        assert_eq!(parsed.message.other_address(), Some(*opposite));
        assert_eq!(reply.from, *socket);
    }
}

#[test]
fn a_client_of_rfc_3489_gets_its_own_words() {
    let mut request = binding();
    request.transaction = TransactionId::from_bytes([9; 16]);
    let (message, ..) = ask(two(), &request, Transport::Udp);
    assert_eq!(
        message.attributes,
        [
            Attribute::MappedAddress(client()),
            Attribute::SourceAddress(primary()),
            Attribute::ChangedAddress(other()),
        ]
    );
}

#[test]
fn what_it_cannot_do_is_refused_by_number() {
    let change = Attribute::ChangeRequest { ip: true, port: false };
    for (responder, attribute, transport, number) in [
        (Responder::new(primary()), change.clone(), Transport::Udp, 0x0003),
        (two(), change, Transport::Tcp, 0x0003),
        (two(), Attribute::ResponsePort(53), Transport::Udp, 0x0027),
    ] {
        let (message, _, to) = ask(responder, &binding().with(attribute), transport);
        assert_eq!(message.error_code().map(|(code, _)| code), Some(420));
        assert_eq!(message.attributes[1], Attribute::UnknownAttributes(vec![number]));
        assert_eq!(to, client(), "and the refusal goes to who asked");
    }
}

#[test]
fn response_port_only_when_allowed_and_never_with_padding() {
    let generous = two().with_response_port();
    let wish = binding().with(Attribute::ResponsePort(53));
    assert_eq!(ask(generous, &wish, Transport::Udp).2, address("198.51.100.7:53"));
    let both = wish.with(Attribute::Padding(100));
    assert_eq!(ask(generous, &both, Transport::Udp).0.error_code().unwrap().0, 400);
    let zero = binding().with(Attribute::ResponsePort(0));
    assert_eq!(ask(generous, &zero, Transport::Udp).0.error_code().unwrap().0, 400);
}

#[test]
fn nonsense_gets_silence_or_a_400() {
    let good = binding().encode(Transport::Udp).unwrap();
    let respond =
        |bytes: &[u8], source: &str| two().respond(bytes, address(source), primary(), Transport::Udp);
    assert_eq!(respond(&good, "198.51.100.7:0"), Err(Silence::Source));
    assert_eq!(respond(&good, "224.0.0.1:9"), Err(Silence::Source));
    assert!(matches!(respond(b"GET /", "198.51.100.7:9"), Err(Silence::Wire(_))));
    let reply = respond(&good, "198.51.100.7:9").unwrap();
    assert_eq!(
        respond(&reply.bytes, "198.51.100.7:9"),
        Err(Silence::NotARequest),
        "two servers cannot be made to talk"
    );
    let mut broken = good;
    broken.extend_from_slice(&[0, 3, 0, 1, 0, 0, 0, 0]);
    broken[3] += 8;
    let reply = respond(&broken, "198.51.100.7:9").unwrap();
    let parsed = Parsed::decode(&reply.bytes, Transport::Udp).unwrap();
    assert_eq!(parsed.message.error_code(), Some((400, "Bad Request")));
}

#[test]
fn the_amplification_is_what_the_documentation_says() {
    let v6 = Responder::new(address("[2001:db8::1]:3478")).with_alternate(address("[2001:db8::2]:3479"));
    let bytes = binding().encode(Transport::Udp).unwrap();
    assert_eq!(bytes.len(), 20);
    for (responder, source, size) in [
        (Responder::new(primary()), client(), 32),
        (Responder::new(v6.primary), address("[2001:db8::9]:9"), 44),
        (two(), client(), 68),
        (v6, address("[2001:db8::9]:9"), 116),
    ] {
        let reply = responder.respond(&bytes, source, responder.primary, Transport::Udp).unwrap();
        assert_eq!(reply.bytes.len(), size);
    }
}

proptest! {
    #[test]
    fn no_request_is_amplified_beyond_that(
        pieces in prop::collection::vec((0u16..0x30, prop::collection::vec(any::<u8>(), 0..20)), 0..20),
        fingerprint: bool,
    ) {
        let mut bytes = binding().encode_with(Transport::Udp, Ending { signature: None, fingerprint }).unwrap();
        for (number, value) in pieces {
            bytes.extend_from_slice(&number.to_be_bytes());
            bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let length = (bytes.len() - 20) as u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        if let Ok(reply) = two().respond(&bytes, client(), primary(), Transport::Udp) {
            let most = if reply.is_error { 2.9 } else { 3.4 };
            prop_assert!(reply.bytes.len() as f64 <= most * bytes.len() as f64);
            prop_assert_eq!(reply.to, client());
        }
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, tcp: bool) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let _ = two().respond(&bytes, client(), primary(), transport);
    }
}

#[test]
fn a_dial_back_is_offered_and_done_over_tcp_only() {
    let wish = binding().with(Attribute::DialBack(200));
    let bytes = wish.encode(Transport::Tcp).unwrap();
    assert_eq!(two().dial_wish(&bytes), None, "not offered unless told");
    let dialling = two().with_dialling();
    assert_eq!(dialling.dial_wish(&bytes), Some(Duration::from_millis(200)));
    for (asked, held) in [(0, SHORTEST_DIAL), (u16::MAX, LONGEST_DIAL)] {
        let bytes = binding().with(Attribute::DialBack(asked)).encode(Transport::Tcp).unwrap();
        assert_eq!(dialling.dial_wish(&bytes), Some(held));
    }
    assert_eq!(dialling.dial_wish(&binding().encode(Transport::Tcp).unwrap()), None);
    assert_eq!(dialling.dial_wish(&bytes[..19]), None);
    let offered = |transport| ask(dialling, &binding(), transport).0.dial_back();
    assert_eq!((offered(Transport::Udp), offered(Transport::Tcp)), (None, Some(LONGEST_DIAL)));
    let outcomes = (SynOutcome::Connected, SynOutcome::Unavailable);
    let reply = dialling.respond_dialled(&bytes, client(), primary(), outcomes).unwrap();
    let message = Parsed::decode(&reply.bytes, Transport::Tcp).unwrap().message;
    assert_eq!((message.dialled_back(), message.mapped()), (Some(outcomes), Some(client())));
    assert_eq!(dialling.other_ip(primary()), Some(other().ip()));
    assert_eq!(dialling.other_ip(other()), Some(primary().ip()));
    assert_eq!(Responder::new(primary()).with_dialling().other_ip(primary()), None);
}

#[test]
fn half_as_much_again_with_headers() {
    let most = |client: &str, length| most_unproven_answer(client.parse().unwrap(), length);
    assert_eq!(most("192.0.2.1:1", 28), 56);
    assert_eq!(most("[::ffff:192.0.2.1]:1", 28), 56);
    assert_eq!(most("[2001:db8::1]:1", 28), 66);
}
