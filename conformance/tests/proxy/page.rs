//! The examples of docs/rules.md, one after the other: rules are written to a real control and met by real requests, commands
//! are given as they stand. An example that nothing here asks for is a failure: what the page shows is what happens.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Command;
use std::time::Duration;

use conformance::caller::Connection;
use conformance::eventually::pause;
use conformance::{Answer, Cluster, Origin, Proxy, Request, eventually, get, post, program};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../../docs/rules.md");
/// Everybody whom the page names, with the one tag of each.
const INSTANCES: &[(&str, &str)] = &[
    ("reviews", "v1"),
    ("reviews", "version=v1"),
    ("reviews", "version=v2"),
    ("reviews", "version=v3"),
    ("reviews", "version=1.4.2"),
    ("reviews", "version=2.1.0"),
    ("reviews-next", "version=v9"),
    ("ratings", "version=v1"),
    ("ratings", "version=v2"),
    ("cart", "replica"),
    ("cart", "admin"),
    ("cart", "v1"),
    ("shop", "orders"),
    ("shop", "partner"),
    ("printer", "v1"),
    ("details", "v1"),
    ("stock", "v1"),
    ("cache", "v1"),
    ("images", "v1"),
    ("catalogue", "version=v1"),
    ("catalogue", "version=v2"),
    ("search", "version=v1"),
    ("search", "version=v2"),
    ("orders", "version=v1"),
    ("recorder", "version=v1"),
    ("login", "version=v1"),
    ("productpage", "version=v1"),
];
/// The rarest fault of the page happens to one request of a hundred.
const IDS_MAX: u32 = 3000;

struct World {
    /// Stands for `gateway`.
    proxy: Proxy,
    /// Stands for `reviews:version=v2`.
    reviews: Proxy,
    cluster: Cluster,
    origins: BTreeMap<String, Origin>,
}

/// Echoes under its name; fails with the status in `X-Fail`, and holds for a second what says `X-Hold`.
fn origin(label: &str) -> Origin {
    let echo = conformance::origin::echo(label);
    Origin::with(move |exchange| {
        if exchange.head.field("x-hold").is_some() {
            pause(Duration::from_secs(1));
        }
        match exchange.head.field("x-fail").and_then(|status| status.parse().ok()) {
            Some(status) => exchange.answer(status, &[], ""),
            None => echo(exchange),
        }
    })
}

impl World {
    fn new() -> Self {
        let cluster = Cluster::start();
        let mut origins = BTreeMap::new();
        for (service, tag) in INSTANCES {
            let label = format!("{service} {tag}");
            let origin = origin(&label);
            cluster.registry.register(service, &[tag], origin.address());
            origins.insert(label, origin);
        }
        let proxy = cluster.proxy_with("gateway", super::ENGINE);
        let reviews = cluster.proxy_with("reviews:version=v2", super::ENGINE);
        [&proxy, &reviews].into_iter().for_each(|proxy| proxy.await_instances(INSTANCES.len()));
        Self { proxy, reviews, cluster, origins }
    }

    fn ask(&self, request: Request) -> Answer {
        request.call(self.proxy.http)
    }

    /// Holds a request to one of these instances.
    #[track_caller]
    fn reaches(&self, request: Request, labels: &[&str]) -> Answer {
        let answer = self.ask(request);
        let by = answer.by();
        assert!(labels.contains(&by.as_str()), "{by} is none of {labels:?}");
        answer
    }

    #[track_caller]
    fn refused(&self, request: Request, status: u16, error: &str) {
        self.ask(request).expect_refusal(status, error);
    }

    fn explained(&self, query: &str) -> Value {
        self.proxy.admin(&format!("/explain?{query}")).expect(200).json()
    }

