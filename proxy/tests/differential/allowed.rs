//! Every difference between the engines that is meant, with its reason. Whatever is not in here is a fault of one of them.

use crate::Parting;
use crate::client::Answer;

/// A difference that is meant.
pub(crate) struct Allowed {
    pub(crate) reason: &'static str,
    /// As narrow as it can be told from the place where the answers part.
    pub(crate) applies: fn(&Parting<'_>) -> bool,
}

/// Answers that Pingora repairs. The lane reads them as strictly as requests and takes them for none.
const REPAIRED: &[&str] = &["bare-feed", "space-name", "folded", "length-and-chunks"];
/// Framing that Pingora passes over while it takes chunks apart. The head has gone to the client by then.
const REPAIRED_CHUNKS: &[&str] = &["extensions"];

pub(crate) const TABLE: &[Allowed] = &[
    Allowed {
        reason: "the general engine ends the connection with every failure of an instance, since Pingora does not tell \
                 it whether the request was read to its end; the lane knows and goes on",
        applies: |parting| match (parting.general, parting.lane) {
            (Some(general), Some(lane)) => {
                is_failure(general)
                    && closes(general)
                    && !closes(lane)
                    && is_the_same_but_for_the_end(general, lane)
            }
            _ => false,
        },
    },
    Allowed {
        reason: "the lane does not repair the head of an answer",
        applies: |parting| {
            REPAIRED.contains(&parting.script)
                && parting.general.is_some_and(|answer| answer.status == 200)
                && parting.lane.is_some_and(|answer| answer.status == 502 && is_failure(answer))
        },
    },
    Allowed {
        reason: "the lane does not repair the chunks of an answer",
        applies: |parting| {
            REPAIRED_CHUNKS.contains(&parting.script)
                && parting.general.is_some_and(|answer| answer.status == 200 && answer.complete)
                && parting.lane.is_some_and(|answer| answer.status == 502 || !answer.complete)
        },
    },
    Allowed {
        reason: "the lane does not pass on a length where there can be no body (RFC 9110 8.6)",
        applies: |parting| match (parting.general, parting.lane) {
            (Some(general), Some(lane)) => {
                (general.status == 204 || general.is_interim())
                    && general.field("content-length").is_some()
                    && lane.field("content-length").is_none()
                    && general.without(&["content-length"]) == lane.without(&["content-length"])
            }
            _ => false,
        },
    },
    Allowed {
        reason: "when an answer comes before the end of its request, it depends on what has arrived by then whether the \
                 connection can go on",
        applies: |parting| {
            let goes_on_or_not = match (parting.general, parting.lane) {
                (Some(general), Some(lane)) => is_the_same_but_for_the_end(general, lane),
                _ => false,
            };
            let ended = parting.general.is_none() || parting.lane.is_none();
            parting.script.starts_with("early") && goes_on_or_not
                || parting.script_before.starts_with("early") && ended
        },
    },
    Allowed {
        reason: "an instance that closes after its answer without saying so may do it in the moment in which the next \
                 request is sent; what may not be done twice is not sent again",
        applies: |parting| {
            let is_unanswered = |answer: &Answer| answer.status == 503 && is_failure(answer);
            parting.script_before == "early-close"
                && (parting.general.is_some_and(is_unanswered) || parting.lane.is_some_and(is_unanswered))
        },
    },
];

/// The proxy's own answer for an instance that failed.
fn is_failure(answer: &Answer) -> bool {
    matches!(answer.field("x-a8-error"), Some("upstream_connect" | "upstream_timeout"))
}

fn closes(answer: &Answer) -> bool {
    answer.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

fn is_the_same_but_for_the_end(general: &Answer, lane: &Answer) -> bool {
    general.without(&["connection"]) == lane.without(&["connection"]) && general.body == lane.body
}
