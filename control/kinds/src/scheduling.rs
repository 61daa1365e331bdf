//! `scheduling.k8s.io`.

use k8s_openapi::api::scheduling::v1::PriorityClass;

use crate::{
    columns::{age, boolean, column, integer, name, path_or},
    resource::{Home, Resource},
};

pub(crate) fn resources() -> Vec<Resource> {
    let class = Resource::kubernetes::<PriorityClass>("priorityclasses")
        .home(Home::Projected)
        .short_names(&["pc"])
        .columns(vec![
            name(),
            integer("Value", "value"),
            boolean("Global-Default", "globalDefault"),
            age(),
            column("PreemptionPolicy", path_or("preemptionPolicy", "")),
        ]);
    vec![class]
}
