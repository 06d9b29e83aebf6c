//! The routers of a scenario: simulated ones with their NATs, and Linux itself.

use std::net::IpAddr;
use std::ops::Range;

use p2p_core::Family;
use p2p_core::nat::PortRange;
use p2p_core::sim::nat::NatConfig;
use toml::Spanned;

use super::file::{Fault, Kernel, RouterFile, V6};
use super::nets::Nets;
use super::resolve::{Checked, Place, cable};
use super::syn::Syn;
use super::{Net, Refusal, Router, RouterKind};
use crate::cidr::Cidr;

/// The number of the first router on the Internet: 45.2.0.1 …
const FIRST_EXTERNAL: u32 = 0x2_0001;

/// Returns a router with its addresses and its behaviour.
pub(super) fn resolve_router(
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
                is_silent: router.silent.as_ref().is_some_and(|silent| *silent.get_ref()),
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
        ("silent", router.silent.as_ref().map(Spanned::span)),
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

/// Returns the NAT for IPv4, with its external addresses.
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

/// Returns the firewall for IPv6, or `None` where there is none.
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
