//! The testbed: real `a8` processes on free ports, configurable origins behind them, and a plain HTTP caller in front.
//!
//! It judges nothing: what must hold is in `tests/`. It links none of the roles, so that what is tested is what is shipped.

pub mod caller;
pub mod clock;
pub mod cluster;
pub mod eventually;
pub mod feed;
pub mod grpc;
pub mod h2c;
pub mod message;
pub mod metrics;
pub mod origin;
pub mod process;
pub mod program;

pub use caller::{Answer, Connection, Request, delete, get, post, put};
pub use cluster::{Cluster, Control, Proxy, Registry};
pub use eventually::{eventually, never, within};
pub use feed::Feed;
pub use grpc::GrpcOrigin;
pub use origin::{Exchange, Origin};
pub use process::{Finished, Launch, Process};
