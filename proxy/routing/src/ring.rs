//! A hash ring over the endpoints of a backend: equal hashes find the same endpoint, and one that comes or goes
//! moves little more than its own part. Whether an endpoint may be used is asked elsewhere.

use crate::seed::{mix, stable_hash};

/// The most points of a ring, unless there are more endpoints.
pub const RING_POINTS_MAX: usize = 4096;
/// The most points of one endpoint.
const POINTS_EACH_MAX: usize = 128;

/// Points sorted by their place on the ring, with the index of their endpoint.
pub(crate) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    /// From the ids of the endpoints, in their order.
    pub(crate) fn new<'i>(ids: impl ExactSizeIterator<Item = &'i str>) -> Self {
        // The points of few are among the points of many, so that only a doubling moves more than it must.
        let each = (RING_POINTS_MAX / ids.len().next_power_of_two()).clamp(1, POINTS_EACH_MAX);
        let points = (0..).zip(ids).flat_map(|(index, id)| {
            let own = stable_hash(id.as_bytes());
            (0..each as u64).map(move |number| (mix(own ^ mix(number)), index))
        });
        let mut points: Box<[_]> = points.collect();
        points.sort_unstable();
        Self(points)
    }

    /// The endpoints from a place on, each as often as it has points: the first is whose part the place is in.
    pub(crate) fn from(&self, place: u64) -> impl Iterator<Item = usize> {
        let start = self.0.partition_point(|(point, _)| *point < place);
        self.0[start..].iter().chain(&self.0[..start]).map(|(_, index)| *index as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEYS: u64 = 4_000;

    /// Who takes each key.
    fn owners<'i>(ids: &[&'i str]) -> Vec<&'i str> {
        let ring = Ring::new(ids.iter().copied());
        (0..KEYS).map(|key| ids[ring.from(mix(key)).next().unwrap()]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn one_that_goes_moves_its_own_keys_and_few_others(count in 2..40_usize, gone in 0..40_usize) {
            let names: Vec<String> = (0..count).map(|number| format!("instance-{number}")).collect();
            let ids: Vec<&str> = names.iter().map(String::as_str).collect();
            let gone = ids[gone % count];
            let left: Vec<&str> = ids.iter().copied().filter(|id| *id != gone).collect();
            let (before, after) = (owners(&ids), owners(&left));
            let others = before.iter().zip(&after).filter(|(old, new)| **old != gone && old != new).count();
            if count.next_power_of_two() == left.len().next_power_of_two() || RING_POINTS_MAX / count.next_power_of_two() >= POINTS_EACH_MAX {
                prop_assert_eq!(others, 0);
            } else {
                // At a power of two the others double their points: about half of the keys may move.
                prop_assert!(others < KEYS as usize * 6 / 10, "{others}");
            }
        }

        #[test]
        fn everybody_gets_about_its_part(count in 1..40_usize) {
            let names: Vec<String> = (0..count).map(|number| format!("instance-{number}")).collect();
            let ids: Vec<&str> = names.iter().map(String::as_str).collect();
            let owners = owners(&ids);
            for id in &ids {
                let share = owners.iter().filter(|owner| *owner == id).count() as f64 * count as f64 / KEYS as f64;
                prop_assert!((0.4..2.0).contains(&share), "{id} of {count} gets {share} of its part");
            }
        }
    }

    #[test]
    fn a_ring_is_bounded_and_an_empty_one_has_nobody() {
        let names: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
        let ring = |count: usize| Ring::new(names[..count].iter().map(String::as_str));
        assert_eq!(ring(0).from(7).count(), 0);
        assert_eq!(ring(1).0.len(), POINTS_EACH_MAX);
        assert!([2, 33, 1_000, 4_096].iter().all(|count| ring(*count).0.len() <= RING_POINTS_MAX));
        assert_eq!(ring(10_000).0.len(), 10_000);
    }
}
