//! Holds the workspace to ARCHITECTURE.md where a machine can: which crate may know which, who knows Pingora, and that the
//! pure modules see no clock, no runtime, no chance and no environment. What the modules do is other tests' business.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Per crate, the workspace members that it may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("registry-api", &[]),
    ("registry", &["registry-api"]),
    ("control-api", &["registry-api"]),
    ("control", &["control-api", "registry-api"]),
    ("routing", &["control-api", "registry-api"]),
    ("proxy", &["routing", "control-api", "registry-api"]),
    ("cli", &["registry", "control", "proxy", "control-api", "registry-api"]),
    ("conformance", &["control-api", "registry-api"]),
    // A renewal that takes less than a system call is measured in the process.
    ("bench", &["conformance", "control-api", "registry", "registry-api"]),
];

/// Modules and folders (relative to the workspace; a module is its file and its folder) whose code depends on its arguments alone.
const PURE: &[&str] = &[
    "proxy/routing/src",
    "registry/src/catalog",
    "registry/src/lease",
    "registry/src/preservation",
    "registry/src/wheel",
    "registry/src/history",
    "registry/src/registration",
    "registry/src/query",
    "registry/src/recent",
    "registry/src/timestamp",
    "registry/api/src",
    "control/src/rulebook",
    "control/src/world",
    "control/src/roster",
    "control/api/src",
];

/// The thin adapters inside the folders above.
const ADAPTERS: &[&str] = &[
    "registry/api/src/client.rs",
    "registry/api/src/connect.rs",
    "registry/api/src/issuer.rs",
    "control/api/src/client.rs",
];

/// What a pure module does not name, and why.
const IMPURE: &[(&str, &str)] = &[
    // The types are values: a moment may be an argument. Reading the clock is what is not pure.
    ("Instant::now", "a clock"),
    ("SystemTime::now", "a clock"),
    (".elapsed()", "a clock"),
    ("tokio", "a runtime"),
    ("async fn", "a runtime"),
    (".await", "a runtime"),
    ("std::thread", "threads"),
    ("fastrand", "chance"),
    ("rand::", "chance"),
    ("uuid::", "chance"),
    ("pingora", "Pingora"),
    ("axum", "a server"),
    ("hyper", "a server"),
    ("std::env", "the environment"),
    ("std::fs", "files"),
    ("std::net::Tcp", "sockets"),
    ("arc_swap", "shared state"),
    ("Mutex", "shared state"),
    ("RwLock", "shared state"),
    ("static mut", "shared state"),
    ("thread_local!", "shared state"),
    ("tracing", "a log"),
    ("println!", "an output"),
];

/// The one pure module that remembers something: expressions that are compiled once and shared by all tables.
const MAY_REMEMBER: &[(&str, &str)] = &[("proxy/routing/src/pattern.rs", "Mutex")];

fn metadata() -> Metadata {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata runs")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace has a root")
}

fn imports(package: &Package, kinds: &[DependencyKind]) -> BTreeSet<String> {
    package.dependencies.iter().filter(|d| kinds.contains(&d.kind)).map(|d| d.name.clone()).collect()
}

const SHIPPED: &[DependencyKind] = &[DependencyKind::Normal, DependencyKind::Build];
const ALL: &[DependencyKind] = &[DependencyKind::Normal, DependencyKind::Build, DependencyKind::Development];

#[test]
fn a_crate_imports_the_contract_of_its_upstream_and_nothing_else_of_ours() {
    let metadata = metadata();
    let may: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let members: BTreeSet<String> = metadata.packages.iter().map(|p| p.name.to_string()).collect();
    assert_eq!(members, may.keys().map(|name| (*name).to_owned()).collect(), "the table names every crate");
    for package in &metadata.packages {
        // Tests are held to the same directions: a test that needs a downstream tests the wrong crate.
        let ours: BTreeSet<_> = imports(package, ALL).intersection(&members).cloned().collect();
        let allowed: BTreeSet<_> = may[package.name.as_str()].iter().map(|name| (*name).to_owned()).collect();
        let own = BTreeSet::from([package.name.to_string()]);
        let extra: Vec<_> = ours.difference(&allowed).filter(|name| !own.contains(*name)).collect();
        assert!(extra.is_empty(), "{} imports {extra:?}", package.name);
    }
}

#[test]
fn only_the_proxy_knows_pingora() {
    for package in &metadata().packages {
        let knows: Vec<_> =
            imports(package, ALL).into_iter().filter(|name| name.starts_with("pingora")).collect();
        assert_eq!(!knows.is_empty(), package.name.as_str() == "proxy", "{}: {knows:?}", package.name);
    }
    for (path, text) in sources(&root()) {
        let proxy = path.starts_with("proxy/src") || path.starts_with("proxy/tests");
        let own = path.ends_with("conformance/tests/architecture.rs");
        if !proxy && !own {
            let named = code(&text).any(|(_, line)| line.contains("pingora"));
            // The program only names it to quieten its log.
            assert!(!named || path.starts_with("cli/src"), "{} names Pingora", path.display());
        }
    }
}

