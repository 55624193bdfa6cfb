//! Bodies in JSON and XML, plain and compressed (spec/registry.md 0.4, 3.7, 3.8).

use serde_json::{Value, json};

use crate::support::Running;
use crate::{JAVA_JSON, JAVA_XML, JSON, WANT_JSON, WANT_XML, XML, ids, one, register, status_of};

#[tokio::test]
async fn section_3_8_what_java_clients_send_in_xml_and_json_is_the_same() {
    let running = Running::start(&[]).await;
    let mut seen = Vec::new();
    for (label, body) in
        [(JSON, JAVA_JSON), (XML, JAVA_XML), ("Content-Type: text/xml;charset=UTF-8", JAVA_XML)]
    {
        let headers = [label, "Accept-Encoding: gzip", "DiscoveryIdentity-Name: DefaultClient"];
        let reply = running.send("POST", "/eureka/apps/ORDERS", &headers, body).await;
        assert_eq!((reply.status, reply.header("content-encoding")), (204, ""), "{reply:?}");
        let mut instance = one(&running, "ORDERS", "app-host:orders:8080").await;
        for moving in ["registrationTimestamp", "lastRenewalTimestamp", "serviceUpTimestamp"] {
            assert!(instance["leaseInfo"][moving].take().as_u64().unwrap() > 1_700_000_000_000);
        }
        assert!(instance["lastUpdatedTimestamp"].take().as_str().unwrap().parse::<u64>().is_ok());
        seen.push(instance);
        assert_eq!(status_of(&running, "DELETE", "/eureka/apps/orders/app-host%3Aorders%3A8080").await, 200);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[1], seen[2]);
    let expected = json!({
        "instanceId": "app-host:orders:8080", "hostName": "app-host", "app": "ORDERS", "appGroupName": "UNKNOWN",
        "ipAddr": "10.1.2.3", "status": "UP", "overriddenstatus": "UNKNOWN",
        "port": {"$": 8080, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"}, "countryId": 1,
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
        "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 90, "registrationTimestamp": null,
            "lastRenewalTimestamp": null, "evictionTimestamp": 0, "serviceUpTimestamp": null},
        "metadata": {"management.port": "8080", "zone": "z1"}, "homePageUrl": "http://app-host:8080/",
        "statusPageUrl": "http://app-host:8080/actuator/info", "healthCheckUrl": "http://app-host:8080/actuator/health",
        "vipAddress": "orders", "secureVipAddress": "orders", "isCoordinatingDiscoveryServer": "false",
        "lastUpdatedTimestamp": null, "lastDirtyTimestamp": "1700000000500", "actionType": "ADDED", "sid": "na"});
    assert_eq!(seen[0], expected);
    running.stop().await;
}

#[tokio::test]
async fn section_3_8_every_document_can_be_read_by_an_xml_parser_that_wants_numbers() {
    let running = Running::start(&[]).await;
    let odd = json!({"metadata": {"1": "no name", "a:b": "no namespace", "ok": "<&>\"' \u{1}\u{8}", "deep": {"x": 1}},
        "homePageUrl": "http://h/?a=1&b=<2>", "vipAddress": "v&w"});
    assert_eq!(register(&running, "odd", "a<b>&c", odd).await.status, 204);
    running.register("bare", "h", "").await;
    for path in ["apps", "apps/", "apps/delta", "apps/ODD", "apps/odd/a%3Cb%3E%26c", "vips/v%26w"] {
        let reply = running.send("GET", &format!("/eureka/{path}"), &[], "").await;
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, "application/xml; charset=utf-8"),
            "{path}"
        );
        let read = registry::http::eureka::xml::to_json(&reply.body).unwrap();
        let text = String::from_utf8(read).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        numbers(&value);
        assert!(!text.contains("no name"), "{text}");
    }
    running.stop().await;
}

/// What clients call `int()` on.
fn numbers(value: &Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let number = key.ends_with("Timestamp") || key.ends_with("InSecs") || key == "countryId";
                let text = if key == "port" || key == "securePort" { &value["$"] } else { value };
                if number || text != value {
                    assert!(text.as_str().unwrap().parse::<u64>().is_ok(), "{key}: {value}");
                }
                numbers(value);
            }
        }
        Value::Array(items) => items.iter().for_each(numbers),
        _ => {}
    }
}

#[tokio::test]
async fn section_0_4_bodies_are_gzipped_both_ways_and_lists_are_shared() {
    let running = Running::start(&[]).await;
    let body = registry::gzip::compress(JAVA_XML.as_bytes());
    let head = format!(
        "POST /eureka/apps/ORDERS HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{XML}\r\nContent-Encoding: gzip\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    assert_eq!(running.raw(&[head.as_bytes(), &body].concat()).await.status, 204);
    for want in [WANT_JSON, WANT_XML] {
        let plain = running.send("GET", "/eureka/apps", &[want], "").await;
        assert_eq!(plain.header("content-encoding"), "");
        let zipped = running.send("GET", "/eureka/apps", &[want, "Accept-Encoding: gzip"], "").await;
        assert_eq!((zipped.header("content-encoding"), zipped.header("vary")), ("gzip", "Accept-Encoding"));
        assert_eq!(registry::gzip::decompress(&zipped.body, 1 << 20).unwrap(), plain.body);
    }
    running.stop().await;
}

#[tokio::test]
async fn section_3_7_a_long_list_is_whole_for_all_who_ask_at_once() {
    let running = Running::start(&[]).await;
    const COUNT: usize = 250;
    for number in 0..COUNT {
        let app = format!("app{}", number % 7);
        assert_eq!(register(&running, &app, &format!("i{number}"), json!({})).await.status, 204);
    }
    let path = "/eureka/apps";
    let headers = [WANT_JSON, "Accept-Encoding: gzip"];
    let ask = || running.send("GET", path, &headers, "");
    let (a, b, c, d) = tokio::join!(ask(), ask(), ask(), ask());
    for reply in [a, b, c, d] {
        let text = registry::gzip::decompress(&reply.body, 8 << 20).unwrap();
        let all: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(ids(&all).len(), COUNT);
        assert_eq!(all["applications"]["application"].as_array().unwrap().len(), 7);
        assert_eq!(all["applications"]["apps__hashcode"], format!("UP_{COUNT}_"));
    }
    assert_eq!(status_of(&running, "DELETE", "/eureka/apps/APP0/i0").await, 200);
    let fresh = running.send("GET", path, &[WANT_JSON], "").await.value();
    assert_eq!(ids(&fresh).len(), COUNT - 1, "what was just written is read");
    running.stop().await;
}
