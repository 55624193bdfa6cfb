//! Which of a backend's endpoints takes an attempt. It keeps no count: turns enter as a ticket, chance as a
//! draw, the state of the endpoints through [`Load`].

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use control_api::{Draw, LbType};

use crate::backend::{Attach, Backend, Endpoint};
use crate::outlier::panics;
use crate::ring::Ring;
use crate::seed::mix;

/// What is known of endpoints right now.
pub trait Load<E> {
    /// Requests in flight.
    fn active(&self, endpoint: &E) -> u32;
    /// Whether it takes requests: not ejected, resolved.
    fn usable(&self, endpoint: &E) -> bool;
    /// Whether it can be dialled, ejected or not.
    fn known(&self, _endpoint: &E) -> bool {
        true
    }
    /// How long its answers take lately; zero when that is not known.
    fn latency(&self, _endpoint: &E) -> Duration {
        Duration::ZERO
    }
    /// How long ago it came up; `None` when it was always there. Asked only where a backend has a slow start.
    fn age(&self, _endpoint: &E) -> Option<Duration> {
        None
    }
}

/// Chooses an endpoint, as an index into `backend.endpoints`; `None` only when there are none.
///
/// Never one of `tried` while another remains, a usable one first; an unusable one rather than nothing. When fewer are
/// usable than the backend's panic threshold asks for, all count as usable that can be dialled.
/// `ticket` counts the backend's attempts and decides in `round_robin`; `draw` decides otherwise, and should be
/// [`Decision::pick_draw`](crate::Decision::pick_draw)'s.
pub fn pick<A: Attach>(
    backend: &Backend<A>,
    load: &impl Load<A::Endpoint>,
    tried: &[usize],
    ticket: u64,
    draw: Draw,
) -> Option<usize> {
    let panic_percent = backend.resilience.panic_threshold_percent.unwrap_or(0);
    let field = Field { endpoints: &backend.endpoints, load, tried, panic_percent, panics: OnceCell::new() };
    RANKS.into_iter().find_map(|rank| {
        let picked = match backend.lb {
            LbType::RoundRobin => field.in_turn(rank, ticket),
            LbType::Random => field.any(rank, draw),
            LbType::LeastRequest => field.less_busy(rank, draw, |index| field.active(index)),
            LbType::P2cEwma => field.less_busy(rank, draw, |index| field.expected(index)),
            LbType::RingHash => field.on_ring(rank, backend.ring.as_ref()?, draw),
        };
        let window = backend.slow_start;
        picked.map(|picked| window.map_or(picked, |window| field.spared(rank, picked, window, draw)))
    })
}

/// Chooses one endpoint after the other, for whoever asks no rule; otherwise as [`pick`] does in `round_robin`. `ticket`
/// counts whatever takes turns.
pub fn pick_in_turn<A: Attach>(
    endpoints: &[Arc<Endpoint<A>>],
    load: &impl Load<A::Endpoint>,
    tried: &[usize],
    ticket: u64,
) -> Option<usize> {
    let field = Field { endpoints, load, tried, panic_percent: 0, panics: OnceCell::new() };
    RANKS.into_iter().find_map(|rank| field.in_turn(rank, ticket))
}

/// The least part of its share that an endpoint gets during its slow start.
const SLOW_START_MIN: f64 = 0.1;

/// Who may be chosen, from the best to the last resort.
#[derive(Clone, Copy)]
enum Rank {
    Good,
    Untried,
    Usable,
    Any,
}

const RANKS: [Rank; 4] = [Rank::Good, Rank::Untried, Rank::Usable, Rank::Any];

struct Field<'a, A: Attach, L> {
    endpoints: &'a [Arc<Endpoint<A>>],
    load: &'a L,
    tried: &'a [usize],
    panic_percent: u32,
    /// Looked at only when somebody unusable is met.
    panics: OnceCell<bool>,
}

