//! Writes the seed corpora. It must be run again when a format changes.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use p2p_core::attempt::{AttemptId, RefusalReason};
use p2p_core::clock::ntp::Packet;
use p2p_core::nat::forecast::PortForecast;
use p2p_core::nat::{Delta, DeltaKind, Filtering, Nat, NatFacts, NatType, PortRange};
use p2p_core::peer::{Contents, Identity, InterfaceAddr, MachineTag, PeerAddr};
use p2p_core::punch::{self, Endpoint, Mode, Offer, Stamps, Step};
use p2p_core::relay::RelayOffer;
use p2p_core::signal::{Body, DialMe, Refusal, Signal, seal};
use p2p_core::sim::ntp::NtpServer;
use p2p_core::sim::subjects::ALL;
use p2p_core::stun::wire::{Algorithm, Ending, Key};
use p2p_core::stun::{Attribute, Class, Message, Method, TransactionId, Transport};
use p2p_core::transport::Token;
use p2p_core::{Seed, UnixTime};
use p2p_fuzz::{RECEIVER, SENDERS, hello};

fn main() -> io::Result<()> {
    let identity = Identity::from_bytes(SENDERS[0]);
    let (small, home) = (address(&identity, 0, 0), address(&identity, 2, 2));
    let full = address(&identity, 8, 16);

    write("peer_addr", "small", &small.to_bytes())?;
    write("peer_addr", "home", &home.to_bytes())?;
    write("peer_addr", "full", &full.to_bytes())?;
    // The target signs contents alone itself.
    let bytes = home.to_bytes();
    write("peer_addr", "home_contents", &bytes[35..bytes.len() - 64])?;
    write("peer_addr", "home_text", home.to_string().as_bytes())?;
    write("peer_addr", "id_text", identity.id().to_string().as_bytes())?;
    write("peer_addr", "secret_text", identity.to_text().as_bytes())?;
    write("peer_addr", "broker_name", b"mqtts://broker.example.org:8884?v=5")?;
    write("peer_addr", "broker_v6", b"mqtt://[2001:db8::5]/?v=3")?;
    write("peer_addr", "broker_memory", b"memory://lab")?;

    let bodies = [
        Body::DialMe(DialMe { plain: true }),
        Body::Punch(punch_offer()),
        Body::Relay(relay_offer()),
        Body::AskAddr,
        Body::TellAddr,
        Body::Refuse(Refusal { reason: RefusalReason::Busy }),
        Body::Bye,
    ];
    for body in bodies {
        let name = body.name();
        let signal = signal(&identity, &small, body);
        write("signal", name, &signal.to_bytes())?;
    }
    for (name, address) in [("sealed", &home), ("sealed_full", &full)] {
        let signal = signal(&identity, address, Body::Bye);
        let sealed = seal(&identity, &signal.to, &signal, &mut Seed::from_u64(1)).expect("our own signal");
        write("signal", name, &sealed)?;
    }
    // These are steps for an inbox: all senders in turn, repeats, pauses, clocks set forth and back.
    let steps: Vec<u8> = (0..48).map(|step| (step * 7) as u8).collect();
    write("signal", "inbox_steps", &steps)?;
    let repeats: Vec<u8> = (0..48).map(|step| [0, 8, 16, 1, 0x3f, 0xbf][step % 6]).collect();
    write("signal", "inbox_repeats", &repeats)?;
    proof()?;
    stun()?;
    ntp()?;
    turn()?;
    machines()?;
    relay_circuit()?;
    relay_stream()?;
    node_world()?;
    broker()?;
    mqtt_link()
}

/// A kind of world, then three bytes a step: what, who, with.
fn node_world() -> io::Result<()> {
    let [call, pass, pull, plug, broker, again, close, nat] = [0, 8, 10, 11, 12, 14, 15, 16];
    let steps = |kind: u8, all: &[[u8; 3]]| [&[kind][..], &all.concat()].concat();
    let settled = [pass, 0, 20];
    write("node_world", "cold", &steps(0, &[[call, 0, 200], settled]))?;
    write("node_world", "warm", &steps(0x1b, &[settled, [call, 1, 200], settled, [18, 1, 9], [19, 1, 0]]))?;
    write("node_world", "both", &steps(0x40, &[[call, 1, 200], [call, 2, 201], settled]))?;
    write(
        "node_world",
        "pulled",
        &steps(0xc0, &[settled, [call, 0, 200], [4, 0, 9], [pull, 0, 0], [plug, 0, 1]]),
    )?;
    write(
        "node_world",
        "restarts",
        &steps(2, &[[call, 0, 200], [broker, 0, 0], settled, [again, 1, 0], [call, 0, 9]]),
    )?;
    write(
        "node_world",
        "moved",
        &steps(1, &[settled, [nat, 1, 1], [call, 0, 200], [nat, 1, 0], [close, 0, 0]]),
    )
}

