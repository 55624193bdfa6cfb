//! Requests by the code that was sent. Codes are found without a lock, and those that are none share a label.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};

use prometheus::{IntCounter, IntCounterVec};

/// The label of codes that are none.
pub const OTHER: &str = "(other)";
/// How many codes of one backend are found without a lock; requests seldom see more.
const CODES_AT_HAND: usize = 8;

/// `a8_proxy_requests_total` of one service, backend and rule; per code found without a lock after its first use.
pub struct Codes {
    requests: IntCounterVec,
    labels: [String; 3],
    at_hand: [OnceLock<(u16, IntCounter)>; CODES_AT_HAND],
    seen: Mutex<BTreeSet<u16>>,
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Codes").field(&self.labels).finish()
    }
}

impl Codes {
    pub(super) fn new(requests: &IntCounterVec, labels: [String; 3]) -> Self {
        Self { requests: requests.clone(), labels, at_hand: Default::default(), seen: Mutex::default() }
    }

    /// Counts one client request. `code` is what was sent, 0 when the connection was closed instead.
    pub fn count(&self, code: u16) {
        for slot in &self.at_hand {
            // Somebody else may fill the free slot first, with another code: look again, then go on.
            let (held, counter) = slot.get_or_init(|| (code, self.counter(code)));
            if *held == code {
                return counter.inc();
            }
        }
        self.counter(code).inc();
    }

    fn counter(&self, code: u16) -> IntCounter {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(code);
        let mut digits = [b'0'; 3];
        self.requests.with_label_values(&self.with(code_label(code, &mut digits)))
    }

    /// Service, backend and rule.
    pub fn labels(&self) -> [&str; 3] {
        self.labels.each_ref().map(String::as_str)
    }

    fn with<'a>(&'a self, code: &'a str) -> [&'a str; 4] {
        let [service, backend, rule] = self.labels();
        [service, backend, rule, code]
    }

    /// Takes the series out of the page.
    pub fn remove(&self) {
        let mut digits = [b'0'; 3];
        for code in &*self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = self.requests.remove_label_values(&self.with(code_label(*code, &mut digits)));
        }
    }
}

/// The code as a label: an upstream may invent codes up to 999, which must not become series.
fn code_label(code: u16, digits: &mut [u8; 3]) -> &str {
    if code == 0 {
        return "0";
    }
    if !(100..600).contains(&code) {
        return OTHER;
    }
    for (digit, place) in digits.iter_mut().zip([100, 10, 1]) {
        *digit = b'0' + u8::try_from(code / place % 10).expect("a decimal digit fits a byte");
    }
    std::str::from_utf8(digits).expect("decimal digits are ASCII")
}
