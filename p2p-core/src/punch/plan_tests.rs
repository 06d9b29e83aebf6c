use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::UnixTime;
use crate::attempt::Role;
use crate::nat::forecast::PortForecast;
use crate::nat::{Filtering, PortRange, SynAnswer};
use crate::punch::layout::ms;
use crate::punch::schedule::Schedule;

const TIMING: Timing = Timing { start: UnixTime(0), lead: 60, spread: 150, step: 32 };
const POOL: PortRange = PortRange { first: 2_048, last: 2_559 };

fn side(ports: PortForecast, filtering: Filtering, syn: Option<SynAnswer>) -> Endpoint {
    Endpoint { address: IpAddr::from([203, 0, 113, 1]), ports, filtering, syn, low_ttl: false, sockets: 512 }
}

fn home(syn: SynAnswer) -> Endpoint {
    side(PortForecast::Fixed(vec![5_000, 5_001, 5_002]), Filtering::AddressAndPortDependent, Some(syn))
}

fn random() -> Endpoint {
    side(PortForecast::Random { pool: POOL }, Filtering::AddressAndPortDependent, Some(SynAnswer::Silence))
}

fn counter(others: u16) -> Endpoint {
    let ports = PortForecast::Counter { next: 2_100, step: 1, others, pool: POOL };
    side(ports, Filtering::AddressAndPortDependent, Some(SynAnswer::Silence))
}

fn plan(caller: &Endpoint, answerer: &Endpoint) -> Result<Plan, NoPlan> {
    Plan::new(Mode::Remote, caller, answerer, TIMING, &mut Seed::from_u64(1))
}

fn tactic(caller: &Endpoint, answerer: &Endpoint) -> Option<Tactic> {
    plan(caller, answerer).ok().map(|plan| plan.tactic)
}

#[test]
fn the_cheapest_tactic_that_can_work() {
    use SynAnswer::{Icmp, Reset, Silence};
    let lax = Endpoint { filtering: Filtering::AddressDependent, ..home(Silence) };
    let low_ttl = Endpoint { low_ttl: true, ..home(Reset) };
    let whole = side(
        PortForecast::Random { pool: PortRange { first: 1_024, last: u16::MAX } },
        Filtering::AddressAndPortDependent,
        None,
    );
    assert_eq!(tactic(&home(Silence), &home(Silence)), Some(Tactic::Now));
    assert_eq!(tactic(&home(Reset), &home(Silence)), Some(Tactic::First(Role::Caller)));
    assert_eq!(tactic(&home(Silence), &home(Icmp)), Some(Tactic::First(Role::Answerer)));
    assert_eq!(tactic(&home(Reset), &home(Icmp)), Some(Tactic::Ladder));
    assert_eq!(tactic(&home(Reset), &low_ttl), Some(Tactic::LowTtl(Role::Answerer)));
    assert_eq!(tactic(&lax, &random()), Some(Tactic::Open(Role::Caller)));
    assert_eq!(tactic(&home(Silence), &counter(3)), Some(Tactic::Window));
    assert_eq!(tactic(&home(Silence), &whole), Some(Tactic::Birthday));
    assert_eq!(tactic(&random(), &random()), Some(Tactic::Birthday));
    assert_eq!(tactic(&whole, &random()), None);
}

#[test]
fn who_must_be_first_is_whoever_hears_of_it_first() {
    let first = |schedule: &Schedule| schedule.dials.first().unwrap().after;
    let plan = plan(&home(SynAnswer::Reset), &home(SynAnswer::Silence)).unwrap();
    assert!(plan.caller.dials.iter().all(|dial| dial.after.is_zero()), "all ways are opened at once");
    assert_eq!(first(&plan.answerer), ms(60), "the answerer waits until the caller has probably heard");
    let later: Vec<_> = plan.answerer.dials.windows(2).map(|pair| pair[1].after > pair[0].after).collect();
    assert!(later.iter().all(|later| *later), "and then dials again and again, a little later each time");
}

