//! What must hold whatever a source and an object are.
