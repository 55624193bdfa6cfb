//! The snapshot file: every namespace with its instances, versioned and checksummed, so that a restart never
//! publishes an empty catalog. When it is written is the server's business.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use registry_api::setting::BadSetting;
use registry_api::{Instance, Namespace};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::admitted::{Admitted, Extension};
use crate::catalog::Leased;
use crate::data_dir::DataDir;

/// The file within the data directory.
pub const FILE: &str = "registry.snapshot";

/// The first word of the file; the second is [`VERSION`], the third the checksum of what follows the line.
const MAGIC: &str = "a8-registry-snapshot";
const VERSION: &str = "1";

/// What a snapshot holds.
pub type Contents = Vec<(Namespace, Vec<Admitted>)>;

/// Why a file is no snapshot that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// Something else, or cut off within the first line.
    #[error("it is no snapshot of a registry")]
    Foreign,
    /// Written by another version of the program.
    #[error("it has the unknown version {0}")]
    Version(String),
    /// Cut off or overwritten.
    #[error("its checksum does not fit")]
    Checksum,
    /// Whole, but not what was agreed.
    #[error("it cannot be read: {0}")]
    Content(String),
}

#[derive(Serialize, Deserialize)]
struct Document {
    namespaces: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    namespace: Namespace,
    instances: Vec<KeptInstance>,
}

#[derive(Serialize, Deserialize)]
struct KeptInstance {
    ttl_ms: u64,
    instance: Arc<Instance>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extension: Option<Extension>,
}

/// So many bytes are made between two pauses; some 50 us.
const STRETCH_BYTES: usize = 32 << 10;

/// The bytes of the file. It takes long where there is much; `pause` is called again and again meanwhile, so that it need
/// not be at the cost of whoever waits for the processor.
pub fn encode(contents: Vec<(Namespace, Vec<Leased>)>, mut pause: impl FnMut()) -> Vec<u8> {
    let kept = |Leased { instance, ttl, extension, .. }: Leased| KeptInstance {
        ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        instance,
        extension,
    };
    let namespaces = contents.into_iter().map(|(namespace, instances)| Kept {
        namespace,
        instances: instances.into_iter().map(kept).collect(),
    });
    let document = Document { namespaces: namespaces.collect() };
    let mut body = Paused { bytes: Vec::new(), stretch: 0, pause: &mut pause };
    serde_json::to_writer(&mut body, &document).expect("instances are plain data and always encode");
    let body = body.bytes;
    let mut bytes = format!("{MAGIC} {VERSION} {}\n", checksum(&body, pause)).into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

/// Takes bytes, and pauses after each [`STRETCH_BYTES`].
struct Paused<'a, P> {
    bytes: Vec<u8>,
    stretch: usize,
    pause: &'a mut P,
}

impl<P: FnMut()> Write for Paused<'_, P> {
    fn write(&mut self, some: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(some);
        self.stretch += some.len();
        if self.stretch >= STRETCH_BYTES {
            self.stretch = 0;
            (self.pause)();
        }
        Ok(some.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the bytes of a file.
pub fn decode(bytes: &[u8]) -> Result<Contents, Damaged> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Damaged::Foreign)?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| Damaged::Foreign)?;
    let mut words = head.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(Damaged::Foreign);
    }
    let version = words.next().unwrap_or_default();
    if version != VERSION {
        return Err(Damaged::Version(version.chars().take(16).collect()));
    }
    let body = &bytes[end + 1..];
    if words.next() != Some(checksum(body, || {}).as_str()) {
        return Err(Damaged::Checksum);
    }
    let document: Document =
        serde_json::from_slice(body).map_err(|error| Damaged::Content(error.to_string()))?;
    let admitted = |KeptInstance { ttl_ms, instance, extension }| {
        let ttl = Duration::from_millis(ttl_ms);
        Admitted::new(Arc::unwrap_or_clone(instance), ttl).extended(extension)
    };
    let contents = document
        .namespaces
        .into_iter()
        .map(|kept| (kept.namespace, kept.instances.into_iter().map(admitted).collect()));
    Ok(contents.collect())
}

