//! What the operator's verbs share: where control and registry are, and a small runtime for one call. It
//! neither prints nor decides.

use std::future::Future;

use clap::Args;
use control_api::client::ControlClient;
use registry_api::client::RegistryClient;
use tokio::runtime::Builder;

use crate::exit::Failure;

/// Where the servers are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Servers {
    /// Where control is; several are tried in turn.
    #[arg(long = "controller_url", env = "A8_CONTROLLER_URL", value_name = "URL", global = true)]
    #[arg(default_value = "http://127.0.0.1:8081", value_delimiter = ',')]
    controller_url: Vec<String>,
    /// The bearer token for control.
    #[arg(long = "controller_token", env = "A8_CONTROLLER_TOKEN", value_name = "TOKEN", global = true)]
    #[arg(hide_env_values = true)]
    controller_token: Option<String>,
    /// Where the registry is; several are tried in turn.
    #[arg(long = "registry_url", env = "A8_REGISTRY_URL", value_name = "URL", global = true)]
    #[arg(default_value = "http://127.0.0.1:8080", value_delimiter = ',')]
    registry_url: Vec<String>,
    /// The bearer token for the registry.
    #[arg(long = "registry_token", env = "A8_REGISTRY_TOKEN", value_name = "TOKEN", global = true)]
    #[arg(hide_env_values = true)]
    registry_token: Option<String>,
}

impl Servers {
    /// Speaks to control.
    pub(crate) fn control(&self) -> Result<ControlClient, Failure> {
        ControlClient::new(&self.controller_url, self.controller_token.as_deref())
            .map_err(|error| Failure::new(format!("controller_url: {error}")))
    }

    /// Speaks to the registry.
    pub(crate) fn registry(&self) -> Result<RegistryClient, Failure> {
        RegistryClient::new(&self.registry_url, self.registry_token.as_deref())
            .map_err(|error| Failure::new(format!("registry_url: {error}")))
    }
}

/// Waits for one conversation with a server.
pub(crate) fn wait_for<T>(talk: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the runtime: {error}")))?
        .block_on(talk)
}
