//! Where tables come from: control's watch, and the last good snapshot when control is away. It decides no
//! request, and a failure here changes no decision.

pub mod follower;
pub mod last_good;
pub mod status;
pub mod watch;

pub use follower::{Follower, Rejection};
pub use status::{Seen, Source, Status};
pub use watch::{Stage, Watch};
