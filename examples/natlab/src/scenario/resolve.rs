//! From the keys of a file to a plan: names looked up, addresses given out, everything impossible refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use p2p_core::Family;
use p2p_core::nat::PortRange;
use p2p_core::sim::link::{Link, LinkConfig};
use p2p_core::sim::nat::NatConfig;
use toml::Spanned;

use super::file::{
    Addresses, Fault, File, HostFile, InternetFile, Kernel, Named, NetFile, RouterFile, V6, as_v4,
    unknown_word,
};
use super::syn::Syn;
use super::{Cable, Host, Interface, Net, Refusal, Router, RouterKind, Scenario};
use crate::cidr::Cidr;

/// The name of the network that is always there.
const INTERNET: &str = "internet";
/// Really assigned space, so that programs which refuse documentation and private ranges feel at home. No
/// packet ever leaves the lab.
const INTERNET_V4: &str = "45.0.0.0/8";
const INTERNET_V6: &str = "2a0f::/64";
/// Hosts on the Internet are counted from here, 45.1.0.1 …
const FIRST_PUBLIC: u32 = 0x1_0001;
/// … and routers from here, 45.2.0.1 …
const FIRST_EXTERNAL: u32 = 0x2_0001;

/// A name becomes part of file names and of an interface's address.
const LONGEST_NAME: usize = 20;
const MOST_HOSTS: usize = 64;
const MOST_ROUTERS: usize = 64;
const MOST_INTERFACES: usize = 8;

type Checked<T> = Result<T, Fault>;

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

/// The networks, and who has which address on them.
struct Nets {
    nets: Vec<Net>,
    taken: Vec<BTreeMap<IpAddr, String>>,
}

impl Nets {
    fn new(internet: &InternetFile, named: &Named<NetFile>) -> Checked<Self> {
        let given = |prefix: &Option<Spanned<super::file::Prefix>>, family| -> Checked<Option<Cidr>> {
            let Some(prefix) = prefix else { return Ok(None) };
            let cidr = prefix.get_ref().0;
            if cidr.family() != family {
                return Err(Fault::new(prefix.span(), format!("{cidr} is not {family}")));
            }
            if cidr.network() != cidr {
                let problem = format!("{cidr} has bits beyond its prefix: {} is meant?", cidr.network());
                return Err(Fault::new(prefix.span(), problem));
            }
            Ok(Some(cidr))
        };
        let mut nets = vec![Net {
            name: INTERNET.to_owned(),
            v4: given(&internet.v4, Family::V4)?.or_else(|| INTERNET_V4.parse().ok()),
            v6: given(&internet.v6, Family::V6)?.or_else(|| INTERNET_V6.parse().ok()),
        }];
        for (name, net) in named {
            if net.v4.is_none() && net.v6.is_none() {
                let problem = format!("the network `{}` has neither `v4` nor `v6`", name.get_ref());
                return Err(Fault::new(name.span(), problem));
            }
            nets.push(Net {
                name: name.get_ref().clone(),
                v4: given(&net.v4, Family::V4)?,
                v6: given(&net.v6, Family::V6)?,
            });
        }
        let taken = vec![BTreeMap::new(); nets.len()];
        Ok(Self { nets, taken })
    }

    fn find(&self, name: &Spanned<String>) -> Checked<usize> {
        let position = self.nets.iter().position(|net| &net.name == name.get_ref());
        position.ok_or_else(|| {
            let known = self.nets.iter().map(|net| net.name.as_str());
            Fault::new(name.span(), unknown_word("network", name.get_ref(), known))
        })
    }

    /// Every network has a gateway, the first address of each of its prefixes.
    fn take_gateways(&mut self, places: &[Place]) {
        for (index, net) in self.nets.iter().enumerate() {
            if index == 0 || places.iter().any(|place| place.inside == index) {
                for address in net.prefixes().filter_map(|prefix| prefix.nth(1)) {
                    self.taken[index].insert(address.ip(), "the gateway".to_owned());
                }
            }
        }
    }

    /// Takes what the file names, before anything is given out.
    fn take_explicit(&mut self, file: &File) -> Checked<()> {
        for (name, host) in &file.host {
            for (net, addresses) in interfaces_of(host) {
                let net = self.find(net)?;
                let Some(addresses) = addresses else { continue };
                for ip in &addresses.get_ref().0 {
                    self.take(net, *ip, name.get_ref(), addresses.span())?;
                }
            }
        }
        for (name, router) in &file.router {
            let outside = match &router.outside {
                None => 0,
                Some(outside) => self.find(outside)?,
            };
            for ip in &router.external {
                as_v4(ip)?;
                self.take(outside, *ip.get_ref(), name.get_ref(), ip.span())?;
            }
        }
        Ok(())
    }

