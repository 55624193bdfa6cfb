//! What a proxy gets wrong unless somebody sees to it: framing that desynchronises a pooled connection,
//! answers that are no answers, clients that never finish. From raw sockets, outside of the process.

use std::io::{self, BufRead, Read};
use std::time::Duration;

use conformance::caller::Connection;
use conformance::eventually::pause;
use conformance::origin::echo;
use conformance::{Cluster, Exchange, Origin, Proxy, clock, get};

struct Scene {
    proxy: Proxy,
    origin: Origin,
    _cluster: Cluster,
}

/// One instance of `s` with these manners; `calm` echoes.
fn scene(manners: impl Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static) -> Scene {
    let cluster = Cluster::start();
    let origin = Origin::with(manners);
    cluster.registry.register("s", &["t"], origin.address());
    let proxy = cluster.proxy_with("gateway", super::ENGINE);
    proxy.await_instances(1);
    Scene { proxy, origin, _cluster: cluster }
}

/// A connection that was used before must carry nothing over.
#[track_caller]
fn next_ones_are_clean(scene: &Scene) {
    for number in 0..6 {
        let answer = scene.proxy.get(&format!("/s/clean-{number}")).expect(200);
        assert_eq!(answer.json()["target"], format!("/clean-{number}"));
    }
    for arrived in scene.origin.arrived() {
        assert!(arrived.head.start.ends_with(" HTTP/1.1"), "out of step: {:?}", arrived.head);
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// POST `path` as a header block without the table: `:method` and `:scheme` indexed, the others literal.
fn h2_post(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(&[0x01, 0x01, b'h']);
    block
}

/// Reads frames until the stream ends; all of its data.
fn h2_data(connection: &mut Connection, stream: u32) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let head = connection.exactly(9).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = connection.exactly(length).unwrap();
        let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        assert_ne!(head[3], 3, "the stream was reset");
        assert_ne!(head[3], 7, "the connection was given up");
        if of == stream && head[3] == 0 {
            data.extend_from_slice(&payload);
        }
        if of == stream && head[4] & 1 == 1 && matches!(head[3], 0 | 1) {
            return data;
        }
    }
}

#[test]
fn an_empty_last_http_2_frame_ends_the_chunked_body_upstream_once() {
    let scene = scene(echo("calm"));
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    connection.write(frame(4, 0, 0, &[])).unwrap();
    for stream in [1, 3, 5] {
        connection.write(frame(1, 4, stream, &h2_post(&format!("/s/{stream}")))).unwrap();
        connection.write(frame(0, 0, stream, b"hello")).unwrap();
        connection.write(frame(0, 1, stream, b"")).unwrap();
        let echoed: serde_json::Value = serde_json::from_slice(&h2_data(&mut connection, stream)).unwrap();
        assert_eq!((&echoed["target"], &echoed["body"]), (&format!("/{stream}").into(), &"hello".into()));
    }
    next_ones_are_clean(&scene);
}

