//! Settings from the command line, and what is refused.

use std::path::Path;

use clap::{CommandFactory, Parser};

use super::*;

#[derive(Parser, Debug)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

fn settings(flags: &[&str]) -> Settings {
    Line::try_parse_from([&["a8"], flags].concat()).unwrap().settings
}

#[test]
fn no_flags_give_the_documented_defaults() {
    let config = settings(&[]).check().unwrap();
    assert_eq!(config.http, "0.0.0.0:6379".parse().unwrap());
    assert_eq!(config.admin, "127.0.0.1:6380".parse().unwrap());
    assert_eq!(config.controller_url, ["http://127.0.0.1:8081"]);
    assert_eq!(config.controller_token.reveal(), None);
    assert_eq!(config.identity, Identity::default());
    assert_eq!(config.access_log, Some(LogTarget::File("a8-data/proxy/a8_access.log".into())));
    assert!(config.threads >= 1);
    assert_eq!((&config.upgrade, &config.tcp[..]), (&None, &[][..]));
    assert!(config.node("127.0.0.1:4711".parse().unwrap()).node.ends_with(":4711"));
}

#[test]
fn every_flag_is_taken() {
    let config = settings(&[
        "--service=reviews:v1,env=prod",
        "--proxy",
        "--proxy_adapter=envoy",
        "--http_listener_host=::1",
        "--http_listener_port=0",
        "--tcp_proxies=mysql=3306;reviews:v1=0",
        "--tcp_proxies=reviews:v2=0",
        "--admin_host=localhost",
        "--admin_port=1",
        "--controller_url=http://a:1,http://b:2",
        "--controller_url=http://c:3/base",
        "--controller_token=s3cret",
        "--controller_poll=1",
        "--node=n",
        "--threads=3",
        "--logging_dir=/var/log/",
        "--access_log=on",
        "--data_dir=/d",
        "--engine=general",
        "--upgrade_sock=/run/a8.sock",
        "--upgrade",
        "--upgrade_drain=2m",
    ])
    .check()
    .unwrap();
    assert_eq!(config.identity.label(), "reviews:v1,env=prod");
    assert_eq!(config.http, "[::1]:0".parse().unwrap());
    let tcp: Vec<_> = config.tcp.iter().map(|tcp| format!("{tcp} at {}", tcp.listen)).collect();
    assert_eq!(tcp, ["mysql at [::1]:3306", "reviews:v1 at [::1]:0", "reviews:v2 at [::1]:0"]);
    assert_eq!(config.admin, "127.0.0.1:1".parse().unwrap());
    assert_eq!(config.controller_url, ["http://a:1", "http://b:2", "http://c:3/base"]);
    assert_eq!(config.controller_token.reveal(), Some("s3cret"));
    assert_eq!(config.threads, 3);
    assert_eq!(config.access_log, Some(LogTarget::File("/var/log/a8_access.log".into())));
    assert_eq!(config.data_dir, Path::new("/d"));
    assert_eq!(config.node(config.http).node, "n");
    let drain = Duration::from_secs(120);
    assert_eq!(config.upgrade, Some(Upgrade { sock: "/run/a8.sock".into(), take_over: true, drain }));
}

#[test]
fn the_access_log_goes_to_standard_output_for_a_dash() {
    assert_eq!(settings(&["--logging_dir=-"]).check().unwrap().access_log, Some(LogTarget::Stdout));
}

#[test]
fn there_is_no_access_log_when_it_is_off_wherever_it_would_go() {
    for flags in [&["--access_log=off"][..], &["--access_log=off", "--logging_dir=-"]] {
        assert_eq!(settings(flags).check().unwrap().access_log, None, "{flags:?}");
    }
}

#[test]
fn booleans_stand_alone_or_carry_a_value() {
    for (flags, proxy) in [
        (&["--proxy"][..], true),
        (&["--proxy", "true"], true),
        (&["--proxy=true"], true),
        (&["--proxy=false"], false),
        (&["--proxy", "false"], false),
    ] {
        assert_eq!(settings(flags).proxy, proxy, "{flags:?}");
    }
}

#[test]
fn tags_of_their_own_key_count_when_the_service_names_none() {
    let tags = |flags: &[&str]| settings(flags).check().unwrap().identity.tags;
    assert_eq!(tags(&["--service=reviews", "--service_tags=v1,v2"]), ["v1", "v2"]);
    assert_eq!(tags(&["--service=reviews:v3", "--service_tags=v1,v2"]), ["v3"]);
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    for (flag, setting) in [
        ("--register", "register"),
        ("--proxy=false", "proxy"),
        ("--proxy_adapter=nginx", "proxy_adapter"),
        ("--engine=fast", "engine"),
        ("--upgrade", "upgrade_sock"),
        ("--upgrade_drain=2h", "upgrade_drain"),
        ("--upgrade_drain=soon", "upgrade_drain"),
        ("--http_listener_host=nowhere.example", "http_listener_host"),
        ("--tcp_proxies=mysql", "tcp_proxies"),
        ("--tcp_proxies=mysql=6379", "tcp_proxies"),
        ("--admin_host=", "admin_host"),
        ("--controller_url=123456", "controller_url"),
        ("--controller_url=ftp://h:1", "controller_url"),
        ("--controller_url=", "controller_url"),
        ("--controller_token=a\nb", "controller_token"),
        ("--controller_poll=48h", "controller_poll"),
        ("--controller_poll=500ms", "controller_poll"),
        ("--controller_poll=soon", "controller_poll"),
        ("--threads=0", "threads"),
        ("--access_log=no", "access_log"),
        ("--threads=1025", "threads"),
        ("--service=:v1", "service"),
        ("--service_tags=v1", "service_tags"),
        ("--data_dir=", "data_dir"),
        ("--otel_traces_sampler=jaeger", "otel_traces_sampler"),
        ("--metrics_series_max=-1", "metrics_series_max"),
    ] {
        let refused = Line::try_parse_from(["a8", flag]).map(|line| line.settings.check().unwrap_err());
        // clap itself refuses an empty path.
        let setting_refused = refused.map_or(setting, |bad| bad.setting);
        assert_eq!(setting_refused, setting, "{flag}");
    }
}

