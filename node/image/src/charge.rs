//! What somebody may have pulled onto this host: bytes of images, of which what they share counts once.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::ImageError;

/// For whom an image is pulled.
#[derive(Debug, Clone)]
pub struct Puller {
    /// A tenant's; empty: nobody's.
    pub id: String,
    /// Of all images together that it has pulled and that are still here, on the disk.
    pub max_bytes: u64,
}

/// Bytes of pulls that are under way, by who pulls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Charges(Arc<Mutex<HashMap<String, u64>>>);

/// What one pull will add, until it is dropped: when the image is known, or has not come.
#[derive(Debug)]
pub(crate) struct Charge {
    all: Charges,
    puller: Puller,
    bytes: u64,
}

impl Charges {
    pub fn begin(&self, puller: &Puller) -> Charge {
        Charge { all: self.clone(), puller: puller.clone(), bytes: 0 }
    }
}

impl Charge {
    /// Has it be so many bytes, beside `has` of images that are known.
    ///
    /// # Errors
    /// [`ImageError::Quota`] when that is more than they may have; it stays what it was then.
    pub fn set(&mut self, bytes: u64, has: u64) -> Result<(), ImageError> {
        let mut all = self.all.0.lock();
        let under_way = all.entry(self.puller.id.clone()).or_default();
        let others = *under_way - self.bytes;
        let used = has.saturating_add(others);
        let limit = self.puller.max_bytes;
        if used.checked_add(bytes).is_none_or(|sum| sum > limit) {
            return Err(ImageError::Quota { requested: bytes, used, limit });
        }
        *under_way = others + bytes;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(under_way) = all.get_mut(&self.puller.id) {
            *under_way -= self.bytes;
            if *under_way == 0 {
                all.remove(&self.puller.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_at_one_time_count_together() {
        let charges = Charges::default();
        let acme = Puller { id: "acme".into(), max_bytes: 100 };
        let (mut first, mut second) = (charges.begin(&acme), charges.begin(&acme));
        first.set(40, 30).unwrap();
        let refused = second.set(31, 30).unwrap_err();
        assert!(matches!(refused, ImageError::Quota { requested: 31, used: 70, limit: 100 }), "{refused}");
        second.set(30, 30).unwrap();
        assert!(first.set(41, 30).is_err() && first.set(u64::MAX, 30).is_err());
        charges.begin(&Puller { id: "globex".into(), max_bytes: 100 }).set(100, 0).unwrap();
        drop(first);
        second.set(70, 30).unwrap();
        drop(second);
        assert!(charges.0.lock().is_empty());
    }
}
