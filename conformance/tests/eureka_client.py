"""The life of an unmodified py-eureka-client against a running registry: register, be seen, discover, call, renew,
change status, be forgotten and come back, leave. Prints one line per step; the first that fails ends it."""

import asyncio
import json
import sys
import threading
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from py_eureka_client import eureka_client

REGISTRY = sys.argv[1]
PATIENCE_SECS = 20
APP = "greeter"


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"hello from {self.server.server_port}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def origin():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def native(method, path, body=None):
    request = urllib.request.Request(
        f"http://{REGISTRY}/api/v1/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        text = answer.read()
        return json.loads(text) if text else None


def instances(app=APP):
    found = native("GET", "instances?status=ALL")["instances"]
    return [i for i in found if i["service_name"].lower() == app]


async def until(what, condition):
    for _ in range(PATIENCE_SECS * 20):
        found = condition()
        if found:
            print("ok:", what, flush=True)
            return found
        await asyncio.sleep(0.05)
    sys.exit(f"not in {PATIENCE_SECS} s: {what}; the registry has {instances()}")


async def main():
    port, other_port = origin(), origin()
    native("POST", "instances", {
        "service_name": "echo", "ttl": 600,
        "endpoint": {"type": "http", "value": f"127.0.0.1:{other_port}"},
    })
    client = await eureka_client.init_async(
        eureka_server=f"http://{REGISTRY}/eureka/",
        app_name=APP,
        instance_host="127.0.0.1",
        instance_ip="127.0.0.1",
        instance_port=port,
        renewal_interval_in_secs=1,
        duration_in_secs=10,
        metadata={"amalgam8.tags": "v1,blue", "a.b": "<&>"},
    )
    [seen] = await until("the native API shows the registration", instances)
    assert seen["status"] == "UP", seen
    assert seen["endpoint"] == {"type": "tcp", "value": f"127.0.0.1:{port}"}, seen
    assert seen["tags"] == ["v1", "blue"] and seen["ttl"] == 10, seen
    assert seen["metadata"]["a.b"] == "<&>", seen

    def up(app):
        return client.applications.get_application(app).up_instances

    await until("the client discovers itself", lambda: up(APP))
    await until("the client discovers a native instance", lambda: up("echo"))
    for app, expected in [("echo", other_port), (APP, port)]:
        said = await eureka_client.do_service_async(app, "/hello")
        assert said == f"hello from {expected}", said
        print("ok: the client calls", app, flush=True)

    native("POST", "instances", {
        "service_name": "late", "ttl": 600, "endpoint": {"type": "http", "value": "127.0.0.1:9"},
    })
    await until("a later registration comes as a delta", lambda: up("late"))
    beat = seen["last_heartbeat"]
    await until("the client renews", lambda: instances()[0]["last_heartbeat"] > beat)

    await client.status_update("OUT_OF_SERVICE")
    await until("the status is overridden", lambda: instances()[0]["status"] == "OUT_OF_SERVICE")
    await until("the client hears of it", lambda: not up(APP))
    beat = instances()[0]["last_heartbeat"]
    await until("it renews meanwhile", lambda: instances()[0]["last_heartbeat"] > beat)
    assert instances()[0]["status"] == "OUT_OF_SERVICE", instances()
    await client.delete_status_override()
    await until("the client's own status is back", lambda: instances()[0]["status"] == "UP")

    native("DELETE", "instances/" + urllib.parse.quote(instances()[0]["id"], safe=""))
    assert not instances()
    await until("a forgotten client registers again", instances)

    await eureka_client.stop_async()
    assert not instances(), instances()
    print("done", flush=True)


asyncio.run(main())
