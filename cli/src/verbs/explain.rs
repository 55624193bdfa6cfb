//! `a8 explain <path>`: what a proxy would do with a request, and why. The proxy answers from the code
//! that routes; nothing is decided here.

use clap::Args;
use http::{Method, StatusCode};
use registry_api::client::{CALL_TIMEOUT, Caller, encode};
use serde_json::Value;

use crate::client::wait_for;
use crate::exit::Failure;
use crate::output::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct ExplainVerb {
    /// The request's path, as in /reviews/reviews.
    path: String,
    /// A header of the request; repeat for more.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Host and port that the request is sent to; without it what `-H 'Host: ..'` says.
    #[arg(long, value_name = "HOST")]
    authority: Option<String>,
    /// The request's method.
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// The request id, which decides splits and faults.
    #[arg(long = "request_id", value_name = "ID")]
    request_id: Option<String>,
    /// The proxy's admin listener.
    #[arg(
        long = "admin_url",
        env = "A8_ADMIN_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:6380"
    )]
    admin_url: String,
    /// How to show the answer; instead of a table it is text.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Performs the verb.
pub(crate) fn run(verb: ExplainVerb) -> Result<(), Failure> {
    let caller =
        Caller::new(&[&verb.admin_url], None).map_err(|error| Failure::new(format!("admin_url: {error}")))?;
    let mut query = format!("path={}&method={}", encode(&verb.path), encode(&verb.method));
    for header in &verb.headers {
        let Some((name, value)) = header.split_once(':') else {
            return Err(Failure::new(format!("`{header}` is no header; write `Name: value`")));
        };
        query.push_str(&format!("&header={}", encode(&format!("{}:{}", name.trim(), value.trim()))));
    }
    if let Some(authority) = &verb.authority {
        query.push_str(&format!("&authority={}", encode(authority)));
    }
    if let Some(id) = &verb.request_id {
        query.push_str(&format!("&request_id={}", encode(id)));
    }
    let ask = async |form: &str| {
        let path = format!("/explain?{query}{form}");
        Ok(caller.call(Method::GET, &path, None, CALL_TIMEOUT).await?.expect(&[StatusCode::OK])?)
    };
    if verb.output == Format::Table {
        let answer = wait_for(ask("&format=text"))?;
        return output::raw(&String::from_utf8_lossy(&answer.body));
    }
    let explanation: Value = wait_for(ask(""))?.json()?;
    output::show(verb.output, &explanation, String::new)
}
