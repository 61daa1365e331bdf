//! What a disk takes to have a record for certain: fdatasync(2) of one after the other.

use std::{
    fs::{File, remove_file},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// What is measured. All in milliseconds.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Disk {
    pub p50_ms: f64,
    pub p99_ms: f64,
}

const NAME: &str = "bench-api.tmp";
/// What lies there before, so that no write changes how long the file is.
const FILE_BYTES: usize = 64 << 20;

/// Records of so many bytes, into a file that has its length.
pub fn measure(directory: &Path, record: usize, lasts: Duration) -> Result<Disk> {
    let path = directory.join(NAME);
    let measured = records(&path, record, lasts);
    let _ = remove_file(&path);
    measured.with_context(|| format!("writing to {}", path.display()))
}

fn records(path: &Path, record: usize, lasts: Duration) -> Result<Disk> {
    let file = File::create(path)?;
    let piece = vec![0_u8; 1 << 20];
    for at in (0..FILE_BYTES).step_by(piece.len()) {
        file.write_all_at(&piece, at as u64)?;
    }
    file.sync_all()?;
    let (data, mut at, mut took) = (vec![1_u8; record], 0, Vec::new());
    let began = Instant::now();
    while began.elapsed() < lasts {
        let start = Instant::now();
        file.write_all_at(&data, at as u64)?;
        file.sync_data()?;
        took.push(start.elapsed());
        at = (at + record) % (FILE_BYTES - record);
    }
    took.sort_unstable();
    let part = |part: f64| took[((took.len() - 1) as f64 * part).round() as usize].as_secs_f64() * 1e3;
    Ok(Disk { p50_ms: part(0.5), p99_ms: part(0.99) })
}
