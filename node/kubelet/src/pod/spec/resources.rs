//! What a pod's containers ask for and may use.

use std::collections::BTreeMap;

use k8s_cri::v1 as cri;
use k8s_openapi::{
    api::core::v1::{Container as ContainerSpec, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::quantity::{Amount, InvalidAmount};

fn quantity(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<Amount> {
    Amount::of(list, name).ok().flatten()
}

/// What a container asks for: a limit alone is a request, too. What is no amount is none.
pub fn request(wanted: &ContainerSpec, name: &str) -> Option<Amount> {
    let resources = wanted.resources.as_ref()?;
    quantity(resources.requests.as_ref(), name).or_else(|| quantity(resources.limits.as_ref(), name))
}

/// As [`request`], where what is no amount must not pass for none.
///
/// # Errors
/// As [`Amount::parse`].
pub fn checked_request(container: &ContainerSpec, resource: &str) -> Result<Amount, InvalidAmount> {
    let Some(resources) = &container.resources else { return Ok(Amount::default()) };
    let asked = Amount::of(resources.requests.as_ref(), resource)?;
    Ok(asked.or(Amount::of(resources.limits.as_ref(), resource)?).unwrap_or_default())
}

/// Length of the kernel's period, in microseconds, and its least quota in one.
const CPU_PERIOD: i64 = 100_000;
const LEAST_QUOTA: i64 = 1000;
const LEAST_SHARES: i64 = 2;

/// What a container may use.
pub fn of_container(wanted: &ContainerSpec) -> cri::LinuxContainerResources {
    let limits = wanted.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    // As the kubelet converts: 1024 shares and a quota of 100 ms for each processor.
    let shares = request(wanted, "cpu").map_or(0, |cpu| cpu.millis().saturating_mul(1024) / 1000);
    let mut out = cri::LinuxContainerResources { cpu_shares: shares.max(LEAST_SHARES), ..Default::default() };
    if let Some(cpu) = quantity(limits, "cpu").map(Amount::millis).filter(|millis| *millis > 0) {
        out.cpu_period = CPU_PERIOD;
        out.cpu_quota = cpu.saturating_mul(CPU_PERIOD / 1000).max(LEAST_QUOTA);
    }
    if let Some(memory) = quantity(limits, "memory") {
        out.memory_limit_in_bytes = memory.units();
    }
    out
}

/// Bytes of its writable layer.
pub fn storage_limit(wanted: &ContainerSpec) -> Option<i64> {
    let limits = wanted.resources.as_ref()?.limits.as_ref();
    quantity(limits, "ephemeral-storage").map(Amount::units).filter(|bytes| *bytes > 0)
}

/// What the pod's VM needs: the sum of its containers' limits, where all have one.
pub fn of_sandbox(spec: &PodSpec) -> cri::LinuxContainerResources {
    let all: Vec<_> = spec.containers.iter().map(of_container).collect();
    let sum = |get: fn(&cri::LinuxContainerResources) -> i64| {
        let values: Vec<i64> = all.iter().map(get).collect();
        if values.iter().all(|v| *v > 0) { values.iter().fold(0, |sum: i64, v| sum.saturating_add(*v)) } else { 0 }
    };
    cri::LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: sum(|r| r.cpu_quota),
        memory_limit_in_bytes: sum(|r| r.memory_limit_in_bytes),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_converted_as_the_kubelet_does() {
        let wanted: ContainerSpec = serde_json::from_value(json!({"name": "a", "resources":
            {"limits": {"cpu": "1500m", "memory": "64Mi", "ephemeral-storage": "10Mi"}, "requests": {"cpu": "250m"}}}))
        .unwrap();
        assert_eq!(storage_limit(&wanted), Some(10 << 20));
        let out = of_container(&wanted);
        assert_eq!((out.cpu_shares, out.cpu_quota, out.memory_limit_in_bytes), (256, 150_000, 64 << 20));
        let spec: PodSpec = serde_json::from_value(json!({"containers": [wanted, {"name": "b"}]})).unwrap();
        let whole: ContainerSpec = serde_json::from_value(json!({"name": "a", "resources":
            {"limits": {"cpu": "9223372036854775807", "memory": "-1"}}}))
        .unwrap();
        let out = of_container(&whole);
        assert_eq!(
            (out.cpu_quota, out.memory_limit_in_bytes),
            (i64::MAX, 0),
            "no more than can be said, nothing less than none"
        );
        assert_eq!(of_sandbox(&spec).memory_limit_in_bytes, 0, "one without a limit has none together");
    }
}
