//! The description of the Eureka API in OpenAPI, as a table of its operations. Paths are those of one mount; what the
//! documents mean is said in [`super::show`] and [`super::lists`], here only their shape.
#![expect(dead_code, reason = "these types describe and are never made")]

use std::collections::HashMap;

use serde_json::Value;
use utoipa::openapi::path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Content, OpenApi as Document, Ref, RefOr, Required, Response, ResponsesBuilder, Schema,
};
use utoipa::{Modify, OpenApi, ToSchema};

use crate::http::openapi::Refusals;

use HttpMethod::{Delete, Get, Post, Put};

/// The mount whose paths are described.
const MOUNT: &str = "/eureka/v2";
const TAG: &str = "eureka";
const ABOUT: &str = "Netflix Eureka, version 2. The same is served below `/eureka`, `/api/eureka/v2` and, with the token \
    in the path, `/api/eureka/{token}/v2`; a password of basic authentication counts as the token. Documents are JSON or \
    XML: as `Accept` says, else as the request's own type says, else XML. The codes are those of `--eureka_compat netflix`.";

/// What an answer says.
enum Says {
    Nothing,
    /// A document of this schema, also as XML.
    Document(&'static str),
    /// One of this schema, only as JSON.
    Json(&'static str),
    Error,
}

struct Described {
    path: &'static str,
    method: HttpMethod,
    id: &'static str,
    summary: &'static str,
    query: &'static [(&'static str, &'static str)],
    body: Option<Says>,
    answers: &'static [(&'static str, &'static str, Says)],
}

type Answer = (&'static str, &'static str, Says);

const BAD_NAME: Answer = ("400", "A name in the path is empty or no text.", Says::Error);
const BAD_REQUEST: Answer = ("400", "A name, a parameter or the body cannot be used.", Says::Error);
const UNKNOWN: Answer = ("404", "It is not registered.", Says::Error);
const DIRTY: (&str, &str) = ("lastDirtyTimestamp", "When the client last changed its data, in milliseconds.");

const OPERATIONS: &[Described] = &[
    Described {
        path: "/apps",
        method: Get,
        id: "EurekaListApplications",
        summary: "All applications with their instances.",
        query: &[("regions", "Taken and ignored.")],
        body: None,
        answers: &[("200", "Everything.", Says::Document("EurekaApplications"))],
    },
    Described {
        path: "/apps/delta",
        method: Get,
        id: "EurekaListChanges",
        summary: "What changed in the last three minutes, and the hash of everything.",
        query: &[("regions", "Taken and ignored.")],
        body: None,
        answers: &[("200", "The changes.", Says::Document("EurekaApplications"))],
    },
    Described {
        path: "/apps/{app}",
        method: Get,
        id: "EurekaGetApplication",
        summary: "One application.",
        query: &[],
        body: None,
        answers: &[("200", "Its instances.", Says::Document("EurekaApplicationDocument")), BAD_NAME, UNKNOWN],
    },
    Described {
        path: "/apps/{app}",
        method: Post,
        id: "EurekaRegister",
        summary: "Registers an instance, or replaces the one of its id.",
        query: &[],
        body: Some(Says::Document("EurekaInstanceDocument")),
        answers: &[
            ("204", "It is registered.", Says::Nothing),
            BAD_REQUEST,
            ("403", "The namespace is full.", Says::Error),
        ],
    },
    Described {
        path: "/apps/{app}/{id}",
        method: Get,
        id: "EurekaGetInstance",
        summary: "One instance.",
        query: &[],
        body: None,
        answers: &[("200", "It.", Says::Document("EurekaInstanceDocument")), BAD_NAME, UNKNOWN],
    },
    Described {
        path: "/apps/{app}/{id}",
        method: Put,
        id: "EurekaRenew",
        summary: "Renews the lease of an instance.",
        query: &[
            DIRTY,
            ("overriddenstatus", "The override that a peer knows."),
            ("status", "Taken and ignored."),
        ],
        body: None,
        answers: &[
            ("200", "The lease begins anew.", Says::Nothing),
            BAD_REQUEST,
            ("404", "It has to register, or to register again.", Says::Error),
            (
                "409",
                "To a peer: what is known here is newer, and this is it.",
                Says::Document("EurekaInstanceDocument"),
            ),
        ],
    },
    Described {
        path: "/apps/{app}/{id}",
        method: Delete,
        id: "EurekaCancel",
        summary: "Removes an instance.",
        query: &[],
        body: None,
        answers: &[("200", "It is gone.", Says::Nothing), BAD_NAME, UNKNOWN],
    },
    Described {
        path: "/apps/{app}/{id}/status",
        method: Put,
        id: "EurekaOverrideStatus",
        summary: "Sets a status over whatever the instance says.",
        query: &[("value", "`UP`, `DOWN`, `STARTING`, `OUT_OF_SERVICE` or `UNKNOWN`; needed."), DIRTY],
        body: None,
        answers: &[("200", "It is set.", Says::Nothing), BAD_REQUEST, UNKNOWN],
    },
    Described {
        path: "/apps/{app}/{id}/status",
        method: Delete,
        id: "EurekaDropStatus",
        summary: "Drops what was set so.",
        query: &[("value", "The status until the instance brings its own; `UNKNOWN` without."), DIRTY],
        body: None,
        answers: &[("200", "It is dropped.", Says::Nothing), BAD_REQUEST, UNKNOWN],
    },
    Described {
        path: "/apps/{app}/{id}/metadata",
        method: Put,
        id: "EurekaMergeMetadata",
        summary: "Puts every parameter of the query into the metadata.",
        query: &[],
        body: None,
        answers: &[("200", "They are in.", Says::Nothing), BAD_REQUEST, UNKNOWN],
    },
    Described {
        path: "/instances/{id}",
        method: Get,
        id: "EurekaGetAnyInstance",
        summary: "The instance of an id, in whichever application.",
        query: &[],
        body: None,
        answers: &[("200", "It.", Says::Document("EurekaInstanceDocument")), BAD_NAME, UNKNOWN],
    },
    Described {
        path: "/vips/{vip}",
        method: Get,
        id: "EurekaListVip",
        summary: "The instances with a virtual address.",
        query: &[],
        body: None,
        answers: &[("200", "They.", Says::Document("EurekaApplications")), BAD_NAME, UNKNOWN],
    },
    Described {
        path: "/svips/{vip}",
        method: Get,
        id: "EurekaListSecureVip",
        summary: "The instances with a secure virtual address.",
        query: &[],
        body: None,
        answers: &[("200", "They.", Says::Document("EurekaApplications")), BAD_NAME, UNKNOWN],
    },
    Described {
        path: "/peerreplication/batch",
        method: Post,
        id: "EurekaReplicate",
        summary: "What another registry was told, item by item.",
        query: &[],
        body: Some(Says::Json("EurekaBatch")),
        answers: &[
            ("200", "One answer for each item, in their order.", Says::Json("EurekaBatchAnswers")),
            ("400", "The body cannot be read.", Says::Error),
        ],
    },
    Described {
        path: "/asg/{name}/status",
        method: Put,
        id: "EurekaSetScalingGroup",
        summary: "There are no scaling groups here.",
        query: &[("value", "Not looked at.")],
        body: None,
        answers: &[("400", "There are none.", Says::Error)],
    },
];

/// Adds the Eureka API to a document that has the schemas and the answers common to all.
pub(in crate::http) struct Eureka;

#[derive(OpenApi)]
#[openapi(components(schemas(
    EurekaApplications,
    EurekaApplicationDocument,
    EurekaInstanceDocument,
    EurekaBatch,
    EurekaBatchAnswers
)))]
struct Schemas;