#[test]
fn a_ladder_covers_every_error_of_the_clocks() {
    let ports = |first: u16| PortForecast::Fixed((first..first + 6).collect());
    let of = |first| Endpoint { ports: ports(first), ..home(SynAnswer::Reset) };
    let plan = plan(&of(5_000), &of(6_000)).unwrap();
    for error in -150..=150_i64 {
        let meets = plan.caller.dials.iter().any(|one| {
            plan.answerer.dials.iter().any(|two| {
                let same = one.to == 6_000 + two.from && two.to == 5_000 + one.from;
                let skew = two.after.as_millis() as i64 + error - one.after.as_millis() as i64;
                same && skew.abs() < 20
            })
        });
        assert!(meets, "{error} ms");
    }
}

#[test]
fn a_ladder_slides_past_what_others_took() {
    let counting = Endpoint { syn: Some(SynAnswer::Icmp), ..counter(4) };
    let run = Endpoint { ports: PortForecast::Run { first: 7_000, count: 64 }, ..home(SynAnswer::Reset) };
    for (caller, answerer) in [(&counting, &run), (&run, &counting)] {
        let plan = plan(caller, answerer).unwrap();
        assert_eq!(plan.tactic, Tactic::Ladder);
        let is_caller = matches!(caller.ports, PortForecast::Counter { .. });
        let (counts, known) =
            if is_caller { (&plan.caller, &plan.answerer) } else { (&plan.answerer, &plan.caller) };
        for (error, others) in (-150..=150_i64).flat_map(|error| (0..=4).map(move |others| (error, others))) {
            let meets = counts.dials.iter().any(|one| {
                let from = counting.ports.port(i32::from(one.from) + others);
                known.dials.iter().any(|two| {
                    let same = Some(two.to) == from && one.to == 7_000 + two.from;
                    let skew = two.after.as_millis() as i64 + error - one.after.as_millis() as i64;
                    same && skew.abs() < 20
                })
            });
            assert!(meets, "{error} ms, {others} others");
        }
    }
}

#[test]
fn a_sliding_ladder_is_short_whatever_the_peer_says_of_time() {
    let counting = Endpoint { syn: Some(SynAnswer::Icmp), ..counter(12) };
    let run = Endpoint { ports: PortForecast::Run { first: 7_000, count: 64 }, ..home(SynAnswer::Reset) };
    let timing = Timing { start: UnixTime(0), lead: 2_000, spread: 2_000, step: 2_000 };
    let plan = Plan::new(Mode::Remote, &counting, &run, timing, &mut Seed::from_u64(1)).unwrap();
    assert_eq!(plan.tactic, Tactic::Ladder);
    assert!(plan.within < Duration::from_secs(20), "{:?}", plan.within);
}

/// Lets both counters run, others dialling in between, and says whether any two dials meet.
fn stairs_meet(caller: &Endpoint, answerer: &Endpoint, mut others: impl FnMut(Role, usize) -> i32) -> bool {
    let plan = plan(caller, answerer).unwrap();
    let mut made = |role: Role, schedule: &Schedule, side: &Endpoint| -> Vec<(u16, u16)> {
        let mut between = 0;
        let dials = schedule.dials.iter().enumerate();
        dials
            .map(|(index, dial)| {
                between += others(role, index);
                let number = i32::from(dial.from);
                let number = if matches!(side.ports, PortForecast::Counter { .. }) {
                    number + between
                } else {
                    number
                };
                (side.ports.port(number).unwrap(), dial.to)
            })
            .collect()
    };
    let one = made(Role::Caller, &plan.caller, caller);
    let two = made(Role::Answerer, &plan.answerer, answerer);
    one.iter().any(|(from, to)| two.contains(&(*to, *from)))
}

