//! `a8 registry`.

use crate::config_file::FileKeys;
use crate::role::{NotStarted, Role, announce, lifecycle};

/// The registry of service instances.
pub(crate) struct Registry;

impl Role for Registry {
    const NAME: &'static str = "registry";
    const ABOUT: &'static str = "Run the registry of service instances";
    const FILE_KEYS: FileKeys = registry::FILE_KEYS;
    type Settings = registry::Settings;

    fn run(settings: Self::Settings) -> Result<(), NotStarted> {
        let config = settings.check()?;
        lifecycle::runtime()?.block_on(async {
            let end = lifecycle::told_to_end()?;
            Ok(registry::serve(config, announce(Self::NAME), end).await?)
        })
    }
}