impl Modify for Eureka {
    fn modify(&self, document: &mut Document) {
        document.merge(Schemas::openapi());
        let tag = TagBuilder::new().name(TAG).description(Some(ABOUT)).build();
        document.tags.get_or_insert_with(Vec::new).push(tag);
        for described in OPERATIONS {
            let path = format!("{MOUNT}{}", described.path);
            document.paths.add_path_operation(path, vec![described.method.clone()], described.operation());
        }
    }
}

impl Described {
    fn operation(&self) -> Operation {
        let mut operation =
            Operation::builder().tag(TAG).operation_id(Some(self.id)).summary(Some(self.summary));
        for name in self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            operation = operation.parameter(parameter(name, ParameterIn::Path, "Percent-encoded once."));
        }
        for (name, about) in self.query {
            operation = operation.parameter(parameter(name, ParameterIn::Query, about));
        }
        if let Some(says) = &self.body {
            let mut body = RequestBody::builder().required(Some(Required::True));
            for (label, content) in says.contents() {
                body = body.content(label, content);
            }
            operation = operation.request_body(Some(body.build()));
        }
        let mut answers = ResponsesBuilder::new().responses_from_into_responses::<Refusals>();
        for (status, about, says) in self.answers {
            let mut answer = Response::builder().description(*about);
            for (label, content) in says.contents() {
                answer = answer.content(label, content);
            }
            answers = answers.response(*status, answer.build());
        }
        operation.responses(answers.build()).build()
    }
}

