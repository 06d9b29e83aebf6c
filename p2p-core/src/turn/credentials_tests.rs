use super::*;
use crate::Seed;
use crate::stun::wire::Parsed;
use crate::stun::{Class, Method, TransactionId, Transport};

const USER: &str = "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}";

fn challenge(realm: Option<&str>, nonce: Option<&str>, algorithms: Option<&[u16]>) -> Message {
    let mut refusal =
        Message::new(Class::Error, Method::ALLOCATE, TransactionId::new(&mut Seed::from_u64(1)));
    refusal.attributes.extend(realm.map(|realm| Attribute::Realm(realm.into())));
    refusal.attributes.extend(nonce.map(|nonce| Attribute::Nonce(nonce.into())));
    let offer = |number: &u16| PasswordAlgorithm { number: *number, parameters: Vec::new() };
    let all = algorithms.map(|all| Attribute::PasswordAlgorithms(all.iter().map(offer).collect()));
    refusal.attributes.extend(all);
    refusal
}

fn login(password: &str) -> LongTermAuth {
    LongTermAuth::new(Credentials::new(USER, password).unwrap())
}

/// The vector of RFC 8489, appendix B.1, as erratum 6268 corrects it: USERHASH, and SHA-256 for the key and for the
/// signature.
const EXAMPLE: &str = "000100902112a44278ad3433c6ad72c029da412e
    001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704
    001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c394653547679363473 41000000
    0014000b6578616d706c652e6f726700
    001d000400020000
    001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65";

#[test]
fn the_example_of_rfc_8489() {
    let digits: Vec<u8> = EXAMPLE.bytes().filter(u8::is_ascii_hexdigit).collect();
    let bytes = data_encoding::HEXLOWER.decode(&digits).unwrap();
    let parsed = Parsed::decode(&bytes, Transport::Udp).unwrap();
    let key = Key::long_term_sha256(USER, "example.org", "TheMatrIX");
    assert_eq!(parsed.verify(&key), Ok(Algorithm::Sha256));
    // The feature in its nonce is anonymity, counted from the right.
    let mut login = login("TheMatrIX");
    let nonce = "obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA";
    login.challenge(&challenge(Some("example.org"), Some(nonce), None)).unwrap();
    let hash = |words: &[Attribute]| {
        words.iter().find(|word| matches!(word, Attribute::UserHash(_))).cloned().expect("a hash")
    };
    assert_eq!(hash(&parsed.message.attributes), hash(&login.answer().0));
}

#[test]
fn the_first_algorithm_we_know_is_taken_and_all_are_sent_back() {
    let mut login = login("secret");
    let nonce = "obMatJos2AAABrandom";
    login.challenge(&challenge(Some("r"), Some(nonce), Some(&[77, 2, 1]))).unwrap();
    let (words, signature) = login.answer();
    assert_eq!(signature.unwrap().0, Algorithm::Sha256);
    let chosen = PasswordAlgorithm { number: 2, parameters: Vec::new() };
    assert!(words.contains(&Attribute::PasswordAlgorithm(chosen)));
    assert!(words.iter().any(|word| matches!(word, Attribute::PasswordAlgorithms(all) if all.len() == 3)));
    // A list that was struck out by somebody, or is unknown, is not taken for less.
    for (nonce, algorithms) in
        [(nonce, Some(&[77][..])), ("plain", None), ("plain", Some(&[2][..])), (nonce, Some(&[][..]))]
    {
        let refusal = challenge(Some("r"), Some(nonce), algorithms);
        assert_eq!(login.challenge(&refusal), Err(Failure::SteppedDown), "{nonce} {algorithms:?}");
    }
    let refusal = challenge(Some("r"), Some("obMatJos2AAABnewer"), None);
    assert_eq!(login.challenge(&refusal), Ok(()), "they may be left out when only the nonce is new");
    let mut fresh = self::login("secret");
    assert_eq!(fresh.challenge(&refusal), Err(Failure::SteppedDown), "but not the first time");
}

#[test]
fn a_challenge_without_words_is_none() {
    let mut login = login("secret");
    assert_eq!(login.challenge(&challenge(None, Some("n"), None)), Err(Failure::NoChallenge));
    assert_eq!(login.challenge(&challenge(Some("r"), None, None)), Err(Failure::NoChallenge));
    assert!(login.answer().1.is_none(), "nothing to sign with");
    login.challenge(&challenge(Some("r"), Some("n"), None)).unwrap();
    assert_eq!(login.challenge(&challenge(None, Some("m"), None)), Ok(()), "the realm stays");
    let changed = Failure::RealmChanged { from: "r".into(), to: "s".into() };
    assert_eq!(login.challenge(&challenge(Some("s"), Some("m"), None)), Err(changed));
}

#[test]
fn odd_features_are_no_features() {
    for nonce in ["obMatJos2", "obMatJos2AA", "obMatJos2\u{e4}\u{e4}", "obMatJos2====", "obmatjos2AAAD"] {
        assert_eq!(features(nonce), 0, "{nonce}");
    }
    let both = |nonce| [PASSWORD_ALGORITHMS, ANONYMITY].map(|bit| features(nonce) & bit != 0);
    assert_eq!(both("obMatJos2AAAD"), [true, true]);
    assert_eq!(both("obMatJos2gAAAadl7W7PeDU4hKE72jda"), [true, false], "the example of RFC 8656");
    assert_eq!(both("obMatJos2QAAA"), [false, true]);
}

#[test]
fn time_limited_credentials_as_openssl_makes_them() {
    // printf '1800000000:alice' | openssl dgst -sha1 -hmac north -binary | base64
    let expiry = UnixTime::from_secs(1_800_000_000);
    let credentials = Credentials::time_limited(b"north", "alice", expiry).unwrap();
    assert_eq!(credentials.username(), "1800000000:alice");
    assert_eq!(credentials.password(), "sIm7pn/teO7y3AyXGeXl/xAQR6Q=");
    assert!(!format!("{credentials:?}").contains("sIm7pn/teO7y3AyXGeXl/xAQR6Q="), "not in a log");
}

#[test]
fn credentials_have_bounds() {
    assert_eq!(Credentials::new("", "x"), Err(CredentialsError::Username(0)));
    assert_eq!(Credentials::new(&"x".repeat(509), "x"), Err(CredentialsError::Username(509)));
    assert_eq!(Credentials::new("x", &"x".repeat(1_025)), Err(CredentialsError::Password(1_025)));
    let secret = b"north";
    assert!(Credentials::time_limited(secret, &"x".repeat(508), UnixTime(0)).is_err());
}
