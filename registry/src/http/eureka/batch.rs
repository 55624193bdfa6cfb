//! What another Eureka server passes on of its clients (spec/registry.md 3.17): a list of steps, each carried out and
//! answered on its own. One that cannot be read spoils no other.

use registry_api::Namespace;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::compat::Compat;
use super::desk::Desk;
use super::life::{Beat, Heard, Name};
use super::problem::Problem;
use super::sent::{Envelope, Sent, from_object, number};
use super::show::Shown;
use super::words::{self, Origin};
use crate::http::App;
use crate::recent::Action;

/// How many steps one batch may have; Netflix's servers send 250.
pub(super) const ITEMS_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Batch<'a> {
    #[serde(borrow, default)]
    replication_list: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    #[serde(default)]
    app_name: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default, deserialize_with = "number")]
    last_dirty_timestamp: Option<i64>,
    #[serde(default)]
    overridden_status: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    instance_info: Option<Box<RawValue>>,
    action: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_entity: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answers {
    response_list: Vec<Done>,
}

/// Carries a batch out and encodes the answers, in the order of the steps.
pub(super) fn carry_out(app: &App, namespace: &Namespace, body: &[u8]) -> Result<String, Problem> {
    let unreadable = |problem: serde_json::Error| Problem::Unreadable(problem.to_string());
    let body = std::str::from_utf8(body).map_err(|_| Problem::Unreadable("it is not UTF-8".to_owned()))?;
    let batch: Batch<'_> = from_object(body).map_err(unreadable)?;
    let list = batch.replication_list.map_or("[]", RawValue::get).trim();
    // A list of one may come without its brackets in the classic encoding.
    let items: Vec<&RawValue> = match list.as_bytes().first() {
        Some(b'{') => vec![serde_json::from_str(list).map_err(unreadable)?],
        Some(b'n') => vec![],
        _ => serde_json::from_str(list).map_err(unreadable)?,
    };
    if items.len() > ITEMS_MAX {
        return Err(Problem::Unreadable(format!("it has more than {ITEMS_MAX} steps")));
    }
    // Between servers the codes are always those of Netflix.
    let desk = Desk { app, namespace, compat: Compat::Netflix, origin: Origin::Peer };
    let response_list = items.into_iter().map(|item| one(&desk, item)).collect();
    let answers = Answers { response_list };
    Ok(serde_json::to_string(&answers).expect("our answers are plain data and always encode"))
}

fn one(desk: &Desk<'_>, item: &RawValue) -> Done {
    let plain = |status_code| Done { status_code, response_entity: None };
    let Ok(item) = from_object::<Item>(item.get()) else { return plain(500) };
    let (app, id) = (item.app_name.unwrap_or_default(), item.id.unwrap_or_default());
    let name = Name { app: &app, id: &id };
    let done = match item.action.as_str() {
        "Register" => register(desk, &app, item.instance_info.as_deref()),
        "Heartbeat" => {
            let heard =
                Heard { dirty_at: item.last_dirty_timestamp, overridden: item.overridden_status.as_deref() };
            match desk.renew(name, heard) {
                Ok(Beat::Newer(ours)) => {
                    let shown = Shown::of(&ours, desk.app.eureka.compat, Action::Added);
                    let entity = serde_json::value::to_raw_value(&shown).ok();
                    return Done { status_code: 409, response_entity: entity };
                }
                Ok(Beat::Renewed) => Ok(()),
                Ok(Beat::Outdated | Beat::Statusless) => Err(Problem::MustRegister),
                Err(problem) => Err(problem),
            }
        }
        "Cancel" => desk.cancel(name),
        "StatusUpdate" => match item.status.as_deref().and_then(words::status) {
            Some(status) => desk.set_status(name, status, item.last_dirty_timestamp),
            None => Err(Problem::Parameter("status")),
        },
        "DeleteStatusOverride" => {
            let status = item.status.as_deref().and_then(words::status);
            desk.drop_status(name, status.unwrap_or(words::UNKNOWN), item.last_dirty_timestamp)
        }
        _ => return plain(500),
    };
    plain(done.map_or_else(|problem| problem.status().as_u16(), |()| 200))
}

fn register(desk: &Desk<'_>, app: &str, info: Option<&RawValue>) -> Result<(), Problem> {
    let text = info.map_or("null", RawValue::get);
    let wrapped = from_object::<Envelope>(text).map(|envelope| envelope.instance);
    let sent: Sent =
        wrapped.or_else(|_| from_object(text)).map_err(|problem| Problem::Unreadable(problem.to_string()))?;
    let app = if app.is_empty() { sent.app.clone() } else { app.to_owned() };
    desk.register(&app, sent)
}
