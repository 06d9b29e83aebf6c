//! A [`Router`] for the laws and the fuzzer.

use super::*;
use crate::UnixTime;
use crate::attempt::RefusalReason;
use crate::peer::Contents;
use crate::signal::link::{FailReason, LinkError, Subscribers};
use crate::signal::{DialMe, Refusal, seal};
use crate::sim::laws::{Dice, Subject};
use crate::sim::ntp::true_time;

/// A [`Router`] with brokers of its own and of three peers, and all that these can do to it.
#[derive(Debug)]
pub struct RouterSubject(Router);

impl Subject for RouterSubject {
    type Machine = Router;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let config = RouterConfig {
            identity: identity(0),
            brokers: (0..seed.below(4)).map(broker).collect(),
            has_memory: seed.chance(0.5),
            allowed: seed.chance(0.3).then(|| [identity(1).id()].into()),
        };
        let mut router = Router::new(config, clock(0, now), seed, now);
        router.set_address(address(0, 2, now));
        Self(router)
    }

    fn machine(&mut self) -> &mut Router {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let router = &mut self.0;
        let channel = ChannelId(dice.below(u64::from(router.next_channel) + 1) as u32);
        let ticket = dice.below(router.next_ticket + 1);
        let event = match dice.below(16) {
            0..3 => {
                let all = [Subscribers::Someone, Subscribers::Nobody, Subscribers::Unknown];
                ChannelEvent::Delivered { ticket, subscribers: *dice.pick(&all).unwrap_or(&all[0]) }
            }
            3 => ChannelEvent::Failed { ticket, reason: FailReason::NoAnswer },
            4 | 5 => ChannelEvent::Up,
            6 => ChannelEvent::Down { reason: LinkError::Mute, retry_in: Duration::from_secs(1) },
            7 => ChannelEvent::Received { payload: dice.array::<64>().to_vec().into() },
            8 | 9 => ChannelEvent::Received { payload: signal(dice, now) },
            10 => return router.handle_channel_closed(channel),
            11 => {
                let ahead = *dice.pick(&[0, 5_000, 30_000_000, -3_600_000_000]).unwrap_or(&0);
                return router.handle_clock(clock(ahead, now), now);
            }
            12 => return router.stir(dice.array()),
            _ => {
                let letter = Letter {
                    to: address(1 + dice.below(3), dice.below(30), now),
                    attempt: AttemptId([dice.below(3) as u8; 16]),
                    body: body(dice),
                    back_on: dice.chance(0.3).then_some(channel),
                    wants_receipt: dice.chance(0.7),
                };
                return router.send(letter, now);
            }
        };
        router.handle_channel(channel, event, now);
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

fn identity(number: u64) -> Identity {
    Identity::generate(&mut Seed::from_u64(number))
}

fn clock(ahead: i64, now: Instant) -> Clock {
    Clock::new(now, UnixTime(true_time(now).0.saturating_add_signed(ahead)))
}

fn broker(number: u64) -> BrokerUrl {
    let url = if number == 3 { "memory://here".into() } else { format!("mqtt://192.0.2.{number}") };
    url.parse().expect("a URL")
}

/// Returns the address of a node that listens at this broker and at the one in the process.
fn address(number: u64, at: u64, now: Instant) -> PeerAddr {
    let issued = clock(0, now).unix(now);
    let brokers = vec![broker(at), broker(3)];
    let contents = Contents { brokers, machine: None, interfaces: Vec::new(), issued };
    PeerAddr::sign(&identity(number), contents).expect("a small address")
}

fn body(dice: &mut Dice<'_>) -> Body {
    match dice.below(4) {
        0 => Body::AskAddr,
        1 => Body::DialMe(DialMe { plain: false }),
        2 => Body::Refuse(Refusal { reason: RefusalReason::Busy }),
        _ => Body::Bye,
    }
}

/// Returns what one of the peers says, sealed.
fn signal(dice: &mut Dice<'_>, now: Instant) -> Bytes {
    let number = 1 + dice.below(3);
    let (peer, to) = (identity(number), identity(0).id());
    let issued = clock(0, now).unix(now);
    let signal = Signal {
        from: peer.id(),
        to,
        attempt: AttemptId([dice.below(3) as u8; 16]),
        seq: dice.number() >> 1,
        issued,
        expires: issued.after(Duration::from_secs(30)),
        sender: address(number, 1, now),
        body: body(dice),
    };
    seal(&peer, &to, &signal, &mut dice.seed()).expect("a signal of the peer's own")
}
