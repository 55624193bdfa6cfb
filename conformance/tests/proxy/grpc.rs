//! P09: clients of HTTP/1.1 make gRPC calls of instances that speak HTTP/2, where the setting says so.

use conformance::caller::Connection;
use conformance::h2c::Callee;
use conformance::{Cluster, Origin, Proxy, Request, get};
use serde_json::json;

/// One instance of service `s` behind a proxy with the bridge.
fn scene() -> (Cluster, Callee, Proxy) {
    let cluster = Cluster::start();
    let callee = Callee::start();
    cluster.registry.register("s", &["t"], callee.at);
    let proxy = cluster.proxy_with("gateway", &[super::ENGINE[0], ("grpc_http1_bridge", "true")]);
    proxy.await_instances(1);
    (cluster, callee, proxy)
}

fn call(method: &str, message: impl Into<Vec<u8>>) -> Request {
    let request = Request::new("POST", format!("/s/pkg.S/{method}"));
    request.header("Content-Type", "application/grpc").body(message)
}

#[test]
fn calls_over_one_connection_are_answered_whole_in_order() {
    let (_cluster, callee, proxy) = scene();
    let mut connection = Connection::open(proxy.http).unwrap();
    let chunked = "POST /s/pkg.S/Echo HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc+proto\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for request in [&call("Echo", "abcde").bytes(proxy.http), chunked.as_bytes()] {
        connection.write(request).unwrap();
        let answer = connection.answer("POST").unwrap().expect(200);
        assert_eq!(answer.text(), "abcde");
        for (name, value) in [("Content-Length", "5"), ("grpc-status", "0"), ("x-trailer", "t")] {
            assert_eq!(answer.header(name), value, "{answer:?}");
        }
    }
    for (method, status) in [("Fails", "5"), ("Alone", "7")] {
        connection.send(&call(method, "abcde")).unwrap();
        let answer = connection.answer("POST").unwrap().expect(503);
        assert_eq!((answer.header("grpc-status"), answer.header("X-A8-Error")), (status, ""), "{method}");
    }
    connection.send(&call("Echo", "again")).unwrap();
    assert_eq!(connection.answer("POST").unwrap().expect(200).text(), "again");
    assert_eq!(callee.calls(), 5, "nothing was tried again");
}

#[test]
fn what_cannot_be_told_is_refused_by_name() {
    let (cluster, callee, proxy) = scene();
    cluster.control.write(json!([
        {"id": "r", "destination": "s", "route": {"backends": [{"tags": ["t"]}], "http_req_timeout": 0.5}},
        {"id": "f", "destination": "s", "match": {"headers": {"X": "fault"}},
         "actions": [{"action": "abort", "grpc_status": 8}]}]));
    for (method, status, id, grpc) in
        [("Large", 502, "answer_too_large", "8"), ("Slow", 504, "upstream_timeout", "4")]
    {
        let answer = call(method, "abcde").call(proxy.http);
        answer.expect_refusal(status, id);
        assert_eq!(answer.header("grpc-status"), grpc);
    }
    let answer = call("Echo", "abcde").header("X", "fault").call(proxy.http).expect(503);
    assert_eq!((answer.header("grpc-status"), answer.header("X-A8-Error")), ("8", "fault_abort"));
    assert_eq!(call("Echo", "abcde").call(proxy.http).expect(200).text(), "abcde");
    assert_eq!(callee.calls(), 3);
    drop(callee);
    let answer = call("Echo", "abcde").call(proxy.http);
    answer.expect_refusal(503, "upstream_connect");
    assert_eq!(answer.header("grpc-status"), "14");
}

#[test]
fn without_the_setting_a_call_is_a_request_like_any_other() {
    let cluster = Cluster::start();
    let origin = Origin::echo("origin");
    cluster.registry.register("s", &["t"], origin.address());
    let callee = Callee::start();
    cluster.registry.register("g", &["t"], callee.at);
    let off = cluster.proxy_with("gateway", super::ENGINE);
    let on = cluster.proxy_with("gateway", &[super::ENGINE[0], ("grpc_http1_bridge", "true")]);
    for proxy in [&off, &on] {
        proxy.await_instances(2);
    }
    assert_eq!(call("Echo", "abcde").call(off.http).expect(200).by(), "origin");
    assert_eq!(get("/s/x").call(on.http).expect(200).by(), "origin");
    let call_of_g =
        Request::new("POST", "/g/pkg.S/Echo").header("Content-Type", "application/grpc").body("abcde");
    let answer = call_of_g.call(off.http);
    assert!(matches!(answer.status, 502 | 503), "{answer:?}");
    assert_eq!((answer.header("X-A8-Error"), callee.calls()), ("upstream_connect", 0));
    assert_eq!(call_of_g.call(on.http).expect(200).text(), "abcde");
}
