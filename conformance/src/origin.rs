//! An upstream server with any manners: it echoes, delays, fails, trickles or closes, and records what reached it. Raw
//! sockets, a thread per connection; it never hides a defect of what it was sent.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::caller::ANSWER_PATIENCE;
use crate::message::{Framing, Head, Wire, read_body};

/// What an origin does with one request. An error ends the connection.
pub type Manners = dyn Fn(&mut Exchange) -> io::Result<()> + Send + Sync;

/// One request at the origin, its body still on the wire.
#[derive(Debug)]
pub struct Exchange {
    /// Request line and fields.
    pub head: Head,
    /// Which connection of this origin, counted from 0.
    pub connection: usize,
    /// The socket; the body is next.
    pub wire: Wire,
    body: Option<Vec<u8>>,
    close: bool,
}

impl Exchange {
    /// The request's method.
    pub fn method(&self) -> &str {
        self.head.start.split(' ').next().unwrap_or_default()
    }

    /// The request's target.
    pub fn target(&self) -> &str {
        self.head.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Reads the whole body, once.
    pub fn body(&mut self) -> io::Result<&[u8]> {
        if self.body.is_none() {
            if self.head.field("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
                self.write("HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let framing = self.head.framing(Framing::Length(0));
            self.body = Some(read_body(&mut self.wire, framing)?);
        }
        Ok(self.body.as_deref().unwrap_or_default())
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.get_mut().write_all(bytes.as_ref())
    }

    /// Reads the body, then answers with a length. `fields` are whole lines without their ends.
    pub fn answer(&mut self, status: u16, fields: &[&str], body: impl AsRef<[u8]>) -> io::Result<()> {
        self.body()?;
        let body = body.as_ref();
        let mut bytes = format!("HTTP/1.1 {status} Whatever\r\n");
        if !matches!(status, 204 | 304) {
            bytes.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        fields.iter().for_each(|field| bytes.push_str(&format!("{field}\r\n")));
        bytes.push_str("\r\n");
        let mut bytes = bytes.into_bytes();
        if self.method() != "HEAD" {
            bytes.extend_from_slice(body);
        }
        self.write(bytes)
    }

    /// Closes the connection after this exchange.
    pub fn close(&mut self) {
        self.close = true;
    }
}

/// Answers with JSON: who answered, and all that arrived.
pub fn echo(label: &str) -> impl Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static {
    let label = label.to_owned();
    move |exchange| {
        let body = String::from_utf8_lossy(exchange.body()?).into_owned();
        let json = json!({
            "by": label, "method": exchange.method(), "target": exchange.target(),
            "headers": exchange.head.fields, "body": body,
        });
        exchange.answer(200, &["Content-Type: application/json"], json.to_string())
    }
}

/// What reached an origin.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// Request line and fields.
    pub head: Head,
    /// On which connection.
    pub connection: usize,
}

impl Arrived {
    /// The request's target.
    pub fn target(&self) -> &str {
        self.head.start.split(' ').nth(1).unwrap_or_default()
    }
}

struct Shared {
    manners: Mutex<Arc<Manners>>,
    arrived: Mutex<Vec<Arrived>>,
    open: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    stopping: AtomicBool,
}

/// A listening origin; gone on drop.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Origin({})", self.address)
    }
}

/// An address at which every connection is refused: nothing listens on the port for the TCP multiplexer.
pub const REFUSING: &str = "127.0.0.1:1";

impl Origin {
    /// An origin that echoes under this label.
    pub fn echo(label: &str) -> Self {
        Self::with(echo(label))
    }

    /// An origin with any manners.
    ///
    /// # Panics
    /// When the loopback has no free port.
    pub fn with(manners: impl Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            manners: Mutex::new(Arc::new(manners)),
            arrived: Mutex::default(),
            open: Mutex::default(),
            connections: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let acceptor = Some(thread::spawn(move || accept(&listener, &theirs)));
        Self { address, shared, acceptor }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes its manners from the next request on.
    pub fn behave(&self, manners: impl Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static) {
        *lock(&self.shared.manners) = Arc::new(manners);
    }

    /// Everything that arrived so far, in order of arrival.
    pub fn arrived(&self) -> Vec<Arrived> {
        lock(&self.shared.arrived).clone()
    }

    /// How many requests arrived so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.arrived).len()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees that it must end.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for stream in lock(&self.shared.open).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        if let Ok(clone) = stream.try_clone() {
            lock(&shared.open).push(clone);
        }
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let _ = stream.set_read_timeout(Some(ANSWER_PATIENCE * 2));
            let _ = serve(stream, connection, &shared);
        });
    }
}

fn serve(stream: TcpStream, connection: usize, shared: &Shared) -> io::Result<()> {
    let ending = stream.try_clone()?;
    let mut wire = Wire::new(stream);
    let outcome = loop {
        let Some(head) = Head::read(&mut wire)? else { break Ok(()) };
        lock(&shared.arrived).push(Arrived { head: head.clone(), connection });
        let manners = Arc::clone(&lock(&shared.manners));
        let mut exchange = Exchange { head, connection, wire, body: None, close: false };
        let done = manners(&mut exchange);
        if done.is_err() || exchange.close || shared.stopping.load(Ordering::SeqCst) {
            break done;
        }
        wire = exchange.wire;
    };
    let _ = ending.shutdown(Shutdown::Both);
    outcome
}
