//! Whole sessions of known clients (spec/registry.md 3.18).

use crate::support::Running;
use crate::{AMAZON, JAVA_JSON, JAVA_XML, JS};

const SESSIONS: &str = include_str!("../fixtures/sessions.txt");

#[tokio::test]
async fn section_3_18_the_sessions_of_known_clients_go_as_they_need_it() {
    let running = Running::start(&[]).await;
    let bodies = [
        ("java_register.json", JAVA_JSON),
        ("java_register.xml", JAVA_XML),
        ("js_register.json", JS),
        ("amazon_register.json", AMAZON),
    ];
    let lines = SESSIONS.lines().filter(|line| !line.starts_with('#'));
    let (mut request, mut asked) = (Vec::new(), 0);
    for line in lines.filter(|line| !line.is_empty()) {
        let Some(expected) = line.strip_prefix("< ") else {
            request.push(line);
            continue;
        };
        let body = request.iter().find_map(|line| line.strip_prefix('@'));
        let body = body.map_or("", |name| bodies.iter().find(|(file, _)| *file == name).unwrap().1);
        let (method, rest) = request[0].split_once(' ').unwrap();
        let target = rest.strip_suffix(" HTTP/1.1").unwrap();
        // The helper adds these itself.
        let own = ["Connection:", "Content-Length:", "@"];
        let headers = request[1..].iter().filter(|line| !own.iter().any(|own| line.starts_with(own)));
        let headers: Vec<&str> = headers.copied().collect();
        let reply = running.send(method, target, &headers, body).await;
        assert_eq!(reply.status.to_string(), expected, "{request:?}: {reply:?}");
        let bodiless = [200, 204].contains(&reply.status) && method != "GET";
        assert_eq!(reply.body.is_empty(), bodiless, "{request:?}");
        request.clear();
        asked += 1;
    }
    assert!(asked > 25, "{asked}");
    running.stop().await;
}
