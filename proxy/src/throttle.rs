//! What of an answer may go on at a moment when a rule slows its body down or cuts it off: follows the bytes of HTTP/1.1 as
//! they come from an instance, to tell the body from what is around it. It moves no bytes and knows neither sockets nor
//! clocks.

use std::num::NonZeroU64;
use std::time::Duration;

use routing::{Faults, Pace};

use crate::answer::{self, ANSWER_HEAD_BYTES_MAX, Framing};
use crate::chunks::{Chunks, Stretch};
use crate::head;

/// What a rule does to the body of an answer; at least one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// It comes no faster than this.
    pub(crate) bytes_per_s: Option<NonZeroU64>,
    /// No more than so much of it comes.
    pub(crate) after_bytes: Option<u64>,
}

/// The body of one answer on its way.
#[derive(Debug)]
pub(crate) struct Flow {
    pace: Option<Pace>,
    /// How much may come until it is cut off.
    left: Option<u64>,
}

/// One answer on its way, with its head.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Of the request: an answer to HEAD has no body.
    method: String,
    place: Place,
    flow: Flow,
}

/// What is to come next.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// A head, of which so many bytes were searched for its end.
    Head(usize),
    /// So much of a head that was found, and then the rest.
    Found(usize, Body),
    Body(Body),
}

#[derive(Debug, Clone, Copy)]
enum Body {
    /// Nothing of it: another head comes first.
    None,
    Length(u64),
    Chunked(Chunks),
    /// Everything up to the end of the connection.
    UntilClose,
    /// All of it has come; what follows is none.
    Over,
}

/// What may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// So many of the bytes that are held, at least one.
    Pass(usize),
    /// Nothing before this moment.
    Wait(Duration),
    /// Nothing that is held; more has to come.
    More,
    /// Nothing ever again.
    Cut,
}

impl Limits {
    /// What the faults of a request do to its answer, if they do anything.
    pub(crate) fn of(faults: &Faults) -> Option<Self> {
        let limits = Self { bytes_per_s: faults.bytes_per_s, after_bytes: faults.after_bytes };
        (limits.bytes_per_s.is_some() || limits.after_bytes.is_some()).then_some(limits)
    }
}

impl Flow {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { pace: limits.bytes_per_s.map(Pace::new), left: limits.after_bytes }
    }

    /// The longest time for which a byte is held that is there.
    pub(crate) fn pause_max(&self) -> Duration {
        self.pace.map_or(Duration::ZERO, Pace::pause_max)
    }

    /// How long `len` bytes, which come in one piece, have to wait; `None` when the body is to be cut off before them.
    pub(crate) fn piece(&mut self, len: u64, now: Duration) -> Option<Duration> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(len)?;
        }
        let wait = self.pace.as_mut().filter(|_| len > 0).map(|pace| pace.owe(len, now));
        Some(wait.unwrap_or_default())
    }

    /// Which of `len` bytes, at least one, may come now.
    fn next(&mut self, len: usize, now: Duration) -> Next {
        let wanted = self.left.map_or(len as u64, |left| left.min(len as u64));
        if wanted == 0 {
            return Next::Cut;
        }
        match self.pace.as_mut().map_or(Ok(wanted), |pace| pace.admit(wanted, now)) {
            Ok(bytes) => {
                if let Some(left) = &mut self.left {
                    *left -= bytes;
                }
                Next::Pass(usize::try_from(bytes).unwrap_or(usize::MAX))
            }
            Err(later) => Next::Wait(later),
        }
    }
}

impl Throttle {
    /// Before the answer to a request with this method.
    pub(crate) fn new(method: String, limits: Limits) -> Self {
        Self { method, place: Place::Head(0), flow: Flow::new(limits) }
    }

    /// What of `held`, the bytes that came and did not go on, goes on now: at most `room` bytes, at least one, and those
    /// count as gone on. `now` is since the same moment every time.
    ///
    /// A body is cut off where it would go on: one that ends there is whole.
    pub(crate) fn next(&mut self, held: &[u8], room: usize, now: Duration) -> Next {
        loop {
            match self.place {
                Place::Head(seen) => match head::end_of_head(held, seen) {
                    Some(len) => self.place = Place::Found(len, self.body_behind(&held[..len])),
                    None if held.len() > ANSWER_HEAD_BYTES_MAX => self.give_up(),
                    None => {
                        self.place = Place::Head(held.len());
                        return Next::More;
                    }
                },
                Place::Found(0, Body::None) => self.place = Place::Head(0),
                Place::Found(0, body) => self.place = Place::Body(body),
                Place::Found(left, body) => {
                    let len = left.min(room);
                    self.place = Place::Found(left - len, body);
                    return Next::Pass(len);
                }
                Place::Body(Body::Length(0)) => self.place = Place::Body(Body::Over),
                Place::Body(body) if held.is_empty() => return self.awaited(body),
                Place::Body(body) => {
                    if let Some(next) = self.next_of(body, &held[..held.len().min(room)], now) {
                        return next;
                    }
                }
            }
        }
    }

