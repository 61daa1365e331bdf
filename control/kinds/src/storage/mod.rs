//! `storage.k8s.io`.

mod csi_driver;
mod csi_node;
mod storage_class;

use crate::resource::{Home, Resource};

pub(crate) fn resources() -> Vec<Resource> {
    let all = [csi_driver::resource(), csi_node::resource(), storage_class::resource()];
    all.into_iter().map(|resource| resource.home(Home::Projected)).collect()
}
