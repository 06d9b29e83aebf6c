use super::*;
use crate::Seed;
use crate::sim::epoch;
use crate::sim::laws::drain;
use crate::stun::message::{Attribute, Method};
use crate::stun::wire::{Algorithm, Ending};

fn server() -> SocketAddr {
    "203.0.113.1:3478".parse().unwrap()
}

fn ask(transport: Transport) -> Transaction {
    let message = Message::binding(&mut Seed::from_u64(1));
    Transaction::new(TransactionConfig::default(), Request::new(server(), transport, message), epoch())
        .unwrap()
}

fn success(id: TransactionId) -> Message {
    Message::new(Class::Success, Method::BINDING, id)
        .with(Attribute::XorMappedAddress("198.51.100.7:4242".parse().unwrap()))
}

fn bytes(message: &Message) -> Vec<u8> {
    message.encode(Transport::Udp).unwrap()
}

#[test]
fn it_repeats_as_rfc_8489_says() {
    let mut transaction = ask(Transport::Udp);
    let mut sent = Vec::new();
    let mut now = epoch();
    loop {
        let drained = drain(&mut transaction);
        sent.extend(drained.acts.iter().map(|_| (now - epoch()).as_millis()));
        match drained.wait {
            Some(deadline) => now = deadline.at,
            None => {
                assert_eq!(drained.events, [Event::Failed(Fault::Silent)]);
                break;
            }
        }
        transaction.handle_timeout(now);
    }
    assert_eq!(sent, [0, 500, 1_500, 3_500, 7_500, 15_500, 31_500]);
    assert_eq!((now - epoch()).as_millis(), 39_500);
    assert_eq!(transaction.counters().sent, 7);
}

#[test]
fn over_tcp_it_asks_once() {
    let mut transaction = ask(Transport::Tcp);
    let drained = drain(&mut transaction);
    assert_eq!(drained.acts.len(), 1);
    let end = drained.wait.unwrap().at;
    assert_eq!((end - epoch()).as_millis(), 39_500);
    transaction.handle_timeout(end);
    let drained = drain(&mut transaction);
    assert!(drained.acts.is_empty());
    assert_eq!(drained.events, [Event::Failed(Fault::Silent)]);
}

#[test]
fn only_the_right_answer_counts() {
    let mut transaction = ask(Transport::Udp);
    drain(&mut transaction);
    let id = transaction.id();
    let good = bytes(&success(id));
    let stranger = "203.0.113.66:3478".parse().unwrap();
    transaction.handle_message(stranger, &good, epoch());
    let other = TransactionId::new(&mut Seed::from_u64(2));
    transaction.handle_message(server(), &bytes(&success(other)), epoch());
    transaction.handle_message(server(), b"hello", epoch());
    let request = Message::new(Class::Request, Method::BINDING, id);
    transaction.handle_message(server(), &bytes(&request), epoch());
    let mute = Message::new(Class::Error, Method::BINDING, id);
    transaction.handle_message(server(), &bytes(&mute), epoch());
    assert!(drain(&mut transaction).is_quiet());
    let counters = transaction.counters();
    assert_eq!((counters.strangers, counters.foreign, counters.garbage), (1, 1, 3));
    let mapped_form = "[::ffff:203.0.113.1]:3478".parse().unwrap();
    transaction.handle_message(mapped_form, &good, epoch() + Duration::from_millis(40));
    let drained = drain(&mut transaction);
    assert!(
        matches!(&drained.events[..], [Event::Answered { rtt, .. }] if rtt.as_millis() == 40),
        "{drained:?}"
    );
    assert_eq!(drained.wait, None);
}

#[test]
fn an_answer_from_the_other_address_counts_when_it_was_asked_for() {
    let other: SocketAddr = "203.0.113.2:3479".parse().unwrap();
    let message =
        Message::binding(&mut Seed::from_u64(1)).with(Attribute::ChangeRequest { ip: true, port: true });
    let mut request = Request::new(server(), Transport::Udp, message);
    request.also_from = Some(other);
    let mut transaction = Transaction::new(TransactionConfig::default(), request, epoch()).unwrap();
    let answer = bytes(&success(transaction.id()));
    transaction.handle_message(other, &answer, epoch());
    assert_eq!(drain(&mut transaction).events.len(), 1);
}

#[test]
fn refusals_and_unknown_attributes_fail_it() {
    let mut transaction = ask(Transport::Udp);
    let refusal = Message::new(Class::Error, Method::BINDING, transaction.id())
        .with(Attribute::ErrorCode { code: 500, reason: "no".into() });
    transaction.handle_message(server(), &bytes(&refusal), epoch());
    let drained = drain(&mut transaction);
    assert!(matches!(&drained.events[..], [Event::Failed(Fault::Refused { code: 500, .. })]));

    let mut transaction = ask(Transport::Udp);
    let mut strange = bytes(&success(transaction.id()));
    strange.extend_from_slice(&[0x01, 0x23, 0, 0]);
    strange[3] += 4;
    transaction.handle_message(server(), &strange, epoch());
    assert_eq!(drain(&mut transaction).events, [Event::Failed(Fault::Unknown(vec![0x0123]))]);
}

