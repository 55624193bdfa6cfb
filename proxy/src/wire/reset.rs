//! Has a connection end with a reset instead of an orderly close. It decides nothing about which.

use std::io;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Makes the next close of this socket, which whoever calls holds open, a reset. Pingora gives no more than the number of
/// a stream's socket; a second handle to it comes from the system, which needs Linux 5.6 and may be forbidden: then the
/// connection is closed in order.
pub(super) fn when_closed(socket: i32) -> io::Result<()> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    let handle = pidfd_getfd(&this, socket, PidfdGetfdFlags::empty())?;
    Ok(set_socket_linger(&handle, Some(Duration::ZERO))?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_other_side_sees_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        when_closed(near.as_raw_fd()).unwrap();
        drop(near);
        assert_eq!(far.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
