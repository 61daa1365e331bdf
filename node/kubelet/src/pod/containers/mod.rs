//! A pod's containers: started when they are due, with their image, environment and security, and probed while they run.

mod environment;
pub mod handler;
pub mod hooks;
mod image;
mod probes;
mod security;
mod start;
mod supervisor;

pub use supervisor::{Supervision, Supervisor};
