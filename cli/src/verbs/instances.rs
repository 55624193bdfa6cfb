//! `a8 instances`: every registered instance, whatever its status.

use clap::Args;
use registry_api::Instance;

use crate::client::{Servers, wait_for};
use crate::exit::Failure;
use crate::output::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct InstancesVerb {
    /// Only those of these services.
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    servers: Servers,
    /// How to show the instances.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Performs the verb.
pub(crate) fn run(verb: InstancesVerb) -> Result<(), Failure> {
    let registry = verb.servers.registry()?;
    let mut instances = wait_for(async { Ok(registry.instances().await?) })?;
    instances.retain(|instance| {
        verb.services.is_empty() || verb.services.iter().any(|name| name == instance.service_name.as_str())
    });
    instances.sort_by_key(Instance::key);
    // Through a value: metadata is kept as raw JSON, which no other format can carry.
    let value = serde_json::to_value(&instances).map_err(Failure::new)?;
    output::show(verb.output, &value, || table(&instances))
}

fn table(instances: &[Instance]) -> String {
    let row = |instance: &Instance| {
        vec![
            instance.service_name.to_string(),
            instance.tags.join(","),
            instance.endpoint.kind.as_str().to_owned(),
            instance.endpoint.value.clone(),
            instance.status.to_string(),
            instance.ttl.to_string(),
            instance.last_heartbeat.clone().unwrap_or_default(),
            instance.id.to_string(),
        ]
    };
    let head = ["Service", "Tags", "Type", "Endpoint", "Status", "TTL", "Last heartbeat", "Instance ID"];
    crate::table::draw(&head, &instances.iter().map(row).collect::<Vec<_>>())
}
