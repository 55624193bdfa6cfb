//! `a8 proxy`.

use proxy::config::FILE_KEYS;

use crate::config_file::FileKeys;
use crate::role::{NotStarted, Role, announce, lifecycle};

/// The gateway and sidecar.
pub(crate) struct Proxy;

impl Role for Proxy {
    const NAME: &'static str = "proxy";
    const ABOUT: &'static str = "Run the proxy: edge gateway, or the sidecar of one service";
    const FILE_KEYS: FileKeys = FILE_KEYS;
    type Settings = proxy::config::Settings;

    fn run(settings: Self::Settings) -> Result<(), NotStarted> {
        let config = settings.check()?;
        let server = proxy::server::Server::bind(&config)?;
        let node = config.node(server.http());
        let admin = proxy::admin::Admin::new(server.live(), node.clone());
        let background = proxy::background::Background::start(&config, node, server.live())?;
        announce(Self::NAME)(&server.addresses());
        server
            .serve(admin, async {
                if let Ok(end) = lifecycle::told_to_end() {
                    end.await
                }
            })
            .map_err(|e| NotStarted::Machine(e.to_string()))?;
        drop(background);
        Ok(())
    }
}
