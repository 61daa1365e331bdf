//! The arithmetic of a rollout: pure functions over the sizes of ReplicaSets (upstream's `deploymentutil`).

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// The sum of counts, whatever a tenant has made of them.
pub fn total(counts: impl Iterator<Item = i32>) -> i32 {
    counts.fold(0, i32::saturating_add)
}

/// A number, or a percentage of `total`; what is neither counts as 0.
fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        Some(IntOrString::Int(number)) => (*number).max(0),
        Some(IntOrString::String(text)) => {
            let percent = text.trim_end_matches('%').parse::<u32>().unwrap_or(0);
            let product = i64::from(percent) * i64::from(total);
            i32::try_from(if up { (product + 99) / 100 } else { product / 100 }).unwrap_or(i32::MAX)
        }
        None => 0,
    }
}

/// How far a rollout may go above and below the wanted number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub replicas: i32,
    pub surge: i32,
    pub unavailable: i32,
    pub rolling: bool,
}

impl Bounds {
    pub fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self { replicas, surge: 0, unavailable: 0, rolling: false };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".into());
        let surge = scaled(rolling.map_or(Some(&quarter), |rolling| rolling.max_surge.as_ref()), replicas, true);
        let unavailable =
            scaled(rolling.map_or(Some(&quarter), |rolling| rolling.max_unavailable.as_ref()), replicas, false);
        // With neither, a rollout could not move.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Self { replicas, surge, unavailable: unavailable.min(replicas), rolling: true }
    }

    /// The largest number of pods at any moment.
    pub fn most(self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    /// The least number of available pods.
    pub fn least(self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// What counts of a ReplicaSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub wanted: i32,
    pub available: i32,
}

impl Size {
    pub fn of(set: &ReplicaSet) -> Self {
        Self {
            wanted: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).max(0),
            available: set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0).max(0),
        }
    }
}

/// What the new set is to be, when the old ones have `old` pods in sum and it has `new`.
pub fn grow(bounds: Bounds, old: i32, new: i32) -> i32 {
    if !bounds.rolling || new > bounds.replicas {
        return bounds.replicas;
    }
    let room = bounds.most() - old.saturating_add(new);
    if room <= 0 { new } else { new + room.min(bounds.replicas - new) }
}

/// What the old sets (oldest first) are to be: first without pods that are not available, then as few as the available
/// pods of all allow.
pub fn shrink(bounds: Bounds, new: Size, old: &[Size]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|size| size.wanted).collect();
    let total = total(sizes.iter().copied().chain([new.wanted]));
    let mut allowed = (total - bounds.least()).saturating_sub(new.wanted - new.available);
    if allowed <= 0 {
        return sizes;
    }
    for (size, old) in sizes.iter_mut().zip(old) {
        let cut = (*size - old.available).max(0).min(allowed);
        *size -= cut;
        allowed -= cut;
    }
    let available = self::total(old.iter().map(|size| size.available).chain([new.available]));
    let mut spare = (available - bounds.least()).max(0);
    for size in &mut sizes {
        let cut = (*size).min(spare);
        *size -= cut;
        spare -= cut;
    }
    sizes
}

/// A set in a deployment that is scaled in the midst of a rollout.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub wanted: i32,
    /// The largest number of pods at the time when the set was last scaled.
    pub most: i32,
}

