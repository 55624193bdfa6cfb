//! Reviews: v1 without stars, v2 with black ones, v3 with red ones.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::sidecar::{Passed, Sidecar};

const TEXTS: [(&str, &str); 2] = [
    ("Reviewer1", "An extremely entertaining play. The slapstick humour is refreshing!"),
    ("Reviewer2", "Absolutely fun and entertaining, but the plot is thin beside the other plays."),
];

/// How a version shows stars, and how long it waits for them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stars {
    color: &'static str,
    limit: Duration,
}

#[derive(Debug)]
struct Reviews {
    version: String,
    stars: Option<Stars>,
    sidecar: Sidecar,
}

/// The service in one of its versions.
pub(super) fn router(version: String, sidecar: Sidecar) -> Router {
    let state = Reviews { stars: stars(&version), version, sidecar };
    Router::new().route("/reviews", get(reviews)).with_state(Arc::new(state))
}

fn stars(version: &str) -> Option<Stars> {
    match version {
        "v2" => Some(Stars { color: "black", limit: Duration::from_secs(10) }),
        "v3" => Some(Stars { color: "red", limit: Duration::from_millis(2500) }),
        _ => None,
    }
}

async fn reviews(State(this): State<Arc<Reviews>>, request: HeaderMap) -> Json<Value> {
    let rated = match this.stars {
        Some(stars) => {
            let passed = Passed::from(&request);
            let answer = this.sidecar.ask("/ratings/ratings", &passed, stars.limit, 1).await;
            Some((stars, answer))
        }
        None => None,
    };
    let review = |(reviewer, text): (&str, &str)| {
        let mut review = json!({ "reviewer": reviewer, "text": text });
        if let Some((stars, answer)) = &rated {
            review["rating"] = rating(*stars, answer.as_ref(), reviewer);
        }
        review
    };
    Json(json!({ "version": this.version, "reviews": TEXTS.map(review) }))
}

fn rating(stars: Stars, answer: Option<&Value>, reviewer: &str) -> Value {
    match answer.and_then(|answer| answer["ratings"][reviewer].as_u64()) {
        Some(number) => json!({ "stars": number, "color": stars.color }),
        None => json!({ "error": "ratings are currently unavailable" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_shows_stars_in_its_colour_or_none() {
        assert_eq!(stars("v1"), None);
        assert_eq!(stars("v2").map(|stars| stars.color), Some("black"));
        let red = stars("v3").unwrap();
        let answer = json!({ "ratings": { "Reviewer1": 5 } });
        assert_eq!(rating(red, Some(&answer), "Reviewer1"), json!({ "stars": 5, "color": "red" }));
        for missing in [rating(red, None, "Reviewer1"), rating(red, Some(&answer), "Reviewer2")] {
            assert!(missing["error"].is_string());
        }
    }
}
