//! How fast an image is made of its layers, next to `tar -x` of the same layers: `unpack DIRECTORY [LAYERS…]`.
//!
//! Without layers it makes some of this host's /usr. Both sides read the same files and write below DIRECTORY, in turns;
//! what is told is the best of three each, with the disk's part (a sync at the end) and without.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use hypernetes_image::{Digest, ImageStore, Limits};

const ROUNDS: usize = 3;

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // tar says 1 when a file changed while it was read.
    assert!(status.code().is_some_and(|code| code <= 1), "{command:?}: {status}");
}

/// Two layers, small files and large ones, compressed as registries have them.
fn sample_layers(directory: &Path) -> Vec<PathBuf> {
    ["usr/share/doc usr/include usr/bin", "usr/lib/x86_64-linux-gnu"]
        .iter()
        .zip(["small", "large"])
        .map(|(sources, name)| {
            let path = directory.join(format!("{name}.tar.gz"));
            run(Command::new("tar").args(["-C", "/", "-czf"]).arg(&path).args(sources.split(' ')));
            path
        })
        .collect()
}

fn diff_id(layer: &Path) -> (Digest, u64) {
    let output = Command::new("sh").arg("-c").arg("gzip -dcf \"$0\" | sha256sum").arg(layer).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let length = Command::new("sh").arg("-c").arg("gzip -dcf \"$0\" | wc -c").arg(layer).output().unwrap();
    let length = String::from_utf8(length.stdout).unwrap().trim().parse().unwrap();
    (format!("sha256:{}", &text[..64]).parse().unwrap(), length)
}

/// A Docker archive whose layers are links, so that nothing is copied: an OCI layout directory.
fn layout(directory: &Path, layers: &[PathBuf], diff_ids: &[Digest]) -> PathBuf {
    let root = directory.join("layout");
    let blobs = root.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        fs::write(blobs.join(Digest::of(bytes).hex()), bytes).unwrap();
        serde_json::json!({"digest": Digest::of(bytes), "size": bytes.len()})
    };
    let config = serde_json::json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": diff_ids}});
    let config = put(config.to_string().as_bytes());
    let layers: Vec<_> = layers.iter().map(|layer| put(&fs::read(layer).unwrap())).collect();
    let manifest = put(serde_json::json!({"config": config, "layers": layers}).to_string().as_bytes());
    fs::write(root.join("index.json"), serde_json::json!({"manifests": [manifest]}).to_string()).unwrap();
    root
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn main() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let directory = arguments.next().expect("unpack DIRECTORY [LAYERS…]");
    fs::create_dir_all(&directory).unwrap();
    let mut layers: Vec<PathBuf> = arguments.collect();
    if layers.is_empty() {
        layers = sample_layers(&directory);
    }
    let known: Vec<(Digest, u64)> = layers.iter().map(|layer| diff_id(layer)).collect();
    let bytes: u64 = known.iter().map(|(_, length)| length).sum();
    let diff_ids: Vec<Digest> = known.into_iter().map(|(digest, _)| digest).collect();
    let layout = layout(&directory, &layers, &diff_ids);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut best, mut best_durable) = ([Duration::MAX; 2], [Duration::MAX; 2]);
    let sync = || run(&mut Command::new("sync"));
    for round in 0..ROUNDS {
        let plain = directory.join(format!("plain-{round}"));
        fs::create_dir(&plain).unwrap();
        sync();
        let fast =
            timed(|| layers.iter().for_each(|l| run(Command::new("tar").arg("-C").arg(&plain).arg("-xf").arg(l))));
        let durable = fast + timed(sync);
        (best[0], best_durable[0]) = (best[0].min(fast), best_durable[0].min(durable));
        fs::remove_dir_all(&plain).unwrap();

        let ours = directory.join(format!("ours-{round}"));
        let store = ImageStore::open(ours.clone(), Limits::default()).unwrap();
        sync();
        let progress = tokio::sync::mpsc::channel(1).0;
        let fast = timed(|| drop(runtime.block_on(store.import(&layout, Some("bench:1"), progress)).unwrap()));
        let durable = fast + timed(sync);
        (best[1], best_durable[1]) = (best[1].min(fast), best_durable[1].min(durable));
        fs::remove_dir_all(&ours).unwrap();
    }
    let rate = |time: Duration| bytes as f64 / time.as_secs_f64() / f64::from(1 << 20);
    println!("{} layers, {} MiB unpacked", layers.len(), bytes >> 20);
    for (what, [tar, ours]) in
        [("as it returns (ours is durable then, tar is not)", best), ("with a sync", best_durable)]
    {
        let share = rate(ours) / rate(tar) * 100.0;
        println!("{what}: tar -x {:.0} MiB/s, image {:.0} MiB/s: {share:.0} %", rate(tar), rate(ours));
    }
}
