//! Keys that are changed while the store works, or with its start, until nothing in its directory is sealed with another than the first.
//!
//! ```text
//! begun: the new keys are used, in a segment with nothing of before in it
//!   ─▶ a checkpoint, over the older one: segments of before are removed
//!   ─▶ a checkpoint, over the other one ─▶ done
//! ```
//!
//! One step follows when the checkpoint of the one before is made, and writes go on in between. Whoever is killed at any of them has a store that
//! opens with both keys, and that begins again when it is opened. What was begun and fails stays as it is: the new key is used, and the old one
//! needed.

use super::{
    Rotation,
    medium::fill,
    segments::{Segment, Segments, WriteError},
    writer::Writer,
};
use crate::{Encryption, RotationError};

impl Rotation {
    fn over(self, result: Result<(), RotationError>) {
        match (self.answer, result) {
            (Some(answer), result) => drop(answer.send(result)),
            (None, Err(error)) => tracing::warn!(%error, "the store is not sealed with the first key yet"),
            (None, Ok(())) => {}
        }
    }
}

impl Writer {
    /// Takes the next step of what has been asked for first, unless a checkpoint is being made.
    pub fn go_on_with_rotations(&mut self) {
        while !self.checkpoints.is_writing()
            && let Some(mut rotation) = self.rotations.pop_front()
        {
            let done = match rotation.next {
                None => self.begin_rotation(&rotation.keys).map(|()| false),
                Some(next) if self.checkpoints.newest < next => {
                    // The log has said why.
                    Err(RotationError::Failed("a checkpoint could not be made".into()))
                }
                Some(_) => self.is_rotated(),
            };
            if let Ok(false) = done {
                self.checkpoints.begin(&self.cache, self.segments.current.number);
                rotation.next = Some(self.checkpoints.newest + 1);
                self.rotations.push_front(rotation);
            } else {
                rotation.over(done.map(drop));
            }
        }
    }

    /// # Errors
    /// When something that is needed is not among them, or there is no room for a segment.
    fn begin_rotation(&mut self, keys: &Encryption) -> Result<(), RotationError> {
        self.files.encryption.check_successor(keys, self.another_key)?;
        wipe_spares(&mut self.segments);
        self.files.encryption.replace(keys);
        self.another_key = true;
        self.checkpoints.stale = [true; 2];
        self.segments.sealed_from = self.segments.current.number + 1;
        self.segments.rotate(0).map_err(|error| match error {
            WriteError::Refused(why) | WriteError::Doubtful(why) => RotationError::Failed(why),
        })
    }

    /// Whether nothing of before is left.
    fn is_rotated(&mut self) -> Result<bool, RotationError> {
        let before = |segment: &Segment| segment.number < self.segments.sealed_from;
        if self.checkpoints.is_any_stale() || self.segments.full.iter().any(before) {
            return Ok(false);
        }
        let synced = self.files.medium.sync_directory(&self.files.directory);
        synced.map_err(|error| RotationError::Failed(error.to_string()))?;
        self.another_key = false;
        Ok(true)
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