#[test]
fn an_early_answer_spoils_no_later_request() {
    for closes in [true, false] {
        let scene = scene(move |exchange| {
            if exchange.method() != "POST" {
                return echo("calm")(exchange);
            }
            let connection = if closes { "close" } else { "keep-alive" };
            exchange.write(format!(
                "HTTP/1.1 413 Too Large\r\nConnection: {connection}\r\nContent-Length: 3\r\n\r\nbig"
            ))?;
            if closes {
                exchange.close();
                return Ok(());
            }
            exchange.body().map(|_| ())
        });
        for _ in 0..3 {
            let mut connection = Connection::open(scene.proxy.http).unwrap();
            connection
                .write("POST /s/upload HTTP/1.1\r\nHost: h\r\nContent-Length: 4000000\r\n\r\n")
                .unwrap();
            // The answer may come, and the connection close, before everything is written.
            let written = connection.write(vec![b'x'; 4_000_000]);
            match connection.answer("POST") {
                Ok(answer) => assert!([413, 502, 503].contains(&answer.status), "{answer:?}"),
                Err(error) => assert!(written.is_err() || closes, "{error}"),
            }
        }
        next_ones_are_clean(&scene);
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_spoils_no_later_request() {
    let scene = scene(|exchange| {
        exchange.body()?;
        if exchange.target().starts_with("/slow") {
            pause(Duration::from_millis(200));
        }
        echo("calm")(exchange)
    });
    for bytes in [
        "POST /s/x HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf",
        "POST /s/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "GET /s/slow HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        for _ in 0..4 {
            let mut connection = Connection::open(scene.proxy.http).unwrap();
            connection.write(bytes).unwrap();
            drop(connection);
        }
    }
    next_ones_are_clean(&scene);
}

#[test]
fn an_answer_cut_short_is_cut_short_for_the_client_too() {
    let scene = scene(|exchange| match exchange.target().to_owned().as_str() {
        "/length" => {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
            exchange.close();
            Ok(())
        }
        "/chunks" => {
            exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")?;
            exchange.close();
            Ok(())
        }
        _ => echo("calm")(exchange),
    });
    for target in ["/s/length", "/s/chunks"] {
        let error = get(target).send(scene.proxy.http).expect_err("a cut answer must not look whole");
        assert!(
            !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            "{target}: {error}"
        );
    }
    next_ones_are_clean(&scene);
}

#[test]
fn answers_that_are_no_answers_are_not_passed_on() {
    let scene = scene(|exchange| {
        let answer = match exchange.target().to_owned().as_str() {
            "/unasked-101" => {
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nnoise"
            }
            "/noise" => "this is not HTTP\r\n\r\n",
            "/two-lengths" => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
            "/odd-coding" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
            _ => return echo("calm")(exchange),
        };
        exchange.write(answer)?;
        exchange.close();
        Ok(())
    });
    for target in ["/s/unasked-101", "/s/noise", "/s/two-lengths", "/s/odd-coding"] {
        let answer = get(target).call(scene.proxy.http);
        assert!(matches!(answer.status, 502 | 503), "{target}: {answer:?}");
        assert!(!answer.header("X-A8-Error").is_empty(), "{target}: {answer:?}");
    }
    next_ones_are_clean(&scene);
}

#[test]
fn surplus_bytes_after_an_answer_reach_nobody() {
    let scene = scene(|exchange| {
        if !exchange.target().starts_with("/surplus") {
            return echo("calm")(exchange);
        }
        exchange.write(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        )
    });
    for _ in 0..3 {
        assert_eq!(scene.proxy.get("/s/surplus").text(), "ok");
        pause(Duration::from_millis(20));
        let next = scene.proxy.get("/s/after");
        assert!(!next.text().contains("evil"), "{next:?}");
    }
}

#[test]
fn interim_answers_and_chunks_do_not_reach_http_1_0_clients() {
    let scene = scene(|exchange| {
        exchange.body()?;
        exchange.write("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")?;
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    });
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection.write("GET /s/x HTTP/1.0\r\nHost: h\r\n\r\n").unwrap();
    let mut all = String::new();
    connection.wire.read_to_string(&mut all).unwrap();
    assert!(all.split_whitespace().nth(1) == Some("200") && all.ends_with("\r\n\r\nabc"), "{all:?}");
}

#[test]
fn a_head_that_is_dribbled_is_not_awaited_for_ever() {
    let scene = scene(echo("calm"));
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    let started = clock::now();
    connection.write("GET /s/x HTTP/1.1\r\nHost: h\r\n").unwrap();
    // The deadline is for the whole head, so a client that is merely never idle does not escape it.
    while started.elapsed() < Duration::from_secs(25) {
        if connection.write("X-Slow: y\r\n").is_err() || connection.closes_within(Duration::from_millis(500))
        {
            break;
        }
        if connection.wire.buffer().starts_with(b"HTTP/1.1 408") {
            break;
        }
    }
    assert!(started.elapsed() < Duration::from_secs(20), "still waiting after {:?}", started.elapsed());
    next_ones_are_clean(&scene);
}

#[test]
fn a_broken_chunked_body_is_refused_and_never_completed() {
    let scene = scene(echo("calm"));
    for body in
        ["\r\n", "zz\r\n", "5\r\nhelloXX", "-1\r\n", "FFFFFFFFFFFFFFFFF\r\n", "5;x=y\r\nhello\r\n0\r\n\r\n"]
    {
        let mut connection = Connection::open(scene.proxy.http).unwrap();
        let head = "POST /s/broken HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection.write(format!("{head}{body}")).unwrap();
        let _ = connection.finish_writing();
        match connection.answer("POST") {
            Ok(answer) => assert_ne!(answer.status, 200, "{body:?}: {answer:?}"),
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "{body:?}: {error}"),
        }
        assert!(
            connection.wire.fill_buf().map_or(true, <[u8]>::is_empty),
            "{body:?}: the connection goes on"
        );
    }
    next_ones_are_clean(&scene);
}

#[test]
fn an_upgrade_without_its_connection_field_is_an_ordinary_request() {
    let scene = scene(echo("calm"));
    let request = get("/s/x").header("Upgrade", "websocket");
    let echoed = request.call(scene.proxy.http).expect(200).json();
    assert!(!echoed["headers"].to_string().to_lowercase().contains("websocket"), "{echoed}");
}