/// What the data directory holds; nothing when there is no file yet. A damaged file is set aside, loudly,
/// never overwritten.
pub fn load(dir: &DataDir) -> Result<Contents, BadSetting> {
    let Some(bytes) = dir.read(FILE)? else { return Ok(Contents::new()) };
    match decode(&bytes) {
        Ok(contents) => Ok(contents),
        Err(reason) => {
            let kept_as = dir.set_aside(FILE)?;
            tracing::error!(
                module = "STORE",
                %reason,
                kept_as = %kept_as.display(),
                "the snapshot is damaged; the registry starts empty"
            );
            Ok(Contents::new())
        }
    }
}

fn checksum(body: &[u8], mut pause: impl FnMut()) -> String {
    let mut digest = Sha256::new();
    for stretch in body.chunks(STRETCH_BYTES) {
        digest.update(stretch);
        pause();
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::{TtlLimits, admit};
    use crate::timestamp::Timestamp;
    use registry_api::Registration;

    fn leased(service: &str) -> Leased {
        let second = Duration::from_secs(1);
        let limits = TtlLimits::new(second, second * 30, second * 600).unwrap();
        let registration = Registration {
            metadata: Some(registry_api::Metadata::from_json(r#"{ "a" : [1, 2] }"#.to_owned()).unwrap()),
            ..Registration::http(service, &["v1", "v1"], "h:1")
        };
        let admitted = admit(registration, limits).unwrap();
        let (instance, ttl) = (Arc::clone(admitted.instance()), admitted.ttl());
        let (renewed_at, registered_at) = (Timestamp::default(), Timestamp::default());
        Leased { instance, renewed_at, ttl, registered_at, extension: Some(Extension::new("{\"a\":1}")) }
    }

    fn written() -> Vec<u8> {
        let name = |text: &str| Namespace::new(text).unwrap();
        encode(vec![(name("a"), vec![leased("s"), leased("t")]), (name("b"), vec![])], || {})
    }

    #[test]
    fn writing_pauses_for_every_stretch_that_it_makes_and_every_one_that_it_sums_up() {
        let mut pauses = 0;
        let contents = vec![(Namespace::new("a").unwrap(), vec![leased("s"); 2_000])];
        let stretches = encode(contents, || pauses += 1).len() / STRETCH_BYTES;
        assert!(
            stretches > 5 && (stretches * 2..=stretches * 2 + 1).contains(&pauses),
            "{stretches} {pauses}"
        );
    }

    #[test]
    fn what_was_written_is_read() {
        let contents = decode(&written()).unwrap();
        assert_eq!(contents.len(), 2);
        assert_eq!(contents[0].1[1].instance(), &leased("t").instance);
        assert_eq!(contents[0].1[1].ttl(), Duration::from_secs(30));
        assert_eq!(contents[0].1[1].extension().map(Extension::as_str), Some("{\"a\":1}"));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let written = written();
        for at in (0..written.len()).step_by(7) {
            let mut flipped = written.clone();
            flipped[at] ^= 0x10;
            assert!(decode(&flipped).is_err(), "{at}");
            assert!(decode(&written[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn another_version_is_named() {
        assert_eq!(decode(b"a8-registry-snapshot 2 x\n{}"), Err(Damaged::Version("2".to_owned())));
        assert_eq!(decode(b"PK\x03\x04"), Err(Damaged::Foreign));
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_the_next_start_finds_none() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        dir.replace(FILE, b"rubbish").unwrap();
        assert_eq!(load(&dir), Ok(vec![]));
        assert_eq!(std::fs::read(home.path().join("registry.snapshot.corrupt-1")).unwrap(), b"rubbish");
        assert_eq!(dir.read(FILE), Ok(None));
    }
}