impl<A: Attach, L: Load<A::Endpoint>> Field<'_, A, L> {
    fn is(&self, rank: Rank, index: usize) -> bool {
        let live = &self.endpoints[index].live;
        let usable = || self.load.usable(live) || (self.panics() && self.load.known(live));
        let untried = || !self.tried.contains(&index);
        match rank {
            Rank::Good => untried() && usable(),
            Rank::Untried => untried(),
            Rank::Usable => usable(),
            Rank::Any => true,
        }
    }

    fn panics(&self) -> bool {
        self.panic_percent > 0
            && *self.panics.get_or_init(|| {
                let usable = self.endpoints.iter().filter(|endpoint| self.load.usable(&endpoint.live));
                panics(usable.count(), self.endpoints.len(), self.panic_percent)
            })
    }

    /// The first guess is nearly always right, and then nobody else is looked at. Otherwise the turn of
    /// those left out is spread evenly over the rest: their neighbour must not carry it alone.
    fn in_turn(&self, rank: Rank, ticket: u64) -> Option<usize> {
        let all = u64::try_from(self.endpoints.len()).ok().filter(|all| *all > 0)?;
        let guess = (ticket % all) as usize;
        if self.is(rank, guess) {
            return Some(guess);
        }
        let count = self.count(rank) as u64;
        (count > 0).then(|| self.nth(rank, ((ticket / all) % count) as usize))?
    }

    fn any(&self, rank: Rank, draw: Draw) -> Option<usize> {
        if self.endpoints.is_empty() {
            return None;
        }
        let guess = draw.index(self.endpoints.len());
        if self.is(rank, guess) {
            return Some(guess);
        }
        // Another draw: this one is known to lie in the share of somebody left out.
        let count = self.count(rank);
        (count > 0).then(|| self.nth(rank, again(draw).index(count)))?
    }

    /// The first from the place of the draw on.
    fn on_ring(&self, rank: Rank, ring: &Ring, draw: Draw) -> Option<usize> {
        // The 53 bits of a draw at the top of 64.
        let place = (draw.get() * (1_u64 << 53) as f64) as u64;
        ring.from(place << 11).find(|index| self.is(rank, *index))
    }

    /// Somebody else, the likelier the younger the one picked is. Exact: of the draws that pick an endpoint at random,
    /// evenly spaced ones leave it exactly its part.
    fn spared(&self, rank: Rank, picked: usize, window: Duration, draw: Draw) -> usize {
        let Some(age) = self.load.age(&self.endpoints[picked].live).filter(|age| *age < window) else {
            return picked;
        };
        let part = (age.as_secs_f64() / window.as_secs_f64()).max(SLOW_START_MIN);
        // Where the draw lies within the place that it chose: independent of which place that is.
        let luck = (draw.get() * self.endpoints.len() as f64).fract();
        if luck < part { picked } else { self.another(rank, picked, again(again(draw))).unwrap_or(picked) }
    }

    /// Anyone but one of them, evenly.
    fn another(&self, rank: Rank, but: usize, draw: Draw) -> Option<usize> {
        let guess = draw.index(self.endpoints.len());
        if guess != but && self.is(rank, guess) {
            return Some(guess);
        }
        let others = || (0..self.endpoints.len()).filter(|index| *index != but && self.is(rank, *index));
        match others().count() {
            0 => None,
            count => others().nth(again(draw).index(count)),
        }
    }

    fn active(&self, index: usize) -> u128 {
        self.load.active(&self.endpoints[index].live).into()
    }

    /// How long a request would take there: that of one, as often as it would stand in line.
    fn expected(&self, index: usize) -> u128 {
        (self.load.latency(&self.endpoints[index].live).as_micros() + 1) * (self.active(index) + 1)
    }

    fn less_busy(&self, rank: Rank, draw: Draw, cost: impl Fn(usize) -> u128) -> Option<usize> {
        let better = |first, second| if cost(second) < cost(first) { second } else { first };
        let all = self.endpoints.len();
        let (first, second) = match all {
            0 => return None,
            1 => (0, 0),
            _ => two_of(all, draw),
        };
        if self.is(rank, first) && self.is(rank, second) {
            return Some(better(first, second));
        }
        let (first, second) = match self.count(rank) {
            0 => return None,
            1 => (0, 0),
            count => two_of(count, again(draw)),
        };
        Some(better(self.nth(rank, first)?, self.nth(rank, second)?))
    }

    fn count(&self, rank: Rank) -> usize {
        (0..self.endpoints.len()).filter(|index| self.is(rank, *index)).count()
    }

    /// `None` only if the load changed its mind since it was counted; the next rank then decides.
    fn nth(&self, rank: Rank, nth: usize) -> Option<usize> {
        (0..self.endpoints.len()).filter(|index| self.is(rank, *index)).nth(nth)
    }
}

/// Two different indices below `count`, which is at least 2; every pair equally likely.
fn two_of(count: usize, draw: Draw) -> (usize, usize) {
    let first = draw.index(count);
    let step = 1 + again(draw).index(count - 1);
    (first, (first + step) % count)
}

/// A draw that follows from another and is independent of where that one lies.
fn again(draw: Draw) -> Draw {
    Draw::from_bits(mix(draw.get().to_bits()))
}
