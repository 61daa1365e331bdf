//! What the fuzz targets and the property tests feed with bytes from anywhere: what a guest's agent answers, as hyperd reads it.
//! None of these may panic or use memory without bound, and nothing that is not bounded comes out.

use hypernetes_guest_protocol::v1;
use prost::Message;

use crate::{
    agent::{Greeting, MAX_ANSWER_BYTES, MAX_TEXT},
    container::Container,
    output::Expected,
    records::{ContainerRecord, ContainerState},
    stats::{Bounds, Usage, container_stats, interface_usage},
    supervise::exit,
};

const CONTAINER: &str = "c";
const BOUNDS: Bounds = Bounds { memory: 1 << 30, cpu_nanos: 1 << 40 };

/// Any message that a guest answers a call with.
pub fn answer(bytes: &[u8]) {
    // The transport takes no larger ones.
    let bytes = &bytes[..bytes.len().min(MAX_ANSWER_BYTES)];
    if let Ok(response) = v1::HelloResponse::decode(bytes) {
        greeting(&response);
    }
    if let Ok(response) = v1::StatsResponse::decode(bytes) {
        stats(response);
    }
    if let Ok(response) = v1::WaitProcessResponse::decode(bytes) {
        let started = 1_700_000_000_000_000_000;
        let exit = exit(started, &response);
        assert!(exit.finished_at >= started);
    }
    let _ = v1::CreateContainerResponse::decode(bytes);
    let _ = v1::RemoveProcessResponse::decode(bytes);
    let _ = v1::DialChunk::decode(bytes);
}

fn greeting(response: &v1::HelloResponse) {
    if let Ok(greeting) = Greeting::checked(response) {
        for text in [&greeting.agent_version, &greeting.kernel_release, &greeting.boot_id] {
            assert!(text.chars().count() <= MAX_TEXT && !text.contains(char::is_control));
        }
    }
}

fn stats(response: v1::StatsResponse) {
    let usage = Usage::checked(response, &[CONTAINER.to_owned()], BOUNDS, None);
    assert!(usage.containers.len() <= 1 && usage.interfaces.len() <= 16);
    assert!(usage.memory_available_bytes <= usage.memory_total_bytes && usage.memory_total_bytes <= BOUNDS.memory);
    for interface in &usage.interfaces {
        let interface = interface_usage(interface);
        assert!(interface.name.chars().count() <= 15 && !interface.name.contains(char::is_control));
    }
    let container = Container::new(ContainerRecord {
        id: CONTAINER.into(),
        sandbox_id: String::new(),
        config: Default::default(),
        process: Default::default(),
        image_ref: String::new(),
        image_id: String::new(),
        image_name: String::new(),
        stop_signal: String::new(),
        created_at: 0,
        state: ContainerState::Created,
        disks: Default::default(),
        file_sets: Vec::new(),
        host_paths: Vec::new(),
        termination_log: None,
        user: None,
        guest_pid: 0,
        log_path: None,
    });
    if let Some(stats) = usage.container(CONTAINER) {
        let stats = container_stats(&container, stats);
        let memory = stats.memory.unwrap_or_default();
        let of = |value: Option<k8s_cri::v1::UInt64Value>| value.map_or(0, |value| value.value);
        for bytes in [memory.usage_bytes, memory.working_set_bytes, memory.rss_bytes] {
            assert!(of(bytes) <= BOUNDS.memory);
        }
        assert!(stats.swap.is_none_or(|swap| of(swap.swap_usage_bytes) <= BOUNDS.memory));
        let cpu = stats.cpu.unwrap_or_default();
        assert!(of(cpu.usage_core_nano_seconds) <= BOUNDS.cpu_nanos);
        if let Some(some) = cpu.psi.and_then(|psi| psi.some) {
            assert!((0.0..=100.0).contains(&some.avg10));
        }
    }
}

/// A process's output: messages, each behind its length.
pub fn output(mut bytes: &[u8]) {
    let mut expected = Expected([0; 2]);
    while let Ok(message) = v1::OutputChunk::decode_length_delimited(&mut bytes) {
        let before = expected.0;
        match expected.check(message) {
            Ok(chunk) => {
                assert!(chunk.offset >= before[chunk.stream as usize] && (chunk.eof || !chunk.data.is_empty()));
                assert_eq!(expected.0[chunk.stream as usize], chunk.offset + chunk.data.len() as u64);
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn answers_of_any_kind_are_bounded_or_refused(bytes in vec(any::<u8>(), 0..2000)) {
            answer(&bytes);
            output(&bytes);
        }

        #[test]
        fn stats_of_any_size_are_bounded(numbers in vec(any::<u64>(), 12), percent in any::<f64>(), name in ".{0,40}") {
            let stalls = v1::Stalls { avg10: percent, total_micros: numbers[0], ..Default::default() };
            let pressure = Some(v1::Pressure { some: Some(stalls), full: None });
            let container = v1::ContainerStats {
                container_id: CONTAINER.into(),
                cpu_usage_nanos: numbers[1],
                memory_usage_bytes: numbers[2],
                memory_working_set_bytes: numbers[3],
                memory_rss_bytes: numbers[4],
                memory_swap_bytes: numbers[5],
                cpu_pressure: pressure,
                ..Default::default()
            };
            let response = v1::StatsResponse {
                containers: vec![container; 3],
                memory_total_bytes: numbers[6],
                memory_available_bytes: numbers[7],
                interfaces: vec![v1::InterfaceStats { name, ..Default::default() }; 20],
            };
            answer(&response.encode_to_vec());
        }
    }
}
