//! `a8 proxies`: every proxy that control knows, what it serves, and how far behind it is.

use clap::Args;
use control_api::ProxyReport;

use crate::client::{Servers, wait_for};
use crate::exit::Failure;
use crate::output::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct ProxiesVerb {
    #[command(flatten)]
    servers: Servers,
    /// How to show the proxies.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Performs the verb.
pub(crate) fn run(verb: ProxiesVerb) -> Result<(), Failure> {
    let control = verb.servers.control()?;
    let mut proxies = wait_for(async { Ok(control.proxies().await?) })?;
    proxies.sort_by(|a, b| a.node.cmp(&b.node));
    output::show(verb.output, &proxies, || table(&proxies))
}

fn table(proxies: &[ProxyReport]) -> String {
    let row = |proxy: &ProxyReport| {
        let tags = proxy.tags.join(",");
        let identity =
            if tags.is_empty() { proxy.service.clone() } else { format!("{}:{tags}", proxy.service) };
        let rejected = proxy.rejected.as_ref();
        vec![
            proxy.node.clone(),
            identity,
            proxy.revision.to_string(),
            proxy.index.to_string(),
            format!("{} ms", proxy.lag_ms),
            if proxy.connected { "yes".to_owned() } else { format!("{} ms ago", proxy.last_seen_ms) },
            rejected.map(|rejected| format!("{}: {}", rejected.index, rejected.reason)).unwrap_or_default(),
            proxy.address.clone(),
        ]
    };
    let head = ["Node", "Service", "Revision", "Index", "Lag", "Connected", "Rejected", "Address"];
    crate::table::draw(&head, &proxies.iter().map(row).collect::<Vec<_>>())
}
