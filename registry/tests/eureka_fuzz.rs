//! A short run of the laws in `http::eureka::fuzz`: fixed documents, mutated with fixed seeds, so that a failure can be
//! had again. A longer search belongs to a fuzzer that calls the same functions.

use registry::http::eureka::fuzz;

const SEEDS: [&str; 6] = [
    include_str!("fixtures/java_register.json"),
    include_str!("fixtures/js_register.json"),
    include_str!("fixtures/amazon_register.json"),
    include_str!("fixtures/java_register.xml"),
    r#"<instance><hostName>a&#65;</hostName><app>A</app><ipAddr>1</ipAddr><vipAddress>v</vipAddress><port>1</port></instance>"#,
    r#"{"instance":{"app":"A","hostName":"h","ipAddr":"i","vipAddress":"v","metadata":{"a":[{"b":null}],"@c":1.5e9}}}"#,
];
/// What breaks readers.
const PIECES: [&str; 24] = [
    "\"",
    "{",
    "}",
    "[",
    "]",
    "<",
    ">",
    "&",
    "&amp;",
    "&#x0;",
    "<!DOCTYPE a>",
    "<![CDATA[",
    "]]>",
    "null",
    "-1",
    "1e400",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "\u{fffe}",
    "@class",
    "java.util.Collections$EmptyMap",
    "</instance>",
    "\u{10ffff}",
];
const ROUNDS: u64 = 6_000;

fn mutated(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = SEEDS[random.usize(..SEEDS.len())].as_bytes().to_vec();
    for _ in 0..random.usize(1..3) {
        let at = random.usize(..bytes.len().max(1)).min(bytes.len());
        match random.u8(..7) {
            0 => drop(bytes.splice(at..at, PIECES[random.usize(..PIECES.len())].bytes())),
            1 => bytes.truncate(at.max(1)),
            2 => {
                let end = (at + random.usize(..40)).min(bytes.len());
                drop(bytes.drain(at..end));
            }
            3 => {
                let end = (at + random.usize(..200)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let times = random.usize(1..20);
                drop(bytes.splice(at..at, piece.repeat(times)));
            }
            kind => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = if kind == 4 { random.u8(..) } else { random.alphanumeric() as u8 };
                }
            }
        }
    }
    bytes
}

#[test]
fn section_3_4_and_3_8_no_document_harms_and_what_is_accepted_keeps_the_laws() {
    let mut accepted = [0, 0];
    for seed in 0..ROUNDS {
        let input = mutated(&mut fastrand::Rng::with_seed(seed));
        let outcome = std::panic::catch_unwind(|| [fuzz::json(&input), fuzz::xml(&input)]);
        let outcome = outcome.unwrap_or_else(|_| panic!("seed {seed}: {}", String::from_utf8_lossy(&input)));
        for (count, accepted_one) in accepted.iter_mut().zip(outcome) {
            *count += u32::from(accepted_one);
        }
    }
    // The laws were put to the test at all.
    assert!(accepted.iter().all(|count| *count > 100), "{accepted:?}");
}

#[test]
fn deep_and_long_documents_end_early() {
    for piece in [
        "[",
        "{\"a\":",
        "{\"instance\":",
        "{\"instance\":{\"metadata\":[[",
        "{\"instance\":{\"dataCenterInfo\":",
    ] {
        assert!(!fuzz::json(piece.repeat(100_000).as_bytes()));
    }
    for piece in ["<a>", "<a b='c'>", "<instance><metadata>", "<!--", "<![CDATA[", "<?a "] {
        assert!(!fuzz::xml(piece.repeat(100_000).as_bytes()));
    }
}

#[test]
fn any_path_leads_somewhere_or_nowhere() {
    const PARTS: [&str; 14] = [
        "/eureka",
        "/api/eureka",
        "/v2",
        "/apps",
        "/",
        "//",
        "/delta",
        "/%2f",
        "/%",
        "/%ff",
        "/status",
        "/a",
        "/é",
        "/vips",
    ];
    for seed in 0..ROUNDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let path: String = (0..random.usize(1..9)).map(|_| PARTS[random.usize(..PARTS.len())]).collect();
        fuzz::path(&path);
    }
}