#[test]
fn spans_are_recorded_for_a_collector_alone_and_under_the_name_of_the_service() {
    let tracing = |flags: &[&str]| settings(flags).check().unwrap().tracing;
    let endpoint = "--otel_exporter_otlp_endpoint=http://c:4318";
    assert_eq!(tracing(&["--otel_traces_sampler=always_on", "--otel_service_name=x"]), None);
    for (flags, name) in [
        (&[endpoint][..], "a8-proxy"),
        (&[endpoint, "--service=reviews:v1"], "reviews"),
        (&[endpoint, "--service=reviews:v1", "--otel_service_name=edge"], "edge"),
    ] {
        let sampler = Sampler::default();
        let expected =
            Tracing { endpoint: "http://c:4318".to_owned(), service_name: name.to_owned(), sampler };
        assert_eq!(tracing(flags), Some(expected), "{flags:?}");
    }
    let ratio = ["--otel_traces_sampler=traceidratio", "--otel_traces_sampler_arg=2"];
    assert_eq!(settings(&ratio).check().unwrap_err().setting, "otel_traces_sampler_arg");
    // Whom it cannot speak to is known at the start.
    let dir = tempfile::tempdir().unwrap();
    let dir = format!("--data_dir={}", dir.path().display());
    let tls = settings(&["--otel_exporter_otlp_endpoint=ftp://c:4318", &dir]).check().unwrap();
    let refused = crate::live::Live::open(&tls, crate::clock::now()).unwrap_err();
    assert_eq!(refused.setting, "otel_exporter_otlp_endpoint");
}

#[test]
fn tls_wants_its_files_and_files_want_tls() {
    let tls = |flags: &[&str]| settings(flags).check().map(|config| config.tls);
    let (chain, key, ca) =
        ("--proxy_cert_chain_file=/c", "--proxy_private_key_file=/k", "--proxy_ca_cert_file=/a");
    let files = |ca_cert: Option<&str>| TlsFiles {
        cert_chain: "/c".into(),
        private_key: "/k".into(),
        ca_cert: ca_cert.map(Into::into),
    };
    assert_eq!(tls(&[]).unwrap(), None);
    assert_eq!(tls(&["--proxy_tls", chain, key]).unwrap(), Some(files(None)));
    assert_eq!(tls(&["--proxy_tls=true", chain, key, ca]).unwrap(), Some(files(Some("/a"))));
    for (flags, setting, problem) in [
        (&["--proxy_tls"][..], "proxy_cert_chain_file", "is needed for `proxy_tls`"),
        (&["--proxy_tls", key], "proxy_cert_chain_file", "is needed for `proxy_tls`"),
        (&["--proxy_tls", chain, ca], "proxy_private_key_file", "is needed for `proxy_tls`"),
        (&[chain, key], "proxy_cert_chain_file", "is given, but `proxy_tls` is off"),
        (&["--proxy_tls=false", key], "proxy_private_key_file", "is given, but `proxy_tls` is off"),
        (&[ca], "proxy_ca_cert_file", "is given, but `proxy_tls` is off"),
    ] {
        assert_eq!(tls(flags).unwrap_err(), BadSetting::new(setting, problem), "{flags:?}");
    }
}

#[test]
fn the_token_is_never_shown() {
    let settings = settings(&["--controller_token=s3cret"]);
    assert!(!format!("{settings:?}").contains("s3cret"));
    assert!(!format!("{:?}", settings.check().unwrap()).contains("s3cret"));
}

#[test]
fn every_flag_has_a_variable_and_every_file_key_a_flag() {
    let command = Line::command();
    for arg in command.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version")) {
        let flag = arg.get_long().unwrap();
        // Those of OpenTelemetry keep the names that every program reads.
        let ours = if flag.starts_with("otel_") { "" } else { "A8_" };
        assert_eq!(arg.get_env().unwrap().to_str().unwrap(), format!("{ours}{}", flag.to_uppercase()));
    }
    for (list, fields) in FILE_LISTS {
        assert!(
            FILE_KEYS.iter().any(|(key, _)| key == list)
                || command.get_arguments().any(|arg| arg.get_long() == Some(list)),
            "{list}"
        );
        assert!(!fields.is_empty());
    }
    for (key, flag) in FILE_KEYS {
        assert!(command.get_arguments().any(|arg| arg.get_long() == Some(flag)), "{key}");
    }
}
