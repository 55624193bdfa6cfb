//! The layers of settings: which one wins, where a value says it comes from, and how a wrong one is named.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::{Role, a8, run, run_with};
use tempfile::TempDir;

struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn with(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// The line of `--show_settings` for one setting.
fn shown(
    role: &str,
    flags: &[&str],
    variables: &[(&str, &str)],
    file: Option<&PathBuf>,
    setting: &str,
) -> String {
    let mut command = a8();
    command.arg(role).args(flags).arg("--show_settings").envs(variables.iter().copied());
    if let Some(file) = file {
        command.arg("--config").arg(file);
    }
    let ran = run_with(&mut command, "");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let line = ran.stdout.lines().find(|line| line.starts_with(&format!("{setting} = ")));
    line.unwrap_or_else(|| panic!("{setting} in {}", ran.stdout)).to_owned()
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let files = Files::new();
    let file =
        files.with("s.yaml", "api_port: 3\nauth_mode: [trusted]\nrequire_https: true\nlog_level: warn\n");
    let from_file = format!("from the file {}", file.display());
    let (environment, line) = ("from the environment variable", "from the command line");
    for (flags, variables, with_file, setting, expected) in [
        (vec!["--api_port", "1"], vec![("A8_API_PORT", "2")], true, "api_port", format!("1 ({line})")),
        (vec![], vec![("A8_API_PORT", "2")], true, "api_port", format!("2 ({environment} A8_API_PORT)")),
        (vec![], vec![], true, "api_port", format!("3 ({from_file})")),
        (vec![], vec![], false, "api_port", "8080 (default)".to_owned()),
        (vec!["--api_port", "1"], vec![], true, "api_port", format!("1 ({line})")),
        (vec!["-api-port=1"], vec![("A8_API_PORT", "2")], false, "api_port", format!("1 ({line})")),
        // An empty variable is an unset one.
        (vec![], vec![("A8_API_PORT", "")], true, "api_port", format!("3 ({from_file})")),
        // A list is taken whole from one layer.
        (vec!["--auth_mode=none"], vec![], true, "auth_mode", format!("none ({line})")),
        (
            vec![],
            vec![("A8_AUTH_MODE", "none,trusted")],
            true,
            "auth_mode",
            format!("none,trusted ({environment} A8_AUTH_MODE)"),
        ),
        (vec![], vec![], true, "auth_mode", format!("trusted ({from_file})")),
        (vec!["--require_https=false"], vec![], true, "require_https", format!("false ({line})")),
        (vec!["--require_https"], vec![], false, "require_https", format!("true ({line})")),
        (
            vec![],
            vec![("A8_REQUIRE_HTTPS", "true")],
            false,
            "require_https",
            format!("true ({environment} A8_REQUIRE_HTTPS)"),
        ),
        (vec![], vec![], true, "log_level", format!("warn ({from_file})")),
        (vec!["--log-level", "debug"], vec![], true, "log_level", format!("debug ({line})")),
    ] {
        let shown = shown("registry", &flags, &variables, with_file.then_some(&file), setting);
        assert_eq!(shown, format!("{setting} = {expected}"), "{flags:?} {variables:?}");
    }
}

/// Every setting of the registry with its default and two other values (spec/registry.md 5). A secret is only shown to be
/// there.
const REGISTRY_SETTINGS: &[(&str, &str, &str, &str)] = &[
    ("log_level", "info", "debug", "warn"),
    ("log_format", "text", "json", "logstash"),
    ("auth_mode", "", "trusted", "jwt,trusted"),
    ("jwt_secret", "", "***", "***"),
    ("require_https", "false", "true", "true"),
    ("api_port", "8080", "1", "2"),
    ("replication_port", "6100", "1", "2"),
    ("replication", "false", "true", "true"),
    ("sync_timeout", "30s", "1s", "2s"),
    ("cluster_dir", "", "a", "b"),
    ("cluster_size", "0", "1", "2"),
    ("default_ttl", "30s", "31s", "32s"),
    ("min_ttl", "10s", "11s", "12s"),
    ("max_ttl", "10m", "11m", "12m"),
    ("namespace_capacity", "-1", "1", "2"),
    ("k8s_url", "", "http://a", "http://b"),
    ("k8s_token", "", "***", "***"),
    ("eureka_url", "", "http://a,http://b", "http://c"),
    ("eureka_compat", "netflix", "amalgam8", "netflix"),
    ("fs_catalog", "", "a", "b"),
    ("store", "inmem", "redis", "inmem"),
    ("store_address", "", "a:1", "b:2"),
    ("store_password", "", "***", "***"),
    // Beyond the ancestor's.
    ("api_host", "0.0.0.0", "a", "b"),
    ("jwt_keys", "", "a", "b"),
    ("tls_cert_file", "", "a", "b"),
    ("tls_key_file", "", "a", "b"),
    ("eureka_self_preservation", "false", "true", "true"),
    ("eureka_renewal_threshold", "0.85", "0.5", "0.6"),
    ("data_dir", "a8-data/registry", "a", "b"),
];

#[test]
fn every_setting_of_the_registry_is_a_flag_a_variable_and_a_key_of_the_file_in_this_order() {
    let files = Files::new();
    let yaml: String =
        REGISTRY_SETTINGS.iter().map(|(name, _, _, third)| format!("{name}: '{third}'\n")).collect();
    let file = files.with("all.yaml", &yaml);
    let listing = |layer: fn(&mut Command, &str, &str)| {
        let mut command = a8();
        command.args(["registry", "--show_settings"]);
        for (name, _, second, third) in REGISTRY_SETTINGS {
            // The weaker layer says something else, where there is something else to say.
            command.env(format!("A8_{}", name.to_uppercase()), third);
            layer(&mut command, name, second);
        }
        command.arg("--config").arg(&file);
        let ran = run_with(&mut command, "");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stdout
    };
    let by_default = run(&["registry", "--show_settings"]).stdout;
    let settings = by_default.lines().filter(|line| !line.starts_with("config = ")).count();
    assert_eq!(settings, REGISTRY_SETTINGS.len(), "the table names every setting: {by_default}");
    let as_flag = |command: &mut Command, name: &str, value: &str| {
        command.arg(format!("--{name}={value}"));
    };
    let as_variable = |command: &mut Command, name: &str, value: &str| {
        command.env(format!("A8_{}", name.to_uppercase()), value);
    };
    let in_the_file_alone = |command: &mut Command, name: &str, _: &str| {
        command.env_remove(format!("A8_{}", name.to_uppercase()));
    };
    let [flags, variables, from_file] = [listing(as_flag), listing(as_variable), listing(in_the_file_alone)];
    for (name, default, second, third) in REGISTRY_SETTINGS {
        let variable = format!("A8_{}", name.to_uppercase());
        for (shown, expected) in [
            (&by_default, format!("{name} = {default} (default)")),
            (&flags, format!("{name} = {second} (from the command line)")),
            (&variables, format!("{name} = {second} (from the environment variable {variable})")),
            (&from_file, format!("{name} = {third} (from the file {})", file.display())),
        ] {
            assert!(shown.lines().any(|line| line == expected), "{expected} in {shown}");
        }
    }
}

#[test]
fn the_file_may_be_named_by_the_environment_and_use_the_keys_of_the_spec() {
    let files = Files::new();
    let yaml = "registry: {url: ['http://a:1', 'http://b:2'], token: secret}\n";
    let file = files.with("control.yaml", yaml);
    let variables = [("A8_CONFIG", file.to_str().unwrap())];
    let from_file = format!("(from the file {})", file.display());
    assert_eq!(
        shown("control", &[], &variables, None, "registry_url"),
        format!("registry_url = http://a:1,http://b:2 {from_file}")
    );
    // What is secret is never shown.
    assert_eq!(
        shown("control", &[], &variables, None, "registry_token"),
        format!("registry_token = *** {from_file}")
    );

    let file = files.with(
        "proxy.yaml",
        "service: {name: reviews, tags: [version=v1]}\nproxy: true\nproxy_config: {http_listener_port: 7, access_log: off, tls: true, ca_cert_file: /ca, grpc_http1_bridge: true, tcp_proxies: [{service: 'mysql:zone=a,b', listener_port: 3306}, {listener_port: 0, service: cache}]}\ncontroller: {url: 'http://c:3'}\n",
    );
    for (setting, value) in [
        ("access_log", "off"),
        ("http_listener_port", "7"),
        ("proxy_tls", "true"),
        ("proxy_ca_cert_file", "/ca"),
        ("tcp_proxies", "mysql:zone=a,b=3306;cache=0"),
        ("grpc_http1_bridge", "true"),
        ("controller_url", "http://c:3"),
        ("service", "reviews"),
    ] {
        let expected = format!("{setting} = {value} (from the file {})", file.display());
        assert_eq!(shown("proxy", &[], &[], Some(&file), setting), expected);
    }
    // A stronger layer replaces all of them.
    for (flags, variables, expected) in [
        (
            &[][..],
            &[("A8_TCP_PROXIES", "a:x,y=1;b=2")][..],
            "a:x,y=1;b=2 (from the environment variable A8_TCP_PROXIES)",
        ),
        (
            &["--tcp-proxies=a=1;b=2", "--tcp_proxies", "c:v=1=3"],
            &[("A8_TCP_PROXIES", "x=1")],
            "a=1;b=2;c:v=1=3 (from the command line)",
        ),
    ] {
        let shown = shown("proxy", flags, variables, Some(&file), "tcp_proxies");
        assert_eq!(shown, format!("tcp_proxies = {expected}"));
    }
}

#[test]
fn a_wrong_value_is_one_line_with_its_origin_and_status_1() {
    let files = Files::new();
    let bad_port = files.with("port.yaml", "api_port: 70000\n");
    let unknown = files.with("unknown.yaml", "registry: {uri: x}\n");
    let no_yaml = files.with("broken.yaml", "a: [\n");
    let two = files.with("two.yaml", "api_port: [1, 2]\n");
    let twice = files.with("twice.yaml", "tcp_proxies: [a=1, {service: b, listener_port: 1}]\n");
    let odd = files.with("odd.yaml", "proxy_config: {tcp_proxies: [{service: a, port: 1}]}\n");
    let portless = files.with("portless.yaml", "tcp_proxies: [{service: a}]\n");
    let file = |path: &PathBuf| path.display().to_string();
    for (role, flags, variables, start, end) in [
        (
            "registry",
            vec!["--api_port=x"],
            vec![],
            "api_port: `x`".to_owned(),
            "(from the command line)".to_owned(),
        ),
        (
            "control",
            vec!["--api_port", "x"],
            vec![],
            "api_port: `x`".to_owned(),
            "(from the command line)".to_owned(),
        ),
        (
            "control",
            vec![],
            vec![("A8_API_PORT", "x")],
            "api_port: `x`".to_owned(),
            "(from the environment variable A8_API_PORT)".to_owned(),
        ),
        (
            "control",
            vec!["--config", bad_port.to_str().unwrap()],
            vec![],
            "api_port: `70000`".to_owned(),
            format!("(from the file {})", file(&bad_port)),
        ),
        (
            "registry",
            vec![],
            vec![("A8_MIN_TTL", "1h")],
            "min_ttl: ".to_owned(),
            "(from the environment variable A8_MIN_TTL)".to_owned(),
        ),
        (
            "registry",
            vec!["--log_level", "loud"],
            vec![],
            "log_level: `loud`: ".to_owned(),
            "(from the command line)".to_owned(),
        ),
        (
            "registry",
            vec!["--log_format", "xml"],
            vec![],
            "log_format: `xml`: expected one of text, json, logstash".to_owned(),
            "(from the command line)".to_owned(),
        ),
        (
            "registry",
            vec![],
            vec![("A8_REQUIRE_HTTPS", "maybe")],
            "require_https: `maybe`: ".to_owned(),
            "(from the environment variable A8_REQUIRE_HTTPS)".to_owned(),
        ),
        (
            "registry",
            vec!["--store", "redis"],
            vec![],
            "store: ".to_owned(),
            "(from the command line)".to_owned(),
        ),
        (
            "control",
            vec![],
            vec![("A8_DATABASE_TYPE", "paper")],
            "database_type: ".to_owned(),
            "(from the environment variable A8_DATABASE_TYPE)".to_owned(),
        ),
        (
            "proxy",
            vec!["--register", "true"],
            vec![],
            "register: ".to_owned(),
            "(from the command line)".to_owned(),
        ),
        (
            "proxy",
            vec!["--proxy_tls"],
            vec![],
            "proxy_cert_chain_file: is needed for `proxy_tls`".to_owned(),
            "(default)".to_owned(),
        ),
        (
            "proxy",
            vec!["--proxy_private_key_file=/k"],
            vec![],
            "proxy_private_key_file: is given, but `proxy_tls` is off".to_owned(),
            "(from the command line)".to_owned(),
        ),
        (
            "proxy",
            vec!["--proxy_tls", "--proxy_cert_chain_file=/no/such.pem"],
            vec![("A8_PROXY_PRIVATE_KEY_FILE", "/k")],
            "proxy_cert_chain_file: cannot read /no/such.pem: ".to_owned(),
            "(from the command line)".to_owned(),
        ),
        (
            "proxy",
            vec!["--tcp_proxies", "mysql:zone=a"],
            vec![],
            "tcp_proxies: `mysql:zone=a`: `a` is no port of 0 to 65535".to_owned(),
            "(from the command line)".to_owned(),
        ),
        (
            "proxy",
            vec![],
            vec![("A8_TCP_PROXIES", "mysql=3306;cache=6379")],
            "tcp_proxies: port 6379 of `cache` is that of `http_listener_port`".to_owned(),
            "(from the environment variable A8_TCP_PROXIES)".to_owned(),
        ),
        (
            "proxy",
            vec!["--config", twice.to_str().unwrap()],
            vec![],
            "tcp_proxies: port 1 of `b` is that of another of them".to_owned(),
            format!("(from the file {})", file(&twice)),
        ),
        (
            "proxy",
            vec!["--config", odd.to_str().unwrap()],
            vec![],
            format!("config: {}: unknown key `proxy_config.tcp_proxies[0].port`", file(&odd)),
            "(from the command line)".to_owned(),
        ),
        (
            "proxy",
            vec!["--config", portless.to_str().unwrap()],
            vec![],
            format!("config: {}: `tcp_proxies[0]` has no `listener_port`", file(&portless)),
            "(from the command line)".to_owned(),
        ),
        (
            "control",
            vec!["--config", unknown.to_str().unwrap()],
            vec![],
            format!("config: {}: unknown key `registry.uri`", file(&unknown)),
            "(from the command line)".to_owned(),
        ),
        (
            "control",
            vec!["--config", no_yaml.to_str().unwrap()],
            vec![],
            format!("config: {}: no YAML: ", file(&no_yaml)),
            "(from the command line)".to_owned(),
        ),
        (
            "control",
            vec!["--config", two.to_str().unwrap()],
            vec![],
            "config: `api_port` takes one value".to_owned(),
            "(from the command line)".to_owned(),
        ),
        (
            "registry",
            vec![],
            vec![("A8_CONFIG", "/no/such.yaml")],
            "config: cannot read /no/such.yaml: ".to_owned(),
            "(from the environment variable A8_CONFIG)".to_owned(),
        ),
    ] {
        let mut command = a8();
        let ran = run_with(command.arg(role).args(&flags).envs(variables.iter().copied()), "");
        assert_eq!(ran.status, 1, "{role} {flags:?} {variables:?}: {}", ran.stderr);
        let line = ran.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(!line.contains('\n'), "one line: {line}");
        assert!(line.starts_with(&format!("a8 {role}: {start}")) && line.ends_with(&end), "{line}");
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn a_secret_that_cannot_be_used_is_not_repeated() {
    let mut command = a8();
    command.args(["control", "--api_port", "0"]).env("A8_ENCRYPTION_KEY", "hunter2");
    let ran = run_with(&mut command, "");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("a8 control: encryption_key: "), "{}", ran.stderr);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
}

#[test]
fn a_port_in_use_and_a_data_directory_in_use_are_named() {
    let files = Files::new();
    let data = files.folder.path().join("r");
    let role = Role::start(&["registry", "--api_port", "0", "--data_dir", data.to_str().unwrap()]);
    let (port, other) = (role.port("api").to_string(), files.folder.path().join("other"));
    let ran = run(&["registry", "--api_port", &port, "--data_dir", other.to_str().unwrap()]);
    assert_eq!(ran.status, 1);
    let expected = format!(
        "a8 registry: api_port: cannot listen on 0.0.0.0:{port}: address in use (from the command line)\n"
    );
    assert_eq!(ran.stderr, expected);
    let ran = run(&["registry", "--api_port", "0", "--data_dir", data.to_str().unwrap()]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stderr.starts_with("a8 registry: data_dir: ") && ran.stderr.contains("in use by another process")
    );
}
