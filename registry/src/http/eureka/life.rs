//! The life of an instance as Eureka tells it: register, renew, cancel, override, metadata (spec/registry.md 3.9 to
//! 3.13), as steps over a catalog with time as an argument. It knows no bodies and no status codes.

use std::borrow::Cow;
use std::time::Duration;

use registry_api::{Instance, Metadata, Status};
use serde_json::{Map, Value};

use super::admit::{Incoming, Mistake, internal_id, tags};
use super::compat::Compat;
use super::record::{Described, Record, Vital};
use super::words::{self, Origin, UNKNOWN};
use crate::admitted::Admitted;
use crate::catalog::{Catalog, Command, Leased, Lived, Refused, folded};
use crate::registration::METADATA_BYTES_MAX;
use crate::timestamp::Timestamp;

/// An instance as paths name it.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    /// The application.
    pub app: &'a str,
    /// The id within it.
    pub id: &'a str,
}

/// What came of a renewal. The lease was renewed in every case but the last.
#[derive(Debug, Clone, PartialEq)]
pub enum Beat {
    /// It goes on.
    Renewed,
    /// The client's data are newer than ours: it has to register again.
    Outdated,
    /// Ours are newer than those of the peer that passed the renewal on.
    Newer(Leased),
    /// Nothing is known but that it was there: it has to register again.
    Statusless,
}

/// What a heartbeat carries.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard<'a> {
    /// When the client last changed its data.
    pub dirty_at: Option<i64>,
    /// The override that a peer knows.
    pub overridden: Option<&'a str>,
}

/// The instance that a path names. Instances of the native API go by their native id.
pub fn find(catalog: &Catalog, compat: Compat, name: Name<'_>) -> Option<Leased> {
    let of = |service: &str| {
        let ours = catalog.get(&internal_id(service, name.id));
        let found = ours.or_else(|| catalog.get(name.id));
        found.filter(|leased| leased.instance.service_name.as_str() == service)
    };
    of(name.app).or_else(|| match compat {
        Compat::Netflix => catalog.services_like(&folded(name.app)).find_map(|service| of(service.as_str())),
        Compat::Amalgam8 => None,
    })
}

/// The same, unless it is only shown here (spec/registry.md 7.1): nobody renews or alters such a one.
pub fn find_own(catalog: &Catalog, compat: Compat, name: Name<'_>) -> Option<Leased> {
    find(catalog, compat, name).filter(|leased| !catalog.is_read_only(leased.instance.id.as_str()))
}

/// The instance with an id, in whichever application it is.
pub fn find_anywhere(catalog: &Catalog, id: &str) -> Option<Leased> {
    let native = || catalog.get(id);
    let named = catalog.services().find_map(|service| catalog.get(&internal_id(service.as_str(), id)));
    let suffix = || {
        let ends = |leased: &Leased| {
            let found = leased.instance.id.as_str().strip_suffix(id);
            found.is_some_and(|rest| rest.ends_with(':'))
        };
        catalog.instances().find(ends)
    };
    named.or_else(native).or_else(suffix)
}

/// Registers. Older data than ours change nothing but begin a new lease.
pub fn register(
    catalog: &mut Catalog,
    compat: Compat,
    incoming: Incoming,
    origin: Origin,
    now: Timestamp,
) -> Result<(), Refused> {
    let Incoming { mut instance, ttl, mut record } = incoming;
    let id = record.described.as_ref().map(|described| described.id.clone()).unwrap_or_default();
    let before = find_own(catalog, compat, Name { app: instance.service_name.as_str(), id: &id });
    let mut ttl = ttl;
    if let Some(before) = &before {
        let known = Record::of(before);
        if known.dirty_at.zip(record.dirty_at).is_some_and(|(known, sent)| known > sent) {
            (instance, ttl) = (Instance::clone(&before.instance), before.ttl);
            record.described = known.described.clone().map(Described::into_owned);
            record.dirty_at = known.dirty_at;
        }
        if !known.overridden.is_empty() {
            record.overridden = Cow::Owned(known.overridden.into_owned());
        }
        record.up_since = known.up_since;
    }
    let status_before = before.as_ref().map(|leased| leased.instance.status.as_str());
    let status = words::effective(instance.status.as_str(), &record.overridden, origin, status_before);
    let status = Status::new(status);
    instance.status = status;
    stamp(&mut record, &instance.status, now);
    // The same instance under another spelling of its application.
    if let Some(before) = before.filter(|before| before.instance.id != instance.id) {
        catalog.apply(Command::Deregister(before.instance.id.clone()), now)?;
    }
    let admitted = Admitted::new(instance, ttl).extended(Some(record.extension()));
    catalog.apply(Command::Register(admitted), now).map(drop)
}

