use super::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

/// A key whose private half is not kept, and what was signed with it.
const RSA_MODULUS: &str = "zloozWUM_twOGsLLulMLfbYZ0ti30VMvg43S1Yi-70LC6zHjhPs8K_D_d6XfY906c37dTGnVC_mDxt3aW074UxTfVz0rmX_t6UjBarA24WZpbRTeBRY1QHkjhqq0pjxd1vUraKrDd7e_Pv8Sj8oT5T9rLEW9hPnARdAsUR0T-VZ1HXL_ZnBw7UAPR8PAcFxejVu9VpKs0X1p73OdY0ifVft7o8MXhmHU0oe-kaSgvlZwFDLUKOMllM1fH4M4ZOjeNdZWg34AV4QiFMlG_XrR-QGTZ2Ni4kfDG2VWVO3A5Qqeg6uqHzwhTaCLeeusBmwFxeXFVnHduc6IFsSWUOXjQw";
const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InIifQ.eyJuYW1lc3BhY2UiOiJyc2EifQ.ILIJYwpsYEhpx6sYAfxHfPRwXWQ4w4LFfYQGcwbDHYewjEcYF9jeBef8_BQSmCWQCKmxpfB_aiCByOuLEfGRu2HMFb16R7_UAkYpZVQ8scROyCrd85kV_vGWKK7tjNU7WrzXuJIypjZYcxb7o6xmErzqcqDg4Lsd1i96dW1ZZFFw8ERNqrCatnK8uFGp8etz-MPIZdtQ4Jrw78udRzJvkevGnxObBCmjk6KiWbYYvNLhdLoCcFhcH5BgCozwNJ6OVNeH94yRO1BJlth2xptD869BLz9_9Fmk0T5E8Ldg2udsLj0sGmYtSfbu52UxUgzJ7z5H9hmBPi0mOV9Z4pCcHQ";

const NOW: Duration = Duration::from_secs(1_000_000);
const SECRET: &[u8] = b"correct horse";

fn part(json: &str) -> String {
    URL_SAFE_NO_PAD.encode(json)
}

