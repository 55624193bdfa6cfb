//! The world as HAProxy is told it. It counts per backend and keeps average times, but no histogram; it cannot delay.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{COOKIE, V2_PERCENT, World};

impl World {
    /// The configuration of HAProxy.
    pub(crate) fn haproxy(&self, listen: SocketAddr) -> String {
        // It knows no files; its standard output is one.
        let log = if self.logged { "  log stdout format raw local0 info\n  option httplog\n" } else { "" };
        let mut text = format!(
            "global\n  nbthread 1\n  maxconn 9000\n  no strict-limits\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  \
             timeout server 60s\n  http-reuse always\n  option forwardfor\n{log}frontend in\n  bind {listen} backlog 1024\n  \
             unique-id-format %{{+X}}o%ci%cp%fi%fp%Ts%rt%pid\n  unique-id-header X-Request-Id\n  \
             http-request set-header X-Forwarded-Proto http\n"
        );
        if self.feature {
            let _ = write!(
                text,
                "  acl jason req.hdr(cookie) -m reg {COOKIE}\n  \
                 http-request set-var(txn.service) path,field(2,/)\n  \
                 use_backend %[var(txn.service)]_v2 if jason\n  \
                 use_backend %[var(txn.service)]_v2 if {{ rand(100) lt {V2_PERCENT} }}\n  \
                 use_backend %[var(txn.service)]_v1\n"
            );
        } else {
            text.push_str("  default_backend s0_v1\n");
        }
        for service in 0..self.services() {
            for version in self.versions() {
                let _ = writeln!(text, "backend s{service}_{version}\n  balance roundrobin");
                if self.feature {
                    let _ = writeln!(text, "  http-request return status 503 if {{ rand(1000000) lt 0 }}");
                }
                let _ = writeln!(text, "  http-request replace-path /s{service}(/.*) \\1");
                for (at, address) in self.instances(service).iter().enumerate() {
                    let _ = writeln!(text, "  server i{at} {address}");
                }
            }
        }
        text
    }
}
