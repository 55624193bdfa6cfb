//! Handing the open ports to a successor: a new proxy asks the one that serves, over a Unix socket, gets its listening
//! sockets and the lock of its data folder, and says when it serves. Until then the old one goes on as if nobody had asked.
//! How either of them serves, and how the old one ends, is the server's.

use std::fs::{self, File, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use registry_api::setting::BadSetting;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::geteuid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::time::{sleep, timeout};

use crate::config::TCP_PROXIES_MAX;

const SETTING: &str = "upgrade_sock";
/// What comes with the sockets. Whoever hands over something else says something else.
const OFFER: &[u8] = b"a8 upgrade 1: http, admin, lock\n";
/// The same with the ports of plain TCP behind them: a version that knows none must not take it for less than it is.
const OFFER_WITH_TCP: &[u8] = b"a8 upgrade 1: http, admin, lock, tcp\n";
const SERVING: &[u8] = b"serving\n";
const LEAVING: &[u8] = b"leaving\n";
/// What it says instead to a successor that it no longer waits for; as long as the other.
const STAYING: &[u8] = b"staying\n";
/// How many files are always handed over, and the most.
const FILES: usize = 3;
const FILES_MAX: usize = FILES + TCP_PROXIES_MAX;
/// For each answer of the predecessor, which has nothing to think about.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// From the offer until the successor serves; it may wait for control meanwhile. One that takes longer is given up.
const SERVES_WITHIN: Duration = Duration::from_secs(60);
/// After a failure to accept, which lasts while too many files are open.
const PAUSE: Duration = Duration::from_secs(1);

/// What a successor gets.
#[derive(Debug)]
pub(crate) struct Inherited {
    http: TcpListener,
    admin: TcpListener,
    tcp: Vec<TcpListener>,
    lock: File,
    predecessor: Predecessor,
}

/// The same in parts, the ports as far as they are wanted.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) http: Option<TcpListener>,
    pub(crate) admin: Option<TcpListener>,
    /// In the order in which they are wanted.
    pub(crate) tcp: Vec<Option<TcpListener>>,
    pub(crate) lock: File,
    pub(crate) predecessor: Predecessor,
}

/// The proxy that still serves.
#[derive(Debug)]
pub(crate) struct Predecessor(UnixStream);

/// What is handed over, kept for as long as a successor may ask.
#[derive(Debug)]
pub(crate) struct Estate {
    pub(crate) http: TcpListener,
    pub(crate) admin: TcpListener,
    /// At most [`TCP_PROXIES_MAX`].
    pub(crate) tcp: Vec<TcpListener>,
    pub(crate) lock: File,
}

/// Where a successor asks. The path goes with it, unless it is somebody else's by then.
#[derive(Debug)]
pub(crate) struct Succession {
    listener: UnixListener,
    path: PathBuf,
    /// `None` once it is a successor's, who puts another in its place.
    inode: Option<(u64, u64)>,
}

/// Asks the proxy that serves at `path` for its ports; `None` when nobody does.
pub(crate) fn take_over(path: &Path) -> Result<Option<Inherited>, BadSetting> {
    let Some(stream) = connect(path)? else { return Ok(None) };
    inherit(stream).map(Some).map_err(|error| bad(path, &format!("cannot be taken over from: {error}")))
}

/// Refuses a path at which a proxy serves: it was not meant to be replaced.
pub(crate) fn refuse_served(path: &Path) -> Result<(), BadSetting> {
    match connect(path)? {
        Some(_) => Err(bad(path, "is another proxy's; `upgrade` takes over from it")),
        None => Ok(()),
    }
}

fn connect(path: &Path) -> Result<Option<UnixStream>, BadSetting> {
    match UnixStream::connect(path) {
        Ok(stream) => Ok(Some(stream)),
        // Never there, or left behind.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(bad(path, &format!("cannot be used: {error}"))),
    }
}

