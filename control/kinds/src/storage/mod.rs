//! `storage.k8s.io`. Classes, drivers and nodes are the operator's. What is attached where is infrastructure's to say, in the cluster of the
//! tenant whose it is: nobody sees that another has something.

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod storage_class;
mod volume_attachment;
mod volume_attributes_class;

use crate::resource::{Home, Resource};

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        csi_driver::resource().home(Home::Projected),
        csi_node::resource().home(Home::Projected),
        csi_storage_capacity::resource(),
        storage_class::resource().home(Home::Projected),
        volume_attachment::resource(),
        volume_attributes_class::resource().home(Home::Projected),
    ]
}
