use super::*;
use clap::Parser;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    settings: Settings,
}

fn parse(flags: &[&str]) -> Settings {
    let flags = std::iter::once("a8").chain(flags.iter().copied());
    Program::try_parse_from(flags).map_err(|error| error.to_string()).unwrap().settings
}

fn check(flags: &[&str]) -> Result<Config, String> {
    parse(flags).check().map_err(|error| error.to_string())
}

#[test]
fn without_flags_everything_has_its_default() {
    let config = check(&[]).unwrap();
    assert_eq!((config.api_host.as_str(), config.api_port), ("0.0.0.0", 8081));
    assert_eq!(config.store, StoreKind::Redb(PathBuf::from("a8-data/control")));
    assert_eq!((config.auth, config.require_https), (vec![AuthMode::None], false));
    assert_eq!(config.registry_urls, ["http://127.0.0.1:8080"]);
    assert_eq!((config.registry_auth, config.registry_ca_cert_file), (RegistryAuth::None, None));
}

#[test]
fn settings_that_work_are_accepted() {
    let key = "--encryption_key=ABCEDFGHIJKLMNOP";
    let config = check(&["--api_port=8080", key, "--database_type=memory", "--require_https"]).unwrap();
    assert_eq!((config.api_port, config.store, config.require_https), (8080, StoreKind::Memory, true));
    for flags in [&["--require_https=false"][..], &["--require_https", "false"], &["--require_https=true"]] {
        assert_eq!(check(flags).unwrap().require_https, flags[0].ends_with("true"), "{flags:?}");
    }
    let two = check(&["--registry_url=http://a:1,http://b:2", "--registry_url=http://c:3"]).unwrap();
    assert_eq!(two.registry_urls, ["http://a:1", "http://b:2", "http://c:3"]);
    let secure = check(&["--registry_url=https://a", "--registry_ca_cert_file=roots.pem"]).unwrap();
    assert_eq!(secure.registry_ca_cert_file, Some(PathBuf::from("roots.pem")));
}

#[test]
fn how_to_prove_a_namespace_to_the_registry_follows_the_own_mode_unless_said_otherwise() {
    for (flags, expected) in [
        (&["--auth_mode=trusted"][..], RegistryAuth::Trusted),
        (&["--auth_mode=none"], RegistryAuth::None),
        (&["--auth_mode=trusted", "--registry_auth=none"], RegistryAuth::None),
        (&["--registry_auth=trusted"], RegistryAuth::Trusted),
        (&["--auth_mode=jwt", "--jwt_secret=s"], RegistryAuth::Jwt("s".into())),
        (&["--auth_mode=jwt", "--jwt_secret=s", "--registry_jwt_secret=r"], RegistryAuth::Jwt("r".into())),
        (&["--auth_mode=jwt", "--jwt_keys=k.json", "--registry_auth=none"], RegistryAuth::None),
        (&["--registry_auth=jwt", "--registry_jwt_secret=r"], RegistryAuth::Jwt("r".into())),
        (&["--registry_token=t"], RegistryAuth::Token("t".into())),
        (&["--registry_auth=token", "--registry_token=t"], RegistryAuth::Token("t".into())),
    ] {
        assert_eq!(check(flags).unwrap().registry_auth, expected, "{flags:?}");
    }
}

#[test]
fn a_setting_that_cannot_be_used_is_named() {
    for (flag, setting) in [
        ("--encryption_key=", "encryption_key"),
        ("--encryption_key=abcd", "encryption_key"),
        ("--encryption_key=abcdefghijklmnopq", "encryption_key"),
        ("--database_type=", "database_type"),
        ("--database_type=gihanson", "database_type"),
        ("--database_type=cloudant", "database_type"),
        ("--database_type=redis", "database_type"),
        ("--database_type=kubernetes", "database_type"),
        ("--auth_mode=jwt", "jwt_secret"),
        ("--auth_mode=trusted,magic", "auth_mode"),
        ("--registry_auth=jwt", "registry_jwt_secret"),
        ("--registry_auth=magic", "registry_auth"),
        ("--registry_auth=token", "registry_token"),
        ("--registry_token=a\nb", "registry_token"),
        ("--registry_url=123", "registry_url"),
        ("--registry_url=ftp://h:1", "registry_url"),
        ("--api_host=", "api_host"),
    ] {
        let error = check(&[flag]).unwrap_err();
        assert!(error.starts_with(&format!("{setting}: ")), "{flag}: {error}");
    }
    for (flags, setting) in [
        (&["--auth_mode=jwt", "--jwt_keys=ftp://h/"][..], "jwt_keys"),
        (&["--auth_mode=jwt", "--jwt_keys=k.json"], "registry_jwt_secret"),
    ] {
        assert!(check(flags).unwrap_err().starts_with(&format!("{setting}: ")), "{flags:?}");
    }
    assert!(check(&["--database_type=redis"]).unwrap_err().contains("not available yet"));
}

#[test]
fn secrets_are_not_shown() {
    let settings = parse(&["--registry_token=hunter2", "--encryption_key=0123456789abcdef"]);
    let shown = format!("{settings:?} {:?}", settings.clone().check().unwrap());
    assert!(!shown.contains("hunter2") && !shown.contains("0123456789abcdef"), "{shown}");
}

#[test]
fn every_key_of_the_file_stands_for_a_flag() {
    use clap::CommandFactory;
    let command = Program::command();
    for (_, flag) in FILE_KEYS {
        assert!(command.get_arguments().any(|argument| argument.get_long() == Some(flag)), "{flag}");
    }
}