fn inherit(stream: UnixStream) -> io::Result<Inherited> {
    is_ours(&stream)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    stream.set_write_timeout(Some(ANSWERS_WITHIN))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 2 * OFFER_WITH_TCP.len()];
    let came = recvmsg(&stream, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let mut files: Vec<OwnedFd> = files.flatten().collect();
    let tcp = files.split_off(files.len().min(FILES));
    match <[OwnedFd; FILES]>::try_from(files) {
        Ok([http, admin, lock]) if text[..came.bytes] == *offer(tcp.len()) => Ok(Inherited {
            http: http.into(),
            admin: admin.into(),
            tcp: tcp.into_iter().map(TcpListener::from).collect(),
            lock: lock.into(),
            predecessor: Predecessor(stream),
        }),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not hand over what this version needs")),
    }
}

impl Inherited {
    /// Takes apart; a port that is not where one is wanted is left to the predecessor. Of those of plain TCP each is given
    /// to who wants this very port; where any is good, they keep their order.
    pub(crate) fn into_parts(self, http: SocketAddr, admin: SocketAddr, tcp: &[SocketAddr]) -> Parts {
        let if_wanted =
            |listener: TcpListener, wanted: SocketAddr| is_at(&listener, wanted).then_some(listener);
        let mut left = self.tcp;
        let mut found: Vec<Option<TcpListener>> = tcp.iter().map(|_| None).collect();
        for any in [false, true] {
            for (found, wanted) in found.iter_mut().zip(tcp).filter(|(_, wanted)| (wanted.port() == 0) == any)
            {
                *found = left.iter().position(|listener| is_at(listener, *wanted)).map(|at| left.remove(at));
            }
        }
        Parts {
            http: if_wanted(self.http, http),
            admin: if_wanted(self.admin, admin),
            tcp: found,
            lock: self.lock,
            predecessor: self.predecessor,
        }
    }
}

/// Whether it is where one is wanted; port 0 is any.
fn is_at(listener: &TcpListener, wanted: SocketAddr) -> bool {
    let is_at = |there: SocketAddr| there == wanted || (wanted.port() == 0 && wanted.ip() == there.ip());
    listener.local_addr().is_ok_and(is_at)
}

/// What is said with so many ports of plain TCP.
fn offer(tcp: usize) -> &'static [u8] {
    if tcp == 0 { OFFER } else { OFFER_WITH_TCP }
}

impl Predecessor {
    /// Tells it that this proxy serves; it accepts nothing more from now on. Fails when it has given this proxy up: then it
    /// serves on. One that is gone by now needs to be told nothing.
    pub(crate) fn replace(mut self) -> io::Result<()> {
        let mut answer = Vec::new();
        let told = self.0.write_all(SERVING);
        let heard = self.0.take(LEAVING.len() as u64).read_to_end(&mut answer);
        if let Err(error) = told.and(heard)
            && !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
        {
            return Err(error);
        }
        match &answer[..] {
            LEAVING | [] => Ok(()),
            STAYING => Err(io::Error::new(io::ErrorKind::TimedOut, "the proxy that serves waits no longer")),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Succession {
    /// Listens at `path`, in the place of whoever did. Only the same user may ask.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(aside);
        // Of a process of this number that is no more.
        let _left = fs::remove_file(&aside);
        let listener = UnixListener::bind(&aside)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&aside, Permissions::from_mode(0o600))?;
        let inode = Some(inode(&aside)?);
        fs::rename(&aside, path)?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// Hands over to whoever asks, until one of them serves. Inside a runtime.
    pub(crate) async fn replaced(&mut self, estate: &Estate) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(self.listener.try_clone()?)?;
        loop {
            let mut stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a successor could not be heard");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            match timeout(SERVES_WITHIN, estate.offer(&mut stream)).await {
                Ok(Ok(())) => {
                    self.inode = None;
                    return Ok(());
                }
                Ok(Err(error)) => tracing::warn!(%error, "a successor asked and did not come to serve"),
                Err(_) => {
                    tracing::warn!("a successor took too long to serve");
                    // Nothing else was written to it but the offer: there is room.
                    let _heard = stream.try_write(STAYING);
                }
            }
        }
    }
}

