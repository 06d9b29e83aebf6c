//! The rewriting of addresses and ports in bytes that otherwise stay as they are.

use super::{
    Checksum, ICMP, Malformed, UDP, be16, checksum_offset, destination, echo, echo_id, fold, is_icmp, layout,
    parse, put_ip, put16, source, sum, sum_ip,
};
use crate::Family;
use crate::sim::packet::{Body, Header, Protocol, Quoted};

/// Writes the addresses, ports (or echo identifier) and hop limit of `header` into the bytes it was parsed from. It
/// updates the checksums by the difference. For an ICMP error the quoted packet is rewritten too.
///
/// # Errors
/// [`Malformed::Mismatch`] when `header` was read from some other packet, otherwise as [`parse`]. The bytes are then
/// untouched.
pub fn rewrite(bytes: &mut [u8], header: &Header, state: Checksum) -> Result<(), Malformed> {
    let old = parse(bytes)?;
    if old.body_kind() != header.body_kind()
        || old.family() != header.family()
        || header.src.is_ipv4() != header.dst.is_ipv4()
    {
        return Err(Malformed::Mismatch);
    }
    let layout = layout(bytes, false)?;
    let bytes = &mut bytes[..layout.end];
    rewrite_ip(bytes, layout.family, &old, header);
    let l4 = layout.l4;
    let check_at = l4 + checksum_offset(layout.protocol);
    let check = be16(bytes, check_at)?;
    let pseudo = |header: &Header| match layout.protocol {
        ICMP => 0,
        _ => sum_ip(header.src.ip()) + sum_ip(header.dst.ip()),
    };
    // A sum that hardware will compute later must not be accounted for now.
    let covered = match (state, header.body) {
        (Checksum::Partial, Body::Tcp(_) | Body::Udp { .. }) => 0..0,
        (_, Body::Icmp { .. }) => l4 + 8..layout.end,
        _ => l4..l4 + 8,
    };
    let sum_covered = |bytes: &[u8]| {
        let mut total = sum(&bytes[covered.clone()]);
        if covered.contains(&check_at) {
            total -= u64::from(be16(bytes, check_at).unwrap_or(0));
        }
        total
    };
    let before = pseudo(&old) + sum_covered(bytes);
    match header.body {
        Body::Tcp(_) | Body::Udp { .. } => {
            put16(bytes, l4, header.src.port());
            put16(bytes, l4 + 2, header.dst.port());
        }
        Body::Echo { reply, .. } => put16(bytes, l4 + 4, echo_id(header.src, header.dst, reply)),
        Body::Icmp { quoted, .. } => rewrite_quoted(&mut bytes[l4 + 8..], &quoted)?,
    }
    let after = pseudo(header) + sum_covered(bytes);
    let is_udp = layout.protocol == UDP;
    if is_udp && layout.family == Family::V4 && check == 0 && state == Checksum::Full {
        return Ok(());
    }
    let state = if is_icmp(&layout) { Checksum::Full } else { state };
    let check = match updated(check, before, after, state) {
        0 if is_udp => 0xffff,
        check => check,
    };
    put16(bytes, check_at, check);
    Ok(())
}

fn rewrite_ip(bytes: &mut [u8], family: Family, old: &Header, new: &Header) {
    put_ip(bytes, new.src.ip(), 12, 8);
    put_ip(bytes, new.dst.ip(), 16, 24);
    match family {
        Family::V4 => {
            bytes[8] = new.ttl;
            let total = |header: &Header| {
                sum_ip(header.src.ip()) + sum_ip(header.dst.ip()) + (u64::from(header.ttl) << 8)
            };
            let check = u16::from_be_bytes([bytes[10], bytes[11]]);
            put16(bytes, 10, updated(check, total(old), total(new), Checksum::Full));
        }
        Family::V6 => bytes[7] = new.ttl,
    }
}

/// Rewrites a quoted packet, with its own checksums as far as they are quoted (RFC 5508, section 4).
fn rewrite_quoted(bytes: &mut [u8], new: &Quoted) -> Result<(), Malformed> {
    let layout = layout(bytes, true).map_err(|_| Malformed::Quote)?;
    let (src, dst) = (source(bytes, layout.family)?, destination(bytes, layout.family)?);
    let ips = |src, dst| sum_ip(src) + sum_ip(dst);
    let (old_ips, new_ips) = (ips(src, dst), ips(new.src.ip(), new.dst.ip()));
    put_ip(bytes, new.src.ip(), 12, 8);
    put_ip(bytes, new.dst.ip(), 16, 24);
    if layout.family == Family::V4 {
        let check = be16(bytes, 10)?;
        put16(bytes, 10, updated(check, old_ips, new_ips, Checksum::Full));
    }
    let l4 = layout.l4;
    let (before, after) = match new.protocol {
        Protocol::Tcp | Protocol::Udp => {
            let old = sum(&bytes[l4..l4 + 4]);
            put16(bytes, l4, new.src.port());
            put16(bytes, l4 + 2, new.dst.port());
            (old_ips + old, new_ips + sum(&bytes[l4..l4 + 4]))
        }
        Protocol::Echo => {
            let reply = echo(layout.family, bytes[l4]).ok_or(Malformed::Quote)?;
            let old = u64::from(be16(bytes, l4 + 4)?);
            let id = echo_id(new.src, new.dst, reply);
            put16(bytes, l4 + 4, id);
            if layout.protocol == ICMP {
                (old, u64::from(id))
            } else {
                (old_ips + old, new_ips + u64::from(id))
            }
        }
    };
    let check_at = l4 + checksum_offset(layout.protocol);
    if let Ok(check) = be16(bytes, check_at)
        && (layout.protocol != UDP || check != 0)
    {
        put16(bytes, check_at, updated(check, before, after, Checksum::Full));
    }
    Ok(())
}

/// Returns a checksum updated by RFC 1624, equation 3, over sums.
fn updated(check: u16, old: u64, new: u64, state: Checksum) -> u16 {
    let difference = u64::from(!fold(old)) + u64::from(fold(new));
    match state {
        Checksum::Full => !fold(u64::from(!check) + difference),
        Checksum::Partial => fold(u64::from(check) + difference),
    }
}

impl Header {
    /// Returns the kind of the body. A packet does not fit the bytes of one of another kind.
    fn body_kind(&self) -> (Option<Protocol>, bool, Option<Protocol>) {
        match self.body {
            Body::Echo { reply, .. } => (self.protocol(), reply, None),
            Body::Icmp { quoted, .. } => (None, quoted.src.is_ipv4(), Some(quoted.protocol)),
            _ => (self.protocol(), false, None),
        }
    }
}
