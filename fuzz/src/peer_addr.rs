use p2p_core::peer::{BrokerUrl, Identity, PeerAddr, PeerId};

/// Reads addresses, ids, keys and broker URLs, from bytes, from text, and signed by a hostile peer.
pub fn peer_addr(data: &[u8]) {
    if let Ok(addr) = PeerAddr::from_bytes(data) {
        assert_eq!(addr.to_bytes(), data, "one meaning, one form");
        use_addr(&addr);
    }
    // Two bytes of length follow the version. Longer contents are too big with any length.
    let statement =
        [&[1][..], &((data.len() as u16).wrapping_add(96)).to_be_bytes(), signer().id().as_bytes(), data]
            .concat();
    let signature = signer().sign(&[b"p2p peer address\0", &*statement].concat());
    let forged = [&statement[..], &signature].concat();
    if let Ok(addr) = PeerAddr::from_bytes(&forged) {
        assert_eq!(PeerAddr::sign(&signer(), addr.contents().clone()).as_ref(), Ok(&addr));
        use_addr(&addr);
    }
    if let Ok(text) = str::from_utf8(data) {
        if let Ok(addr) = text.parse::<PeerAddr>() {
            use_addr(&addr);
        }
        if let Ok(id) = text.parse::<PeerId>() {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.noise_public().len(), 32);
        }
        if let Ok(identity) = text.parse::<Identity>() {
            let again = identity.to_text().parse::<Identity>();
            assert_eq!(again.map(|again| again.to_bytes()), Ok(identity.to_bytes()));
        }
        if let Ok(url) = text.parse::<BrokerUrl>() {
            assert_eq!(url.to_string().parse(), Ok(url));
        }
    }
}

fn signer() -> Identity {
    Identity::from_bytes([7; 32])
}

fn use_addr(addr: &PeerAddr) {
    assert_eq!(addr.to_string().parse().as_ref(), Ok(addr));
    assert!(addr.brokers().len() <= PeerAddr::MOST_BROKERS);
    assert!(addr.interfaces().len() <= PeerAddr::MOST_INTERFACES);
    for interface in addr.interfaces() {
        for target in [interface.local_target(), interface.external_target()] {
            assert!(target.is_none_or(|target| target.port() != 0 && !target.ip().is_unspecified()));
        }
    }
}