/// Judges a renewal and renews the lease. What has to be written first is returned instead; then the caller
/// applies it and asks again.
pub fn renew(
    catalog: &Catalog,
    leased: &Leased,
    heard: Heard<'_>,
    origin: Origin,
    now: Timestamp,
) -> Result<Beat, Command> {
    let vital = Vital::of(leased);
    let dirty = heard.dirty_at.zip(vital.dirty_at);
    let outdated = dirty.is_some_and(|(heard, known)| heard > known);
    let status = leased.instance.status.as_str();
    let passed_on =
        heard.overridden.and_then(words::overriding).filter(|_| origin == Origin::Peer && outdated);
    let overridden = passed_on.unwrap_or(&vital.overridden);
    let effective = words::effective(status, overridden, origin, Some(status));
    if effective == UNKNOWN {
        return Ok(Beat::Statusless);
    }
    if overridden != vital.overridden || effective != status {
        let mut record = Record::of(leased);
        record.overridden = Cow::Borrowed(overridden);
        return Err(amended(leased, Status::new(effective), record, Lived::Renewed, now));
    }
    // It was found under the same lock.
    let _ = catalog.renew(&leased.instance.id, now);
    Ok(match dirty {
        Some((heard, known)) if heard > known => Beat::Outdated,
        Some((heard, known)) if heard < known && origin == Origin::Peer => Beat::Newer(leased.clone()),
        _ => Beat::Renewed,
    })
}

/// Sets a status over whatever the client says.
pub fn override_status(
    leased: &Leased,
    status: &'static str,
    dirty_at: Option<i64>,
    now: Timestamp,
) -> Command {
    let mut record = Record::of(leased);
    record.overridden = words::overriding(status).unwrap_or_default().into();
    record.dirty_at = record.dirty_at.max(dirty_at);
    amended(leased, Status::new(status), record, Lived::Renewed, now)
}

/// Drops the override; the status is this one until the client brings its own.
pub fn drop_override(
    leased: &Leased,
    status: &'static str,
    dirty_at: Option<i64>,
    now: Timestamp,
) -> Command {
    let mut record = Record::of(leased);
    record.overridden = Cow::Borrowed("");
    record.dirty_at = record.dirty_at.max(dirty_at);
    amended(leased, Status::new(status), record, Lived::Renewed, now)
}

/// Puts pairs into the metadata. The client did not speak, so its lease goes on.
pub fn merge_metadata(
    leased: &Leased,
    pairs: Vec<(String, String)>,
    now: Timestamp,
) -> Result<Command, Mistake> {
    let known = leased.instance.metadata.as_ref();
    let known = known.and_then(|known| serde_json::from_str::<Map<String, Value>>(known.as_json()).ok());
    let mut map = known.unwrap_or_default();
    let before = map.clone();
    map.extend(pairs.into_iter().map(|(key, value)| (key, Value::String(value))));
    let mut record = Record::of(leased);
    let mut instance = Instance::clone(&leased.instance);
    if map != before {
        let text = Value::Object(map).to_string();
        if text.len() > METADATA_BYTES_MAX {
            return Err(Mistake::MetadataTooLong);
        }
        let metadata = Metadata::from_json(text).expect("a map that was just written is JSON");
        if record.described.is_some() {
            instance.tags = tags(Some(&metadata));
        }
        instance.metadata = Some(metadata);
        record.updated_at = Some(now.as_millis());
    }
    Ok(command(instance, leased.ttl, &record, Lived::On))
}

fn amended(leased: &Leased, status: Status, mut record: Record<'_>, lived: Lived, now: Timestamp) -> Command {
    let known = Record::of(leased);
    if leased.instance.status != status || known.overridden != record.overridden {
        stamp(&mut record, &status, now);
    }
    let instance = Instance { status, ..Instance::clone(&leased.instance) };
    command(instance, leased.ttl, &record, lived)
}

fn stamp(record: &mut Record<'_>, status: &Status, now: Timestamp) {
    record.updated_at = Some(now.as_millis());
    if status.is_up() && record.up_since.is_none() {
        record.up_since = Some(now.as_millis());
    }
}

fn command(instance: Instance, ttl: Duration, record: &Record<'_>, lived: Lived) -> Command {
    Command::Amend(Admitted::new(instance, ttl).extended(Some(record.extension())), lived)
}

/// The hash that clients compare with their own: how many instances there are of each status (3.15).
pub fn reconcile_hash<'a>(statuses: impl Iterator<Item = (&'a str, usize)>) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for (status, count) in statuses {
        *counts.entry(shown_status(status)).or_default() += count;
    }
    counts.iter().map(|(status, count)| format!("{status}_{count}_")).collect()
}

/// The status in answers: none is up (3.6).
pub fn shown_status(status: &str) -> &str {
    if status.is_empty() { Status::UP } else { status }
}

/// The leases of one application, under every spelling that counts as one.
pub fn members(catalog: &Catalog, compat: Compat, app: &str) -> Vec<Leased> {
    match compat {
        Compat::Amalgam8 => catalog.instances_of(app).collect(),
        Compat::Netflix => {
            let folded = folded(app);
            let spellings = catalog.services_like(&folded);
            spellings.flat_map(|service| catalog.instances_of(service.as_str())).collect()
        }
    }
}
