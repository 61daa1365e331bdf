//! Keys that are changed while the store works, until nothing in its directory is sealed with another than the first.
//!
//! ```text
//! begun: the new keys are used, in a segment with nothing of before in it
//!   ─▶ a checkpoint, over the older one: segments of before are removed
//!   ─▶ a checkpoint, over the other one ─▶ done
//! ```
//!
//! One step after the other is asked for by who waits, and writes go on in between. Whoever is killed at any of them has a store that opens
//! with both keys, and begins again. What was begun and fails stays as it is: the new key is used, and the old one needed.

use super::{
    Progress,
    medium::fill,
    segments::{Segment, Segments, WriteError},
    writer::Writer,
};
use crate::{Encryption, RotationError};

impl Writer {
    /// Uses other keys from now on, unless a checkpoint is being made with those that there are.
    ///
    /// # Errors
    /// When something that is needed is not among them, or there is no room for a segment.
    pub fn begin_rotation(&mut self, keys: &Encryption) -> Result<Progress, RotationError> {
        self.release(false);
        if self.checkpoints.is_writing() {
            return Ok(Progress::Busy);
        }
        self.files.encryption.check_successor(keys, self.another_key)?;
        wipe_spares(&mut self.segments);
        self.files.encryption.replace(keys);
        self.another_key = true;
        self.checkpoints.stale = [true; 2];
        self.segments.sealed_from = self.segments.current.number + 1;
        self.segments.rotate(0).map_err(|error| match error {
            WriteError::Refused(why) | WriteError::Doubtful(why) => RotationError::Failed(why),
        })?;
        Ok(Progress::Going)
    }

    /// The next step of what was begun.
    ///
    /// # Errors
    /// When a checkpoint could not be made: the log has said why.
    pub fn go_on_with_rotation(&mut self) -> Result<Progress, RotationError> {
        let newest = self.checkpoints.newest;
        let was_writing = self.checkpoints.is_writing();
        self.release(false);
        if self.checkpoints.is_writing() {
            return Ok(Progress::Going);
        }
        if was_writing && self.checkpoints.newest == newest {
            return Err(RotationError::Failed("a checkpoint could not be made".into()));
        }
        let before = |segment: &Segment| segment.number < self.segments.sealed_from;
        if self.checkpoints.stale == [false; 2] && !self.segments.full.iter().any(before) {
            self.files
                .medium
                .sync_directory(&self.files.directory)
                .map_err(|e| RotationError::Failed(e.to_string()))?;
            self.another_key = false;
            return Ok(Progress::Done);
        }
        self.checkpoints.begin(&self.cache, self.segments.current.number);
        Ok(Progress::Going)
    }
}

/// One is kept, for a disk that is full, with nothing in it.
fn wipe_spares(segments: &mut Segments) {
    for room in std::mem::take(&mut segments.spares) {
        let kept = segments.spares.is_empty();
        if kept && fill(&*room.blob, 0, room.len).and_then(|()| room.blob.sync()).is_ok() {
            segments.spares.push(room);
        } else {
            segments.files.discard_segment(room.slot);
        }
    }
}