fn relay_offer() -> RelayOffer {
    let lent = |port: u16| ([203, 0, 113, 6], port).into();
    RelayOffer {
        serial: 2,
        token: Token([7; 8]),
        datagrams: vec![lent(49_160), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 6], 49_161).into()],
        connections: vec![lent(49_162)],
        has_more: true,
        refusal: None,
    }
}

fn proof() -> io::Result<()> {
    // These are a stranger at the listener, and one who answers the dialler.
    write("proof", "listener_hello", &[&[0][..], &hello()].concat())?;
    write("proof", "listener_garbage", b"\0GET / HTTP/1.1\r\n\r\n")?;
    write("proof", "dialler_echo", &[&[1][..], &hello()].concat())?;
    // These have somebody between two ends: three bytes a frame.
    write("proof", "whole_caller", &[2])?;
    write("proof", "whole_called", &[3])?;
    write("proof", "flip_welcome", &[2, 7, 0, 0, 0, 40, 1])?;
    write("proof", "twice_ready", &[3, 7, 0, 0, 7, 0, 0, 3, 0, 0])?;
    write("proof", "hello_for_go", &[2, 7, 0, 0, 7, 0, 0, 5, 0, 0])
}

/// Writes stories of clients: a step is a byte that says what, a length, and so many bytes.
fn broker() -> io::Result<()> {
    let says = |client: u8, bytes: &[u8]| [&[client << 4 | 5, bytes.len() as u8], bytes].concat();
    let (accept, read) = ([0, 1].to_vec(), |client: u8| [client << 4 | 2, 0].to_vec());
    let (gone, due) = (|client: u8| [client << 4 | 1, 0].to_vec(), [4, 0].to_vec());
    let old = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x1e\x00\x01a";
    let new = b"\x10\x14\x00\x04MQTT\x05\x02\x00\x00\x06\x21\x00\x02\x22\x00\x01\x00\x01b";
    let login = b"\x10\x15\x00\x04MQTT\x05\xc2\x00\x1e\x00\x00\x02me\x00\x01u\x00\x01p";
    let (pub_ack, bye) = (b"\x40\x02\x00\x01", b"\xe0\x00");
    let story = |first: u8, steps: &[Vec<u8>]| [&[first], &steps.concat()[..]].concat();
    let two = [accept.clone(), accept.clone(), says(0, old), says(1, new)];
    let listens = says(1, b"\x82\x07\x00\x01\x00\x00\x01t\x01");
    let talk = [says(0, b"\x32\x07\x00\x01t\x00\x07hi\xc0\x00"), read(1), says(1, pub_ack), read(0)];
    write("broker", "two_talk", &story(0, &[&two[..], std::slice::from_ref(&listens), &talk].concat()))?;
    let unheard = says(1, b"\x32\x06\x00\x01x\x00\x09\x00");
    write("broker", "nobody", &story(0, &[&two[..], &[unheard]].concat()))?;
    write("broker", "silent", &story(0, &[&two[..], &[due.clone(), due.clone(), due]].concat()))?;
    write("broker", "login", &story(1, &[accept.clone(), says(0, login), accept.clone(), says(1, old)]))?;
    let taken = [accept.clone(), says(0, old), accept.clone(), says(1, old), gone(0)];
    write("broker", "taken_over", &story(0, &taken))?;
    let flood: Vec<_> = (0..90).map(|_| says(0, b"\x32\x07\x00\x01t\x00\x07hi")).collect();
    write("broker", "flood", &story(0, &[&two[..], std::slice::from_ref(&listens), &flood].concat()))?;
    let many = says(1, b"\x82\x11\x00\x01\x00\x00\x01#\x01\x00\x03a/+\x02\x00\x01u\x04");
    let off = says(1, b"\xa2\x09\x00\x02\x00\x00\x01t\x00\x01x");
    write("broker", "wishes", &story(0, &[&two[..], &[listens, many, off, says(1, bye)]].concat()))?;
    let will = b"\x10\x13\x00\x04MQTT\x05\x06\x00\x1e\x00\x00\x00\x00\x00\x01t\x00\x00";
    write("broker", "will", &story(0, &[accept, says(0, will)]))
}

