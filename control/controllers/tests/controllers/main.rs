//! The controllers against an API server in process.
#![allow(clippy::disallowed_types)] // as a stock client

mod admission;
mod certificates;
mod common;
mod cost;
mod definitions;
mod events;
mod fairness;
mod flow_schemas;
mod found_again;
mod garbage;
mod lifecycle;
mod nodes;
mod pods;
mod roles;
mod type_checking;
mod volumes;
mod workloads;