/// A token of any header and claims, signed with the secret.
fn signed(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn hs256(claims: &str) -> String {
    signed(r#"{"alg":"HS256"}"#, claims)
}

fn read_as_secret(token: &str) -> Result<String, Unread> {
    read(token, &KeySet::of_secret(SECRET), NOW).map(|namespace| namespace.to_string())
}

#[test]
fn claims_are_believed_only_when_they_are_right_in_kind_and_time() {
    let long = "n".repeat(NAMESPACE_BYTES_MAX + 1);
    let longest = "n".repeat(NAMESPACE_BYTES_MAX);
    for (claims, expected) in [
        (r#"{"namespace":"blue"}"#.to_owned(), Ok("blue")),
        (r#"{"namespace":"blue","sub":7,"aud":["x"]}"#.to_owned(), Ok("blue")),
        (format!(r#"{{"namespace":"{longest}"}}"#), Ok(longest.as_str())),
        (format!(r#"{{"namespace":"{long}"}}"#), Err(Unread::Invalid)),
        (r#"{"namespace":""}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":null}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":7}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":["blue"]}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":{"a":"b"}}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"Namespace":"blue"}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":"b","exp":1000000}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":"b","exp":1000000.5}"#.to_owned(), Ok("b")),
        (r#"{"namespace":"b","exp":1000001}"#.to_owned(), Ok("b")),
        (r#"{"namespace":"b","exp":0}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":"b","exp":-1}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":"b","exp":99999999999999999999}"#.to_owned(), Ok("b")),
        (r#"{"namespace":"b","exp":"2000000"}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":"b","exp":null}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":"b","exp":[2000000]}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":"b","nbf":1000000}"#.to_owned(), Ok("b")),
        (r#"{"namespace":"b","nbf":1000001}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":"b","nbf":"0"}"#.to_owned(), Err(Unread::Invalid)),
        (r#"{"namespace":"b","nbf":true}"#.to_owned(), Err(Unread::Invalid)),
        (r#"["namespace"]"#.to_owned(), Err(Unread::Foreign)),
        (r#""namespace""#.to_owned(), Err(Unread::Foreign)),
        ("\u{0}".to_owned(), Err(Unread::Foreign)),
        ("[".repeat(2_000), Err(Unread::Foreign)),
        (r#"{"namespace":"b","exp":1e400}"#.to_owned(), Err(Unread::Foreign)),
    ] {
        assert_eq!(read_as_secret(&hs256(&claims)), expected.map(str::to_owned), "{claims}");
    }
}

#[test]
fn a_header_chooses_no_algorithm_but_that_of_the_key() {
    let claims = r#"{"namespace":"blue"}"#;
    for (header, expected) in [
        (r#"{"alg":"HS256","typ":"JWT"}"#, Ok("blue")),
        (r#"{"alg":"HS256","kid":"any"}"#, Ok("blue")),
        (r#"{"alg":"none"}"#, Err(Unread::Invalid)),
        (r#"{"alg":"None"}"#, Err(Unread::Invalid)),
        (r#"{"alg":"hs256"}"#, Err(Unread::Invalid)),
        (r#"{"alg":"HS384"}"#, Err(Unread::Invalid)),
        (r#"{"alg":"HS512"}"#, Err(Unread::Invalid)),
        (r#"{"alg":""}"#, Err(Unread::Invalid)),
        (r#"{"alg":7}"#, Err(Unread::Invalid)),
        (r#"{"alg":null}"#, Err(Unread::Invalid)),
        (r#"{"alg":["HS256"]}"#, Err(Unread::Invalid)),
        (r#"{}"#, Err(Unread::Invalid)),
        (r#"{"alg":"HS256","kid":7}"#, Err(Unread::Invalid)),
        (r#"{"alg":"HS256","crit":["exp"]}"#, Err(Unread::Invalid)),
        (r#"{"alg":"HS256","crit":null}"#, Err(Unread::Invalid)),
        // An asymmetric one may be of a key that was published since.
        (r#"{"alg":"RS256"}"#, Err(Unread::UnknownKey)),
        (r#"[]"#, Err(Unread::Foreign)),
    ] {
        assert_eq!(read_as_secret(&signed(header, claims)), expected.map(str::to_owned), "{header}");
    }
    // Without a signature at all.
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#] {
        let bare = format!("{}.{}.", part(header), part(claims));
        assert_eq!(read_as_secret(&bare), Err(Unread::Invalid), "{header}");
    }
}

#[test]
fn the_shape_decides_whether_it_is_a_signed_token_at_all() {
    let good = hs256(r#"{"namespace":"blue"}"#);
    let cut = &good[..good.len() - 1];
    let (message, _) = good.rsplit_once('.').unwrap();
    let long = hs256(&format!(r#"{{"namespace":"b","x":"{}"}}"#, "y".repeat(TOKEN_BYTES_MAX)));
    let mut other = good.clone();
    other.replace_range(
        message.len() + 1..message.len() + 2,
        if good[message.len() + 1..].starts_with('A') { "B" } else { "A" },
    );
    for (token, expected) in [
        (good.as_str(), Ok("blue")),
        (&format!("jwt.{good}"), Ok("blue")),
        (&format!("JWT.{good}"), Err(Unread::Foreign)),
        (&format!("jwt.jwt.{good}"), Err(Unread::Foreign)),
        (&format!("{good}.x"), Err(Unread::Foreign)),
        (message, Err(Unread::Foreign)),
        ("", Err(Unread::Foreign)),
        (".", Err(Unread::Foreign)),
        ("..", Err(Unread::Foreign)),
        ("...", Err(Unread::Foreign)),
        ("jwt...", Err(Unread::Foreign)),
        ("jwt.x", Err(Unread::Foreign)),
        ("a.b.c", Err(Unread::Foreign)),
        ("ä.ö.ü", Err(Unread::Foreign)),
        ("plain", Err(Unread::Foreign)),
        (cut, Err(Unread::Invalid)),
        (&other, Err(Unread::Invalid)),
        (&format!("{message}.=="), Err(Unread::Invalid)),
        (&format!("{message}.{}", "A".repeat(1_000)), Err(Unread::Invalid)),
        (&format!("{good}="), Err(Unread::Invalid)),
        (&long, Err(Unread::Invalid)),
    ] {
        assert_eq!(read_as_secret(token), expected.map(str::to_owned), "{token}");
    }
    let stranger = KeySet::of_secret(b"battery staple");
    assert_eq!(read(&good, &stranger, NOW), Err(Unread::Invalid));
}

/// Makes a token of a header and claims.
type Sign = Box<dyn Fn(&str, &str) -> String>;

struct Issued {
    set: String,
    es256: Sign,
    eddsa: Sign,
}

/// One published key of each kind, with ids `r`, `p` and `e`, and what signs with them.
fn issued() -> Issued {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let ed = Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref()).unwrap();
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let point = p256.public_key().as_ref();
    let set = json!({"keys": [
        {"kty": "RSA", "kid": "r", "use": "sig", "alg": "RS256", "n": RSA_MODULUS, "e": "AQAB"},
        {"kty": "EC", "kid": "p", "crv": "P-256", "x": encoded(&point[1..33]), "y": encoded(&point[33..])},
        {"kty": "OKP", "kid": "e", "crv": "Ed25519", "x": encoded(ed.public_key().as_ref())},
    ]});
    let message = |header: &str, claims: &str| format!("{}.{}", part(header), part(claims));
    Issued {
        set: set.to_string(),
        es256: Box::new(move |header, claims| {
            let message = message(header, claims);
            let signed = p256.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed))
        }),
        eddsa: Box::new(move |header, claims| {
            let message = message(header, claims);
            let signed = ed.sign(message.as_bytes());
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed))
        }),
    }
}

#[test]
fn each_published_key_checks_its_own_algorithm_and_id() {
    let Issued { set, es256, eddsa } = issued();
    let keys = KeySet::published(set.as_bytes()).unwrap();
    let claims = r#"{"namespace":"blue"}"#;
    for (token, expected) in [
        (RSA_TOKEN.to_owned(), Ok("rsa")),
        (es256(r#"{"alg":"ES256","kid":"p"}"#, claims), Ok("blue")),
        (es256(r#"{"alg":"ES256"}"#, claims), Ok("blue")),
        (eddsa(r#"{"alg":"EdDSA","kid":"e"}"#, claims), Ok("blue")),
        (eddsa(r#"{"alg":"EdDSA"}"#, claims), Ok("blue")),
        // The id of another key, or of none.
        (es256(r#"{"alg":"ES256","kid":"e"}"#, claims), Err(Unread::UnknownKey)),
        (es256(r#"{"alg":"ES256","kid":"new"}"#, claims), Err(Unread::UnknownKey)),
        // The right key under another algorithm's name.
        (es256(r#"{"alg":"EdDSA","kid":"p"}"#, claims), Err(Unread::UnknownKey)),
        (es256(r#"{"alg":"RS256","kid":"r"}"#, claims), Err(Unread::Invalid)),
        (es256(r#"{"alg":"HS256"}"#, claims), Err(Unread::Invalid)),
        (es256(r#"{"alg":"none"}"#, claims), Err(Unread::Invalid)),
        (eddsa(r#"{"alg":"ES256","kid":"p"}"#, claims), Err(Unread::Invalid)),
        (eddsa(r#"{"alg":"EdDSA"}"#, r#"{"namespace":"blue","exp":1}"#), Err(Unread::Invalid)),
    ] {
        assert_eq!(read(&token, &keys, NOW).map(String::from), expected.map(str::to_owned), "{token}");
    }
    // Signed with the published key as if it were a secret.
    for line in [RSA_MODULUS.to_owned(), set] {
        let message = format!("{}.{}", part(r#"{"alg":"HS256","kid":"r"}"#), part(claims));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, line.as_bytes()), message.as_bytes());
        let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
        assert_eq!(read(&forged, &keys, NOW), Err(Unread::Invalid));
    }
}

#[test]
fn keys_that_are_not_understood_are_passed_over_and_a_set_without_others_is_refused() {
    let x = URL_SAFE_NO_PAD.encode([7; 32]);
    let of = |keys: Value| {
        KeySet::published(json!({ "keys": keys }).to_string().as_bytes()).map(|set| set.0.len())
    };
    let usable = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
    for odd in [
        json!({"kty": "oct", "k": "AAAA"}),
        json!({"kty": "EC", "crv": "P-521", "x": x, "y": x}),
        json!({"kty": "EC", "crv": "P-256", "x": x}),
        json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": x}),
        json!({"kty": "OKP", "crv": "X25519", "x": x}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": x, "use": "enc"}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": x, "alg": "HS256"}),
        json!({"kty": "RSA", "n": "not base64!", "e": "AQAB"}),
        json!({"kty": 7}),
        json!("text"),
    ] {
        assert_eq!(of(json!([odd])), Err(BadKeySet::NoUsableKey), "{odd}");
        assert_eq!(of(json!([odd, usable])), Ok(1), "{odd}");
    }
    assert_eq!(of(json!(vec![usable; KEYS_MAX + 5])), Ok(KEYS_MAX));
    for broken in ["", "[]", "{}", r#"{"keys":7}"#, "{\"keys\":[", "\u{0}"] {
        assert!(matches!(KeySet::published(broken.as_bytes()), Err(BadKeySet::NotASet(_))), "{broken}");
    }
}

#[test]
fn what_is_made_here_is_believed_until_its_time_is_over() {
    let namespace = Namespace::new("blü").unwrap();
    let token = sign(SECRET, &namespace, NOW, Duration::from_secs(60));
    let keys = KeySet::of_secret(SECRET);
    assert_eq!(read(&token, &keys, NOW + Duration::from_secs(59)), Ok(namespace));
    assert_eq!(read(&token, &keys, NOW + Duration::from_secs(60)), Err(Unread::Invalid));
}

#[test]
fn no_text_at_all_makes_it_panic_and_no_key_is_shown() {
    use proptest::prelude::*;
    let keys = KeySet::published(issued().set.as_bytes()).unwrap().and(&KeySet::of_secret(SECRET));
    assert_eq!(format!("{:?}", KeySet::of_secret(SECRET)), "KeySet([HS256 key None])");
    proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..200), dots in "[a-zA-Z0-9_=-]{0,20}(\\.[a-zA-Z0-9_=-]{0,40}){0,4}")| {
        prop_assert!(read(&String::from_utf8_lossy(&bytes), &keys, NOW).is_err());
        prop_assert!(read(&dots, &keys, NOW).is_err());
        let _ = KeySet::published(&bytes);
    });
    // Any change to a good token takes its namespace away.
    let good = hs256(r#"{"namespace":"blue","exp":2000000}"#);
    proptest!(|(at in 0..good.len(), letter in "[A-Za-z0-9_.=-]")| {
        let mut changed = good.clone();
        changed.replace_range(at..=at, &letter);
        prop_assume!(changed != good);
        prop_assert!(read(&changed, &keys, NOW).is_err());
    });
}
