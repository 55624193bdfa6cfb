//! The trace that a request is part of: what it carries in the fields of W3C and of Zipkin, and what goes on to the
//! instance. Pure; whether anybody records is the tracer's.

/// W3C Trace Context 3.2: version, trace, parent and flags.
pub(crate) const TRACEPARENT_BYTES: usize = 55;

/// Whose call a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Never 0.
    pub(crate) trace: u128,
    /// The caller's span; never 0.
    pub(crate) span: u64,
    /// Whether it is recorded; `None` when that is left to whoever comes next, which only Zipkin's fields can say.
    pub(crate) sampled: Option<bool>,
}

/// What a request carries of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// A `traceparent`.
    Parent(Caller),
    /// Zipkin's fields, and no `traceparent`.
    Zipkin(Caller),
    /// No trace; whether one that begins is to be recorded, if somebody has said so.
    Nothing(Option<bool>),
}

/// What goes on to the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Onward {
    /// The `traceparent` that takes the place of what came; `None` leaves that as it is.
    pub(crate) parent: Option<[u8; TRACEPARENT_BYTES]>,
    /// `tracestate` belongs to it. Otherwise it is dropped: it would be another trace's.
    pub(crate) keeps_state: bool,
}

/// Chance for the ids of a trace that begins: its two halves, and the first span's.
pub(crate) type Chance = [u64; 3];

impl Carried {
    /// Reads it from all fields of a request: `traceparent`, of which there must be one, and without any the fields of
    /// Zipkin, `b3` before those that stand for its parts.
    pub(crate) fn of<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let found = Found::of(fields);
        if let Some(parent) = found.parent {
            let caller = parent_of(parent).filter(|_| !found.another_parent);
            return caller.map_or(Self::Nothing(None), Self::Parent);
        }
        if let Some(b3) = found.b3 {
            return single(b3);
        }
        let sampled = match found.sampled {
            _ if found.flags == Some(b"1") => Some(true),
            Some(b"1" | b"true") => Some(true),
            Some(b"0" | b"false") => Some(false),
            _ => None,
        };
        match ids(found.trace.unwrap_or_default(), found.span.unwrap_or_default()) {
            Some((trace, span)) => Self::Zipkin(Caller { trace, span, sampled }),
            None => Self::Nothing(sampled),
        }
    }
}

/// The first value of each field that says something of a trace.
#[derive(Default)]
struct Found<'a> {
    parent: Option<&'a [u8]>,
    another_parent: bool,
    b3: Option<&'a [u8]>,
    trace: Option<&'a [u8]>,
    span: Option<&'a [u8]>,
    sampled: Option<&'a [u8]>,
    flags: Option<&'a [u8]>,
}

