//! `traceparent` on its way to an instance. Which values are valid is tested where they are read.

use crate::support::{Conn, Instance, Proxy, fields, get, ok};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn arrives(
    instance: &mut Instance,
    conn: &mut Conn,
    upstream: &mut Option<Conn>,
    lines: &str,
) -> String {
    conn.send(format!("GET /s HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await;
    let head = match upstream {
        Some(upstream) => instance.next_request(upstream).await,
        None => {
            let (conn, head) = instance.request().await;
            *upstream = Some(conn);
            head
        }
    };
    upstream.as_mut().unwrap().send(ok("x")).await;
    assert_eq!(conn.answer().await.body, "x");
    head
}

#[tokio::test]
async fn a_trace_goes_on_untouched_and_one_begins_where_there_is_none() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let (mut conn, mut upstream) = (proxy.connect().await, None);
    let kept = format!("traceparent: {PARENT}\r\ntracestate: a=1,b=2\r\n");
    let head = arrives(&mut instance, &mut conn, &mut upstream, &kept).await;
    assert_eq!((fields(&head, "traceparent"), fields(&head, "tracestate")), (vec![PARENT], vec!["a=1,b=2"]));
    let mut seen = Vec::new();
    for lines in
        [String::new(), "traceparent: broken\r\ntracestate: a=1\r\n".to_owned(), format!("{kept}{kept}")]
    {
        let head = arrives(&mut instance, &mut conn, &mut upstream, &lines).await;
        let parents = fields(&head, "traceparent");
        assert_eq!(parents.len(), 1, "{head}");
        assert!(
            parents[0].len() == 55 && parents[0].starts_with("00-") && parents[0].ends_with("-00"),
            "{head}"
        );
        assert_eq!(fields(&head, "tracestate"), [""; 0]);
        seen.push(parents[0].to_owned());
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3, "each request its own");
    let head = arrives(
        &mut instance,
        &mut conn,
        &mut upstream,
        "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1\r\n",
    )
    .await;
    assert_eq!(fields(&head, "b3"), ["80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1"]);
    assert_eq!(fields(&head, "traceparent"), [""; 0]);
}

#[tokio::test]
async fn every_attempt_belongs_to_the_same_trace() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, first) = instance.request().await;
    upstream.send("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n").await;
    let second = instance.next_request(&mut upstream).await;
    upstream.send(ok("x")).await;
    assert_eq!(conn.answer().await.body, "x");
    assert_eq!(fields(&first, "traceparent"), fields(&second, "traceparent"));
}
