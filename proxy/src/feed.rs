//! Where tables come from: control's watch, and the last good snapshot when control is away.

pub mod follower;
pub mod last_good;
