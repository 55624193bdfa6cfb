//! The world as nginx is told it. It has neither counters nor times per route, and no way to abort a share of requests: a
//! draw per request decides together with a header that nobody sends.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::{COOKIE, V2_PERCENT, World};

impl World {
    /// The configuration of nginx, for a port of HTTP/1.1 and one of HTTP/2.
    pub(crate) fn nginx(&self, [listen, http2]: [SocketAddr; 2], prefix: &Path) -> String {
        let prefix = prefix.display();
        let log = format!("{prefix}/access.log combined buffer=64k flush=1s");
        let log = if self.logged { log.as_str() } else { "off" };
        let (mut upstreams, mut locations) = (String::new(), String::new());
        for service in 0..self.services() {
            for version in self.versions() {
                let _ = writeln!(upstreams, "  upstream s{service}_{version} {{");
                for address in self.instances(service) {
                    let _ = writeln!(upstreams, "    server {address};");
                }
                let _ = writeln!(upstreams, "    keepalive 64;\n  }}");
            }
            let version = if self.feature { "$version" } else { "v1" };
            let fault = if self.feature { "if ($abort) { return 503; }" } else { "" };
            let _ = writeln!(
                locations,
                "    location /s{service}/ {{ {fault} rewrite ^/s{service}(/.*)$ $1 break; proxy_pass http://s{service}_{version}; }}"
            );
        }
        // The smallest share there is; 0 is refused.
        let choice = if self.feature {
            format!(
                "  split_clients $request_id $split {{ {V2_PERCENT}% v2; * v1; }}\n  \
                 split_clients fault$request_id $fault {{ 0.01% 1; * 0; }}\n  \
                 map $fault$http_x_fault $abort {{ 11 1; default 0; }}\n  \
                 map $http_cookie $version {{ \"~{COOKIE}\" v2; default $split; }}"
            )
        } else {
            String::new()
        };
        // As many connections as the idle clients and all pools need: each place costs memory.
        format!(
            "daemon off;\nmaster_process off;\nworker_processes 1;\npid {prefix}/nginx.pid;\nerror_log stderr error;\n\
             worker_rlimit_nofile 16384;\nevents {{ worker_connections 10240; }}\nhttp {{\n  access_log {log};\n  \
             client_body_temp_path {prefix}/body;\n  proxy_temp_path {prefix}/proxy;\n  fastcgi_temp_path {prefix}/fastcgi;\n  \
             uwsgi_temp_path {prefix}/uwsgi;\n  scgi_temp_path {prefix}/scgi;\n  keepalive_requests 1000000000;\n  \
             proxy_http_version 1.1;\n  proxy_set_header Connection \"\";\n  proxy_set_header Host $host;\n  \
             proxy_set_header X-Request-Id $request_id;\n  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n  \
             proxy_set_header X-Forwarded-Proto $scheme;\n{choice}\n{upstreams}  \
             server {{\n    listen {listen} backlog=1024;\n    listen {http2} http2;\n{locations}  }}\n}}\n"
        )
    }
}
