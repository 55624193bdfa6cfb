//! The lane under the suite that both engines pass. It holds no test of its own: what one engine shows, the other shows
//! as well.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

mod engine;

use engine::support;

mod chosen {
    /// What the suite runs against.
    pub(crate) const ENGINE: &str = "lane";
}
