//! The operator's verbs against a real registry, control and proxy.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::path::PathBuf;

use serde_json::Value;
use support::{Ran, Role, a8, eventually, run_with};
use tempfile::TempDir;

const RULE: &str = r#"{"id":"reviews-v1","priority":1,"destination":"reviews","route":{"backends":[{"tags":["version=v1"]}]}}"#;

struct Fabric {
    folder: TempDir,
    registry: Role,
    control: Role,
}

impl Fabric {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = |name: &str| folder.path().join(name).display().to_string();
        let registry = Role::start(&["registry", "--api_port", "0", "--data_dir", &dir("registry")]);
        let control = Role::start(&[
            "control",
            "--api_port",
            "0",
            "--data_dir",
            &dir("control"),
            "--registry_url",
            &registry.url("api"),
        ]);
        Self { folder, registry, control }
    }

    fn proxy(&self, node: &str) -> Role {
        let dir = self.folder.path().join(node).display().to_string();
        Role::start(&[
            "proxy",
            "--http_listener_port",
            "0",
            "--admin_port",
            "0",
            "--data_dir",
            &dir,
            "--node",
            node,
            "--service",
            "gateway:version=none",
            "--controller_url",
            &self.control.url("api"),
            "--threads",
            "1",
        ])
    }

    fn reviews(&self, version: &str) -> Role {
        Role::start(&[
            "demo",
            "reviews",
            "--app_version",
            version,
            "--port",
            "0",
            "--registry_url",
            &self.registry.url("api"),
        ])
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, "")
    }

    fn run_with(&self, args: &[&str], input: &str) -> Ran {
        let mut command = a8();
        command.args(args).env("A8_CONTROLLER_URL", self.control.url("api"));
        command.env("A8_REGISTRY_URL", self.registry.url("api"));
        run_with(&mut command, input)
    }

    fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.stderr);
        ran.stdout
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn rule_ids(&self) -> Vec<String> {
        let set: Value = serde_json::from_str(&self.ok(&["rule", "get", "--all", "-o", "json"])).unwrap();
        let rules = set["rules"].as_array().unwrap();
        rules.iter().map(|rule| rule["id"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn rules_are_created_from_every_shape_listed_shown_replaced_and_deleted() {
    let fabric = Fabric::start();
    let yaml = "rules:\n- id: c\n  destination: reviews\n  route: {backends: [{tags: [v1]}]}\n";
    for (name, text, ids) in [
        ("a.json", format!("{{\"rules\":[{}]}}", RULE.replace("reviews-v1", "a")), "a"),
        ("b.JSON", format!("[{}]", RULE.replace("reviews-v1", "b")), "b"),
        ("c.yaml", yaml.to_owned(), "c"),
        (
            "d.yml",
            "- {id: d, destination: ratings, actions: [{action: delay, duration: 2}]}\n".to_owned(),
            "d",
        ),
        ("e.json", RULE.replace("reviews-v1", "e"), "e"),
    ] {
        let file = fabric.file(name, &text);
        let out = fabric.ok(&["rule", "create", "-f", file.to_str().unwrap()]);
        assert!(out.starts_with(&format!("created {ids} (revision ")), "{name}: {out}");
    }
    for (input, id) in [
        (RULE.replace("reviews-v1", "f"), "f"),
        ("id: g\ndestination: x\nroute: {backends: [{tags: [t]}]}\n".to_owned(), "g"),
    ] {
        for args in [&["rule", "create", "-o", "json"][..], &["rule", "create", "-o", "json", "-f", "-"]] {
            let ran = fabric.run_with(args, &input);
            assert_eq!(ran.status, 0, "{}", ran.stderr);
            let written: Value = serde_json::from_str(&ran.stdout).unwrap();
            assert_eq!(written["ids"], serde_json::json!([id]));
            assert!(written["revision"].as_u64() > Some(0));
        }
    }
    assert_eq!(fabric.rule_ids().len(), 7);

    let table = fabric.ok(&["rule", "list", "-d", "ratings"]);
    assert!(table.contains("| Destination | Priority | Match | Does "), "{table}");
    assert!(table.contains("| ratings     | 0        |       | (1->delay=2) |      | d       |"), "{table}");
    assert!(!table.contains("reviews"), "{table}");
    let whole = fabric.ok(&["rule", "get", "a", "c"]);
    assert!(whole.starts_with("rules:\n- id: a\n  priority: 1\n  destination: reviews\n"), "{whole}");

    let file = fabric.file("update.json", &RULE.replace("reviews-v1", "a").replace(":1,", ":9,"));
    let out = fabric.ok(&["rule", "update", "-f", file.to_str().unwrap()]);
    assert!(out.starts_with("updated a (revision "), "{out}");
    assert!(fabric.ok(&["rule", "get", "-i", "a"]).contains("priority: 9"));

    fabric.ok(&["rule", "delete", "a", "b"]);
    fabric.ok(&["rule", "delete", "-d", "x"]);
    assert_eq!(fabric.rule_ids(), ["d", "e", "f", "c"]);
    let declined = fabric.run_with(&["rule", "delete", "--all"], "n\n");
    assert_eq!((declined.status, fabric.rule_ids().len()), (1, 4));
    assert_eq!(fabric.run_with(&["rule", "delete", "--all"], "y\n").status, 0);
    assert_eq!(fabric.rule_ids().len(), 0);
    fabric.ok(&["rule", "create", "-f", fabric.file("again.json", RULE).to_str().unwrap()]);
    fabric.ok(&["rule", "delete", "-a", "-f"]);
    assert_eq!(fabric.rule_ids().len(), 0);
}

#[test]
fn every_kind_of_failure_has_its_status_and_says_why() {
    let fabric = Fabric::start();
    let text = fabric.file("rules.txt", RULE);
    let broken = fabric.file("broken.json", "{");
    let empty = fabric.file("empty.yaml", "");
    let bad = fabric.file("bad.json", r#"{"id":"x","destination":"d"}"#);
    let path = |path: &PathBuf| path.display().to_string();
    let folder = fabric.folder.path().join("folder.json");
    std::fs::create_dir(&folder).unwrap();
    for (args, status, reason) in [
        (vec!["rule", "create", "-f", &path(&text)], 1, "unsupported format"),
        (vec!["rule", "create", "-f", "/no/such.json"], 1, "/no/such.json: "),
        (vec!["rule", "create", "-f", &path(&folder)], 1, "it is a directory"),
        (vec!["rule", "create", "-f", &path(&broken)], 1, "no JSON: "),
        (vec!["rule", "create", "-f", &path(&empty)], 1, "no rules"),
        (vec!["rule", "create"], 1, "standard input: no rules"),
        (vec!["rule", "create", "-f", &path(&bad)], 3, "error_invalid_rule"),
        (vec!["rule", "update", "-f", &path(&fabric.file("u.json", RULE))], 3, "error_rule_not_found"),
        (vec!["rule", "get"], 1, "select rules"),
        (vec!["rule", "get", "nothing"], 3, "error_rule_not_found"),
        (vec!["rule", "delete"], 1, "select rules"),
        (vec!["rule", "delete", "--all", "x"], 1, "exclude each other"),
        (
            vec!["rule", "list", "--controller_url", "ftp://x"],
            1,
            "controller_url: `ftp://x` is no http or https",
        ),
        (
            vec!["rule", "list", "--controller_url", "http://127.0.0.1:1"],
            2,
            "cannot reach http://127.0.0.1:1",
        ),
        (vec!["services", "--registry_url", "http://127.0.0.1:1"], 2, "cannot reach"),
        (vec!["explain", "/x", "--admin_url", "http://127.0.0.1:1"], 2, "cannot reach"),
        (vec!["explain", "/x", "-H", "nonsense"], 1, "`nonsense` is no header"),
    ] {
        let args: Vec<&str> = args.iter().map(|arg| -> &str { arg }).collect();
        let ran = fabric.run(&args);
        assert_eq!(ran.status, status, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("a8 ") && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    }
    // The registry is no control: it answers, and refuses.
    let ran = fabric.run(&["rule", "list", "--controller_url", &fabric.registry.url("api")]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
}

#[test]
fn services_and_instances_come_and_go_with_their_servers() {
    let fabric = Fabric::start();
    let (v1, v2) = (fabric.reviews("v1"), fabric.reviews("v2"));
    eventually("both are registered", || {
        fabric.ok(&["services"]).contains("| reviews | version=v1(1), version=v2(1) |").then_some(())
    });
    let instances = fabric.ok(&["instances", "reviews", "-o", "json"]);
    let instances: Value = serde_json::from_str(&instances).unwrap();
    let endpoints: Vec<_> =
        instances.as_array().unwrap().iter().map(|i| i["endpoint"]["value"].clone()).collect();
    assert!(endpoints.contains(&format!("127.0.0.1:{}", v1.port("http")).into()), "{endpoints:?}");
    assert!(fabric.ok(&["instances", "other"]).contains("| Service | Tags |"));
    assert!(fabric.ok(&["instances", "-o", "yaml"]).contains("service_name: reviews"));
    // A server that is told to end takes its registration with it.
    assert_eq!(v1.signal("-TERM"), 0);
    assert!(fabric.ok(&["services"]).contains("| reviews | version=v2(1) |"));
    drop(v2);
}

#[test]
fn a_wait_names_who_serves_the_change_and_explain_tells_what_it_means() {
    let fabric = Fabric::start();
    let _reviews = fabric.reviews("v1");
    let proxy = fabric.proxy("gateway-1");
    eventually("the proxy is connected", || {
        let proxies: Value = serde_json::from_str(&fabric.ok(&["proxies", "-o", "json"])).unwrap();
        (proxies[0]["connected"] == true && proxies[0]["revision"] == 0).then_some(())
    });
    let file = fabric.file("rule.json", RULE);
    let out = fabric.ok(&["rule", "create", "-f", file.to_str().unwrap(), "--wait", "20s"]);
    assert_eq!(out, "created reviews-v1 (revision 1)\nlive on 1/1 proxies: gateway-1\n");
    assert!(fabric.ok(&["proxies"]).contains("| gateway-1 | gateway:version=none | 1 "));

    let admin = proxy.url("admin");
    let explain = |args: &[&str]| {
        let all = [&["explain", "/reviews/reviews", "--admin_url", &admin], args].concat();
        fabric.ok(&all)
    };
    eventually("the instance is routed to", || {
        explain(&["-H", "Cookie: user=jason", "-X", "POST"]).contains("reviews-v1").then_some(())
    });
    let explanation: Value = serde_json::from_str(&explain(&["-o", "json", "--request_id", "r-1"])).unwrap();
    assert!(explanation.is_object(), "{explanation}");
    for named in [&["-H", "Host: reviews.a8"][..], &["--authority", "reviews.a8"]] {
        let args = [&["explain", "/x", "--admin_url", &admin], named].concat();
        let text = fabric.ok(&args);
        assert!(text.contains("named by host"), "{named:?}: {text}");
    }
}

#[test]
fn one_word_ends_every_fault_and_another_lets_them_happen_again() {
    let fabric = Fabric::start();
    let _reviews = fabric.reviews("v1");
    let proxy = fabric.proxy("gateway-1");
    let abort = r#"{"id":"abort","destination":"reviews","actions":[{"action":"abort","return_code":418}]}"#;
    let file = fabric.file("abort.json", abort);
    fabric.ok(&["rule", "create", "-f", file.to_str().unwrap(), "--wait", "20s"]);
    let fate = || fabric.ok(&["explain", "/reviews/x", "--admin_url", &proxy.url("admin")]);
    eventually("the fault happens", || fate().contains("status 418").then_some(()));
    assert_eq!(fabric.ok(&["faults"]), "faults are on (revision 1)\n");

    let off = fabric.ok(&["faults", "off", "--wait", "20s"]);
    assert_eq!(off, "faults are off (revision 2)\nlive on 1/1 proxies: gateway-1\n");
    assert!(fate().contains("the faults of the namespace are disabled"), "{}", fate());
    let shown: Value = serde_json::from_str(&fabric.ok(&["faults", "-o", "json"])).unwrap();
    assert_eq!(shown, serde_json::json!({"disabled": true, "revision": 2}));
    assert_eq!(fabric.ok(&["faults", "-o", "yaml"]), "disabled: true\nrevision: 2\n");

    let on: Value = serde_json::from_str(&fabric.ok(&["faults", "on", "-o", "json", "--wait=20s"])).unwrap();
    assert_eq!(
        on,
        serde_json::json!({"disabled": false, "revision": 3, "applied": {"proxies": 1, "serving": 1, "laggards": []}})
    );
    assert!(fate().contains("status 418"), "{}", fate());

    for (args, status) in [
        (&["faults", "maybe"][..], 1),
        (&["faults", "--wait"], 1),
        (&["faults", "off", "--controller_url", "http://127.0.0.1:1"], 2),
    ] {
        let ran = fabric.run(args);
        assert_eq!(ran.status, status, "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn tokens_separate_tenants_and_a_wrong_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("control").display().to_string();
    let control = Role::start(&["control", "--api_port", "0", "--data_dir", &data, "--auth_mode", "trusted"]);
    let run = |token: Option<&str>, args: &[&str], input: &str| {
        let mut command = a8();
        command.args(args).env("A8_CONTROLLER_URL", control.url("api"));
        if let Some(token) = token {
            command.env("A8_CONTROLLER_TOKEN", token);
        }
        run_with(&mut command, input)
    };
    assert_eq!(run(Some("blue"), &["rule", "create"], RULE).status, 0);
    assert!(run(Some("blue"), &["rule", "list"], "").stdout.contains("reviews-v1"));
    assert!(!run(Some("red"), &["rule", "list"], "").stdout.contains("reviews-v1"));
    assert_eq!(run(None, &["rule", "list"], "").status, 3);
}
