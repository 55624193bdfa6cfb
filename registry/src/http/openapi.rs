//! The description of the API in OpenAPI 3.1, collected from the handlers, and the route that serves it. What the
//! contract crate owns is described here in its wire form; Eureka's part is described beside its code.
#![expect(dead_code, reason = "these types describe and are never made")]

use std::sync::OnceLock;

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde_json::Value;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, OpenApi as Document};
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};

use super::eureka::openapi::Eureka;
use super::{JSON, health, native, watch};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "a8 registry",
        description = "Registers instances of services, lists them, and tells watchers how they change. The token names the \
            namespace that a request is about; without authentication there is one namespace and no token.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        health::alive,
        health::uptime,
        health::metrics,
        native::register,
        native::list,
        native::deregister,
        native::renew,
        native::renew_many,
        native::services,
        native::service,
        watch::poll,
        describe,
    ),
    security((), ("bearer" = [])),
    modifiers(&Bearer, &Eureka)
)]
struct Api;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut Document) {
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_with(Components::default).add_security_scheme("bearer", bearer);
    }
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", operation_id = "GetOpenApi",
    responses((status = 200, description = "OpenAPI 3.1", body = Value)))]
pub(super) async fn describe() -> Response {
    ([(CONTENT_TYPE, JSON)], document().clone()).into_response()
}

fn document() -> &'static Bytes {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        serde_json::to_vec(&Api::openapi()).expect("a description is plain data and always encodes").into()
    })
}

/// What is described: methods in upper case, and paths.
#[cfg(test)]
pub(crate) fn described() -> std::collections::BTreeSet<(String, String)> {
    let document: Value = serde_json::from_slice(document()).expect("it was just written");
    let paths = document["paths"].as_object().into_iter().flatten();
    let each = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().into_iter().flatten();
        methods.map(|(method, _)| (method.to_uppercase(), path.clone()))
    });
    each.collect()
}

/// What every refusal says.
#[derive(ToSchema)]
pub(super) struct Error {
    /// A sentence for people.
    #[schema(rename = "Error", min_length = 1)]
    error: String,
}

/// The answers that every operation of the API may give.
#[derive(IntoResponses)]
pub(super) enum Refusals {
    /// HTTPS is required, and this is the same place there.
    #[response(status = 301, headers(("Location" = String)))]
    Insecure,
    /// The token is missing or not valid.
    #[response(status = 401)]
    NotAuthorized(Error),
    /// The body is not JSON in UTF-8; from Eureka clients XML is taken as well.
    #[response(status = 415)]
    UnsupportedMediaType(Error),
    /// Whoever issues tokens is out of reach, or there is no room for further long bodies.
    #[response(status = 503)]
    Unavailable(Error),
}

/// A component and how it is.
#[derive(ToSchema)]
pub(super) struct Component {
    healthy: bool,
    /// Details, by name.
    properties: Option<Value>,
}

#[derive(ToSchema)]
#[schema(as = EndpointType)]
#[schema(rename_all = "lowercase")]
enum EndpointTypeSchema {
    Tcp,
    Udp,
    Http,
    Https,
    User,
}

/// Where an instance is dialled.
#[derive(ToSchema)]
#[schema(as = Endpoint)]
pub(crate) struct EndpointSchema {
    #[schema(rename = "type", inline)]
    kind: EndpointTypeSchema,
    /// Usually `host:port` or a URL.
    #[schema(min_length = 1, max_length = 128)]
    value: String,
}

/// What a client sends to register.
#[derive(ToSchema)]
#[schema(as = Registration)]
pub(super) struct RegistrationSchema {
    #[schema(min_length = 1, max_length = 64)]
    service_name: String,
    endpoint: EndpointSchema,
    /// Seconds; 0 or none asks for the default, and what is out of bounds is moved to the bound.
    ttl: Option<u32>,
    /// `UP` (the default), `STARTING` or `OUT_OF_SERVICE`, in any case. The last one never expires.
    status: Option<String>,
    /// Any JSON of at most 1024 bytes, kept byte for byte.
    metadata: Option<Value>,
    tags: Option<Vec<String>>,
}

/// An instance as watches show it.
#[derive(ToSchema)]
#[schema(as = WatchedInstance)]
struct WatchedInstanceSchema {
    id: String,
    service_name: String,
    endpoint: EndpointSchema,
    ttl: Option<u32>,
    status: Option<String>,
    tags: Option<Vec<String>>,
    metadata: Option<Value>,
}

/// One change: `put` with an instance, or `delete` with its names and why.
#[derive(ToSchema)]
#[schema(as = Change)]
struct ChangeSchema {
    op: String,
    instance: Option<WatchedInstanceSchema>,
    id: Option<String>,
    service_name: Option<String>,
    reason: Option<String>,
}

/// What a watcher hears: everything, or the changes since `from`.
#[derive(ToSchema)]
#[schema(as = WatchAnswer)]
pub(super) struct WatchAnswerSchema {
    /// Names this life of the registry.
    epoch: String,
    /// Where to go on from.
    index: u64,
    from: Option<u64>,
    /// The hash of what the watcher holds after this answer.
    #[schema(min_length = 32, max_length = 32)]
    hash: String,
    full: bool,
    instances: Option<Vec<WatchedInstanceSchema>>,
    changes: Option<Vec<ChangeSchema>>,
}