/// Spreads a changed size over the sets in proportion (largest first): upstream's proportional scaling.
pub fn spread(bounds: Bounds, sets: &[Share]) -> Vec<i32> {
    let total = total(sets.iter().map(|set| set.wanted));
    let allowed = if bounds.replicas > 0 { bounds.most() } else { 0 };
    let change = allowed - total;
    let mut added = 0;
    let mut sizes: Vec<i32> = sets
        .iter()
        .map(|set| {
            if set.wanted == 0 || change == 0 {
                return set.wanted;
            }
            let fraction = if bounds.replicas == 0 {
                -set.wanted
            } else {
                let size = f64::from(set.wanted) * f64::from(bounds.most()) / f64::from(set.most.max(1));
                (size.round() as i32).saturating_sub(set.wanted)
            };
            let part = if change > 0 {
                fraction.min(change.saturating_sub(added))
            } else {
                fraction.max(change.saturating_sub(added))
            };
            added = added.saturating_add(part);
            set.wanted.saturating_add(part)
        })
        .collect();
    if let Some(first) = sizes.first_mut() {
        *first = first.saturating_add(change.saturating_sub(added)).max(0);
    }
    sizes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bounds(replicas: i32, surge: serde_json::Value, unavailable: serde_json::Value) -> Bounds {
        let deployment = json!({"metadata": {}, "spec": {"replicas": replicas, "selector": {}, "template": {},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}});
        Bounds::of(&serde_json::from_value(deployment).unwrap())
    }

    fn size(wanted: i32, available: i32) -> Size {
        Size { wanted, available }
    }

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        let b = bounds(10, json!("25%"), json!("25%"));
        assert_eq!((b.surge, b.unavailable, b.most(), b.least()), (3, 2, 13, 8));
        let b = bounds(1, json!("25%"), json!("25%"));
        assert_eq!((b.surge, b.unavailable), (1, 0));
        let b = bounds(3, json!(0), json!("1%"));
        assert_eq!((b.surge, b.unavailable), (0, 1), "a rollout must be able to move");
    }

    #[test]
    fn the_new_grows_into_the_room_there_is() {
        let b = bounds(10, json!(3), json!(2));
        assert_eq!(grow(b, 10, 0), 3);
        assert_eq!(grow(b, 8, 3), 5);
        assert_eq!(grow(b, 13, 0), 0);
        assert_eq!(grow(b, 0, 12), 10);
        assert_eq!(grow(b, 1, 9), 10);
    }

    #[test]
    fn the_old_shrink_as_the_new_become_available() {
        let b = bounds(10, json!(3), json!(2));
        assert_eq!(shrink(b, size(3, 0), &[size(10, 10)]), [8]);
        assert_eq!(shrink(b, size(5, 0), &[size(8, 8)]), [8]);
        assert_eq!(shrink(b, size(5, 5), &[size(8, 8)]), [3]);
        // What does not work goes first, of the oldest before the others.
        assert_eq!(shrink(b, size(3, 0), &[size(3, 0), size(7, 7)]), [1, 7]);
        assert_eq!(shrink(b, size(10, 10), &[size(2, 0)]), [0]);
    }

    #[test]
    fn a_whole_rollout_keeps_within_bounds_and_ends() {
        for (replicas, surge, unavailable) in [(1, 1, 0), (4, 0, 1), (10, 3, 2), (7, 7, 0), (3, 0, 3)] {
            let b = bounds(replicas, json!(surge), json!(unavailable));
            let (mut new, mut old) = (size(0, 0), size(replicas, replicas));
            let mut steps = 0;
            while (new.wanted, old.wanted) != (replicas, 0) {
                new.wanted = grow(b, old.wanted, new.wanted);
                assert!(new.wanted + old.wanted <= b.most());
                old.wanted = shrink(b, new, &[old])[0];
                old.available = old.available.min(old.wanted);
                assert!(new.available + old.available >= b.least());
                new.available = (new.available + 1).min(new.wanted);
                steps += 1;
                assert!(steps < 100, "{b:?} does not end");
            }
        }
    }

    #[test]
    fn scaling_in_the_midst_of_a_rollout_keeps_the_proportions() {
        let b = bounds(20, json!(3), json!(2));
        let sets = [Share { wanted: 8, most: 13 }, Share { wanted: 5, most: 13 }];
        let sizes = spread(b, &sets);
        assert_eq!(sizes.iter().sum::<i32>(), b.most());
        assert_eq!(sizes, [14, 9]);
        assert_eq!(spread(bounds(0, json!(3), json!(2)), &sets), [0, 0]);
    }
}