#[test]
fn with_a_key_only_signed_answers_count() {
    let key = Key::short_term("secret");
    let mut request = Request::new(server(), Transport::Udp, Message::binding(&mut Seed::from_u64(1)));
    request.signature = Some((Algorithm::Sha1, key.clone()));
    let mut transaction = Transaction::new(TransactionConfig::default(), request, epoch()).unwrap();
    let sent = drain(&mut transaction).acts.remove(0);
    assert_eq!(Parsed::decode(&sent, Transport::Udp).unwrap().verify(&key), Ok(Algorithm::Sha1));

    let answer = success(transaction.id());
    transaction.handle_message(server(), &bytes(&answer), epoch());
    assert!(drain(&mut transaction).is_quiet());
    assert_eq!(transaction.counters().forged, 1);
    let ending = Ending { signature: Some((Algorithm::Sha256, &key)), fingerprint: true };
    let signed = answer.encode_with(Transport::Udp, ending).unwrap();
    transaction.handle_message(server(), &signed, epoch());
    assert!(matches!(drain(&mut transaction).events[..], [Event::Answered { .. }]));
}

/// Asks with a signature, and returns the events up to `later` milliseconds after this answer.
fn answered(algorithm: Algorithm, answer: impl Fn(TransactionId) -> Vec<u8>, later: u64) -> Vec<Event> {
    let mut request = Request::new(server(), Transport::Udp, Message::binding(&mut Seed::from_u64(1)));
    request.signature = Some((algorithm, Key::short_term("secret")));
    let mut transaction = Transaction::new(TransactionConfig::default(), request, epoch()).unwrap();
    let bytes = answer(transaction.id());
    transaction.handle_message(server(), &bytes, epoch());
    transaction.handle_timeout(epoch() + Duration::from_millis(later));
    drain(&mut transaction).events
}

fn refusal(id: TransactionId, code: u16) -> Message {
    Message::new(Class::Error, Method::BINDING, id).with(Attribute::ErrorCode { code, reason: "no".into() })
}

#[test]
fn an_unsigned_refusal_waits_for_a_signed_answer() {
    let unsigned = |id| bytes(&refusal(id, 437));
    assert_eq!(answered(Algorithm::Sha1, unsigned, 499), []);
    let events = answered(Algorithm::Sha1, unsigned, 500);
    assert!(
        matches!(events[..], [Event::Failed(Fault::Refused { code: 437, is_signed: false, .. })]),
        "{events:?}"
    );
    let challenge = |id| bytes(&refusal(id, 438));
    assert_eq!(answered(Algorithm::Sha1, challenge, 0).len(), 1, "there was nothing to sign it with");
    let signed = |algorithm, code| {
        move |id| {
            let key = Key::short_term("secret");
            let ending = Ending { signature: Some((algorithm, &key)), fingerprint: false };
            refusal(id, code).encode_with(Transport::Udp, ending).unwrap()
        }
    };
    let events = answered(Algorithm::Sha1, signed(Algorithm::Sha1, 437), 0);
    assert!(matches!(events[..], [Event::Failed(Fault::Refused { is_signed: true, .. })]));
    assert_eq!(answered(Algorithm::Sha256, signed(Algorithm::Sha256, 437), 0).len(), 1);
    assert_eq!(answered(Algorithm::Sha256, signed(Algorithm::Sha1, 437), 0), [], "not stepped down");
}

#[test]
fn a_signed_answer_beats_an_unsigned_refusal() {
    let key = Key::short_term("secret");
    let mut request = Request::new(server(), Transport::Udp, Message::binding(&mut Seed::from_u64(1)));
    request.signature = Some((Algorithm::Sha1, key.clone()));
    let mut transaction = Transaction::new(TransactionConfig::default(), request, epoch()).unwrap();
    transaction.handle_message(server(), &bytes(&refusal(transaction.id(), 400)), epoch());
    let ending = Ending { signature: Some((Algorithm::Sha1, &key)), fingerprint: false };
    let signed = success(transaction.id()).encode_with(Transport::Udp, ending).unwrap();
    transaction.handle_message(server(), &signed, epoch() + Duration::from_millis(400));
    assert!(matches!(drain(&mut transaction).events[..], [Event::Answered { .. }]));
}

#[test]
fn a_reason_that_acts_on_a_terminal_is_told_harmless() {
    let mut transaction = ask(Transport::Udp);
    let hostile = Message::new(Class::Error, Method::BINDING, transaction.id())
        .with(Attribute::ErrorCode { code: 500, reason: "\x1b[2J\nERROR forged".into() });
    transaction.handle_message(server(), &bytes(&hostile), epoch());
    let events = drain(&mut transaction).events;
    let [Event::Failed(fault @ Fault::Refused { .. })] = &events[..] else { panic!("{events:?}") };
    assert!(!fault.to_string().chars().any(char::is_control), "{fault}");
}