impl Says {
    fn contents(&self) -> Vec<(&'static str, Content)> {
        match self {
            Self::Nothing => vec![],
            Self::Error => vec![refers("application/json", "Error")],
            Self::Json(schema) => vec![refers("application/json", schema)],
            Self::Document(schema) => {
                vec![refers("application/json", schema), ("application/xml", Content::new(Some(text())))]
            }
        }
    }
}

fn refers(label: &'static str, schema: &str) -> (&'static str, Content) {
    (label, Content::new(Some(Ref::from_schema_name(schema))))
}

fn text() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).build().into()
}

fn parameter(name: &str, place: ParameterIn, about: &str) -> Parameter {
    let required = if matches!(place, ParameterIn::Path) { Required::True } else { Required::False };
    let parameter = ParameterBuilder::new().name(name).parameter_in(place).required(required);
    parameter.description(Some(about)).schema(Some(text())).build()
}

/// Applications with their instances.
#[derive(ToSchema)]
struct EurekaApplications {
    applications: EurekaApplicationList,
}

#[derive(ToSchema)]
struct EurekaApplicationList {
    /// Differs whenever the content of a delta differs; 1 in lists.
    #[schema(rename = "versions__delta")]
    version: String,
    /// How many instances of each status there are, as `DOWN_1_UP_3_`.
    #[schema(rename = "apps__hashcode")]
    hash: String,
    application: Vec<EurekaApplication>,
}

#[derive(ToSchema)]
struct EurekaApplicationDocument {
    application: EurekaApplication,
}

#[derive(ToSchema)]
struct EurekaApplication {
    name: String,
    instance: Vec<EurekaInstance>,
}

#[derive(ToSchema)]
struct EurekaInstanceDocument {
    instance: EurekaInstance,
}

/// An instance, as answers show it. A registration needs `hostName`, `ipAddr` and `vipAddress`.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct EurekaInstance {
    instance_id: String,
    host_name: String,
    app: String,
    app_group_name: String,
    ip_addr: String,
    status: String,
    overriddenstatus: String,
    port: EurekaPort,
    secure_port: EurekaPort,
    country_id: i64,
    data_center_info: EurekaDataCenter,
    lease_info: EurekaLease,
    metadata: HashMap<String, Value>,
    home_page_url: Option<String>,
    status_page_url: Option<String>,
    health_check_url: Option<String>,
    secure_health_check_url: Option<String>,
    vip_address: String,
    secure_vip_address: Option<String>,
    is_coordinating_discovery_server: String,
    /// Milliseconds.
    last_updated_timestamp: String,
    /// Milliseconds.
    last_dirty_timestamp: String,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    action_type: String,
    asg_name: Option<String>,
    sid: Option<String>,
}

#[derive(ToSchema)]
struct EurekaPort {
    #[schema(rename = "$")]
    number: u16,
    /// `true` or `false`, as text.
    #[schema(rename = "@enabled")]
    enabled: String,
}

#[derive(ToSchema)]
struct EurekaDataCenter {
    #[schema(rename = "@class")]
    class: String,
    name: String,
    metadata: Option<HashMap<String, Value>>,
}

/// Times in milliseconds since the Unix epoch, 0 for never.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct EurekaLease {
    renewal_interval_in_secs: u32,
    duration_in_secs: u32,
    registration_timestamp: u64,
    last_renewal_timestamp: u64,
    eviction_timestamp: u64,
    service_up_timestamp: u64,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct EurekaBatch {
    replication_list: Vec<EurekaItem>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct EurekaItem {
    app_name: String,
    id: String,
    last_dirty_timestamp: Option<i64>,
    overridden_status: Option<String>,
    status: Option<String>,
    instance_info: Option<EurekaInstance>,
    /// `Register`, `Heartbeat`, `Cancel`, `StatusUpdate` or `DeleteStatusOverride`.
    action: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct EurekaBatchAnswers {
    response_list: Vec<EurekaBatchAnswer>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct EurekaBatchAnswer {
    status_code: u16,
    /// With 409, what is known here.
    response_entity: Option<EurekaInstance>,
}