proptest! {
    /// However many others came before the first dial (as many as were reckoned with), wherever others come between
    /// (as long as they are slower than we are), and even if two SYNs of ours got lost.
    #[test]
    fn stairs_always_meet(
        before in (0..=30_u16, 0..=30_u16),
        lost in 0..=2_i32,
        seed in any::<u64>(),
        share in 0.0..0.08_f64,
    ) {
        let (a, b) = before;
        let mut dice = Seed::from_u64(seed);
        let met = stairs_meet(&counter(30), &counter(30), |role, index| match (role, index) {
            (Role::Caller, 0) => i32::from(a) - lost,
            (Role::Answerer, 0) => i32::from(b),
            _ => i32::from(dice.chance(share)),
        });
        prop_assert!(met);
    }

    /// The same against a NAT whose ports are known one by one.
    #[test]
    fn stairs_meet_a_run(before in 0..=20_u16, lost in 0..=2_i32, is_caller: bool) {
        let run = Endpoint { ports: PortForecast::Run { first: 7_000, count: 64 }, ..counter(0) };
        let counting = counter(20);
        let (caller, answerer) = if is_caller { (&run, &counting) } else { (&counting, &run) };
        let met = stairs_meet(caller, answerer, |_, index| if index == 0 { i32::from(before) - lost } else { 0 });
        prop_assert!(met);
    }

    /// Whatever a sound peer says: every target is a port, no 4-tuple twice, bounded in number and time, and the same
    /// plan on both sides.
    #[test]
    fn plans_are_bounded(a in any_side(), b in any_side(), timing in any_timing(), seed in any::<u64>(), local: bool) {
        prop_assume!(a.validate().is_ok() && b.validate().is_ok());
        let mode = if local { Mode::Lan } else { Mode::Remote };
        let lay = || Plan::new(mode, &a, &b, timing, &mut Seed::from_u64(seed));
        prop_assert_eq!(&lay(), &lay());
        if let Ok(plan) = lay() {
            prop_assert!(plan.within < Duration::from_secs(20), "{:?}", plan.within);
            for (schedule, side) in [(&plan.caller, &a), (&plan.answerer, &b)] {
                let most = usize::from(side.sockets) * 9 / 8;
                prop_assert!(schedule.dials.len() <= most);
                prop_assert!(schedule.dials.len() <= 600);
                prop_assert!(schedule.dials.is_sorted_by_key(|dial| dial.after));
                prop_assert!(schedule.dials.iter().all(|dial| dial.to != 0));
                prop_assert!(schedule.dials.iter().all(|dial| dial.after < plan.within));
            }
        }
    }
}

fn any_side() -> impl Strategy<Value = Endpoint> {
    let pool = || (1..u16::MAX, 1..u16::MAX).prop_map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) });
    let ports = prop_oneof![
        proptest::collection::vec(1..u16::MAX, 1..9).prop_map(PortForecast::Fixed),
        (1..u16::MAX, 1..65_u16).prop_map(|(first, count)| PortForecast::Run { first, count }),
        (pool(), any::<i16>(), 0..97_u16).prop_map(|(pool, step, others)| PortForecast::Counter {
            next: pool.first,
            step,
            others,
            pool
        }),
        pool().prop_map(|pool| PortForecast::Random { pool }),
    ];
    let filtering = prop_oneof![
        Just(Filtering::EndpointIndependent),
        Just(Filtering::AddressDependent),
        Just(Filtering::AddressAndPortDependent)
    ];
    let syn = prop_oneof![
        Just(None),
        Just(Some(SynAnswer::Silence)),
        Just(Some(SynAnswer::Reset)),
        Just(Some(SynAnswer::Icmp))
    ];
    (ports, filtering, syn, any::<bool>(), 1..1_025_u16).prop_map(
        |(ports, filtering, syn, low_ttl, sockets)| Endpoint {
            low_ttl,
            sockets,
            ..side(ports, filtering, syn)
        },
    )
}

fn any_timing() -> impl Strategy<Value = Timing> {
    (0..2_001_u16, 0..2_001_u16, 1..2_001_u16).prop_map(|(lead, spread, step)| Timing {
        start: UnixTime(0),
        lead,
        spread,
        step,
    })
}
