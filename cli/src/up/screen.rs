//! The one screen that `a8 up` prints: what runs where, and what to try.

use std::path::Path;

use super::fabric::Fabric;

/// Everything a newcomer needs to see something happen.
pub(super) fn text(fabric: &Fabric) -> String {
    let (registry, control) = (fabric.registry(), fabric.control());
    let (gateway, admin) = (fabric.gateway(), fabric.gateway_admin());
    let who: String = fabric
        .everybody()
        .map(|child| {
            let listeners = child.listeners().map(|(name, at)| format!("{name} {at}")).collect::<Vec<_>>();
            format!("  {:<16} {:<44} pid {}\n", child.name(), listeners.join("  "), child.pid())
        })
        .collect();
    let program = program();
    let usual = ["8080", "8081", "6380"];
    let given = [registry, control, admin].map(|address| address.port().to_string());
    let elsewhere = if given.iter().map(String::as_str).eq(usual) {
        String::new()
    } else {
        format!(
            "  export A8_REGISTRY_URL=http://{registry} A8_CONTROLLER_URL=http://{control} A8_ADMIN_URL=http://{admin}\n"
        )
    };
    format!(
        "\
The fabric is up: the gateway serves bookinfo through sidecars. Logs are in {logs}.

{who}
Look
  curl http://{gateway}/productpage/productpage
  open http://{gateway}/productpage/ in a browser and reload: reviews come from v1, v2, v3 in turn

Change what requests do, while they run
{elsewhere}  echo '{split}' | {program} rule create --wait
  echo '{jason}' | {program} rule create --wait
  curl -H 'Cookie: user=jason' http://{gateway}/productpage/productpage
  echo '{delay}' | {program} rule create --wait
  echo '{abort}' | {program} rule create --wait
  {program} rule delete --all --force --wait

Ask
  {program} rule list; {program} services; {program} proxies
  {program} explain /reviews/reviews -H 'Cookie: user=jason'

Every rule change appears below. Ctrl-C ends everything.
",
        logs = fabric.folder().join("logs").display(),
        split = r#"{"id":"split","destination":"reviews","priority":1,"route":{"backends":[{"tags":["version=v1"],"weight":0.25},{"tags":["version=v3"]}]}}"#,
        jason = r#"{"id":"jason","destination":"reviews","priority":2,"match":{"headers":{"Cookie":".*user=jason.*"}},"route":{"backends":[{"tags":["version=v2"]}]}}"#,
        delay = r#"{"id":"delay","destination":"ratings","actions":[{"action":"delay","duration":2}]}"#,
        abort = r#"{"id":"abort","destination":"details","actions":[{"action":"abort","return_code":503,"probability":0.5}]}"#,
    )
}

/// How the user can call this program from where they are.
fn program() -> String {
    let Ok(exe) = std::env::current_exe() else { return "a8".to_owned() };
    let on_path = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("a8") == exe));
    if on_path {
        return "a8".to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    let shown: &Path = exe.strip_prefix(&here).unwrap_or(&exe);
    shown.display().to_string()
}
