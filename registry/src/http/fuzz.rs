//! Laws that the readers of the native API keep for any input, as functions that a fuzzer can call; each says whether the
//! input was accepted. They find no inputs themselves, and where they check a reader they look in a simpler way of their own.

use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Uri};
use registry_api::token::{self, KeySet, NAMESPACE_BYTES_MAX};
use registry_api::{Registration, Status};

use super::watch::{Question, WAIT_MAX};
use super::{auth, native};
use crate::query::Query;
use crate::registration::{
    ENDPOINT_VALUE_BYTES_MAX, METADATA_BYTES_MAX, SERVICE_NAME_BYTES_MAX, TtlLimits, admit,
};
use crate::timestamp::Timestamp;

/// The secret that [`authorization`] reads tokens with.
pub const SECRET: &[u8] = b"fuzz";

/// A body of a registration: what is admitted keeps every limit, and is admitted again as the same.
pub fn registration(body: &[u8]) -> bool {
    let seconds = Duration::from_secs;
    let limits = TtlLimits::new(seconds(10), seconds(30), seconds(600)).expect("the limits are in order");
    let Ok(registration) = serde_json::from_slice::<Registration>(body) else { return false };
    let again = registration.clone();
    let Ok(admitted) = admit(registration, limits) else { return false };
    let instance = admitted.instance();
    assert!((1..=SERVICE_NAME_BYTES_MAX).contains(&instance.service_name.as_str().len()));
    assert!((1..=ENDPOINT_VALUE_BYTES_MAX).contains(&instance.endpoint.value.len()));
    assert!((10..=600).contains(&instance.ttl));
    let known = [Status::UP, Status::STARTING, Status::OUT_OF_SERVICE].contains(&instance.status.as_str());
    assert!(known, "{}", instance.status);
    if let Some(metadata) = &instance.metadata {
        assert!(metadata.as_json().len() <= METADATA_BYTES_MAX);
        let kept = metadata.as_json().as_bytes();
        assert!(body.windows(kept.len()).any(|part| part == kept), "metadata is kept byte for byte");
    }
    assert_eq!(instance.id.as_str().len(), 16);
    assert_eq!(admit(again, limits).expect("it was admitted before"), admitted);
    let shown = serde_json::to_vec(&**instance).expect("an instance always encodes");
    let read: registry_api::Instance = serde_json::from_slice(&shown).expect("what is shown can be read");
    assert_eq!(read.content_hash(), admitted.hash());
    true
}

/// A body of many heartbeats.
pub fn heartbeats(body: &[u8]) -> bool {
    let Ok(ids) = native::read_ids(body) else { return false };
    assert!(ids.len() <= native::RENEWED_MAX);
    true
}

/// The value of an `Authorization` header: only what was signed with the secret names a namespace.
pub fn authorization(value: &[u8]) -> bool {
    let Ok(value) = HeaderValue::from_bytes(value) else { return false };
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value);
    let Ok(text) = auth::token(&headers) else { return false };
    let now = Duration::from_secs(1_000);
    let Ok(namespace) = token::read(text, &KeySet::of_secret(SECRET), now) else { return false };
    assert!(namespace.as_str().len() <= NAMESPACE_BYTES_MAX);
    let other = KeySet::of_secret(b"another");
    assert!(token::read(text, &other, now).is_err(), "the key matters");
    let (_, claims) =
        text.trim_start_matches("jwt.").split_once('.').expect("a signed token has three parts");
    assert!(claims.contains('.'));
    true
}

/// A query string, as both readers of one see it.
pub fn query(text: &str) -> bool {
    let Ok(uri) = format!("/x?{text}").parse::<Uri>() else { return false };
    let Ok(parameters) = native::parameters(&uri) else { return false };
    let asked = Query::parse(&parameters);
    if let Ok(query) = &asked {
        let example =
            r#"{"id":"i","service_name":"s","endpoint":{"type":"tcp","value":"h:1"},"ttl":7,"status":"UP"}"#;
        let instance: registry_api::Instance = serde_json::from_str(example).expect("an example can be read");
        let _matches = query.matches(&instance);
        let shown = serde_json::to_value(query.fields().show(&instance, Timestamp::default()));
        let shown = shown.expect("what is shown always encodes");
        assert!(shown["id"] == "i" && shown["endpoint"]["value"] == "h:1", "these are always shown");
    }
    let question = Question::parse(&parameters, 1.0);
    if let Ok(question) = &question {
        assert!(question.wait <= WAIT_MAX + WAIT_MAX / 16);
    }
    asked.is_ok() || question.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use registry_api::Namespace;

    const REGISTRATION: &str = r#"{"service_name":"shop","endpoint":{"type":"http","value":"h:80"},"ttl":30,"status":"up","tags":["a","b"],"metadata":{ "k" : [1, null] }}"#;

    /// A good input with some of its bytes replaced, doubled or cut.
    fn mutated(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
        let edit = (any::<prop::sample::Index>(), any::<u8>(), 0u8..4);
        prop::collection::vec(edit, 0..4).prop_map(move |edits| {
            let mut bytes = good.clone();
            for (place, byte, kind) in edits {
                if bytes.is_empty() {
                    break;
                }
                let at = place.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at),
                }
            }
            bytes
        })
    }

    #[test]
    fn good_inputs_are_accepted() {
        assert!(registration(REGISTRATION.as_bytes()));
        assert!(heartbeats(br#"{"ids":["a","b"]}"#));
        assert!(query("fields=id,ttl&tags=a%20b&status=up"));
        assert!(query("index=7&epoch=e&wait=5s&service=a&service=b"));
        assert!(authorization(bearer().as_bytes()));
    }

    fn bearer() -> String {
        let (now, lifetime) = (Duration::from_secs(1_000), Duration::from_secs(60));
        format!("Bearer {}", token::sign(SECRET, &Namespace::new("blue").unwrap(), now, lifetime))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn near_and_far_from_good_ones_no_law_is_broken(
            far in prop::collection::vec(any::<u8>(), 0..300),
            near_registration in mutated(REGISTRATION.as_bytes().to_vec()),
            near_ids in mutated(br#"{"ids":["4cd7e786e63fb7e8","b"]}"#.to_vec()),
            near_header in mutated(bearer().into_bytes()),
            near_query in "([a-z_]{0,8}|fields|tags|status|id|index|wait|hash|epoch|service)=[a-zA-Z0-9%+,:._-]{0,12}(&(status|wait|index|fields)=[a-z0-9%,]{0,8}){0,3}",
        ) {
            for bytes in [&far, &near_registration, &near_ids, &near_header] {
                registration(bytes);
                heartbeats(bytes);
                authorization(bytes);
                query(&String::from_utf8_lossy(bytes));
            }
            query(&near_query);
        }
    }
}
