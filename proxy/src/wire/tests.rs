//! When bytes leave, and what becomes of them when a connection is given up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use tokio::io::AsyncWriteExt as _;

use super::*;

#[tokio::test]
async fn what_was_gathered_is_sent_although_the_connection_is_given_up() {
    let (near, mut far) = tokio::io::duplex(4);
    let mut wire = Wire::new(Box::new(near));
    wire.write_all(b"the beginning of an answer").await.unwrap();
    drop(wire);
    let mut came = Vec::new();
    timeout(LINGER, far.read_to_end(&mut came)).await.unwrap().unwrap();
    assert_eq!(came, b"the beginning of an answer");
}

/// Remembers being woken.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn frames_of_many_streams_leave_together_after_the_others_had_a_turn() {
    let (near, mut far) = tokio::io::duplex(64);
    let mut wire = Wire::new(Box::new(near));
    wire.open_for_many();
    let (bell, mut came) = (Arc::new(Bell::default()), [0; 64]);
    let (waker, mut came) = (Arc::clone(&bell).into(), ReadBuf::new(&mut came));
    let cx = &mut Context::from_waker(&waker);
    assert!(matches!(Pin::new(&mut wire).poll_write(cx, b"one "), Poll::Ready(Ok(4))));
    assert!(Pin::new(&mut wire).poll_flush(cx).is_pending());
    assert!(bell.0.load(Ordering::Relaxed), "it comes back by itself");
    assert!(Pin::new(&mut far).poll_read(cx, &mut came).is_pending());
    assert!(matches!(Pin::new(&mut wire).poll_write(cx, b"two"), Poll::Ready(Ok(3))));
    assert!(matches!(Pin::new(&mut wire).poll_flush(cx), Poll::Ready(Ok(()))));
    assert!(matches!(Pin::new(&mut far).poll_read(cx, &mut came), Poll::Ready(Ok(()))));
    assert_eq!(came.filled(), b"one two");
}
