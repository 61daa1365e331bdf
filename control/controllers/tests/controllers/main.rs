//! The controllers against an API server in process.
#![allow(clippy::disallowed_types)] // as a stock client

mod common;
mod cost;
mod events;
mod garbage;
mod lifecycle;
mod nodes;
mod pods;
mod volumes;
mod workloads;
