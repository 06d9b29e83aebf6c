//! The networks of a scenario, and the addresses on them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use p2p_core::Family;
use toml::Spanned;

use super::Net;
use super::file::{
    Addresses, Fault, File, HostFile, InternetFile, Named, NetFile, Prefix, as_v4, unknown_word,
};
use super::resolve::{Checked, INTERNET, MOST_HOSTS, MOST_INTERFACES, MOST_ROUTERS, Place};
use crate::cidr::Cidr;

/// The prefixes of the Internet. They are really assigned space, because some programs refuse documentation and
/// private ranges. No packet ever leaves the lab.
const INTERNET_V4: &str = "45.0.0.0/8";
const INTERNET_V6: &str = "2a0f::/64";

/// The networks, and the addresses that are taken on them.
pub(super) struct Nets {
    pub(super) nets: Vec<Net>,
    taken: Vec<BTreeMap<IpAddr, String>>,
}

impl Nets {
    pub(super) fn new(internet: &InternetFile, named: &Named<NetFile>) -> Checked<Self> {
        let given = |prefix: &Option<Spanned<Prefix>>, family| -> Checked<Option<Cidr>> {
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

    pub(super) fn find(&self, name: &Spanned<String>) -> Checked<usize> {
        let position = self.nets.iter().position(|net| &net.name == name.get_ref());
        position.ok_or_else(|| {
            let known = self.nets.iter().map(|net| net.name.as_str());
            Fault::new(name.span(), unknown_word("network", name.get_ref(), known))
        })
    }

    /// Takes the gateway of every network: the first address of each of its prefixes.
    pub(super) fn take_gateways(&mut self, places: &[Place]) {
        for (index, net) in self.nets.iter().enumerate() {
            if index == 0 || places.iter().any(|place| place.inside == index) {
                for address in net.prefixes().filter_map(|prefix| prefix.nth(1)) {
                    self.taken[index].insert(address.ip(), "the gateway".to_owned());
                }
            }
        }
    }

    /// Takes the addresses that the file names, before any is given out.
    pub(super) fn take_explicit(&mut self, file: &File) -> Checked<()> {
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

    pub(super) fn prefix_of(&self, net: usize, ip: IpAddr) -> Option<Cidr> {
        self.nets[net].prefixes().find(|prefix| prefix.contains(ip))
    }

    /// Gives out the next free address of a family, if the network has that family.
    pub(super) fn give(
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
        // The search begins at the usual place, and then at the start, as a small network may have nothing there.
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

/// Returns the network and the addresses of each interface of a host.
fn interfaces_of(host: &HostFile) -> Vec<(&Spanned<String>, Option<&Spanned<Addresses>>)> {
    let own = host.net.iter().map(|net| (net, host.address.as_ref()));
    let listed = host.interface.iter().map(Spanned::get_ref);
    own.chain(listed.map(|interface| (&interface.net, interface.address.as_ref()))).collect()
}
