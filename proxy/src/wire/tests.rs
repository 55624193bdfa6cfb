//! What becomes of bytes when a connection is given up.

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
