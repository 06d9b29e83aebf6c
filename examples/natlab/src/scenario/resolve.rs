//! The step from the keys of a file to a plan: names are looked up, addresses given out, and impossible things
//! refused.

use std::collections::BTreeSet;

use p2p_core::Family;
use p2p_core::sim::link::{Link, LinkConfig};
use toml::Spanned;

use super::file::{Addresses, Fault, File, HostFile};
use super::nets::Nets;
use super::routers::resolve_router;
use super::{Cable, Host, Interface, Scenario};
use crate::cidr::Cidr;

/// The name of the network that is always there.
pub(super) const INTERNET: &str = "internet";
/// The number of the first host on the Internet: 45.1.0.1 …
const FIRST_PUBLIC: u32 = 0x1_0001;

/// The most bytes of a name, which becomes part of file names and of an interface's address.
const LONGEST_NAME: usize = 20;
pub(super) const MOST_HOSTS: usize = 64;
pub(super) const MOST_ROUTERS: usize = 64;
pub(super) const MOST_INTERFACES: usize = 8;

/// A resolved value, or the first fault.
pub(super) type Checked<T> = Result<T, Fault>;

pub(super) fn resolve(file: File, text: &str) -> Checked<Scenario> {
    if file.host.is_empty() {
        return Err(Fault::new(0..0, "there is no host: a lab without one has nothing to run"));
    }
    check_names(&file)?;
    let mut nets = Nets::new(&file.internet, &file.net)?;
    let places = place_routers(&file, &nets)?;
    check_overlaps(&file, &nets, &places)?;
    nets.take_gateways(&places);
    nets.take_explicit(&file)?;
    let mut routers = Vec::new();
    for ((name, router), place) in file.router.iter().zip(&places) {
        routers.push(resolve_router(name, router, *place, &mut nets)?);
    }
    let mut hosts = Vec::new();
    for (name, host) in &file.host {
        hosts.push(resolve_host(name, host, &mut nets)?);
    }
    Ok(Scenario { seed: file.seed, nets: nets.nets, routers, hosts, source: text.to_owned() })
}

fn check_names(file: &File) -> Checked<()> {
    let names = file.net.keys().chain(file.router.keys()).chain(file.host.keys());
    for name in names {
        let text = name.get_ref();
        let fits = (1..=LONGEST_NAME).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !fits {
            return Err(Fault::new(
                name.span(),
                format!("`{text}` is no name: 1 to {LONGEST_NAME} of a-z, 0-9 and -"),
            ));
        }
    }
    if let Some(name) = file.net.keys().find(|name| name.get_ref() == INTERNET) {
        return Err(Fault::new(
            name.span(),
            "the Internet is always there: its prefixes go under [internet]",
        ));
    }
    if let Some(name) = file.host.keys().find(|name| file.router.contains_key(name.get_ref().as_str())) {
        let problem = format!("`{}` is the name of a router, too", name.get_ref());
        return Err(Fault::new(name.span(), problem));
    }
    let many = [("hosts", file.host.len(), MOST_HOSTS), ("routers", file.router.len(), MOST_ROUTERS)];
    for (what, number, most) in many {
        if number > most {
            return Err(Fault::new(0..0, format!("{number} {what} are too many: at most {most}")));
        }
    }
    Ok(())
}

/// The networks between which a router stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) inside: usize,
    pub(super) outside: usize,
}

fn place_routers(file: &File, nets: &Nets) -> Checked<Vec<Place>> {
    let mut places: Vec<Place> = Vec::new();
    for router in file.router.values() {
        let place = Place {
            inside: nets.find(&router.inside)?,
            outside: router.outside.as_ref().map_or(Ok(0), |outside| nets.find(outside))?,
        };
        let name = router.inside.get_ref();
        if place.inside == 0 {
            return Err(Fault::new(router.inside.span(), "the Internet is outside of every router"));
        }
        if places.iter().any(|other| other.inside == place.inside) {
            let problem =
                format!("the network `{name}` has two routers: hosts on it would not know which to use");
            return Err(Fault::new(router.inside.span(), problem));
        }
        places.push(place);
        // The way out from here is followed, as it must not come back.
        let mut seen = BTreeSet::from([place.inside]);
        let mut at = place.outside;
        while let Some(next) = places.iter().find(|place| place.inside == at).filter(|_| seen.insert(at)) {
            at = next.outside;
        }
        if seen.contains(&at) {
            let problem = format!("the way out of the network `{name}` leads back into it");
            return Err(Fault::new(router.inside.span(), problem));
        }
    }
    Ok(places)
}