#[test]
fn only_the_registrys_http_side_knows_eureka() {
    for (path, text) in sources(&root()) {
        let knows = path.starts_with("registry/src/http") || path == Path::new("registry/src/http.rs");
        let core =
            path.starts_with("registry/src") || path.starts_with("control") || path.starts_with("proxy");
        if core && !knows {
            // The composition hands its part on; a setting may be named after it.
            let named = code(&text).find(|(_, line)| line.contains("eureka::"));
            let composition = ["registry/src/config.rs", "registry/src/server.rs"];
            let composes = composition.iter().any(|file| path == Path::new(file));
            assert!(composes || named.is_none(), "{} knows Eureka: {named:?}", path.display());
        }
    }
}

#[test]
fn pure_crates_link_no_runtime_no_clock_and_no_chance() {
    let impure = ["tokio", "fastrand", "rand", "uuid", "hyper", "axum", "arc-swap", "tracing", "humantime"];
    for package in &metadata().packages {
        if !["registry-api", "control-api", "routing"].contains(&package.name.as_str()) {
            continue;
        }
        for dependency in package.dependencies.iter().filter(|d| SHIPPED.contains(&d.kind)) {
            let linked = impure.contains(&dependency.name.as_str()) && !dependency.optional;
            assert!(!linked, "{} always links {}", package.name, dependency.name);
        }
    }
}

#[test]
fn roles_are_features_of_the_program() {
    let metadata = metadata();
    let cli = metadata.packages.iter().find(|p| p.name.as_str() == "cli").expect("cli is a member");
    for role in ["registry", "control", "proxy"] {
        assert!(cli.features.contains_key(role), "the sidecar image leaves {role} out by its feature");
        let optional = cli.dependencies.iter().any(|d| d.name == role && d.optional);
        assert!(optional, "{role} is linked without being asked for");
    }
}

#[test]
fn pure_modules_name_no_clock_runtime_chance_or_environment() {
    let root = root();
    let mut checked = 0;
    for (path, text) in sources(&root) {
        let pure =
            PURE.iter().any(|pure| path.with_extension("") == Path::new(pure) || path.starts_with(pure));
        let pure = pure && !path.ends_with("tests.rs");
        let adapter = ADAPTERS.iter().any(|adapter| path == Path::new(adapter));
        if !pure || adapter {
            continue;
        }
        checked += 1;
        for (number, line) in code(&text) {
            for (word, what) in IMPURE {
                let excused = MAY_REMEMBER.iter().any(|(file, w)| path == Path::new(file) && w == word);
                assert!(
                    !line.contains(word) || excused,
                    "{}:{number}: a pure module names {what}: {line}",
                    path.display()
                );
            }
        }
    }
    assert!(checked > 25, "only {checked} files were checked: the list above is out of date");
    for pure in PURE {
        let there = root.join(pure).exists() || root.join(format!("{pure}.rs")).exists();
        assert!(there, "{pure} is gone: the list above is out of date");
    }
}

#[test]
fn every_file_says_first_what_it_is_for_and_none_is_called_util() {
    for (path, text) in sources(&root()) {
        // A module's own tests are introduced by the module.
        let opens = text.starts_with("//!") || path.ends_with("tests.rs");
        assert!(opens, "{} does not open with its purpose", path.display());
        for part in &path {
            let name = Path::new(part).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            assert!(!["common", "util", "utils", "helpers", "misc"].contains(&name), "{}", path.display());
        }
    }
}

#[test]
fn the_architecture_page_names_every_room() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the page is there");
    let words: BTreeSet<&str> = page.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    for (path, _) in sources(&root()) {
        let top = path.parent().is_some_and(|parent| parent.ends_with("src"));
        let role = ["registry/src", "control/src", "control/api", "proxy", "cli"]
            .iter()
            .any(|r| path.starts_with(r));
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let named = words.contains(stem) || ["lib", "main"].contains(&stem);
        assert!(!(top && role) || named, "ARCHITECTURE.md does not name {}", path.display());
    }
}

/// Every Rust file below `src` and `tests` folders, relative to the root.
fn sources(root: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for member in ["registry", "control", "proxy", "cli", "conformance", "bench"] {
        walk(&root.join(member), &mut found);
    }
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source file can be read");
            (path.strip_prefix(root).expect("found below the root").to_owned(), text)
        })
        .collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a member's folder can be read").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The lines that are code, numbered from 1: no comments, and nothing from the test module on.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .take_while(|(_, line)| !line.trim_start().starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}