impl Drop for Succession {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path).ok() == self.inode {
            // Left behind, it says only that nobody listens there.
            let _gone = fs::remove_file(&self.path);
        }
    }
}

impl Estate {
    async fn offer(&self, stream: &mut tokio::net::UnixStream) -> io::Result<()> {
        is_ours(&*stream)?;
        let mut files = vec![self.http.as_fd(), self.admin.as_fd(), self.lock.as_fd()];
        files.extend(self.tcp.iter().map(AsFd::as_fd));
        let offer = offer(self.tcp.len());
        let sent = stream.async_io(Interest::WRITABLE, || send(stream.as_fd(), offer, &files)).await?;
        if sent != offer.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut answer = [0; SERVING.len()];
        stream.read_exact(&mut answer).await?;
        if answer != *SERVING {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.write_all(LEAVING).await
    }
}

/// Refuses whoever is neither of this user nor root.
fn is_ours(stream: impl AsFd) -> io::Result<()> {
    let user = socket_peercred(stream)?.uid;
    if user == geteuid() || user.is_root() { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

fn send(to: BorrowedFd<'_>, offer: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = control.push(SendAncillaryMessage::ScmRights(files));
    debug_assert!(fits, "the space is made for them");
    Ok(sendmsg(to, &[IoSlice::new(offer)], &mut control, SendFlags::NOSIGNAL)?)
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn bad(path: &Path, problem: &str) -> BadSetting {
    BadSetting::new(SETTING, format!("{} {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as Raw;

    use super::*;

    fn estate(dir: &Path) -> Estate {
        let open = || TcpListener::bind("127.0.0.1:0").unwrap();
        Estate { http: open(), admin: open(), tcp: vec![], lock: File::create(dir.join("lock")).unwrap() }
    }

    /// What `ask` returns, which runs on a thread of its own, while a proxy hands over; whether that one was replaced.
    async fn while_offered<T: Send + 'static>(
        path: &Path,
        estate: &Estate,
        ask: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> (T, bool) {
        let mut succession = Succession::open(path).unwrap();
        let path = path.to_owned();
        let mut asking = tokio::task::spawn_blocking(move || ask(&path));
        tokio::select! {
            replaced = succession.replaced(estate) => {
                replaced.unwrap();
                (asking.await.unwrap(), true)
            }
            asked = &mut asking => (asked.unwrap(), false),
        }
    }

    #[tokio::test]
    async fn a_successor_gets_the_same_sockets_and_the_lock_and_replaces_whoever_had_them() {
        let dir = tempfile::tempdir().unwrap();
        let (path, estate) = (dir.path().join("sock"), estate(dir.path()));
        let (http, admin) = (estate.http.local_addr().unwrap(), estate.admin.local_addr().unwrap());
        estate.lock.try_lock().unwrap();
        let (inherited, replaced) = while_offered(&path, &estate, move |path| {
            let inherited = take_over(path).unwrap().expect("somebody serves");
            let elsewhere = "127.0.0.1:1".parse().unwrap();
            let parts = inherited.into_parts(SocketAddr::new(http.ip(), 0), elsewhere, &[elsewhere]);
            assert!(parts.tcp[0].is_none(), "it had none");
            parts.predecessor.replace().unwrap();
            (parts.http.unwrap(), parts.admin.is_none(), parts.lock)
        })
        .await;
        assert!(replaced);
        let (ours, is_elsewhere, lock) = inherited;
        assert_eq!(ours.local_addr().unwrap(), http);
        assert!(is_elsewhere, "{admin} is not where it was wanted");
        drop(estate);
        let second = File::options().append(true).open(dir.path().join("lock")).unwrap();
        assert!(second.try_lock().is_err(), "the lock went with its file");
        let _client = std::net::TcpStream::connect(http).unwrap();
        assert!(ours.accept().is_ok());
        drop(lock);
        second.try_lock().unwrap();
    }

    #[tokio::test]
    async fn as_many_ports_of_plain_tcp_as_there_may_be_go_to_who_wants_them() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut estate) = (dir.path().join("sock"), estate(dir.path()));
        estate.tcp = (0..TCP_PROXIES_MAX).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = estate.tcp.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let any = SocketAddr::new(ports[0].ip(), 0);
        let wanted =
            [any, ports[7], ports[0], "127.0.0.2:1".parse().unwrap(), any, "127.0.0.2:0".parse().unwrap()];
        let (http, admin) = (estate.http.local_addr().unwrap(), estate.admin.local_addr().unwrap());
        let (found, replaced) = while_offered(&path, &estate, move |path| {
            let parts = take_over(path).unwrap().expect("somebody serves").into_parts(http, admin, &wanted);
            parts.predecessor.replace().unwrap();
            assert!(parts.http.is_some() && parts.admin.is_some());
            let at = |listener: &Option<TcpListener>| {
                listener.as_ref().map(|listener| listener.local_addr().unwrap())
            };
            parts.tcp.iter().map(at).collect::<Vec<_>>()
        })
        .await;
        assert!(replaced);
        assert_eq!(found, [Some(ports[1]), Some(ports[7]), Some(ports[0]), None, Some(ports[2]), None]);
    }

    #[tokio::test]
    async fn one_that_asks_and_goes_away_replaces_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (path, estate) = (dir.path().join("sock"), estate(dir.path()));
        let (refused, replaced) = while_offered(&path, &estate, |path| {
            drop(take_over(path).unwrap().expect("somebody serves"));
            let mut garbled = Raw::connect(path).unwrap();
            garbled.write_all(b"nothing\n").unwrap();
            let mut rest = Vec::new();
            garbled.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, OFFER);
            refuse_served(path).unwrap_err()
        })
        .await;
        assert!(!replaced);
        assert_eq!(refused.setting, SETTING);
    }

    #[test]
    fn one_that_is_gone_is_replaced_and_one_that_waits_no_longer_is_not() {
        for (said, replaced) in [(STAYING, false), (LEAVING, true), (b"", true), (b"what?\n", false)] {
            for first in [true, false] {
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                theirs.write_all(said).unwrap();
                // It may end with what it was told unread.
                let held = first.then(|| theirs.try_clone().unwrap());
                drop(theirs);
                let replacing = std::thread::spawn(|| Predecessor(ours).replace());
                drop(held);
                assert_eq!(replacing.join().unwrap().is_ok(), replaced, "{said:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_come_to_serve_is_told_so_and_the_next_may_ask() {
        let dir = tempfile::tempdir().unwrap();
        let (path, estate) = (dir.path().join("sock"), estate(dir.path()));
        let mut succession = Succession::open(&path).unwrap();
        let slow = connect(&path).unwrap().unwrap();
        let asked = timeout(2 * SERVES_WITHIN, succession.replaced(&estate)).await;
        assert!(asked.is_err(), "it goes on");
        let late = inherit(slow).unwrap().predecessor.replace().unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut, "{late}");
        assert!(path.exists());
    }

    #[test]
    fn a_path_without_anybody_is_free_and_goes_with_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        assert!(take_over(&path).unwrap().is_none());
        refuse_served(&path).unwrap();
        let old = Succession::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let new = Succession::open(&path).unwrap();
        drop(old);
        assert!(path.exists(), "it is the new one's");
        drop(new);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert!(take_over(&path).unwrap().is_none(), "left behind");
        assert!(take_over(Path::new(&"x".repeat(200))).is_err(), "no path of a socket is as long");
    }

    #[test]
    fn somebody_who_hands_over_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let other = UnixListener::bind(&path).unwrap();
        let said = std::thread::spawn(move || other.accept().unwrap().0.write_all(OFFER).unwrap());
        let refused = take_over(&path).unwrap_err();
        said.join().unwrap();
        assert!(refused.problem.contains("does not hand over"), "{refused}");
    }
}
