//! The two services that call nobody: details and ratings.

use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

/// Facts about the book.
pub(super) fn details(version: String) -> Router {
    let body = json!({
        "version": version,
        "title": "The Comedy of Errors",
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "language": "English",
    });
    fixed("/details", body)
}

/// Stars by reviewer.
pub(super) fn ratings(version: String) -> Router {
    fixed("/ratings", json!({ "version": version, "ratings": { "Reviewer1": 5, "Reviewer2": 4 } }))
}

fn fixed(path: &str, body: Value) -> Router {
    Router::new().route(path, get(async move || Json(body)))
}
