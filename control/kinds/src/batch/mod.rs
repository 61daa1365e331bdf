//! The group `batch`: what runs to an end.

mod cron_job;
mod job;
mod schedule;
mod success_policy;

use crate::resource::Resource;

pub(crate) fn resources() -> Vec<Resource> {
    vec![cron_job::resource(), job::resource()]
}
