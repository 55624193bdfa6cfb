//! `a8 up`: the whole fabric with the demonstration application on one machine, every role its own child
//! process. It only starts, shows and ends them; what they do is theirs.

mod child;
mod fabric;
mod live;
mod load;
mod rules;
mod screen;
mod tour;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::config_file::FileKeys;
use crate::output;
use crate::role::{NotStarted, Role, lifecycle};
use fabric::{Fabric, Plan};

/// Which ports the four well-known listeners take; the application's own are always free ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ports {
    /// Those of the roles: 8080, 8081, 6379, 6380.
    Default,
    /// Any free ones.
    Free,
}

/// The flags of `a8 up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Settings {
    /// Walk through routing, splitting, faults and failures, compare with what is expected, and end.
    #[arg(long)]
    tour: bool,
    /// Which ports to take; the tour takes free ones unless told otherwise.
    #[arg(long, value_enum)]
    ports: Option<Ports>,
    /// The registry's port.
    #[arg(long = "registry_port")]
    registry_port: Option<u16>,
    /// Control's port.
    #[arg(long = "control_port")]
    control_port: Option<u16>,
    /// The gateway's port.
    #[arg(long = "http_port")]
    http_port: Option<u16>,
    /// The port of the gateway's admin listener.
    #[arg(long = "admin_port")]
    admin_port: Option<u16>,
    /// The address that everything listens on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Where rules, snapshots and logs are kept; by default a temporary folder that is removed at the end.
    #[arg(long = "data_dir")]
    data_dir: Option<PathBuf>,
}

/// `a8 up`.
pub(crate) struct Up;

impl Role for Up {
    const NAME: &'static str = "up";
    const ABOUT: &'static str =
        "Run everything with a demonstration application; --tour shows and checks what it does";
    const HELP: &'static str = "Exit status: 0 after Ctrl-C, or when every row of the tour holds; 1 otherwise; \
2 for a command line that cannot be read.";
    const FILE_KEYS: FileKeys = &[];
    type Settings = Settings;

    fn run(settings: Settings) -> Result<(), NotStarted> {
        lifecycle::runtime()?.block_on(up(settings))
    }
}

impl Settings {
    fn plan(&self) -> Plan {
        let free = self.ports.unwrap_or(if self.tour { Ports::Free } else { Ports::Default }) == Ports::Free;
        let port = |given: Option<u16>, usual: u16| given.unwrap_or(if free { 0 } else { usual });
        Plan {
            host: self.host,
            registry: port(self.registry_port, 8080),
            control: port(self.control_port, 8081),
            http: port(self.http_port, 6379),
            admin: port(self.admin_port, 6380),
        }
    }
}

async fn up(settings: Settings) -> Result<(), NotStarted> {
    let end = lifecycle::told_to_end()?;
    // A closed terminal: without this the temporary folder would stay.
    let mut hung_up = signal(SignalKind::hangup()).map_err(|error| NotStarted::Machine(error.to_string()))?;
    let (mut fabric, mut deaths) = Fabric::new(settings.data_dir.clone()).map_err(NotStarted::Machine)?;
    // The end comes first: whoever pressed Ctrl-C does not want to hear of children that felt it too.
    let outcome = tokio::select! {
        biased;
        () = end => Ok(()),
        _ = hung_up.recv() => Ok(()),
        Some(death) = deaths.recv() => Err(death),
        outcome = run(&mut fabric, &settings) => outcome,
    };
    fabric.end().await;
    outcome.map_err(NotStarted::Machine)
}

async fn run(fabric: &mut Fabric, settings: &Settings) -> Result<(), String> {
    fabric.start(&settings.plan()).await?;
    if settings.tour {
        return tour::walk(fabric).await;
    }
    output::raw(&screen::text(fabric)).map_err(|failure| failure.line)?;
    live::follow(fabric).await
}
