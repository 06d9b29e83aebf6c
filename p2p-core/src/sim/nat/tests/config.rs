//! Tests of configurations: impossible ones are refused, and possible ones survive a file.

use super::*;

fn refused(change: impl Fn(&mut NatConfig)) -> NatConfigError {
    let mut config = NatConfig::home(ip(EXTERNAL));
    change(&mut config);
    Nat::new(config, Seed::from_u64(1)).unwrap_err()
}

#[test]
fn an_impossible_nat_is_refused_with_the_reason() {
    let range = |first, last| PortRange { first, last };
    let empty = refused(|config| config.udp.flow.range = range(9, 8));
    assert_eq!(
        empty.to_string(),
        "UDP: the port range 9-8 is empty: the first port must not be above the last"
    );
    assert_eq!(
        refused(|config| config.tcp.flow.range = range(0, 8)),
        NatConfigError::RangeZero(Protocol::Tcp)
    );
    assert_eq!(
        refused(|config| config.tcp.flow.ports = PortChoice::StepWhileLocalSteps { by: 0 }),
        NatConfigError::StepZero(Protocol::Tcp)
    );
    assert_eq!(
        refused(|config| {
            config.udp.flow.overload = true;
            config.udp.flow.filtering = Filtering::AddressDependent;
        }),
        NatConfigError::OverloadFiltering(Protocol::Udp)
    );
    assert_eq!(
        refused(|config| config.udp.flow.background = -1.0),
        NatConfigError::Background(Protocol::Udp, -1.0)
    );
    assert!(matches!(
        refused(|config| config.tcp.flow.background = f64::NAN),
        NatConfigError::Background(..)
    ));
    assert_eq!(
        refused(|config| config.external.push(ip("2001:db8::1"))),
        NatConfigError::MixedFamilies(ip(EXTERNAL), ip("2001:db8::1"))
    );
    assert_eq!(refused(|config| config.external.push(ip(EXTERNAL))), NatConfigError::Twice(ip(EXTERNAL)));
    assert_eq!(
        refused(|config| config.external = vec![ip("0.0.0.0")]),
        NatConfigError::Unusable(ip("0.0.0.0"))
    );
    assert_eq!(
        refused(|config| {
            config.block = Some(512);
            config.tcp.flow.range = range(1_000, 1_100);
        }),
        NatConfigError::Block { protocol: Protocol::Tcp, block: 512, range: 101 }
    );
    assert_eq!(
        refused(|config| config.udp.flow.policy = Policy::Open),
        NatConfigError::OpenTranslation(Protocol::Udp)
    );
    assert_eq!(refused(|config| config.most_mappings = 0), NatConfigError::LimitZero("most_mappings"));
}

#[test]
fn a_configuration_survives_a_file() {
    let mut odd = NatConfig::carrier(vec![ip(EXTERNAL)], 64);
    odd.tcp.unsolicited = Unsolicited::ResetAfter { after: secs(6) };
    odd.tcp.flow.ports = PortChoice::Step { by: -2, scope: StepScope::PerDestination };
    odd.hairpin = Hairpin::InternalSource;
    for config in [
        NatConfig::default(),
        NatConfig::open(),
        NatConfig::blocked(),
        NatConfig::linux_fully_random(ip(EXTERNAL)),
        odd,
    ] {
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<NatConfig>(&text).unwrap(), config, "{text}");
    }
}

#[test]
fn a_file_says_what_it_means() {
    let text = r#"
        external = ["198.51.100.1"]
        hairpin = "external-source"
        [tcp]
        unsolicited = "reset"
        timeout_open = "2h"
        flow.ports = { step = { by = 1, scope = "global" } }
    "#;
    let config: NatConfig = toml::from_str(text).unwrap();
    assert_eq!(config.tcp.timeout_open, secs(7_200));
    assert_eq!(config.tcp.unsolicited, Unsolicited::Reset);
    assert!(config.validate().is_ok());
    let error = toml::from_str::<NatConfig>("[udp]\ntimout = \"5s\"").unwrap_err();
    assert!(error.to_string().contains("timout"), "{error}");
}