    /// The end came before the end of a head, or the head is none: what there is goes on as if it were a body.
    pub(crate) fn give_up(&mut self) {
        self.place = Place::Body(Body::UntilClose);
    }

    /// Whether a head is awaited.
    pub(crate) fn is_in_head(&self) -> bool {
        matches!(self.place, Place::Head(_))
    }

    /// The body that follows a head; whether the head is a good one is for those to say who read it after.
    fn body_behind(&self, head: &[u8]) -> Body {
        match answer::read(head, &self.method) {
            Ok(answer) if answer.is_interim() => Body::None,
            Ok(answer) => match answer.framing {
                Framing::None => Body::Over,
                Framing::Length(length) => Body::Length(length),
                Framing::Chunked => Body::Chunked(Chunks::new()),
                Framing::UntilClose => Body::UntilClose,
            },
            Err(_) => Body::UntilClose,
        }
    }

    /// Nothing is held: whether it is known that more would come, and that it may not.
    fn awaited(&self, body: Body) -> Next {
        let more = match body {
            Body::Length(left) => left > 0,
            Body::Chunked(chunks) => chunks.left_of_chunk() > 0,
            Body::None | Body::UntilClose | Body::Over => false,
        };
        if more && self.flow.left == Some(0) { Next::Cut } else { Next::More }
    }

