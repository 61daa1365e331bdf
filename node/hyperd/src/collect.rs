//! Room for images: when the disk that they are on is nearly full, those go that no container has, as the kubelet does it.

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use nix::sys::statvfs::statvfs;

use crate::runtime::Runtime;

/// When unused images are removed. The defaults are the kubelet's.
#[derive(Debug, Clone)]
pub struct ImageCollection {
    /// Above so much of the disk in use, images are removed. 100: never.
    pub high_percent: u8,
    /// Until no more than so much is in use.
    pub low_percent: u8,
    /// Images used more recently stay.
    pub min_age: Duration,
    pub interval: Duration,
}

impl Default for ImageCollection {
    fn default() -> Self {
        Self {
            high_percent: 85,
            low_percent: 80,
            min_age: Duration::from_secs(120),
            interval: Duration::from_secs(300),
        }
    }
}

/// Looks again and again, until dropped.
pub(crate) async fn run(runtime: Arc<Runtime>) {
    let settings = runtime.config.image_collection.clone();
    loop {
        tokio::time::sleep(settings.interval).await;
        let bytes = match excess(&runtime.config.root, &settings) {
            Ok(0) => continue,
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%error, "the disk's use cannot be read");
                continue;
            }
        };
        let containers = runtime.containers();
        let in_use: HashSet<_> = containers.iter().filter_map(|c| c.record().image_id.parse().ok()).collect();
        match runtime.config.images.collect(bytes, &in_use, settings.min_age).await {
            Ok(collected) if collected.bytes < bytes => {
                tracing::warn!(
                    wanted = bytes,
                    freed = collected.bytes,
                    "the disk is nearly full, and no more images are unused"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "unused images were not removed"),
        }
    }
}

/// How many bytes are in use above the low mark; 0 below the high one.
fn excess(path: &Path, settings: &ImageCollection) -> nix::Result<u64> {
    let disk = statvfs(path)?;
    let unit = disk.fragment_size();
    // As df counts: what only root may use is no room.
    let (used, free) = ((disk.blocks() - disk.blocks_free()) * unit, disk.blocks_available() * unit);
    Ok(above(used, used + free, settings))
}

fn above(used: u64, capacity: u64, settings: &ImageCollection) -> u64 {
    let mark = |percent: u8| capacity / 100 * u64::from(percent.min(100));
    if settings.high_percent >= 100 || used <= mark(settings.high_percent) {
        return 0;
    }
    used.saturating_sub(mark(settings.low_percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_below_the_high_mark() {
        let settings = ImageCollection::default();
        assert_eq!(above(850, 1000, &settings), 0);
        assert_eq!(above(900, 1000, &settings), 100);
        assert_eq!(above(1000, 1000, &ImageCollection { high_percent: 100, ..settings }), 0);
        assert!(
            excess(Path::new("/"), &ImageCollection { high_percent: 0, low_percent: 0, ..Default::default() }).unwrap()
                > 0
        );
    }
}
