//! Laws that the readers of Eureka's documents and paths keep for any input, as functions that a fuzzer can call. They
//! find no inputs themselves.

use std::time::Duration;

use super::admit::{self, RECORD_BYTES_MAX};
use super::compat::Compat;
use super::format::Format;
use super::life;
use super::route::{Mounted, masked};
use super::show::Shown;
use super::words::Origin;
use super::{read_instance, xml};
use crate::catalog::Catalog;
use crate::recent::Action;
use crate::registration::{METADATA_BYTES_MAX, TtlLimits};
use crate::timestamp::Timestamp;

/// A registration in JSON: what is accepted is within the limits, and can be shown and read again. Says whether it
/// was accepted.
pub fn json(input: &[u8]) -> bool {
    registration(input, Format::Json)
}

/// The same in XML.
pub fn xml(input: &[u8]) -> bool {
    registration(input, Format::Xml)
}

/// A path: it leads somewhere or nowhere, and a masked one holds no token.
pub fn path(input: &str) {
    let masked = masked(input);
    assert!(masked.as_ref().is_none_or(|masked| masked.starts_with("/api/eureka/***")), "{masked:?}");
    let Some(mounted) = Mounted::cut(input) else { return };
    let _place = (mounted.place(Compat::Netflix), mounted.place(Compat::Amalgam8));
    let has_token = mounted.token.is_some_and(|token| !token.is_empty());
    assert_eq!(has_token, masked.is_some(), "{input}");
}

fn registration(input: &[u8], format: Format) -> bool {
    let Ok(sent) = read_instance(input, format) else { return false };
    let seconds = Duration::from_secs;
    let limits = TtlLimits::new(seconds(10), seconds(30), seconds(600)).expect("they are in order");
    let app = sent.app.clone();
    let Ok(incoming) = admit::admit(&app, sent, Compat::Netflix, limits) else { return false };
    assert!((seconds(10)..=seconds(600)).contains(&incoming.ttl));
    assert!(incoming.record.extension().as_str().len() <= RECORD_BYTES_MAX);
    let metadata = incoming.instance.metadata.as_ref().map_or(0, |metadata| metadata.as_json().len());
    assert!(metadata <= METADATA_BYTES_MAX);

    let (mut catalog, id) = (Catalog::new(None), incoming.instance.id.clone());
    let now = Timestamp::from_millis(1_000);
    life::register(&mut catalog, Compat::Netflix, incoming, Origin::Client, now).expect("there is room");
    let leased = catalog.get(id.as_str()).expect("it was just registered");
    let shown = Shown::of(&leased, Compat::Netflix, Action::Added);
    let document = serde_json::to_vec(&serde_json::json!({ "instance": shown })).expect("it is plain data");
    let again = read_instance(&document, Format::Json).expect("what we write we can read");
    assert_eq!((again.host_name.as_str(), again.app.as_str()), (&*shown.host_name, &*shown.app));
    let mut out = String::new();
    xml::instance(&mut out, &shown);
    read_instance(out.as_bytes(), Format::Xml).expect("what we write we can read");
    true
}
