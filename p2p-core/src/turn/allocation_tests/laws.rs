//! The laws, against a server that answers, lies, forgets and falls silent.

use super::*;
use crate::sim::laws::Subject;

/// An allocation and its server, which receives and answers when dice say so.
#[derive(Debug)]
struct Served {
    allocation: Allocation,
    desk: Desk,
    tuple: Tuple,
    /// The packets that the allocation sent and the server has not received.
    unheard: VecDeque<Bytes>,
}

impl Machine for Served {
    type Act = Packet;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        self.allocation.handle_timeout(now);
    }

    fn poll_output(&mut self) -> AllocationOutput {
        let output = self.allocation.poll_output();
        if let Output::Act(packet) = &output
            && self.unheard.len() < 100
        {
            self.unheard.push_back(packet.clone().into_bytes());
        }
        output
    }
}

impl Served {
    fn hear(&mut self, now: Instant) {
        while let Some(bytes) = self.unheard.pop_front() {
            if self.tuple.transport == Transport::Udp || bytes[0] < 0x40 {
                self.desk.handle_client(self.tuple, &bytes, now);
            }
        }
        while let Some(deed) = self.desk.poll() {
            if let Deed::Tell(_, bytes) = deed {
                self.allocation.handle_data(bytes, now);
            }
        }
    }
}

struct Allocating;

impl Subject for Allocating {
    type Machine = Served;

    const KEEPS_ALIVE: Option<Duration> = Some(Duration::from_millis(1));

    fn new(mut seed: Seed, now: Instant) -> Served {
        let carrier = *seed.pick(&[Carrier::Udp, Carrier::Tcp, Carrier::Tls]).unwrap();
        let mut config = AllocationConfig::new(server(), carrier, credentials());
        config.keep_alive = seed.up_to(secs(40));
        config.families = *seed.pick(&[Families::V4, Families::V6, Families::Both]).unwrap();
        if carrier.is_stream() && seed.chance(0.3) {
            config.relaying = Relaying::Tcp;
        }
        let mut desk = desk_config();
        desk.nonce_life = seed.up_to(secs(100));
        desk.lifetime = secs(1 + seed.below(700));
        desk.relays.push("2001:db8::1".parse().unwrap());
        if seed.chance(0.3) {
            desk.algorithms = vec![2, 1];
        }
        let allocation = Allocation::new(config, seed.fork("allocation"), now).unwrap();
        let desk = Desk::new(desk, seed.fork("desk"));
        let tuple = Tuple { client: client(), transport: carrier.transport() };
        Served { allocation, desk, tuple, unheard: VecDeque::new() }
    }

    fn disturb(served: &mut Served, dice: &mut Seed, now: Instant) {
        let someone = peer(dice.below(40) as u8);
        let allocation = &mut served.allocation;
        match dice.below(60) {
            0 => allocation.handle_closed(None, now),
            1 => served.desk.restart(),
            2 => allocation.handle_doubt(now),
            3 => drop(allocation.permit(someone.ip(), now)),
            4 | 5 => drop(allocation.bind(someone, now)),
            6 => allocation.forget(someone.ip(), now),
            7 => drop(allocation.connect(someone, now)),
            8 | 9 => drop(allocation.send(someone, Bytes::from_static(b"data"), now)),
            10 => allocation.renew_credentials(credentials()),
            11 => {
                let mut bytes = dice.array::<40>().to_vec();
                bytes[0] &= 0x43;
                allocation.handle_data(bytes.into(), now);
            }
            12 => {
                let methods = [Method::REFRESH, Method::CHANNEL_BIND, Method::ALLOCATE, Method::CONNECT];
                let method = *dice.pick(&methods).unwrap();
                let code = *dice.pick(&[300, 400, 403, 437, 441, 486, 508]).unwrap();
                served.desk.config.refusals.insert(method, (code, dice.chance(0.5)));
            }
            13 | 14 => served.desk.config.refusals.clear(),
            15 => served.unheard.clear(),
            16 => {
                if let Some(relayed) = allocation.lease().map(|lease| lease.relayed[0].0) {
                    served.desk.handle_peer(relayed, someone, Bytes::from_static(b"data"), now);
                }
            }
            _ => served.hear(now),
        }
    }

    fn close(served: &mut Served, now: Instant) {
        served.allocation.close(now);
    }
}

crate::machine_laws!(allocating: Allocating);