/// Checks that the two sides of a router do not overlap, as it could not tell them apart. IPv6 is not translated, so
/// all its networks must differ.
fn check_overlaps(file: &File, nets: &Nets, places: &[Place]) -> Checked<()> {
    for (router, place) in file.router.values().zip(places) {
        let inside = &nets.nets[place.inside];
        let mut at = Some(place.outside);
        while let Some(index) = at {
            let outside = &nets.nets[index];
            if let (Some(a), Some(b)) = (inside.v4, outside.v4)
                && a.overlaps(&b)
            {
                return Err(Fault::new(
                    router.inside.span(),
                    format!(
                        "{a} of the network `{}` overlaps {b} of the network `{}` outside of it",
                        inside.name, outside.name
                    ),
                ));
            }
            at = places.iter().find(|place| place.inside == index).map(|place| place.outside);
        }
    }
    for (name, net) in &file.net {
        for other in &nets.nets {
            let Some((a, b)) = net.v6.as_ref().map(|v6| v6.get_ref().0).zip(other.v6) else {
                continue;
            };
            if &other.name != name.get_ref() && a.overlaps(&b) {
                let problem = format!("{a} overlaps {b} of the network `{}`", other.name);
                return Err(Fault::new(name.span(), problem));
            }
        }
    }
    Ok(())
}

pub(super) fn cable(
    both: &Option<Spanned<LinkConfig>>,
    up: &Option<Spanned<LinkConfig>>,
    down: &Option<Spanned<LinkConfig>>,
) -> Checked<Cable> {
    for link in [both, up, down].into_iter().flatten() {
        let seed = p2p_core::Seed::from_u64(0);
        Link::new(*link.get_ref(), seed).map_err(|error| Fault::new(link.span(), error.to_string()))?;
    }
    let pick = |one: &Option<Spanned<LinkConfig>>| {
        one.as_ref().or(both.as_ref()).map_or_else(LinkConfig::default, |link| *link.get_ref())
    };
    Ok(Cable { up: pick(up), down: pick(down) })
}

fn resolve_host(name: &Spanned<String>, host: &HostFile, nets: &mut Nets) -> Checked<Host> {
    let mut interfaces = Vec::new();
    let mut add = |net: &Spanned<String>, addresses: Option<&Spanned<Addresses>>, cable| -> Checked<()> {
        let net = nets.find(net)?;
        let addresses = match addresses {
            Some(given) => given
                .get_ref()
                .0
                .iter()
                .filter_map(|ip| Cidr::new(*ip, nets.prefix_of(net, *ip)?.length()))
                .collect(),
            None => {
                let first = if net == 0 { FIRST_PUBLIC } else { 2 };
                let v4 = nets.give(net, Family::V4, first, name)?;
                v4.into_iter().chain(nets.give(net, Family::V6, first, name)?).collect()
            }
        };
        interfaces.push(Interface { net, addresses, cable });
        Ok(())
    };
    match &host.net {
        Some(net) => add(net, host.address.as_ref(), cable(&host.link, &host.up, &host.down)?)?,
        None => {
            let stray = host.address.as_ref().map(Spanned::span);
            let links = [&host.link, &host.up, &host.down];
            let stray = stray.or_else(|| links.into_iter().flatten().next().map(Spanned::span));
            if let Some(at) = stray {
                return Err(Fault::new(at, "this belongs to an interface, but the host has no `net`"));
            }
        }
    }
    for interface in &host.interface {
        let interface = interface.get_ref();
        let cable = cable(&interface.link, &interface.up, &interface.down)?;
        add(&interface.net, interface.address.as_ref(), cable)?;
    }
    if interfaces.is_empty() || interfaces.len() > MOST_INTERFACES {
        let problem = format!(
            "the host `{}` has {} interfaces: it takes 1 to {MOST_INTERFACES}",
            name.get_ref(),
            interfaces.len()
        );
        return Err(Fault::new(name.span(), problem));
    }
    Ok(Host { name: name.get_ref().clone(), interfaces, routing: host.routing })
}
