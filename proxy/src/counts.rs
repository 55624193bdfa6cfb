//! What rules make this proxy count: how many requests met a fault that only some may meet, and how many a route has let
//! pass of late. What is counted is the rules' to say, and what follows from it the law's.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use control_api::{Limits, RateLimit, RuleId};
use routing::{Circumstances, LimitedFault, Limiter};

/// How many faults and how many routes are counted. Beyond it those that nobody meets right now begin anew.
const COUNTED_MAX: usize = 10_000;

/// All counts of one proxy.
pub(crate) struct Counts {
    origin: Instant,
    faults: RwLock<HashMap<(RuleId, usize), Arc<FaultCount>>>,
    routes: RwLock<HashMap<RuleId, Arc<RouteCount>>>,
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts").finish_non_exhaustive()
    }
}

/// The requests that met one fault.
#[derive(Debug)]
struct FaultCount {
    /// What they were counted for: other limits under the same name begin anew.
    limits: Limits,
    met: AtomicU64,
    now: AtomicU32,
}

/// The requests that one route let pass.
struct RouteCount {
    limit: RateLimit,
    limiter: Mutex<Limiter>,
}

/// A request that meets a fault, until dropped.
#[derive(Debug)]
pub(crate) struct Met(Arc<FaultCount>);

impl Drop for Met {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is so while one request is decided; keeps the faults that it meets.
pub(crate) struct Moment<'a> {
    pub(crate) counts: &'a Counts,
    pub(crate) unix_s: u64,
    pub(crate) client: Option<IpAddr>,
    /// Written while the table decides.
    pub(crate) met: Mutex<Vec<Met>>,
}

impl Circumstances for Moment<'_> {
    fn now_unix_s(&self) -> u64 {
        self.unix_s
    }

    fn client(&self) -> Option<IpAddr> {
        self.client
    }

    fn admits(&self, fault: &LimitedFault<'_>) -> bool {
        let met = self.counts.meets(fault);
        let admitted = met.is_some();
        self.met.lock().unwrap_or_else(PoisonError::into_inner).extend(met);
        admitted
    }
}

/// The same for whoever only asks: nothing is counted.
pub(crate) struct Asked<'a> {
    pub(crate) counts: &'a Counts,
    pub(crate) unix_s: u64,
}

impl Circumstances for Asked<'_> {
    fn now_unix_s(&self) -> u64 {
        self.unix_s
    }

    fn client(&self) -> Option<IpAddr> {
        None
    }

    fn admits(&self, fault: &LimitedFault<'_>) -> bool {
        self.counts.has_room(fault)
    }
}

impl Counts {
    pub(crate) fn new(origin: Instant) -> Self {
        Self { origin, faults: RwLock::default(), routes: RwLock::default() }
    }

    /// Admits one request to a route, or says how long to wait.
    pub(crate) fn admit(
        &self,
        rule: &RuleId,
        limit: &RateLimit,
        key: Option<u64>,
        now: Instant,
    ) -> Result<(), Duration> {
        let known = self.routes.read().unwrap_or_else(PoisonError::into_inner).get(rule).cloned();
        let route = known.filter(|route| route.limit == *limit).unwrap_or_else(|| {
            let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            if routes.len() >= COUNTED_MAX {
                routes.retain(|_, route| Arc::strong_count(route) > 1);
            }
            // Somebody else may have come first.
            let route = routes.get(rule).filter(|route| route.limit == *limit).cloned();
            route.unwrap_or_else(|| {
                let limiter = Mutex::new(Limiter::new(limit));
                let route = Arc::new(RouteCount { limit: limit.clone(), limiter });
                routes.insert(rule.clone(), Arc::clone(&route));
                route
            })
        });
        let mut limiter = route.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.admit(key, now.saturating_duration_since(self.origin))
    }

    /// Whether one more request would meet a fault right now.
    fn has_room(&self, fault: &LimitedFault<'_>) -> bool {
        let faults = self.faults.read().unwrap_or_else(PoisonError::into_inner);
        let count = faults.get(&(fault.rule.clone(), fault.place));
        count.filter(|count| count.limits == *fault.limits).is_none_or(|count| {
            let (met, now) = (count.met.load(Ordering::Relaxed), count.now.load(Ordering::Relaxed));
            fault.limits.first.is_none_or(|first| met < first.get())
                && fault.limits.max_concurrent.is_none_or(|max| now < max.get())
        })
    }

