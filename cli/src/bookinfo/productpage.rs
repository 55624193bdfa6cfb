//! The page: product, details and reviews, as JSON at `/productpage` and as HTML at `/`. A part that does
//! not answer in time is left out; the page itself never fails.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Html;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::sidecar::{Passed, Sidecar};

const DETAILS_LIMIT: Duration = Duration::from_secs(1);
const DETAILS_ATTEMPTS: u32 = 1;
const REVIEWS_LIMIT: Duration = Duration::from_secs(3);
const REVIEWS_ATTEMPTS: u32 = 2;

#[derive(Debug)]
struct Page {
    version: String,
    sidecar: Sidecar,
}

/// The service.
pub(super) fn router(version: String, sidecar: Sidecar) -> Router {
    let state = Arc::new(Page { version, sidecar });
    Router::new().route("/productpage", get(as_json)).route("/", get(as_html)).with_state(state)
}

async fn as_json(State(page): State<Arc<Page>>, request: HeaderMap) -> Json<Value> {
    Json(page.build(&request).await)
}

async fn as_html(State(page): State<Arc<Page>>, request: HeaderMap) -> Html<String> {
    Html(html(&page.build(&request).await))
}

impl Page {
    async fn build(&self, request: &HeaderMap) -> Value {
        let passed = Passed::from(request);
        let (details, reviews) = tokio::join!(
            self.sidecar.ask("/details/details", &passed, DETAILS_LIMIT, DETAILS_ATTEMPTS),
            self.sidecar.ask("/reviews/reviews", &passed, REVIEWS_LIMIT, REVIEWS_ATTEMPTS),
        );
        let mut page = json!({
            "version": self.version,
            "product": {
                "id": 0,
                "title": "The Comedy of Errors",
                "description": "One of the earliest and shortest comedies of William Shakespeare.",
            },
        });
        for (part, answer) in [("details", details), ("reviews", reviews)] {
            if let Some(answer) = answer {
                page[part] = answer;
            }
        }
        page
    }
}

/// Everything shown comes from our own services, whose texts hold no markup.
fn html(page: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let details = match page.get("details").and_then(Value::as_object) {
        Some(details) => {
            details.iter().map(|(name, value)| format!("<li>{name}: {}</li>", text(value))).collect()
        }
        None => "<li>Sorry, details are currently unavailable.</li>".to_owned(),
    };
    let reviews = match page["reviews"]["reviews"].as_array() {
        Some(reviews) => reviews.iter().map(review).collect(),
        None => "<p>Sorry, reviews are currently unavailable.</p>".to_owned(),
    };
    let served = text(&page["reviews"]["version"]);
    format!(
        "<!doctype html><meta charset=utf-8><title>{title}</title>\
         <body style='font:16px/1.5 sans-serif;max-width:40em;margin:3em auto'>\
         <h1>{title}</h1><p>{description}</p><h2>Details</h2><ul>{details}</ul>\
         <h2>Reviews <small>(served by {served})</small></h2>{reviews}</body>\n",
        title = text(&page["product"]["title"]),
        description = text(&page["product"]["description"]),
    )
}

fn review(review: &Value) -> String {
    let rating = &review["rating"];
    let stars = match (rating["stars"].as_u64(), rating["color"].as_str()) {
        (Some(stars), Some(color)) => {
            let filled = usize::try_from(stars.min(5)).unwrap_or(5);
            format!(" <span style='color:{color}'>{}{}</span>", "★".repeat(filled), "☆".repeat(5 - filled))
        }
        _ => rating["error"].as_str().map(|error| format!(" <em>{error}</em>")).unwrap_or_default(),
    };
    let text = |name: &str| review[name].as_str().unwrap_or("").to_owned();
    format!("<blockquote>{}<br>{}{stars}</blockquote>", text("text"), text("reviewer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_is_missing_and_shows_stars_in_their_colour() {
        let bare = html(&json!({ "product": { "title": "T", "description": "D" } }));
        assert!(bare.contains("reviews are currently unavailable") && bare.contains("details are currently"));
        let full = json!({
            "product": { "title": "T", "description": "D" },
            "details": { "year": 1595 },
            "reviews": { "version": "v3", "reviews": [
                { "reviewer": "R", "text": "X", "rating": { "stars": 4, "color": "red" } } ] },
        });
        let full = html(&full);
        for part in ["served by v3", "<li>year: 1595</li>", "color:red'>★★★★☆"] {
            assert!(full.contains(part), "{part} in {full}");
        }
    }
}