impl<'a> Found<'a> {
    /// One look at every field: most requests have none of these.
    fn of(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut found = Self::default();
        for (name, value) in fields {
            let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
            let place = match name.len() {
                2 if is(b"b3") => &mut found.b3,
                10 if is(b"x-b3-flags") => &mut found.flags,
                11 if is(b"x-b3-spanid") => &mut found.span,
                11 if is(b"traceparent") => {
                    found.another_parent = found.parent.is_some();
                    &mut found.parent
                }
                12 if is(b"x-b3-traceid") => &mut found.trace,
                12 if is(b"x-b3-sampled") => &mut found.sampled,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        found
    }
}

impl Onward {
    /// What goes on where nobody records: a trace is neither changed nor left out, and one begins where there is none.
    pub(crate) fn unrecorded(carried: Carried, [high, low, span]: Chance) -> Self {
        let parent = match carried {
            Carried::Parent(_) => return Self { parent: None, keeps_state: true },
            // Whoever comes next decides, and only these fields can say so: nothing is put beside them.
            Carried::Zipkin(Caller { sampled: None, .. }) => {
                return Self { parent: None, keeps_state: false };
            }
            Carried::Zipkin(caller) => traceparent(caller.trace, caller.span, caller.sampled == Some(true)),
            Carried::Nothing(sampled) => traceparent(joined(high, low), span.max(1), sampled == Some(true)),
        };
        Self { parent: Some(parent), keeps_state: false }
    }

    /// What goes on below a span that is recorded.
    pub(crate) fn below(carried: Carried, trace: u128, span: u64) -> Self {
        let keeps_state = matches!(carried, Carried::Parent(_));
        Self { parent: Some(traceparent(trace, span, true)), keeps_state }
    }
}

/// The id of a trace made of two numbers; never 0.
pub(crate) fn joined(high: u64, low: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low.max(1))
}

fn traceparent(trace: u128, span: u64, sampled: bool) -> [u8; TRACEPARENT_BYTES] {
    // Digit by digit: most requests begin a trace, and the formatter costs more than all else that is done for it.
    let mut value = *b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-00";
    let (high, low) = ((trace >> 64) as u64, trace as u64);
    for (begin, number) in [(3, high), (19, low), (36, span)] {
        let mut rest = number;
        for digit in value[begin..begin + 16].iter_mut().rev() {
            *digit = b"0123456789abcdef"[(rest & 0xf) as usize];
            rest >>= 4;
        }
    }
    value[TRACEPARENT_BYTES - 1] = b'0' + u8::from(sampled);
    value
}

/// `00-<trace>-<parent>-<flags>` in lower-case digits, with ids that are not zero. Later versions may hold more.
fn parent_of(value: &[u8]) -> Option<Caller> {
    let (start, rest) = value.split_at_checked(TRACEPARENT_BYTES)?;
    let is_lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    let framed = [2, 35, 52].iter().all(|at| start[*at] == b'-') && start.iter().all(is_lower);
    let whole = match &start[..2] {
        b"ff" => false,
        b"00" => rest.is_empty(),
        _ => rest.first().is_none_or(|byte| *byte == b'-'),
    };
    if !framed || !whole || number(&start[..2]).is_none() {
        return None;
    }
    let flags = number(&start[53..])?;
    let (trace, span) = ids(&start[3..35], &start[36..52])?;
    Some(Caller { trace, span, sampled: Some(flags & 1 == 1) })
}

/// `<trace>-<span>[-<sampled>[-<parent>]]`, or whether it is sampled alone.
fn single(b3: &[u8]) -> Carried {
    let mut parts = b3.split(|byte| *byte == b'-');
    let mut part = || parts.next().unwrap_or_default();
    let sampled = |part: &[u8]| match part {
        b"1" | b"d" => Some(true),
        b"0" => Some(false),
        _ => None,
    };
    let (trace, span) = (part(), part());
    match ids(trace, span) {
        Some((trace, span)) => Carried::Zipkin(Caller { trace, span, sampled: sampled(part()) }),
        None => Carried::Nothing(sampled(b3)),
    }
}

/// A trace of 16 or 32 digits and a span of 16; neither is zero.
fn ids(trace: &[u8], span: &[u8]) -> Option<(u128, u64)> {
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 {
        return None;
    }
    let trace = number(trace).filter(|trace| *trace != 0)?;
    let span = u64::try_from(number(span)?).ok().filter(|span| *span != 0)?;
    Some((trace, span))
}

/// Hexadecimal digits, 32 at most, and nothing else.
fn number(digits: &[u8]) -> Option<u128> {
    let add = |number: u128, digit: &u8| Some(number << 4 | u128::from(char::from(*digit).to_digit(16)?));
    digits.iter().try_fold(0, add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
    const SPAN: u64 = 0xb7ad_6b71_6920_3331;

    fn carried(parents: &[&str], fields: &[(&str, &str)]) -> Carried {
        let parents = parents.iter().map(|value| (&b"TraceParent"[..], value.as_bytes()));
        Carried::of(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).chain(parents))
    }

    fn caller(sampled: Option<bool>) -> Caller {
        Caller { trace: TRACE, span: SPAN, sampled }
    }

    #[test]
    fn a_traceparent_is_read_if_it_is_one() {
        let later = format!("cc{}-what", &GOOD[2..]);
        let zeros = |range: std::ops::Range<usize>| {
            let mut text = GOOD.to_owned();
            text.replace_range(range.clone(), &"0".repeat(range.len()));
            text
        };
        for (value, sampled) in [
            (GOOD, true),
            (&*later, true),
            (&*format!("01{}", &GOOD[2..]), true),
            (&*format!("{}00", &GOOD[..53]), false),
            (&*format!("{}fe", &GOOD[..53]), false),
        ] {
            assert_eq!(carried(&[value], &[]), Carried::Parent(caller(Some(sampled))), "{value}");
        }
        for values in [
            &[""][..],
            &[GOOD, GOOD],
            &[&GOOD[..54]],
            &[&format!("{GOOD}-more")],
            &[&format!("01{}more", &GOOD[2..])],
            &[&format!("ff{}", &GOOD[2..])],
            &[&GOOD.to_uppercase()],
            &[&GOOD.replace('-', "_")],
            &[&GOOD.replace("0a", "-a")],
            &[&zeros(3..35)],
            &[&zeros(36..52)],
        ] {
            // Zipkin's fields beside one that is broken do not mend it.
            let b3 = [("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1")];
            assert_eq!(carried(values, &b3), Carried::Nothing(None), "{values:?}");
        }
    }

    #[test]
    fn zipkins_fields_are_read_in_both_forms_where_there_is_no_traceparent() {
        for (fields, sampled) in [
            (&[("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1")][..], Some(true)),
            (&[("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-d-05e3ac9a4f6e3b90")], Some(true)),
            (&[("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0")], Some(false)),
            (&[("b3", "0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331")], None),
            (
                &[
                    ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
                    ("x-b3-spanid", "b7ad6b7169203331"),
                    ("x-b3-sampled", "1"),
                ],
                Some(true),
            ),
            (
                &[
                    ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
                    ("x-b3-spanid", "b7ad6b7169203331"),
                    ("x-b3-sampled", "false"),
                ],
                Some(false),
            ),
            (
                &[
                    ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
                    ("x-b3-spanid", "b7ad6b7169203331"),
                    ("x-b3-flags", "1"),
                ],
                Some(true),
            ),
        ] {
            assert_eq!(carried(&[], fields), Carried::Zipkin(caller(sampled)), "{fields:?}");
        }
        let short = Caller { trace: 0x8448_eb21_1c80_319c, span: SPAN, sampled: None };
        assert_eq!(carried(&[], &[("b3", "8448eb211c80319c-b7ad6b7169203331")]), Carried::Zipkin(short));
        for (fields, said) in [
            (&[][..], None),
            (&[("b3", "0")], Some(false)),
            (&[("b3", "1")], Some(true)),
            (&[("b3", "d")], Some(true)),
            (&[("b3", "")], None),
            (&[("b3", "0af7-b7ad6b7169203331-1")], None),
            (&[("b3", "0000000000000000-b7ad6b7169203331-1")], None),
            (&[("b3", "8448eb211c80319c-0000000000000000-1")], None),
            (&[("b3", "8448eb211c80319x-b7ad6b7169203331-1")], None),
            (&[("x-b3-traceid", "8448eb211c80319c")], None),
            (&[("x-b3-sampled", "0")], Some(false)),
            (&[("x-b3-sampled", "true")], Some(true)),
            (&[("x-b3-spanid", "b7ad6b7169203331"), ("x-b3-flags", "1")], Some(true)),
        ] {
            assert_eq!(carried(&[], fields), Carried::Nothing(said), "{fields:?}");
        }
    }

    #[test]
    fn what_goes_on_is_what_came_or_reads_the_same() {
        let text = |onward: Onward| onward.parent.map(|value| String::from_utf8(value.to_vec()).unwrap());
        let chance = [7, 8, 9];
        let kept = Onward::unrecorded(Carried::Parent(caller(Some(false))), chance);
        assert_eq!((text(kept), kept.keeps_state), (None, true));
        let zipkin = Onward::unrecorded(Carried::Zipkin(caller(Some(true))), chance);
        assert_eq!((text(zipkin).as_deref(), zipkin.keeps_state), (Some(GOOD), false));
        let undecided = Onward::unrecorded(Carried::Zipkin(caller(None)), chance);
        assert_eq!(text(undecided), None, "who comes next decides");
        let begun = Onward::unrecorded(Carried::Nothing(None), chance);
        let value = "00-00000000000000070000000000000008-0000000000000009-00";
        assert_eq!((text(begun).as_deref(), begun.keeps_state), (Some(value), false));
        for chance in [[0; 3], [7, 8, 9], [u64::MAX; 3]] {
            let begun = text(Onward::unrecorded(Carried::Nothing(Some(true)), chance)).unwrap();
            assert!(matches!(carried(&[&begun], &[]), Carried::Parent(Caller { sampled: Some(true), .. })));
        }
        let below = Onward::below(Carried::Parent(caller(Some(false))), TRACE, 1);
        let value = "00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01";
        assert_eq!((text(below).as_deref(), below.keeps_state), (Some(value), true));
        assert!(!Onward::below(Carried::Nothing(None), TRACE, 1).keeps_state);
    }

    #[test]
    fn no_bytes_make_it_stumble() {
        for seed in 0..2_000_u64 {
            let mut chance = fastrand::Rng::with_seed(seed);
            let alphabet = b"0123456789abcdefABCDEF-d x\xff";
            let len = chance.usize(..70);
            let bytes: Vec<u8> = (0..len).map(|_| alphabet[chance.usize(..alphabet.len())]).collect();
            for names in [&["traceparent"][..], &["b3"], &["x-b3-traceid", "x-b3-spanid", "x-b3-sampled"]] {
                let _ = Carried::of(names.iter().map(|name| (name.as_bytes(), &bytes[..])));
            }
        }
    }

    #[test]
    fn ids_are_written_as_the_formatter_would() {
        for (trace, span, sampled) in [(0, 1, false), (TRACE, SPAN, true), (u128::MAX, u64::MAX, true)] {
            let written = format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(sampled));
            assert_eq!(traceparent(trace, span, sampled), written.as_bytes());
        }
    }
}
