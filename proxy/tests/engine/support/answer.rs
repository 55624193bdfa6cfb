//! What an answer says: its status, its fields, its envelope.

use serde_json::Value;

/// An answer with its body.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// Whether another request may follow on the connection.
    pub(crate) fn goes_on(&self) -> bool {
        goes_on(&self.head)
    }

    /// The envelope's id, which the header must repeat.
    pub(crate) fn error(&self) -> String {
        let body: Value =
            serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no envelope: {self:?}"));
        let id = body["error"].as_str().unwrap().to_owned();
        assert!(!body["description"].as_str().unwrap().is_empty());
        assert_eq!(self.field("x-a8-error"), Some(&*id));
        assert_eq!(self.field("content-type"), Some("application/json"));
        id
    }
}

/// Whether another request may follow after an answer with this head: HTTP/1.1 need not say so.
pub(crate) fn goes_on(head: &str) -> bool {
    let connection = fields(head, "connection");
    assert!(connection.len() < 2, "one Connection field at most: {head}");
    match connection.first() {
        None => head.starts_with("HTTP/1.1 "),
        Some(option) => *option == "keep-alive",
    }
}

/// The value of a field of a head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    fields(head, name).into_iter().next()
}

/// All values of a field of a head.
pub(crate) fn fields<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

pub(crate) fn status_of(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status: {head:?}"))
}