    /// What of `bytes`, of which there is one at least, may come now; `None` when they have to be looked at in another way.
    fn next_of(&mut self, body: Body, bytes: &[u8], now: Duration) -> Option<Next> {
        match body {
            Body::None | Body::Over => Some(Next::Pass(bytes.len())),
            Body::UntilClose => Some(self.flow.next(bytes.len(), now)),
            Body::Length(left) => {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let next = self.flow.next(len, now);
                if let Next::Pass(len) = next {
                    self.place = Place::Body(Body::Length(left - len as u64));
                }
                Some(next)
            }
            Body::Chunked(mut chunks) if chunks.left_of_chunk() > 0 => {
                let next = self.flow.next(chunks.left_of_chunk().min(bytes.len()), now);
                if let Next::Pass(len) = next {
                    let followed = chunks.next(&bytes[..len]);
                    debug_assert_eq!(followed, Ok(Stretch::Kept(len)), "data of a chunk is kept");
                    self.place = Place::Body(Body::Chunked(chunks));
                }
                Some(next)
            }
            Body::Chunked(mut chunks) => {
                // What is around the chunks comes free.
                let mut free = 0;
                while free < bytes.len() && chunks.left_of_chunk() == 0 && !chunks.is_done() {
                    if chunks.next(&bytes[free..=free]).is_err() {
                        self.give_up();
                        return (free > 0).then_some(Next::Pass(free));
                    }
                    free += 1;
                }
                self.place = Place::Body(if chunks.is_done() { Body::Over } else { Body::Chunked(chunks) });
                (free > 0).then_some(Next::Pass(free))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(bytes_per_s: u64, after_bytes: Option<u64>) -> Limits {
        Limits { bytes_per_s: NonZeroU64::new(bytes_per_s), after_bytes }
    }

    /// Passes `bytes` on, of which `step` come at a time into as much room; what went on, when its last byte did, and
    /// whether it was cut off.
    fn pass(method: &str, limits: Limits, bytes: &[u8], step: usize) -> (String, Duration, bool) {
        let mut throttle = Throttle::new(method.to_owned(), limits);
        let (mut held, mut gone, mut now) = (Vec::new(), Vec::new(), Duration::ZERO);
        let mut coming = bytes.chunks(step);
        loop {
            match throttle.next(&held, step, now) {
                Next::Pass(len) => {
                    assert!((1..=step).contains(&len) && len <= held.len(), "{len}");
                    gone.extend(held.drain(..len));
                }
                Next::Wait(later) => {
                    assert!(later > now && later - now <= throttle.flow.pause_max());
                    now = later;
                }
                Next::Cut => return (String::from_utf8(gone).unwrap(), now, true),
                Next::More => match coming.next() {
                    Some(more) => held.extend_from_slice(more),
                    None if throttle.is_in_head() && !held.is_empty() => throttle.give_up(),
                    None => return (String::from_utf8(gone).unwrap(), now, false),
                },
            }
        }
    }

    const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";
    const CHUNKED: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n6\r\n456789\r\n0\r\nT: x\r\n\r\n";
    const CLOSED: &str = "HTTP/1.1 200 OK\r\n\r\n0123456789";
    const ANNOUNCED: &str = "HTTP/1.1 103 X\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";

    #[test]
    fn a_body_ends_after_so_many_bytes_however_it_is_framed_and_a_whole_one_does_not() {
        for step in [1, 3, 7, 1000] {
            for (answer, end) in
                [(LENGTH, "01234"), (CHUNKED, "0123\r\n6\r\n4"), (CLOSED, "01234"), (ANNOUNCED, "01234")]
            {
                let cut = &answer[..answer.find(end).unwrap() + end.len()];
                let (gone, _, was_cut) = pass("GET", limits(0, Some(5)), answer.as_bytes(), step);
                assert_eq!((&*gone, was_cut), (cut, true), "{step}");
                for enough in [10, 11] {
                    let (gone, _, was_cut) = pass("GET", limits(0, Some(enough)), answer.as_bytes(), step);
                    assert_eq!((&*gone, was_cut), (answer, false), "{step}");
                }
                let head = answer.split_inclusive("\r\n\r\n").collect::<Vec<_>>();
                let (gone, _, was_cut) = pass("GET", limits(0, Some(0)), answer.as_bytes(), step);
                let bodiless = head.iter().take_while(|part| part.starts_with("HTTP")).copied();
                assert!(gone.starts_with(&bodiless.collect::<String>()) && !gone.contains("01"), "{gone}");
                assert!(was_cut);
            }
        }
    }

    #[test]
    fn only_the_body_takes_its_time() {
        for step in [1, 3, 1000] {
            for answer in [LENGTH, CHUNKED, CLOSED, ANNOUNCED] {
                // Two bytes are the burst.
                let (gone, took, _) = pass("GET", limits(2, None), answer.as_bytes(), step);
                assert_eq!(gone, answer);
                assert_eq!(took, Duration::from_secs(4), "{step} {answer}");
            }
        }
    }

    #[test]
    fn an_answer_without_a_body_is_left_alone() {
        for (method, answer) in
            [("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"), ("GET", "HTTP/1.1 204 X\r\n\r\n")]
        {
            let (gone, took, was_cut) = pass(method, limits(1, Some(0)), answer.as_bytes(), 5);
            assert_eq!((&*gone, took, was_cut), (answer, Duration::ZERO, false));
        }
    }

    #[test]
    fn what_cannot_be_followed_is_slowed_down_and_cut_off_as_a_whole() {
        let endless = "x".repeat(ANSWER_HEAD_BYTES_MAX + 2);
        for odd in
            ["HTTP/1.1 200", "\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n0123456789", &endless]
        {
            let (gone, _, was_cut) = pass("GET", limits(0, Some(7)), odd.as_bytes(), 1000);
            assert!(odd.starts_with(&gone) && gone.len() < odd.len() || !was_cut, "{gone:?}");
        }
        let bad = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n01\r\nz\r\n0123456789";
        let (gone, _, was_cut) = pass("GET", limits(0, Some(5)), bad.as_bytes(), 1000);
        assert_eq!((&gone[bad.find("01").unwrap()..], was_cut), ("01\r\nz\r\n", true));
    }

    #[test]
    fn pieces_that_cannot_be_parted_wait_and_the_one_that_is_too_much_does_not_come() {
        let mut flow = Flow::new(limits(1000, Some(1500)));
        assert_eq!(flow.piece(50, Duration::ZERO), Some(Duration::ZERO));
        assert_eq!(flow.piece(1000, Duration::ZERO), Some(Duration::from_secs(1)));
        assert_eq!(flow.piece(451, Duration::from_secs(1)), None);
        assert_eq!(flow.piece(450, Duration::from_secs(1)), Some(Duration::from_millis(450)));
        assert_eq!(flow.piece(0, Duration::from_secs(1)), Some(Duration::ZERO));
    }
}
