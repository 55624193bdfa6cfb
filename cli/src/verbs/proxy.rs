//! `a8 proxy`: puts the proxy's parts together, in the order in which they may fail.

use proxy::admin::Admin;
use proxy::background::Background;
use proxy::config::{FILE_KEYS, FILE_LISTS};
use proxy::server::Server;

use crate::config_file::{FileKeys, FileLists};
use crate::role::{NotStarted, Role, announce, lifecycle};

/// The gateway and sidecar.
pub(crate) struct Proxy;

impl Role for Proxy {
    const NAME: &'static str = "proxy";
    const ABOUT: &'static str = "Run the proxy: edge gateway, or the sidecar of one service";
    const FILE_KEYS: FileKeys = FILE_KEYS;
    const FILE_LISTS: FileLists = FILE_LISTS;
    type Settings = proxy::config::Settings;

    fn run(settings: Self::Settings) -> Result<(), NotStarted> {
        let config = settings.check()?;
        let end = lifecycle::told_to_end_outside()?;
        let server = Server::bind(&config)?;
        let node = config.node(server.http());
        let admin = Admin::new(server.live(), node.clone()).with_tcp(server.tcp());
        // Held until the last request has ended: its end saves the last good snapshot.
        let _background = Background::start(&config, node, server.live())?;
        server.await_table()?;
        announce(Self::NAME)(&server.addresses());
        server.serve(admin, end).map_err(|error| NotStarted::Machine(format!("cannot serve: {error}")))
    }
}
