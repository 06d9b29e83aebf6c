use proptest::prelude::*;

use super::*;

fn url(text: &str) -> BrokerUrl {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> BrokerUrlError {
    text.parse::<BrokerUrl>().expect_err(text)
}

#[test]
fn what_is_written_is_understood() {
    let plain = url("mqtt://broker.example.org");
    assert_eq!(plain.scheme(), Scheme::Mqtt);
    assert_eq!(plain.host(), &Host::Name("broker.example.org".into()));
    assert_eq!(plain.port(), Some(1883));
    assert_eq!(plain.version(), None);
    assert!(!plain.is_tls());

    let tls = url("MQTTS://[2001:DB8::1]:443/?v=5");
    assert_eq!(tls.host(), &Host::V6("2001:db8::1".parse().unwrap()));
    assert_eq!(tls.host().to_string(), "2001:db8::1");
    assert_eq!((tls.port(), tls.version()), (Some(443), Some(MqttVersion::V5)));
    assert!(tls.is_tls());
    assert_eq!(url("mqtts://192.0.2.1").port(), Some(8883));
    assert_eq!(url("memory://1").port(), None);
}

#[test]
fn there_is_one_spelling_of_each() {
    for (typed, shown) in [
        ("mqtt://Host:1883/", "mqtt://host"),
        ("mqtts://host:8883?v=3", "mqtts://host?v=3"),
        ("mqtts://host:1883", "mqtts://host:1883"),
        ("mqtt://[0:0::1]:01884", "mqtt://[::1]:1884"),
        ("Memory://Lab", "memory://lab"),
    ] {
        assert_eq!(url(typed).to_string(), shown);
        assert_eq!(url(shown), url(typed));
    }
}

#[test]
fn each_mistake_is_named() {
    for text in ["", "host", "host:1883", "http://host", "tcp://host:1883", "mqtt:host", "://"] {
        assert!(matches!(error(text), BrokerUrlError::Scheme { .. }), "{text}");
    }
    for text in [
        "mqtt://",
        "mqtt://:1883",
        "mqtt://a..b",
        "mqtt://-a",
        "mqtt://a b",
        "mqtt://1.2.3",
        "mqtt://1.2.3.4.5",
        "mqtt://256.1.1.1",
        "mqtt://[::1",
        "mqtt://::1]",
        "mqtt://[fe80::1%eth0]",
        "mqtt://[1.2.3.4]",
        "mqtt://bröker",
        "memory://",
        "memory://[::1]",
    ] {
        assert!(matches!(error(text), BrokerUrlError::Host { .. }), "{text}: {:?}", error(text));
    }
    for text in ["mqtt://h:", "mqtt://h:0", "mqtt://h:65536", "mqtt://h:+1", "mqtt://h:1:2", "memory://h:1"] {
        assert!(matches!(error(text), BrokerUrlError::Port { .. }), "{text}: {:?}", error(text));
    }
    for text in
        ["mqtt://h/x", "mqtt://h?v=4", "mqtt://h?v=3&v=5", "mqtt://h#x", "memory://h?v=5", "mqtt://h//"]
    {
        assert!(matches!(error(text), BrokerUrlError::Rest { .. }), "{text}: {:?}", error(text));
    }
    assert!(matches!(error(&format!("mqtt://{}", "a".repeat(300))), BrokerUrlError::TooLong { len: 307 }));
}

#[test]
fn a_password_is_refused_and_not_repeated() {
    for text in ["mqtt://me:hunter2@host", "me:hunter2@host", "mqtt://host/hunter2@"] {
        assert_eq!(error(text), BrokerUrlError::Credentials);
        assert!(!error(text).to_string().contains("hunter2"));
        assert!(error(text).to_string().contains("configuration"));
    }
}

#[test]
fn the_longest_fits() {
    let host =
        [&"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].map(String::as_str).join(".");
    let longest = format!("mqtts://{host}:65535?v=5");
    assert_eq!(host.len(), 253);
    assert_eq!(url(&longest).to_string(), longest);
}

proptest! {
    #[test]
    fn text_and_bytes_come_back(
        scheme in "mqtts?",
        host in "([a-z][a-z0-9]{0,5}\\.){0,3}[a-z]{1,9}|10\\.0\\.[0-9]\\.[1-9]|\\[fd00::[1-9a-f]{1,4}\\]",
        port in proptest::option::of(1u16..),
        version in "(\\?v=[35])?",
    ) {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let parsed = url(&format!("{scheme}://{host}{port}{version}"));
        prop_assert_eq!(&url(&parsed.to_string()), &parsed);
        let packed = postcard::to_stdvec(&parsed).unwrap();
        prop_assert_eq!(postcard::from_bytes::<BrokerUrl>(&packed), Ok(parsed));
    }

    #[test]
    fn no_text_panics(text: String, rest in "[]\\[:/?.=v35a@é-]{0,40}") {
        let _ = text.parse::<BrokerUrl>();
        if let Ok(parsed) = format!("mqtt://{rest}").parse::<BrokerUrl>() {
            prop_assert_eq!(url(&parsed.to_string()), parsed);
        }
    }
}