    /// An id whose request is explained so.
    #[track_caller]
    fn id(&self, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> String {
        let mut ids = (0..IDS_MAX).map(|number| format!("id-{number}"));
        let found = ids.find(|id| holds(&self.explained(&format!("path={path}&request_id={id}"))));
        found.unwrap_or_else(|| panic!("no id for which {what}"))
    }

    /// An id whose request meets the action that is explained in these words.
    #[track_caller]
    fn meets(&self, path: &str, action: &str) -> String {
        self.id(path, action, |explained| {
            let mut actions = explained["actions"].as_array().into_iter().flatten();
            actions.any(|note| note["fired"] == true && note["action"].as_str().unwrap().starts_with(action))
        })
    }

    fn sum(&self, metric: &str, service: &str) -> f64 {
        self.proxy.metrics().sum(metric, &[&format!(r#"service="{service}""#)])
    }

    #[track_caller]
    fn counts(&self, metric: &str, service: &str, at_least: f64) {
        eventually(metric, || match self.sum(metric, service) {
            count if count >= at_least => Ok(()),
            count => Err(format!("{count} of {service}")),
        });
    }

    fn origin(&self, label: &str) -> &Origin {
        &self.origins[label]
    }

    /// What a command says that knows where control and the proxy are.
    #[track_caller]
    fn says(&self, command: &str) -> String {
        let folder = program::a8().parent().unwrap().to_str().unwrap();
        let done = Command::new("sh")
            .args(["-c", command])
            .env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap_or_default()))
            .env("A8_CONTROLLER_URL", format!("http://{}", self.cluster.control.address()))
            .env("A8_ADMIN_URL", format!("http://{}", self.proxy.admin))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{command}\n{said}{}", String::from_utf8_lossy(&done.stderr));
        said
    }
}

fn with_id(path: &str, id: &str) -> Request {
    get(path).header("X-Request-Id", id)
}

/// What is to be seen of an example, by the id of its first rule.
type Case = (&'static str, fn(&World));

/// What is to be seen after a command that said this, by its first three words.
type Session = (&'static str, fn(&World, &str));

const SESSIONS: &[Session] = &[
    // The faults of the example before it.
    ("a8 faults off", |world, said| {
        assert!(said.starts_with("faults are off"), "{said}");
        let fired =
            |id: u32| world.explained(&format!("path=/ratings/x&request_id={id}"))["outcome"]["kind"].clone();
        assert!((0..50).all(|id| fired(id) == "forward"));
        for id in 0..10 {
            let answer = world.ask(with_id("/ratings/x", &id.to_string())).expect(200);
            assert!(answer.took < Duration::from_secs(1), "{answer:?}");
        }
    }),
    ("a8 faults on", |world, said| {
        assert!(said.starts_with("faults are on"), "{said}");
        let id = world.meets("/ratings/x", "abort");
        world.refused(with_id("/ratings/x", &id), 500, "fault_abort");
    }),
    ("a8 explain /reviews/7", |_, said| {
        assert!(said.starts_with("request id 4\nservice reviews\n"), "{said}");
        assert!(said.contains("forward /7 to reviews"), "{said}");
    }),
    ("a8 proxy --metrics_series_max", |_, said| {
        for line in ["metrics_series_max = 1000", "otel_exporter_otlp_endpoint = http://127.0.0.1:4318"] {
            assert!(said.contains(line), "{line}\n{said}");
        }
    }),
];

const CASES: &[Case] = &[
    ("reviews-canary", |world| {
        let jason = get("/reviews/x").header("Cookie", "a=b; user=jason");
        world.reaches(jason, &["reviews version=v1", "reviews version=v2"]);
        world.refused(get("/reviews/x"), 404, "no_route");
    }),
    ("borrowed", |world| {
        world.reaches(get("/reviews/x"), &["reviews version=v1", "reviews-next version=v9"]);
        let at = world.cluster.control.address();
        let read = get("/v1/rules?tag=team-web&tag=experiment-17").call(at).expect(200).json();
        assert_eq!(read["rules"][0]["id"], "borrowed");
    }),
    ("beta", |world| {
        let beta = |path: &str| get(path).header("X-Beta", "yes");
        world.reaches(beta("/reviews/x"), &["reviews version=v3"]);
        for path in ["/reviews/x?beta=off", "/reviews/admin/x"] {
            world.refused(beta(path), 404, "no_route");
        }
        world.refused(get("/reviews/x"), 404, "no_route");
    }),
    ("from-v2", |world| {
        assert_eq!(world.reviews.get("/ratings/x").by(), "ratings version=v2");
        world.refused(get("/ratings/x"), 404, "no_route");
    }),
    ("reads", |world| {
        world.reaches(get("/cart/x"), &["cart replica"]);
        world.refused(post("/cart/x", &json!({})), 404, "no_route");
    }),
    ("admin", |world| {
        for path in ["/cart/admin/x", "/%63art/admin/"] {
            world.reaches(get(path), &["cart admin"]);
        }
        world.refused(get("/cart/%61dmin/"), 404, "no_route");
    }),
    ("orders", |world| {
        for path in ["/shop/orders", "/shop/orders/17"] {
            world.reaches(get(path), &["shop orders"]);
        }
        world.refused(get("/shop/orders/x"), 404, "no_route");
    }),
    ("debug", |world| {
        world.ask(with_id("/cart/x?a=b&debug", "debug")).by();
        assert_eq!(world.proxy.logged("debug")["debug"], "on");
    }),
    ("partner", |world| {
        world.reaches(get("/shop/x").header("Host", "Partner.example:81"), &["shop partner"]);
        world.refused(get("/shop/x"), 404, "no_route");
    }),
    ("small", |world| {
        let mut held: Vec<_> = (0..10).map(|_| Connection::open(world.proxy.http).unwrap()).collect();
        let request = get("/printer/x").header("X-Hold", "1");
        held.iter_mut().for_each(|connection| connection.send(&request).unwrap());
        world.counts("a8_proxy_requests_in_flight", "printer", 10.0);
        world.refused(get("/printer/x"), 503, "overloaded");
        for connection in &mut held {
            assert_eq!(connection.answer("GET").unwrap().by(), "printer v1");
        }
    }),
    ("short-lived", |world| {
        let mut client = Connection::open(world.proxy.http).unwrap();
        let before = world.origin("cart v1").count();
        for _ in 0..102 {
            client.send(&get("/cart/x")).unwrap();
            assert_eq!(client.answer("GET").unwrap().by(), "cart v1");
        }
        let mut carried = BTreeMap::new();
        for arrived in world.origin("cart v1").arrived().split_off(before) {
            *carried.entry(arrived.connection).or_insert(0) += 1;
        }
        assert!(carried.values().all(|count| *count <= 100), "{carried:?}");
    }),
    ("stable", |world| {
        let new = ["reviews version=2.1.0", "reviews version=v2", "reviews version=1.4.2"];
        for _ in 0..8 {
            world.reaches(get("/reviews/x"), &new);
        }
    }),
    ("maintenance", |world| {
        let answer = world.ask(get("/shop/x")).expect(503);
        assert_eq!((answer.text().as_str(), answer.header("Retry-After")), ("back at noon", "3600"));
    }),
    ("moved", |world| {
        let moved = world.ask(get("/old-shop/a?b=c")).expect(308);
        assert_eq!(moved.header("Location"), "https://shop.example/v2/a?b=c");
        let start = world.ask(get("/start/x?a=b")).expect(302);
        assert!(start.header("Location").ends_with("/shop/?from=start"), "{start:?}");
    }),
    ("tagged", |world| {
        let request = get("/reviews/x").header("X-Debug", "1").header("X-Variant", "a");
        let answer = world.reaches(request, &["reviews version=v2"]);
        assert_eq!(answer.header("X-Served-By"), "reviews-v2");
        let arrived = world.origin("reviews version=v2").arrived().pop().unwrap().head;
        assert_eq!((arrived.field("x-variant"), arrived.field("x-debug")), (Some("b"), None));
    }),
    ("slow", |world| {
        // Without a route rule there is no chosen backend whose tags the first could have.
        let id = world.id("/ratings/x", "it is held for a while", |explained| {
            (0.05..1.0).contains(&explained["outcome"]["delay"].as_f64().unwrap_or(0.0))
        });
        let drawn = world.explained(&format!("path=/ratings/x&request_id={id}"))["outcome"]["delay"].clone();
        let answer = world.ask(with_id("/ratings/x", &id)).expect(200);
        assert!(answer.took.as_secs_f64() >= drawn.as_f64().unwrap(), "{drawn}: {answer:?}");
        assert_eq!(world.proxy.logged(&id)["response_flags"], "DI");
    }),
    ("broken", |world| {
        let id = world.meets("/ratings/x", "abort");
        world.refused(with_id("/ratings/x", &id), 503, "fault_abort");
        for service in ["details", "reviews"] {
            let path = format!("/{service}/x");
            let id = world.meets(&path, "abort");
            assert!(with_id(&path, &id).send(world.proxy.http).is_err(), "{service}");
        }
        let id = world.meets("/stock/x", "abort");
        let call = with_id("/stock/x", &id).header("Content-Type", "application/grpc");
        assert_eq!(world.ask(call).header("grpc-status"), "14");
    }),
    ("bad-line", |world| {
        let large =
            |id: &str| Request::new("POST", "/images/x").header("X-Request-Id", id).body("x".repeat(8000));
        let slow = world.ask(large(&world.meets("/images/x", "bandwidth"))).expect(200);
        assert!(slow.took >= Duration::from_millis(300), "{slow:?}");
        let mut connection = Connection::open(world.proxy.http).unwrap();
        connection.send(&large(&world.meets("/images/x", "truncate"))).unwrap();
        let head = connection.head().unwrap();
        assert!(head.start.contains(" 200 "), "{head:?}");
        let mut body = Vec::new();
        let _cut = connection.wire.read_to_end(&mut body);
        assert_eq!(body.len(), 1000);
    }),
    ("watch-jason", |world| {
        world.ask(with_id("/reviews/x", "jason").header("Cookie", "user=jason")).by();
        assert_eq!(world.proxy.logged("jason")["user"], "jason");
    }),
    ("game-day", |world| {
        let id = world.meets("/ratings/x", "abort");
        world.refused(with_id("/ratings/x", &id), 500, "fault_abort");
        let at = world.cluster.control.address();
        let rule = get("/v1/rules?id=game-day").call(at).expect(200).json()["rules"][0].clone();
        assert!(rule["actions"][1]["expires_at"].is_string(), "{rule}");
    }),
    ("warm-caches", |world| {
        let by = |user: &str| world.ask(get("/catalogue/x").header("X-User", user)).by();
        assert!((0..20).any(|user| by(&user.to_string()) == "catalogue version=v1"));
        let explained = world.explained("path=/catalogue/x");
        assert_eq!(explained["backends"][0]["share"], 0.9);
    }),
    ("by-turns", |world| {
        for (service, tag, lb) in [
            ("reviews", "v1", "round_robin"),
            ("images", "v1", "least_request"),
            ("stock", "v1", "random"),
            ("cart", "v1", "ring_hash"),
            ("login", "version=v1", "ring_hash"),
        ] {
            assert_eq!(world.explained(&format!("path=/{service}/x"))["lb_type"], lb, "{service}");
            world.reaches(get(format!("/{service}/x")), &[&format!("{service} {tag}")]);
        }
    }),
    ("outliers", |world| {
        // Each is tried once more.
        for _ in 0..2 {
            let _ = world.ask(get("/ratings/x").header("X-Fail", "500")).expect(500);
        }
        world.counts("a8_proxy_ejections_total", "ratings", 1.0);
        world.reaches(get("/ratings/x"), &["ratings version=v1"]);
    }),
    ("check-ratings", |world| {
        for service in ["ratings", "stock", "cache"] {
            world.counts("a8_proxy_health_checks_total", service, 1.0);
        }
        // Nobody says there in the words of gRPC that it serves.
        world.counts("a8_proxy_unhealthy_instances", "stock", 1.0);
        assert!(world.sum("a8_proxy_unhealthy_instances", "ratings") < 0.1);
    }),
    ("split-by-session", |world| {
        for session in 0..6 {
            let request = || get("/reviews/x").header("Cookie", format!("session={session}"));
            let first = world.ask(request()).by();
            (0..3).for_each(|_| assert_eq!(world.ask(request()).by(), first));
        }
        let by = |user: u32| world.ask(get("/catalogue/x").header("X-User", user.to_string())).by();
        assert!((0..6).all(|user| by(user) == by(user)));
    }),
    ("careful", |world| {
        let asked = |request: Request, status: u16| {
            let before = world.origin("ratings version=v1").count();
            let _ = world.ask(request).expect(status);
            world.origin("ratings version=v1").count() - before
        };
        assert_eq!(asked(get("/ratings/x").header("X-Fail", "429"), 429), 3);
        assert_eq!(asked(get("/ratings/x").header("X-Fail", "500"), 500), 1);
        assert_eq!(asked(post("/ratings/x", &json!({})).header("X-Fail", "503"), 503), 1);
    }),
    ("fair", |world| {
        let keyed = |key: &str| world.ask(get("/search/x").header("X-Api-Key", key));
        let passed = (0..500).take_while(|_| keyed("a").status == 200).count();
        // While they come, further ones are allowed.
        assert!((20..500).contains(&passed), "{passed}");
        assert_eq!(keyed("b").status, 200);
    }),
    ("per-client", |world| {
        let passed = (0..500).take_while(|_| world.ask(get("/login/x")).status == 200).count();
        assert!((5..500).contains(&passed), "{passed}");
        let limited = world.ask(get("/login/x"));
        assert!(limited.status == 200 || !limited.header("Retry-After").is_empty(), "{limited:?}");
    }),
    ("shadow", |world| {
        let id = world.id("/search/x", "it is copied", |explained| {
            explained["policies"].to_string().contains("copy to search:version=v2")
        });
        world.reaches(with_id("/search/x", &id), &["search version=v1"]);
        world.reaches(get("/orders/x"), &["orders version=v1"]);
        for (label, rule) in [("search version=v2", "shadow"), ("recorder version=v1", "recorded")] {
            eventually("the copy arrives", || {
                let arrived = world.origin(label).arrived();
                let copied = arrived.iter().any(|copy| copy.head.field("x-a8-mirror") == Some(rule));
                if copied { Ok(()) } else { Err(label) }
            });
        }
    }),
    ("no-admin", |world| {
        let _ = world.ask(get("/cart/admin/x")).expect(403);
        for host in ["cart.a8", "cart.default.a8:81"] {
            let _ = world.ask(get("/admin/x").header("Host", host)).expect(403);
        }
        world.refused(get("/cart/x"), 404, "no_route");
    }),
    ("api", |world| {
        let answer = world.reaches(get("/api/a?b"), &["reviews version=v1"]);
        assert_eq!(answer.json()["target"], "/a?b");
        let answer = world.reaches(get("/api/latest"), &["reviews version=v3"]);
        assert_eq!(answer.json()["target"], "/v3");
    }),
    ("shop-front", |world| {
        let at = |host: &str, path: &str| get(path).header("Host", host);
        let front = world.reaches(at("shop.example:80", "/a"), &["productpage version=v1"]);
        assert_eq!(front.json()["target"], "/a");
        let api = world.ask(at("eu.shop.example", "/api/reviews/7")).expect(200).json();
        assert_eq!(api["target"], "/7");
        assert!(api["by"].as_str().unwrap().starts_with("reviews "), "{api}");
    }),
];

/// An example: its language and its text.
fn examples() -> impl Iterator<Item = (&'static str, &'static str)> {
    // Between two fences there is a block, and then text.
    let blocks = PAGE.split("```").skip(1).step_by(2);
    blocks.map(|block| block.split_once('\n').unwrap())
}

#[test]
fn every_example_of_the_page_does_what_the_page_says() {
    let world = World::new();
    let mut cases: BTreeMap<_, _> = CASES.iter().copied().collect();
    let mut sessions: BTreeMap<_, _> = SESSIONS.iter().copied().collect();
    for (language, text) in examples() {
        // Shown when it fails.
        println!("{text}");
        if language == "sh" {
            let command = text.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
            let session = sessions.remove(command.as_str()).expect("the command is looked at");
            session(&world, &world.says(text));
            continue;
        }
        assert_eq!(language, "json");
        let example: Value = serde_json::from_str(text).unwrap();
        let rules = if example.is_array() { example } else { json!([example]) };
        let case = cases.remove(rules[0]["id"].as_str().unwrap()).expect("the rule is met by a request");
        world.cluster.control.replace(rules);
        case(&world);
    }
    assert!(cases.is_empty() && sessions.is_empty(), "{:?} {:?}", cases.keys(), sessions.keys());
}
