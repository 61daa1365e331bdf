//! The group `batch`: what runs to an end.

pub(crate) mod cron_job;
pub(crate) mod job;
mod schedule;