    fn take(&mut self, net: usize, ip: IpAddr, who: &str, at: Range<usize>) -> Checked<()> {
        let Net { name, v4, v6 } = &self.nets[net];
        let (family, prefix) = match ip {
            IpAddr::V4(_) => (Family::V4, v4),
            IpAddr::V6(_) => (Family::V6, v6),
        };
        let Some(prefix) = prefix else {
            return Err(Fault::new(
                at,
                format!("{ip} is {family}, but the network `{name}` has no {family} prefix"),
            ));
        };
        if !prefix.is_usable(ip) {
            return Err(Fault::new(
                at,
                format!("{ip} is no address of the network `{name}`, which is {prefix}"),
            ));
        }
        if let Some(other) = self.taken[net].insert(ip, who.to_owned()) {
            return Err(Fault::new(at, format!("{ip} on the network `{name}` is taken: by {other}")));
        }
        Ok(())
    }

    fn prefix_of(&self, net: usize, ip: IpAddr) -> Option<Cidr> {
        self.nets[net].prefixes().find(|prefix| prefix.contains(ip))
    }

    /// Gives out the next free address of a family, if the network has that family.
    fn give(
        &mut self,
        net: usize,
        family: Family,
        first: u32,
        who: &Spanned<String>,
    ) -> Checked<Option<Cidr>> {
        let prefix = match family {
            Family::V4 => self.nets[net].v4,
            Family::V6 => self.nets[net].v6,
        };
        let Some(prefix) = prefix else { return Ok(None) };
        // From the usual place, then from the start: a small network may have nothing there.
        let most = 2 * (MOST_HOSTS * MOST_INTERFACES + MOST_ROUTERS) as u32;
        let mut free =
            (first..first + most).chain(1..first.min(most)).filter_map(|number| prefix.nth(number));
        let taken = &mut self.taken[net];
        let found = free.find(|address| prefix.is_usable(address.ip()) && !taken.contains_key(&address.ip()));
        if let Some(address) = found {
            taken.insert(address.ip(), who.get_ref().clone());
            return Ok(Some(address));
        }
        let problem = format!("the network `{}` ({prefix}) has no address left", self.nets[net].name);
        Err(Fault::new(who.span(), problem))
    }
}

/// The network and the addresses of each interface of a host.
fn interfaces_of(host: &HostFile) -> Vec<(&Spanned<String>, Option<&Spanned<Addresses>>)> {
    let own = host.net.iter().map(|net| (net, host.address.as_ref()));
    let listed = host.interface.iter().map(Spanned::get_ref);
    own.chain(listed.map(|interface| (&interface.net, interface.address.as_ref()))).collect()
}

/// Between which networks a router stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    inside: usize,
    outside: usize,
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
        // Follow the way out from here; it must not come back.
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

/// A router cannot tell its two sides apart when they overlap; IPv6 is not translated, so all its networks
/// must differ.
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

