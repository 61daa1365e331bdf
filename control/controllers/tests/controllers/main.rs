//! The controllers against an API server in process.

mod common;
mod events;
mod garbage;
mod lifecycle;
mod nodes;
mod pods;
mod volumes;
mod workloads;
