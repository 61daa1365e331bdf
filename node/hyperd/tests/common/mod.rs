//! What the tests of a whole hyperd share.
#![allow(dead_code)]

pub mod layout;
pub mod node;
