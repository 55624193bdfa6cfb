//! `a8 control`.

use crate::config_file::FileKeys;
use crate::role::{NotStarted, Role, announce, lifecycle};

/// The service that turns registrations and rules into snapshots.
pub(crate) struct Control;

impl Role for Control {
    const NAME: &'static str = "control";
    const ABOUT: &'static str = "Run control: operator rules, and the snapshots that proxies follow";
    const FILE_KEYS: FileKeys = control::FILE_KEYS;
    type Settings = control::Settings;

    fn run(settings: Self::Settings) -> Result<(), NotStarted> {
        let config = settings.check()?;
        lifecycle::runtime()?.block_on(async {
            let end = lifecycle::told_to_end()?;
            Ok(control::serve(config, announce(Self::NAME), end).await?)
        })
    }
}