fn mqtt_link() -> io::Result<()> {
    // These have two bytes a step: connected, CONNACK, SUBACK.
    let up = [0, 0, 0, 2, 0, 3, 1];
    let then = |steps: &[u8]| [&up[..], steps].concat();
    write("mqtt_link", "up", &up)?;
    write("mqtt_link", "delivered", &then(&[9, 1, 9, 2, 4, 1, 4, 22, 4, 2]))?;
    write("mqtt_link", "lost_and_back", &then(&[9, 1, 1, 0, 11, 0, 0, 0, 2, 0, 3, 2, 4, 1]))?;
    write("mqtt_link", "expires", &then(&[8, 1, 10, 255, 11, 0, 11, 0, 11, 0]))?;
    write("mqtt_link", "heartbeat", &then(&[11, 0, 6, 0, 11, 0, 11, 0, 11, 0]))?;
    write("mqtt_link", "older", &[0, 0, 0, 2, 201, 0, 0, 2, 0, 3, 1, 5, 7, 5, 0])?;
    let full: Vec<u8> = (0..80).flat_map(|ticket| [9, ticket]).collect();
    write("mqtt_link", "full", &then(&full))
}

/// Writes steps of three bytes: an action, an address, and its argument.
fn relay_circuit() -> io::Result<()> {
    let [name, knock, prove, steal, data, say, read, pass, dialled, due] = [0, 2, 3, 4, 5, 7, 8, 9, 10, 11];
    let met = [[name, 2, 9], [knock, 2, 1], [prove, 2, 0], [data, 2, 40], [due, 0, 0]];
    let steps = |all: &[&[[u8; 3]]]| [&[200][..], &all.concat().concat()].concat();
    let used = [[say, 255, 7], [pass, 200, 20], [data, 2, 33], [read, 0, 255], [pass, 255, 255]];
    let forged = [[data, 3, 40], [knock, 5, 1], [steal, 7, 2], [data, 7, 41], [say, 255, 1], [pass, 100, 30]];
    let named: Vec<[u8; 3]> = (0..40).map(|round: u8| [name, round.wrapping_mul(8), 0xd3]).collect();
    write("relay_circuit", "met", &steps(&[&met, &used]))?;
    write("relay_circuit", "forged", &steps(&[&met, &used, &forged, &used, &forged]))?;
    write("relay_circuit", "named", &steps(&[&named, &met, &named]))?;
    write("relay_circuit", "dialled", &steps(&[&[[name, 1, 0x83], [dialled, 5, 0], [due, 0, 9]], &met]))?;
    write("relay_circuit", "kept", &steps(&[&met, &[[due, 0, 0]], &used, &forged, &[[due, 0, 255]]]))
}

/// Writes a size, and then steps of two bytes: an action with its end, and an amount.
fn relay_stream() -> io::Result<()> {
    const SIZE: u8 = 134;
    let step = |what: u8, end: u8, with: u8| [what << 1 | end, with];
    let steps = |all: &[[u8; 2]]| [&[SIZE][..], &all.concat()].concat();
    let [write, read, deliver, lose, twice, turn] = [0, 2, 4, 7, 8, 9];
    let [pass, wake, path, spoil, end, forge] = [10, 11, 12, 13, 14, 15];
    let there = [step(write, 0, 200), step(deliver, 1, 50), step(deliver, 0, 50), step(read, 1, 255)];
    write_steps("there", &steps(&there))?;
    write_steps("there_and_back", &steps(&[there, there.map(|[what, with]| [what ^ 1, with])].concat()))?;
    let lossy =
        [step(write, 0, 255), step(lose, 1, 0), step(lose, 1, 3), step(deliver, 1, 9), step(deliver, 0, 9)];
    write_steps("lost", &steps(&[&lossy[..], &[step(wake, 0, 0), step(pass, 0, 40)], &lossy].concat()))?;
    let mixed =
        [step(write, 0, 255), step(twice, 1, 4), step(turn, 1, 5), step(spoil, 1, 77), step(deliver, 1, 99)];
    write_steps("mixed", &steps(&[mixed, mixed].concat()))?;
    let moved =
        [step(write, 0, 99), step(path, 0, 0), step(deliver, 1, 99), step(path, 1, 0), step(pass, 0, 200)];
    write_steps(
        "moved",
        &steps(&[&moved[..], &[step(write, 1, 99), step(wake, 0, 0), step(wake, 1, 0)]].concat()),
    )?;
    write_steps(
        "half_over",
        &steps(&[&[step(write, 0, 9), step(end, 0, 1)], &there[1..], &there[..1]].concat()),
    )?;
    write_steps(
        "cut",
        &steps(&[&there[..2], &[step(end, 1, 255), step(deliver, 0, 9), step(wake, 1, 0)]].concat()),
    )?;
    let silent =
        [step(write, 0, 9), step(lose, 1, 0), step(pass, 0, 255), step(wake, 0, 0), step(lose, 1, 0)];
    write_steps("silent", &steps(&[silent; 6].concat()))?;
    let unread = [step(write, 0, 255), step(deliver, 1, 255), step(deliver, 0, 255), step(wake, 0, 0)];
    write_steps("unread", &steps(&[unread; 12].concat()))?;
    let forged: Vec<_> = (0..60).map(|with| step(forge, with & 1, with * 4 + 3)).collect();
    write_steps("forged", &steps(&[&there[..], &forged, &there].concat()))
}