    fn meets(&self, fault: &LimitedFault<'_>) -> Option<Met> {
        let key = (fault.rule.clone(), fault.place);
        let known = self.faults.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let count = known.filter(|count| count.limits == *fault.limits).unwrap_or_else(|| {
            let mut faults = self.faults.write().unwrap_or_else(PoisonError::into_inner);
            if faults.len() >= COUNTED_MAX {
                faults.retain(|_, count| count.now.load(Ordering::Relaxed) > 0);
            }
            let count = faults.get(&key).filter(|count| count.limits == *fault.limits).cloned();
            count.unwrap_or_else(|| {
                let (met, now) = (AtomicU64::new(0), AtomicU32::new(0));
                let count = Arc::new(FaultCount { limits: fault.limits.clone(), met, now });
                faults.insert(key, Arc::clone(&count));
                count
            })
        });
        let before = count.now.fetch_add(1, Ordering::Relaxed);
        // Made first: dropping it takes the count back.
        let met = Met(count);
        let limits = &met.0.limits;
        if limits.max_concurrent.is_some_and(|max| before >= max.get()) {
            return None;
        }
        let first = limits.first.is_none_or(|first| {
            let another = |met: u64| (met < first.get()).then_some(met + 1);
            met.0.met.fetch_update(Ordering::Relaxed, Ordering::Relaxed, another).is_ok()
        });
        first.then_some(met)
    }
}

#[cfg(test)]
mod tests {
    use control_api::{Action, Rule};
    use serde_json::json;

    use super::*;
    use crate::clock;

    fn limits(fields: serde_json::Value) -> Limits {
        let mut action = json!({"action": "abort", "return_code": 500});
        fields.as_object().unwrap().iter().for_each(|(key, value)| action[key] = value.clone());
        let rule: Rule =
            serde_json::from_value(json!({"id": "r", "destination": "d", "actions": [action]})).unwrap();
        rule.actions().iter().find_map(Action::chance).unwrap().limits.clone()
    }

    #[test]
    fn only_the_first_meet_a_fault_and_other_limits_begin_anew() {
        let counts = Counts::new(clock::now());
        let rule = RuleId::new("r").unwrap();
        let count = |limits: &Limits, place| {
            (0..9).filter(|_| counts.meets(&LimitedFault { rule: &rule, place, limits }).is_some()).count()
        };
        let three = limits(json!({"first": 3}));
        assert_eq!([count(&three, 0), count(&three, 0), count(&three, 1)], [3, 0, 3]);
        assert_eq!(count(&limits(json!({"first": 4})), 0), 4);
    }

    #[test]
    fn so_many_at_a_time_and_whoever_is_refused_takes_no_place() {
        let counts = Counts::new(clock::now());
        let (rule, limits) = (RuleId::new("r").unwrap(), limits(json!({"max_concurrent": 2, "first": 3})));
        let meets = || counts.meets(&LimitedFault { rule: &rule, place: 0, limits: &limits });
        let (one, two) = (meets().unwrap(), meets().unwrap());
        assert!(meets().is_none() && meets().is_none());
        drop(one);
        let three = meets().unwrap();
        drop((two, three));
        assert!(meets().is_none(), "three have met it");
    }

    #[test]
    fn whoever_only_asks_is_told_what_the_next_request_would_meet_and_is_not_counted() {
        let counts = Counts::new(clock::now());
        let (rule, limits) = (RuleId::new("r").unwrap(), limits(json!({"max_concurrent": 1, "first": 2})));
        let fault = LimitedFault { rule: &rule, place: 0, limits: &limits };
        let asked = || Asked { counts: &counts, unix_s: 0 }.admits(&fault);
        assert!((0..5).all(|_| asked()));
        let one = counts.meets(&fault).unwrap();
        assert!(!asked(), "one at a time");
        drop(one);
        assert!(asked());
        drop(counts.meets(&fault).unwrap());
        assert!(!asked(), "two have met it");
    }

    #[test]
    fn a_route_lets_its_burst_pass_and_says_when_more_may_come() {
        let now = clock::now();
        let counts = Counts::new(now);
        let rule: Rule = serde_json::from_value(json!({"id": "r", "destination": "d", "route":
            {"backends": [{"tags": ["a"]}], "rate_limit": {"requests_per_s": 0.5, "burst": 2}}}))
        .unwrap();
        let limit = rule.route().unwrap().rate_limit.as_ref().unwrap();
        let admit = |at| counts.admit(&rule.id, limit, None, at);
        assert_eq!([admit(now), admit(now)], [Ok(()); 2]);
        assert_eq!(admit(now), Err(Duration::from_secs(2)));
        assert_eq!(admit(now + Duration::from_secs(2)), Ok(()));
    }

    #[test]
    fn no_more_is_counted_than_the_bound() {
        let counts = Counts::new(clock::now());
        let (rule, limits) = (RuleId::new("r").unwrap(), limits(json!({"first": 1})));
        for place in 0..COUNTED_MAX + 5 {
            drop(counts.meets(&LimitedFault { rule: &rule, place, limits: &limits }));
        }
        assert!(counts.faults.read().unwrap().len() <= COUNTED_MAX);
    }
}
