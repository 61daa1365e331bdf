//! VMs that are copies of a template: as different from one another as VMs that booted, and as useful.

mod common;

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use common::{
    Running,
    capture::{self, Capture},
    connect, image, qemu, spec,
};
use hypernetes_guest_protocol::v1;
use hypernetes_hypervisor::{Hypervisor, Nic, Vm, VmSpec, qemu::Qemu};

fn owned(id: &str, tenant: &str) -> VmSpec {
    VmSpec { tenant: tenant.into(), ..spec(id) }
}

/// QEMU says how it was started: to be restored, or, if it was forked, as another.
fn is_copy(vm: &dyn Vm) -> bool {
    let record = vm.record();
    let line = std::fs::read(format!("/proc/{}/cmdline", record.pid)).unwrap();
    let mut words = line.split(|b| *b == 0);
    words.clone().any(|word| word == b"-incoming") || !words.any(|word| word.starts_with(record.spec.id.as_bytes()))
}

async fn template(qemu: &Qemu, spec: &VmSpec) {
    let began = Instant::now();
    while !qemu.would_copy(spec) {
        assert!(began.elapsed() < Duration::from_secs(90), "there is no template");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("there was a template {:?} later", began.elapsed());
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// As hyperd does it.
async fn run(qemu: &Qemu, spec: VmSpec, interfaces: Vec<v1::Interface>) -> (Running, String) {
    let began = Instant::now();
    let vm = qemu.create(spec).await.unwrap();
    let created = began.elapsed();
    let mut agent = connect(&*vm).await;
    let hello = agent.hello(v1::HelloRequest { min_version: 1, max_version: 2 }).await.unwrap().into_inner();
    let greeted = began.elapsed();
    assert_eq!((hello.version, hello.boot_id.as_str()), (2, ""), "nothing is decided before there is entropy");
    let configure = v1::ConfigureSandboxRequest {
        hostname: "pod".into(),
        unix_time_nanos: now().as_nanos() as u64,
        entropy: rand::random::<[u8; 32]>().to_vec(),
        interfaces,
        ..Default::default()
    };
    let boot_id = agent.configure_sandbox(configure).await.unwrap().into_inner().boot_id;
    let kind = if is_copy(&*vm) { "a copy" } else { "a boot" };
    println!("{kind}: created {created:?}, greeted {greeted:?}, configured {:?}", began.elapsed());
    assert_eq!(boot_id.len(), 36);
    let again = agent.hello(v1::HelloRequest { min_version: 2, max_version: 2 }).await.unwrap().into_inner();
    assert_eq!(again.boot_id, boot_id, "the same VM is found again by it");
    (Running { vm, agent }, boot_id)
}

impl Running {
    async fn shell(&mut self, name: &str, script: &str) -> String {
        let (code, output) = self.exec("c", name, &["sh", "-c", script]).await;
        assert_eq!(code, 0, "{output}");
        output.trim().to_owned()
    }

    /// Begins what writes to the guest's settings.
    async fn root(&mut self, name: &str, script: &str) {
        let spec = v1::Process { privileged: true, ..common::process(&["sh", "-c", script]) };
        self.start("c", name, Some(spec)).await.unwrap();
    }

    async fn container(&mut self, image: &Path) {
        let root = self.attach(image, true).await;
        self.create("c", root, &["sleep", "1000"], vec![]).await;
        self.start("c", "", None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_template_are_different_vms() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let image = image(directory.path());
    let (first, _) = run(&qemu, owned("first", "a"), vec![]).await;
    assert!(!is_copy(&*first.vm));
    template(&qemu, &owned("any", "a")).await;

    let mut seen = Vec::new();
    let mut copies = Vec::new();
    for n in 0..4 {
        let (mut vm, boot_id) = run(&qemu, owned(&format!("copy-{n}"), "a"), vec![]).await;
        assert!(is_copy(&*vm.vm));
        vm.container(&image).await;
        assert_eq!(vm.shell("id", "cat /proc/sys/kernel/random/boot_id").await, boot_id);
        let random = vm.shell("random", "head -c 32 /dev/urandom | busybox sha256sum").await;
        let uuid = vm.shell("uuid", "cat /proc/sys/kernel/random/uuid").await;
        let clock: u64 = vm.shell("clock", "busybox date +%s").await.parse().unwrap();
        assert!(clock.abs_diff(now().as_secs()) <= 2, "{clock}");
        for text in [boot_id, random, uuid] {
            assert!(!seen.contains(&text), "{text} again");
            seen.push(text);
        }
        copies.push(vm);
    }
    println!("a copy's console: {:?}", copies[0].vm.console_tail().await);
    // What one writes is not in another, nor in the template.
    let (mut last, _) = run(&qemu, owned("last", "a"), vec![]).await;
    last.container(&image).await;
    assert_eq!(last.shell("hello", "echo hello").await, "hello");

    // Its successor takes a copy over as any other VM.
    let taken = qemu.adopt(last.vm.record()).await.unwrap();
    last.agent =
        v1::agent_client::AgentClient::new(tonic::transport::Endpoint::from_static("http://nobody").connect_lazy());
    last.vm = taken;
    last.agent = connect(&*last.vm).await;
    assert_eq!(last.shell("again", "echo again").await, "again");
    last.vm.kill().await.unwrap();
    for copy in &copies {
        copy.vm.kill().await.unwrap();
    }
    first.vm.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_for_its_owner_and_kind() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let (first, _) = run(&qemu, owned("first", "a"), vec![]).await;
    template(&qemu, &owned("any", "a")).await;
    // Another's VM boots, as does one of nobody; and so does one with other parts.
    for other in [owned("b", "b"), owned("nobody", ""), VmSpec { cpus: 2, memory_mib: 200, ..owned("large", "a") }] {
        assert!(!qemu.would_copy(&other));
        let vm = qemu.create(other).await.unwrap();
        assert!(!is_copy(&*vm));
        vm.kill().await.unwrap();
    }
    // They have templates of their own then; those of nobody have none.
    template(&qemu, &VmSpec { cpus: 2, memory_mib: 200, ..owned("any", "a") }).await;
    template(&qemu, &owned("any", "b")).await;
    assert!(!qemu.would_copy(&owned("any", "")));
    for (n, one) in
        [owned("b-2", "b"), VmSpec { cpus: 2, memory_mib: 200, ..owned("large-2", "a") }].into_iter().enumerate()
    {
        let (vm, _) = run(&qemu, one, vec![]).await;
        assert!(is_copy(&*vm.vm), "{n}");
        vm.vm.kill().await.unwrap();
    }
    first.vm.kill().await.unwrap();
    // Templates that stand are VMs, and end with their driver; of those that they were tried with none is left.
    let machines = || std::fs::read_dir(directory.path().join("machines")).unwrap().count();
    assert_eq!(machines(), qemu.templates().len());
    drop(qemu);
    let began = Instant::now();
    while machines() > 0 {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_disks_as_any_vm() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let image = image(directory.path());
    let volume = directory.path().join("volume.raw");
    std::fs::File::create(&volume).unwrap().set_len(64 << 20).unwrap();
    assert!(Command::new("mkfs.ext4").arg("-q").arg(&volume).status().unwrap().success());
    let (first, _) = run(&qemu, owned("first", "a"), vec![]).await;
    first.vm.kill().await.unwrap();
    template(&qemu, &owned("any", "a")).await;
    for (round, script) in ["echo kept > /v/file; sync", "cat /v/file"].iter().enumerate() {
        let (mut vm, _) = run(&qemu, owned(&format!("volume-{round}"), "a"), vec![]).await;
        assert!(is_copy(&*vm.vm));
        // Twice in one VM: a slot is used again.
        for turn in 0..2 {
            let name = format!("c{turn}");
            let root = vm.attach(&image, true).await;
            let slot = vm.attach(&volume, false).await;
            let disk = v1::Disk { slot, fs_type: "ext4".into(), read_only: false };
            let source = Some(v1::mount::Source::Disk(disk));
            let mount = v1::Mount { destination: "/v".into(), source, ..Default::default() };
            vm.create(&name, root, &["sh", "-c", script], vec![mount]).await;
            vm.start(&name, "", None).await.unwrap();
            assert_eq!(vm.wait(&name, "").await.exit_code, 0);
            assert_eq!(vm.output(&name, "").await, if round == 0 { "" } else { "kept\n" });
            vm.remove(&name, "").await;
            for slot in [slot, root] {
                vm.vm.detach_disk(hypernetes_hypervisor::DiskSlot(slot)).await.unwrap();
            }
        }
        vm.vm.kill().await.unwrap();
    }
    let check = Command::new("fsck.ext4").arg("-fn").arg(&volume).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

/// A network namespace with a tap; gone with the test.
struct Network(String);

impl Network {
    fn new(name: String) -> Self {
        let network = Self(name);
        let name = &network.0;
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} tuntap add dev tap0 mode tap vnet_hdr"));
        ip(&format!("-n {name} address add 10.9.0.1/24 dev tap0"));
        ip(&format!("-n {name} link set tap0 up"));
        network
    }

    fn nic(&self, mac: &str) -> Nic {
        Nic { tap: "tap0".into(), netns: Some(Path::new("/run/netns").join(&self.0)), mac: mac.into() }
    }

    /// What a connection from the host's end to the guest ends with.
    fn connect(&self) -> std::io::Error {
        let path = Path::new("/run/netns").join(&self.0);
        let attempt = std::thread::spawn(move || {
            let namespace = std::fs::File::open(path).unwrap();
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let guest = std::net::SocketAddr::from(([10, 9, 0, 2], 9));
            std::net::TcpStream::connect_timeout(&guest, Duration::from_secs(10)).unwrap_err()
        });
        attempt.join().unwrap()
    }

    fn neighbours(&self) -> String {
        ip(&format!("-n {} neighbour show 10.9.0.2", self.0))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_an_address_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let interface = |mac: &str| v1::Interface {
        mac: mac.into(),
        name: "eth0".into(),
        addresses: vec!["10.9.0.2/24".into()],
        mtu: 1400,
        waiting: false,
    };
    let mut running = Vec::new();
    for n in 0..3 {
        let network = Network::new(format!("hn-test-{}-{n}", std::process::id()));
        let mac = format!("52:54:00:aa:bb:0{n}");
        let spec = VmSpec { nic: Some(network.nic(&mac)), ..owned(&format!("net-{n}"), "a") };
        let (vm, _) = run(&qemu, spec.clone(), vec![interface(&mac)]).await;
        assert_eq!(is_copy(&*vm.vm), n > 0);
        // A closed port is refused by somebody who is there.
        assert_eq!(network.connect().kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(network.neighbours().contains(&mac), "{}", network.neighbours());
        template(&qemu, &spec).await;
        running.push((vm, network));
    }
    for (vm, _network) in &running {
        vm.vm.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_gets_another_address_keeps_nothing_of_the_old() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let image = image(directory.path());
    let network = Network::new(format!("hn-test-{}-again", std::process::id()));
    let interface = |mac: &str, address: &str| v1::Interface {
        mac: mac.into(),
        name: "eth0".into(),
        addresses: vec![address.into()],
        mtu: 1400,
        waiting: false,
    };
    let (old, new) = ("52:54:00:aa:bb:01", "52:54:00:aa:bb:02");
    let spec = VmSpec { nic: Some(network.nic(old)), ..owned("again", "a") };
    let (mut vm, _) = run(&qemu, spec, vec![interface(old, "192.0.2.2/24")]).await;
    vm.container(&image).await;
    // fe80:: with the interface's address in it. The kernel makes it when it has noticed the carrier.
    let of_link = |mac: &str| format!("fe80000000000000505400fffeaabb{}", &mac[15..]);
    let wait = |mac: &str| {
        format!("for i in $(seq 100); do grep {} /proc/net/if_inet6 && exit; sleep 0.1; done; exit 1", of_link(mac))
    };
    vm.shell("before", &wait(old)).await;
    let configure =
        |interface: v1::Interface| v1::ConfigureSandboxRequest { interfaces: vec![interface], ..Default::default() };
    // One that waits, of whatever address, is somebody only when it is configured.
    for (n, next) in [new, old].into_iter().enumerate() {
        let waiting = v1::Interface { waiting: true, ..interface(old, "192.0.2.2/24") };
        vm.agent.configure_sandbox(configure(waiting)).await.unwrap();
        let left = vm.shell(&format!("waiting-{n}"), "busybox ip addr show dev eth0").await;
        assert!(left.contains("UP") && !left.contains("inet"), "{left}");
        vm.agent.configure_sandbox(configure(interface(next, "192.0.2.2/24"))).await.unwrap();
        vm.shell(&format!("again-{n}"), &wait(next)).await;
    }
    vm.agent.configure_sandbox(configure(interface(new, "10.9.0.2/24"))).await.unwrap();
    assert_eq!(network.connect().kind(), std::io::ErrorKind::ConnectionRefused);
    vm.shell("after", &wait(new)).await;
    let addresses = vm.shell("addresses", "cat /proc/net/if_inet6; busybox ip -4 addr show dev eth0").await;
    assert!(!addresses.contains(&of_link(old)) && !addresses.contains("192.0.2"), "{addresses}");
    vm.vm.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_copies_start_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let (first, _) = run(&qemu, owned("first", "a"), vec![]).await;
    first.vm.kill().await.unwrap();
    template(&qemu, &owned("any", "a")).await;
    for round in 0..3 {
        // An agent that looks for its host in the moment that it comes: one that gets that wrong is silent for ever.
        let starts = (0..6).map(|n| run(&qemu, owned(&format!("copy-{round}-{n}"), "a"), vec![]));
        let all = futures::future::join_all(starts);
        for (vm, _) in tokio::time::timeout(Duration::from_secs(60), all).await.expect("all agents answer") {
            assert!(is_copy(&*vm.vm));
            vm.vm.kill().await.unwrap();
        }
    }
}

/// What one VM's kernel has shown of the secrets from which it makes numbers of TCP. Addresses and ports are the same in each.
#[derive(Debug)]
struct Secrets {
    /// Of a connection from the guest: the first sequence number, without the clock that is added to it.
    sequence: u32,
    /// The same of the guest's answer to a connection from outside.
    answer: u32,
    /// A SYN cookie.
    cookie: u32,
    /// Local ports of connections to three ports.
    ports: [u16; 3],
}

/// The kernel adds a clock of 64 ns to what it makes of the secret.
fn without_clock(sequence: u32) -> u32 {
    sequence.wrapping_sub((now().as_nanos() >> 6) as u32)
}

impl Secrets {
    async fn of(vm: &mut Running, network: &Network, turn: usize) -> Self {
        let netns = Path::new("/run/netns").join(&network.0);
        let socket = |host: u8, port| std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(10, 9, 0, host), port);
        let capture = Arc::new(capture::inside(&netns, Capture::start));
        let sequence = {
            // Nobody listens; that it was tried is enough.
            let range = "/proc/sys/net/ipv4/ip_local_port_range";
            let script =
                format!("echo 4000 4000 > {range}; busybox nc 10.9.0.1 5000 </dev/null; echo 32768 60999 > {range}");
            vm.root(&format!("fixed-{turn}"), &script).await;
            let capture = capture.clone();
            let first = tokio::task::spawn_blocking(move || capture.syn(|s| s.from_port == 4000 && s.to_port == 5000));
            let first = first.await.unwrap().sequence;
            let sequence = without_clock(first);
            vm.wait("c", &format!("fixed-{turn}")).await;
            sequence
        };
        let mut ports = [0; 3];
        for (n, port) in ports.iter_mut().enumerate() {
            let to = 6000 + n as u16;
            let script = format!("busybox nc 10.9.0.1 {to} </dev/null || true");
            vm.exec("c", &format!("port-{n}-{turn}"), &["sh", "-c", &script]).await;
            let capture = capture.clone();
            let first = tokio::task::spawn_blocking(move || capture.syn(|s| s.to_port == to));
            *port = first.await.unwrap().from_port;
        }
        let mut answers = [0; 2];
        for (cookies, answer) in answers.iter_mut().enumerate() {
            let to = 7000 + cookies as u16;
            // 2: a cookie in each answer.
            let script = format!("echo {} > /proc/sys/net/ipv4/tcp_syncookies; busybox nc -l -p {to}", cookies * 2);
            vm.root(&format!("listen-{to}-{turn}"), &script).await;
            let netns = netns.clone();
            let connect = move || {
                capture::inside(&netns, move || {
                    let began = Instant::now();
                    loop {
                        match capture::connect(socket(1, 8000), socket(2, to)) {
                            Ok(answer) => return answer,
                            Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
                        }
                        std::thread::sleep(Duration::from_millis(50));
                    }
                })
            };
            let segment = tokio::task::spawn_blocking(connect).await.unwrap();
            *answer = match cookies {
                0 => without_clock(segment.sequence),
                // The other side's number is in it.
                _ => segment.sequence.wrapping_sub(segment.acknowledged),
            };
        }
        Self { sequence, answer: answers[0], cookie: answers[1], ports }
    }

    /// Whether each number is of another secret; those of equal ones differ by how well the clocks agree.
    fn differ(&self, other: &Self) -> [bool; 4] {
        const CLOCKS: u32 = 200_000_000 >> 6;
        let apart = |one: u32, other: u32| one.wrapping_sub(other).min(other.wrapping_sub(one)) > CLOCKS;
        [
            apart(self.sequence, other.sequence),
            apart(self.answer, other.answer),
            self.cookie != other.cookie,
            self.ports != other.ports,
        ]
    }
}

/// The kernel makes up its secrets when it first needs them: a template must not have needed any.
#[tokio::test(flavor = "multi_thread")]
async fn copies_have_secrets_of_their_own_for_tcp() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let image = image(directory.path());
    const MAC: &str = "52:54:00:aa:cc:01";
    let interface = v1::Interface {
        mac: MAC.into(),
        name: "eth0".into(),
        addresses: vec!["10.9.0.2/24".into()],
        mtu: 1400,
        waiting: false,
    };
    let mut seen: Vec<Secrets> = Vec::new();
    for n in 0..3 {
        let network = Network::new(format!("hn-tcp-{}-{n}", std::process::id()));
        let spec = VmSpec { nic: Some(network.nic(MAC)), ..owned(&format!("tcp-{n}"), "a") };
        let (mut vm, _) = run(&qemu, spec.clone(), vec![interface.clone()]).await;
        assert_eq!(is_copy(&*vm.vm), n > 0);
        if n > 0 {
            vm.container(&image).await;
            let secrets = Secrets::of(&mut vm, &network, 0).await;
            println!("{secrets:?}");
            for other in &seen {
                assert_eq!(secrets.differ(other), [true; 4], "{secrets:?} {other:?}");
            }
            if n == 1 {
                // That they are different is not chance: those of one VM are not.
                let again = Secrets::of(&mut vm, &network, 1).await;
                assert_eq!(secrets.differ(&again)[..2], [false; 2], "{secrets:?} {again:?}");
            }
            seen.push(secrets);
        }
        vm.vm.kill().await.unwrap();
        template(&qemu, &spec).await;
    }
}
