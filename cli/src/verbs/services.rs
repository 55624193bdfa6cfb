//! `a8 services`: which services there are and in which versions. Single instances are `a8 instances`.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use crate::client::{Servers, wait_for};
use crate::exit::Failure;
use crate::output::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct ServicesVerb {
    #[command(flatten)]
    servers: Servers,
    /// How to show the services.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Serialize)]
struct Service {
    service: String,
    versions: Vec<Version>,
}

#[derive(Debug, Serialize)]
struct Version {
    tags: Vec<String>,
    instances: usize,
}

/// Performs the verb.
pub(crate) fn run(verb: ServicesVerb) -> Result<(), Failure> {
    let registry = verb.servers.registry()?;
    let instances = wait_for(async { Ok(registry.instances().await?) })?;
    let mut counted: BTreeMap<String, BTreeMap<Vec<String>, usize>> = BTreeMap::new();
    for instance in instances {
        let mut tags = instance.tags;
        tags.sort();
        *counted.entry(instance.service_name.to_string()).or_default().entry(tags).or_default() += 1;
    }
    let services: Vec<Service> = counted
        .into_iter()
        .map(|(service, versions)| {
            let version = |(tags, instances)| Version { tags, instances };
            Service { service, versions: versions.into_iter().map(version).collect() }
        })
        .collect();
    output::show(verb.output, &services, || table(&services))
}

fn table(services: &[Service]) -> String {
    let version = |version: &Version| {
        let tags = if version.tags.is_empty() { "-untagged-".to_owned() } else { version.tags.join(",") };
        format!("{tags}({})", version.instances)
    };
    let row = |service: &Service| {
        let versions: Vec<_> = service.versions.iter().map(version).collect();
        vec![service.service.clone(), versions.join(", ")]
    };
    crate::table::draw(&["Service", "Instances"], &services.iter().map(row).collect::<Vec<_>>())
}
