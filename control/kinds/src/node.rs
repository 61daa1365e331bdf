//! `node.k8s.io`.

use k8s_openapi::api::node::v1::RuntimeClass;

use crate::{
    columns::{between, column, path_or},
    resource::{Home, Resource},
};

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource::kubernetes::<RuntimeClass>("runtimeclasses")
            .home(Home::Projected)
            .columns(between([column("Handler", path_or("handler", ""))])),
    ]
}