fn cable(
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

fn resolve_router(
    name: &Spanned<String>,
    router: &RouterFile,
    place: Place,
    nets: &mut Nets,
) -> Checked<Router> {
    let (inside, outside) = (nets.nets[place.inside].clone(), nets.nets[place.outside].clone());
    if inside.v4.is_some() && outside.v4.is_none() {
        let problem = format!("`{}` has IPv4, but `{}` outside has none", inside.name, outside.name);
        return Err(Fault::new(name.span(), problem));
    }
    let first = if place.outside == 0 { FIRST_EXTERNAL } else { 2 };
    let mut outer: Vec<Cidr> = router
        .external
        .iter()
        .filter_map(|ip| Cidr::new(*ip.get_ref(), nets.prefix_of(place.outside, *ip.get_ref())?.length()))
        .collect();
    if outer.is_empty() && inside.v4.is_some() {
        outer.extend(nets.give(place.outside, Family::V4, first, name)?);
    }
    let kind = match &router.kernel {
        Some(kernel) => kernel_router(router, *kernel.get_ref(), &inside, kernel.span())?,
        None => {
            if let Some(upnp) = &router.upnp {
                return Err(Fault::new(
                    upnp.span(),
                    "UPnP needs a real router: add `kernel = \"masquerade\"`",
                ));
            }
            RouterKind::Simulated {
                v4: translation(router, &outer)?.map(Box::new),
                v6: firewall(router, &inside)?.map(Box::new),
            }
        }
    };
    if inside.v6.is_some() && outside.v6.is_some() {
        outer.extend(nets.give(place.outside, Family::V6, first, name)?);
    }
    Ok(Router {
        name: name.get_ref().clone(),
        inside: place.inside,
        outside: place.outside,
        inner: inside.prefixes().filter_map(|prefix| prefix.nth(1)).collect(),
        outer,
        cable: cable(&router.link, &router.up, &router.down)?,
        kind,
    })
}

fn kernel_router(router: &RouterFile, kernel: Kernel, inside: &Net, at: Range<usize>) -> Checked<RouterKind> {
    let only_simulated = [
        ("preset", router.preset.as_ref().map(Spanned::span)),
        ("nat", router.nat.as_ref().map(Spanned::span)),
        ("hairpin", router.hairpin.as_ref().map(Spanned::span)),
        ("range", router.range.as_ref().map(Spanned::span)),
        ("v6", router.v6.as_ref().map(Spanned::span)),
    ];
    for (key, span) in only_simulated {
        if let Some(span) = span {
            return Err(Fault::new(
                span,
                format!("`{key}` is for simulated routers, this one is Linux itself"),
            ));
        }
    }
    if inside.v4.is_none() {
        let problem = format!("a Linux router masquerades IPv4, but the network `{}` has none", inside.name);
        return Err(Fault::new(at, problem));
    }
    let refusal = match &router.syn {
        None => Refusal::default(),
        Some(word) => {
            let at_once = || Fault::new(word.span(), "Linux answers at once or never");
            syn_of(word)?.refusal().ok_or_else(at_once)?
        }
    };
    Ok(RouterKind::Kernel {
        refusal,
        is_fully_random: kernel == Kernel::FullyRandom,
        has_upnp: router.upnp.as_ref().is_some_and(|upnp| *upnp.get_ref()),
    })
}

/// The NAT for IPv4, with its external addresses.
fn translation(router: &RouterFile, outer: &[Cidr]) -> Checked<Option<NatConfig>> {
    let external: Vec<IpAddr> = outer.iter().map(Cidr::ip).collect();
    let (mut config, at) = match (&router.preset, &router.nat) {
        (Some(name), None) => {
            let config = super::preset::config(name.get_ref(), external);
            (config.map_err(|problem| Fault::new(name.span(), problem))?, name.span())
        }
        (None, Some(nat)) => {
            let config = nat.get_ref().clone();
            if !config.external.is_empty() {
                return Err(Fault::new(
                    nat.span(),
                    "external addresses are given by `external` of the router",
                ));
            }
            (NatConfig { external, ..config }, nat.span())
        }
        (Some(_), Some(nat)) => {
            return Err(Fault::new(nat.span(), "`preset` and `nat` both say what the NAT is: keep one"));
        }
        (None, None) => {
            let needs = [
                ("hairpin", router.hairpin.as_ref().map(Spanned::span)),
                ("range", router.range.as_ref().map(Spanned::span)),
            ];
            let stray = needs.into_iter().find_map(|(key, span)| Some((key, span?)));
            return match stray {
                Some((key, span)) => Err(Fault::new(span, format!("`{key}` needs a NAT: add a `preset`"))),
                None => Ok(None),
            };
        }
    };
    if let Some(hairpin) = &router.hairpin {
        config.hairpin = *hairpin.get_ref();
    }
    if let Some(range) = &router.range {
        let PortRange { first, last } = range.get_ref().0;
        config = config.with_flow(|flow| flow.range = PortRange { first, last });
    }
    if let Some(syn) = &router.syn {
        config = syn_of(syn)?.apply(config);
    }
    config.validate().map_err(|error| Fault::new(at, error.to_string()))?;
    Ok(Some(config))
}

/// The firewall for IPv6; `None` where there is none.
fn firewall(router: &RouterFile, inside: &Net) -> Checked<Option<NatConfig>> {
    match (&router.v6, inside.v6) {
        (Some(v6), None) => {
            let problem = format!("`v6` is for IPv6, but the network `{}` has no IPv6 prefix", inside.name);
            Err(Fault::new(v6.span(), problem))
        }
        (Some(v6), Some(_)) if *v6.get_ref() == V6::Open => Ok(None),
        (_, None) => Ok(None),
        (_, Some(_)) => {
            let mut config = NatConfig::default();
            if let Some(syn) = &router.syn {
                config = syn_of(syn)?.apply(config);
            }
            Ok(Some(config))
        }
    }
}

fn syn_of(word: &Spanned<String>) -> Checked<Syn> {
    Syn::parse(word.get_ref()).map_err(|problem| Fault::new(word.span(), problem))
}
