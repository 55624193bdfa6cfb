//! The registry's contract: what registers, how it changes, and how a watcher follows.
//!
//! Everything here is a value or a pure step; the only things that touch a socket are `client` with its `connect`,
//! and `issuer`, behind the features of those names. The crate knows neither rules nor Eureka.

pub mod change;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod connect;
pub mod duration;
pub mod follow;
pub mod hash;
pub mod host;
pub mod instance;
#[cfg(feature = "issuer")]
pub mod issuer;
pub mod names;
pub mod setting;
#[cfg(feature = "token")]
pub mod token;

pub use change::{Change, Position, Reason, Update, WatchAnswer};
pub use follow::Followed;
pub use hash::ContentHash;
pub use instance::{
    Endpoint, EndpointType, Instance, InstanceKey, Metadata, Registered, Registration, Status,
};
pub use names::{InstanceId, Namespace, ServiceName};