fn write_steps(name: &str, bytes: &[u8]) -> io::Result<()> {
    write("relay_stream", name, bytes)
}

/// Writes a question with every wish, an answer with every address, both signed both ways, and two in a row.
fn stun() -> io::Result<()> {
    let mut seed = Seed::from_u64(1);
    let v4 = "203.0.113.9:4711".parse().expect("an address");
    let v6 = "[2001:db8::9]:4711".parse().expect("an address");
    let question = Message::binding(&mut seed)
        .with(Attribute::ChangeRequest { ip: true, port: true })
        .with(Attribute::Padding(16));
    let answer = Message::new(Class::Success, Method::BINDING, TransactionId::new(&mut seed))
        .with(Attribute::XorMappedAddress(v6))
        .with(Attribute::MappedAddress(v4))
        .with(Attribute::OtherAddress(v6))
        .with(Attribute::Software("seed".into()));
    let refusal = Message::new(Class::Error, Method::BINDING, TransactionId::new(&mut seed))
        .with(Attribute::ErrorCode { code: 420, reason: "no".into() })
        .with(Attribute::UnknownAttributes(vec![0x27]))
        .with(Attribute::Realm("example.org".into()))
        .with(Attribute::Nonce("once".into()));
    let key = Key::long_term("user", "example.org", "secret");
    for (name, message, algorithm) in [
        ("question", &question, None),
        ("answer_sha1", &answer, Some(Algorithm::Sha1)),
        ("refusal_sha256", &refusal, Some(Algorithm::Sha256)),
    ] {
        let ending = Ending { signature: algorithm.map(|algorithm| (algorithm, &key)), fingerprint: true };
        let bytes = message.encode_with(Transport::Udp, ending).expect("our own message");
        write("stun_wire", name, &bytes)?;
    }
    let plain = Message::binding(&mut seed).encode(Transport::Tcp).expect("our own message");
    let mut classic = plain.clone();
    classic[4] ^= 0xff;
    write("stun_wire", "classic", &classic)?;
    write("stun_wire", "two_in_a_row", &[plain.clone(), plain].concat())
}

/// Writes an answer, two in a row, each kind of refusal, and bytes that are too short.
fn ntp() -> io::Result<()> {
    let time = UnixTime::from_secs(1_800_000_000);
    let answer = |server: NtpServer| {
        let question = Packet::request(1).encode();
        server
            .answer(&question, time, time.after(Duration::from_micros(30)))
            .expect("an answer to a question")
    };
    let good = answer(NtpServer::default());
    write("ntp_wire", "good", &good)?;
    write(
        "ntp_wire",
        "burst",
        &[good, answer(NtpServer::ahead(-700)), answer(NtpServer::ahead(9_000_000))].concat(),
    )?;
    write("ntp_wire", "rate", &[answer(NtpServer::kissing(*b"RATE")), good].concat())?;
    write("ntp_wire", "deny", &[answer(NtpServer::kissing(*b"DENY")), good].concat())?;
    write("ntp_wire", "short", &good[..47])
}

