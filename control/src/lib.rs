//! Control: keeps operators' rules, follows the registry, and publishes one snapshot per namespace to the
//! proxies. It routes nothing and registers nothing.
//!
//! The pure steps are [`rulebook`], [`world`], [`edition`], [`roster`] and [`window`]; the rest are thin
//! adapters around them. [`serve`] runs everything.

mod clock;
mod closing;
pub mod config;
pub mod edition;
mod follow;
mod http;
mod listen;
mod metrics;
pub mod moment;
pub mod persist;
mod publish;
pub mod roster;
pub mod rulebook;
mod server;
mod space;
mod spaces;
mod taken;
pub mod window;
pub mod world;

pub use config::{Config, FILE_KEYS, Settings};
pub use server::serve;
