//! What the registry keeps of an instance for Eureka clients beyond its native record: the text of an
//! extension. It is written and read only here; a text that cannot be read counts as none.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admitted::Extension;
use crate::catalog::Leased;

/// The whole extension.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record<'a> {
    /// The overriding status; empty when there is none.
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub overridden: Cow<'a, str>,
    /// When the client last changed its own data, by its own clock, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_at: Option<i64>,
    /// When we last changed anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<u64>,
    /// When it was first up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_since: Option<u64>,
    /// What the client said; nothing for an instance that was registered natively.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub described: Option<Described<'a>>,
}

/// What a client said of itself and the native record has no room for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Described<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub host: Cow<'a, str>,
    #[serde(borrow)]
    pub ip: Cow<'a, str>,
    #[serde(borrow)]
    pub vip: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub secure_vip: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub group: Cow<'a, str>,
    pub port: Port,
    pub secure_port: Port,
    pub country: i64,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub home_page: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub status_page: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub health_check: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub secure_health_check: Cow<'a, str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub data_center: Value,
    pub renewal_secs: u32,
    #[serde(skip_serializing_if = "is_false")]
    pub coordinating: bool,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub scaling_group: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub sid: Cow<'a, str>,
}

/// A port and whether it is to be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The number.
    pub number: u16,
    /// Whether clients may use it.
    pub enabled: bool,
}

impl Described<'_> {
    /// The same, on its own.
    pub fn into_owned(self) -> Described<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Described {
            id: own(self.id),
            host: own(self.host),
            ip: own(self.ip),
            vip: own(self.vip),
            secure_vip: own(self.secure_vip),
            group: own(self.group),
            port: self.port,
            secure_port: self.secure_port,
            country: self.country,
            home_page: own(self.home_page),
            status_page: own(self.status_page),
            health_check: own(self.health_check),
            secure_health_check: own(self.secure_health_check),
            data_center: self.data_center,
            renewal_secs: self.renewal_secs,
            coordinating: self.coordinating,
            scaling_group: own(self.scaling_group),
            sid: own(self.sid),
        }
    }
}

fn is_empty(text: &str) -> bool {
    text.is_empty()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// The part of an extension that a renewal looks at: heartbeats come by the ten thousand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Vital<'a> {
    /// See [`Record::overridden`].
    #[serde(borrow)]
    pub overridden: Cow<'a, str>,
    /// See [`Record::dirty_at`].
    pub dirty_at: Option<i64>,
}

impl<'a> Vital<'a> {
    /// The vital part of an instance's extension.
    pub fn of(leased: &'a Leased) -> Self {
        read(leased)
    }
}

impl<'a> Record<'a> {
    /// The extension of an instance; an empty one when it has none.
    pub fn of(leased: &'a Leased) -> Self {
        read(leased)
    }

    /// The text to keep.
    pub fn extension(&self) -> Extension {
        Extension::new(serde_json::to_string(self).expect("a record is plain data and always encodes"))
    }
}

fn read<'a, T: Deserialize<'a> + Default>(leased: &'a Leased) -> T {
    let text = leased.extension.as_ref().map(Extension::as_str);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