/// Writes frames as a stream has them, and steps: data, time, answers that nobody signed, doubts.
fn turn() -> io::Result<()> {
    let mut seed = Seed::from_u64(1);
    let peer = "192.0.2.9:5000".parse().expect("an address");
    let id = TransactionId::new(&mut seed);
    let data = Message::new(Class::Indication, Method::DATA, id)
        .with(Attribute::XorPeerAddress(peer))
        .with(Attribute::Data("data".into()));
    let attempt = Message::new(Class::Indication, Method::CONNECTION_ATTEMPT, id)
        .with(Attribute::ConnectionId(7))
        .with(Attribute::XorPeerAddress(peer));
    let [data, attempt] = [data, attempt].map(|message| message.encode(Transport::Tcp).expect("our own"));
    let channel = b"\x40\0\0\x05hello\0\0\0";
    write("turn_wire", "frames", &[&data[..], channel, &attempt, channel].concat())?;
    let step = |bytes: &[u8]| [&[bytes.len() as u8], bytes].concat();
    write(
        "turn_wire",
        "hears",
        &[step(&data), step(&channel[..9]), step(&attempt), step(b"GET /")].concat(),
    )?;
    // This writes doubt, and each refusal in turn, with time to believe it.
    for code in 0..11 {
        let steps = [0xc0, 0x42, 0xc0, 0x83, 0, code, b'n', 0x41, 0x41, 0x83, 0, code, b'm', 0x4a, 0x4a];
        write("turn_wire", &format!("refusal_{code}"), &steps)?;
    }
    write("turn_wire", "success", &[0x42, 0xc0, 0x82, 1, 0, 0x4a, 0x4a, 0x7f, 0x7f])?;
    write("turn_wire", "hours", &[0x7f; 16])
}

/// Chance in place of a fuzzer: for each machine, one life that is closed and one that is left alone.
fn machines() -> io::Result<()> {
    for (which, machine) in (0u8..).zip(ALL) {
        for life in 0..2u64 {
            let mut steps = Seed::from_u64(life).array::<300>().to_vec();
            steps[..8].copy_from_slice(&(u64::from(which) * 2 + life).to_le_bytes());
            write("machines", &format!("{}_{life}", machine.name), &[&[which][..], &steps].concat())?;
        }
    }
    for life in 0..6u64 {
        let mut steps = Seed::from_u64(life).array::<900>().to_vec();
        steps[..8].copy_from_slice(&life.to_le_bytes());
        write("turn_server", &format!("life_{life}"), &steps)?;
    }
    Ok(())
}

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), bytes)
}

fn signal(identity: &Identity, address: &PeerAddr, body: Body) -> Signal {
    let issued = UnixTime::from_secs(1_800_000_000);
    Signal {
        from: identity.id(),
        to: Identity::from_bytes(RECEIVER).id(),
        attempt: AttemptId([9; 16]),
        seq: 5,
        issued,
        expires: issued.after(Duration::from_secs(30)),
        sender: address.clone(),
        body,
    }
}

fn address(identity: &Identity, brokers: usize, interfaces: usize) -> PeerAddr {
    let facts = NatFacts {
        nat: Some(NatType::PortRestricted),
        delta: Some(Delta { kind: DeltaKind::Independent, value: -2 }),
        hairpin: Some(true),
        range: PortRange::new(1_024, 65_535),
        ..NatFacts::default()
    };
    let interface = |nic: usize| InterfaceAddr {
        nic: nic as u8,
        local: if nic.is_multiple_of(2) { "192.168.1.7" } else { "fe80::1" }.parse().expect("an address"),
        prefix: 24,
        external: nic.is_multiple_of(2).then(|| "203.0.113.9".parse().expect("an address")),
        listen: 40_000,
        mapped: nic.is_multiple_of(4).then_some(40_001),
        nat: Nat { tcp: facts, udp: NatFacts::default() },
    };
    let broker = |number: usize| format!("mqtts://b{number}.example.org").parse().expect("a broker");
    let contents = Contents {
        brokers: (0..brokers).map(broker).collect(),
        machine: (interfaces > 0)
            .then(|| MachineTag::new(b"machine", &identity.id(), &mut Seed::from_u64(1))),
        interfaces: (0..interfaces).map(interface).collect(),
        issued: UnixTime::from_secs(1_800_000_000),
    };
    PeerAddr::sign(identity, contents).expect("within bounds")
}

fn punch_offer() -> punch::Message {
    let side = Endpoint {
        address: [203, 0, 113, 9].into(),
        ports: PortForecast::Fixed(vec![40_000, 50_000]),
        filtering: Filtering::AddressDependent,
        syn: None,
        low_ttl: false,
        sockets: 96,
    };
    let offer = Offer { mode: Mode::Remote, at: [192, 168, 1, 2].into(), side, error: Some(30_000) };
    punch::Message { pair: 0, round: 0, stamps: Stamps::default(), step: Step::Offer(offer) }
}
