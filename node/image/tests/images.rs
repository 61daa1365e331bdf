//! Images as they come from archives: what the kernel sees of them, and what is refused.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use common::{Layer, Mounted, config, flatten, gzip};
use hypernetes_image::{Digest, ImageError, ImageStore, Limits, Puller};
use serde_json::json;
use tar::{EntryType, Header};
use tempfile::TempDir;
use tokio::sync::mpsc;

struct Bench {
    directory: TempDir,
    store: ImageStore,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path().join("store"), limits).unwrap();
        Self { directory, store }
    }

    fn layout(&self, layers: &[(Vec<u8>, Vec<u8>)]) -> PathBuf {
        let root = self.directory.path().join("layout");
        common::layout(&root, layers, false);
        root
    }

    async fn import(&self, layers: Vec<Layer>) -> Result<hypernetes_image::Image, ImageError> {
        let layers: Vec<_> = layers.into_iter().map(Layer::tar).map(|tar| (tar.clone(), gzip(&tar))).collect();
        self.store.import(&self.layout(&layers), Some("demo/test:1"), mpsc::channel(8).0).await
    }
}

#[tokio::test]
async fn the_kernel_sees_what_the_layers_say() {
    let bench = Bench::new(Limits::default());
    let mut lower = Layer::new()
        .directory("etc/")
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
        .file("etc/gone", "in the lower layer")
        .directory("opaque/")
        .file("opaque/old", "old")
        .file("big", vec![b'z'; 3_000_001])
        .file("empty", "")
        .entry("bin", EntryType::Symlink, 0o777, Some("usr/bin"), &[])
        .file("usr/bin/sh", "#!")
        .entry("usr/bin/setuid", EntryType::Regular, 0o4755, None, b"s")
        .entry("usr/bin/hard", EntryType::Link, 0o644, Some("usr/bin/sh"), &[])
        .entry("null", EntryType::Char, 0o666, None, &[])
        .entry("pipe", EntryType::Fifo, 0o600, None, &[])
        .xattr_file("labelled", "user.colour", "blue");
    for i in 0..3000 {
        lower = lower.file(&format!("many/file-{i:05}-with-a-rather-long-name"), i.to_string());
    }
    let upper = Layer::new()
        .file("etc/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "new")
        .file("bin/added-through-the-link", "a")
        .file("!", "sorts before the dot")
        .file("etc/passwd", "changed\n");
    let image = bench.import(vec![lower, upper]).await.unwrap();
    assert_eq!(image.config.entrypoint, ["/bin/sh"]);
    assert_eq!(image.tags, ["docker.io/demo/test:1"]);
    assert!(image.size_bytes < 40 << 20, "padding is sparse: {}", image.size_bytes);

    let check = Command::new("fsck.erofs").arg(flatten(&image.rootfs).path()).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let root = Mounted::new(&image.rootfs);
    assert_eq!(root.read("etc/passwd"), "changed\n");
    assert!(!root.path("etc/gone").exists() && !root.path("opaque/old").exists());
    assert_eq!(root.read("opaque/new"), "new");
    assert_eq!(root.read("usr/bin/added-through-the-link"), "a");
    assert_eq!(root.read("!"), "sorts before the dot");
    assert_eq!(root.read("big").len(), 3_000_001);
    assert_eq!(root.read("empty"), "");
    assert_eq!(fs::read_link(root.path("bin")).unwrap(), Path::new("usr/bin"));
    let setuid = fs::metadata(root.path("usr/bin/setuid")).unwrap();
    assert_eq!(
        (setuid.mode() & 0o7777, setuid.uid(), setuid.gid(), setuid.mtime()),
        (0o4755, 1000, 100_000, 1_700_000_000)
    );
    let (sh, hard) = (fs::metadata(root.path("usr/bin/sh")).unwrap(), fs::metadata(root.path("usr/bin/hard")).unwrap());
    assert_eq!((sh.ino(), sh.nlink()), (hard.ino(), 2));
    assert!(fs::metadata(root.path("null")).unwrap().file_type().is_char_device());
    assert_eq!(fs::metadata(root.path("null")).unwrap().rdev(), nix::sys::stat::makedev(1, 3));
    assert!(fs::metadata(root.path("pipe")).unwrap().file_type().is_fifo());
    let listed: BTreeMap<String, String> = fs::read_dir(root.path("many"))
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), fs::read_to_string(e.path()).unwrap()))
        .collect();
    assert_eq!(listed.len(), 3000);
    assert_eq!(listed["file-02999-with-a-rather-long-name"], "2999");
    let attribute = Command::new("python3")
        .args(["-c", "import os,sys; print(os.getxattr(sys.argv[1], 'user.colour').decode())"])
        .arg(root.path("labelled"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&attribute.stdout).trim(), "blue");
}

#[tokio::test]
async fn hostile_images_are_refused_and_leave_nothing() {
    let limits = Limits { unpacked_bytes: 1 << 20, entries: 100, ..Limits::default() };
    let bench = Bench::new(limits);
    let escapes = || Layer::new().file("../../etc/cron.d/x", "boo");
    let many = || (0..200).fold(Layer::new(), |layer, i| layer.file(&format!("f{i}"), ""));
    let looped = || {
        Layer::new()
            .entry("a", EntryType::Symlink, 0o777, Some("b"), &[])
            .entry("b", EntryType::Symlink, 0o777, Some("a"), &[])
            .file("a/x", "")
    };
    let cases: Vec<(&str, Layer)> = vec![
        ("leaves the image", escapes()),
        ("larger than the limit", Layer::new().file("bomb", vec![0; 2 << 20])),
        ("more than 100 files", many()),
        ("too many symbolic links", looped()),
        ("is not there", Layer::new().entry("h", EntryType::Link, 0o644, Some("/etc/shadow"), &[])),
    ];
    for (message, layer) in cases {
        let error = bench.import(vec![layer]).await.expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
    // A tar that says it holds an exabyte.
    let mut header = Header::new_gnu();
    header.set_path("huge").unwrap();
    header.set_size(1 << 60);
    header.set_cksum();
    let tar = header.as_bytes().to_vec();
    let error = bench.store.import(&bench.layout(&[(tar.clone(), tar)]), None, mpsc::channel(1).0).await.unwrap_err();
    assert!(error.to_string().contains("larger than any disk"), "{error}");
    // The configuration lies about the layer, and the manifest about the blob.
    let tar = Layer::new().file("a", "a").tar();
    let error = bench.store.import(&bench.layout(&[(b"other".to_vec(), tar.clone())]), None, mpsc::channel(1).0).await;
    assert!(error.unwrap_err().to_string().contains("digest"));
    for garbage in [&b"\x1f\x8bnot gzip"[..], b"\x28\xb5\x2f\xfdnot zstd", b"not a tar, though it is long enough"] {
        let layout = bench.layout(&[(garbage.to_vec(), garbage.to_vec())]);
        assert!(bench.store.import(&layout, None, mpsc::channel(1).0).await.is_err());
    }
    assert!(bench.store.list().is_empty());
    bench.store.remove("nothing").await.unwrap();
    for directory in ["rootfs", "layers", "tmp"] {
        let left: Vec<_> = fs::read_dir(bench.directory.path().join("store").join(directory)).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn archives_of_both_kinds_are_one_image() {
    let bench = Bench::new(Limits::default());
    let tar = Layer::new().file("hello", "world").tar();
    let zstd = zstd::encode_all(tar.as_slice(), 1).unwrap();
    let layout = bench.layout(&[(tar.clone(), zstd)]);
    let archive = bench.directory.path().join("oci.tar");
    assert!(Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&archive).arg(".").status().unwrap().success());
    let oci = bench.store.import(&archive, Some("a/oci:1"), mpsc::channel(1).0).await.unwrap();

    let docker = bench.directory.path().join("docker");
    fs::create_dir_all(&docker).unwrap();
    fs::write(docker.join("layer.tar"), &tar).unwrap();
    fs::write(docker.join("config.json"), config(&[Digest::of(&tar)])).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": ["a/docker:2"], "Layers": ["layer.tar"]}]);
    fs::write(docker.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = bench.directory.path().join("docker.tar");
    let status = Command::new("tar")
        .arg("-C")
        .arg(&docker)
        .arg("-cf")
        .arg(&archive)
        .args(["manifest.json", "config.json", "layer.tar"])
        .status();
    assert!(status.unwrap().success());
    let docker = bench.store.import(&archive, None, mpsc::channel(1).0).await.unwrap();
    assert_eq!(oci.id, docker.id);
    assert_eq!(docker.tags, ["docker.io/a/oci:1", "docker.io/a/docker:2"]);

    // Everything is there after a restart, by tag and by id; tags go one by one, the image with the last.
    let store = ImageStore::open(bench.directory.path().join("store"), Limits::default()).unwrap();
    assert_eq!(store.get("a/oci:1").unwrap().id, oci.id);
    assert_eq!(store.get(&oci.id.to_string()).unwrap().id, oci.id);
    store.remove("a/oci:1").await.unwrap();
    assert!(store.get("a/docker:2").is_some() && store.get("a/oci:1").is_none());
    store.remove("a/docker:2").await.unwrap();
    assert!(store.list().is_empty() && !oci.rootfs.exists());
    store.remove("a/docker:2").await.unwrap();
}

#[tokio::test]
async fn pulling_what_is_not_there_says_so() {
    let bench = Bench::new(Limits::default());
    let nobody = Puller { id: String::new(), max_bytes: 0 };
    assert!(matches!(bench.store.pull("Not A Name", None, &nobody).await, Err(ImageError::Reference(_))));
    let error = bench.store.pull("127.0.0.1:1/nobody/home:1", None, &nobody).await.unwrap_err();
    assert!(matches!(error, ImageError::Unavailable { .. }), "{error}");
    assert!(error.to_string().starts_with("RegistryUnavailable"), "{error}");
}

#[tokio::test]
async fn what_gnu_tar_writes_is_understood() {
    let bench = Bench::new(Limits::default());
    let tree = bench.directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let script = format!(
        "mkdir {d} && echo long > {long} && ln -s {long} link && echo x > one && ln one two &&
         truncate -s 100M sparse && printf start | dd of=sparse conv=notrunc status=none &&
         printf middle | dd of=sparse bs=1M seek=50 conv=notrunc status=none &&
         for i in $(seq 30); do printf piece$i | dd of=sparse bs=64K seek=$((1000 + i * 3)) conv=notrunc status=none; done &&
         setfattr_() {{ python3 -c 'import os; os.setxattr(\"one\", \"user.x\", b\"\\x00\\xff\")'; }}; setfattr_",
        d = "d".repeat(120),
    );
    assert!(Command::new("bash").arg("-ec").arg(&script).current_dir(&tree).status().unwrap().success());
    let formats: [&[&str]; 5] = [
        &["--format=gnu"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
        &["--format=posix", "--hole-detection=raw", "--numeric-owner"],
    ];
    for format in formats {
        let archive = bench.directory.path().join("layer.tar");
        let mut tar = Command::new("tar");
        tar.args(["--sparse", "-C"]).arg(&tree).args(format).arg("-cf").arg(&archive).arg(".");
        if format[0] == "--format=posix" {
            tar.arg("--xattrs");
        }
        assert!(tar.status().unwrap().success());
        let bytes = fs::read(&archive).unwrap();
        assert!(bytes.len() < 4 << 20, "tar itself knows the holes: {}", bytes.len());
        let layout = bench.layout(&[(bytes.clone(), gzip(&bytes))]);
        let image = bench.store.import(&layout, Some("gnu:1"), mpsc::channel(8).0).await.unwrap();
        assert!(image.size_bytes < 8 << 20, "{format:?}: holes stay holes: {}", image.size_bytes);
        let root = Mounted::new(&image.rootfs);
        let same = |name: &str| fs::read(root.path(name)).unwrap() == fs::read(tree.join(name)).unwrap();
        for name in ["sparse", long.as_str(), "link", "one"] {
            assert!(same(name), "{format:?}: {name}");
        }
        let inode = |name: &str| fs::metadata(root.path(name)).unwrap().ino();
        assert_eq!(inode("one"), inode("two"));
        if format[0] == "--format=posix" {
            let read = "import os,sys; sys.exit(os.getxattr(sys.argv[1], 'user.x') != b'\\x00\\xff')";
            assert!(Command::new("python3").args(["-c", read]).arg(root.path("one")).status().unwrap().success());
        }
    }
}

#[tokio::test]
async fn wrong_archives_say_what_is_wrong() {
    let bench = Bench::new(Limits::default());
    let path = bench.directory.path().join("archive");
    let docker = |entries: serde_json::Value, link: bool| {
        let tar = Layer::new().file("hello", "world").tar();
        let archive = Layer::new()
            .file("manifest.json", entries.to_string())
            .file("config.json", config(&[Digest::of(&tar)]))
            .file("one/layer.tar", &tar);
        let archive = if link {
            archive.entry("two/layer.tar", EntryType::Symlink, 0o777, Some("../one/layer.tar"), &[])
        } else {
            archive
        };
        fs::write(&path, archive.tar()).unwrap();
    };
    let import = async |name: Option<&str>| bench.store.import(&path, name, mpsc::channel(1).0).await;
    let entry = |tag: &str, layer: &str| json!({"Config": "config.json", "RepoTags": [tag], "Layers": [layer]});
    docker(json!([entry("a:1", "two/layer.tar")]), true);
    assert_eq!(import(None).await.unwrap().tags, ["docker.io/library/a:1"]);
    docker(json!([entry("a:1", "one/layer.tar"), entry("b:1", "one/layer.tar")]), false);
    assert!(import(None).await.unwrap_err().to_string().contains("several images; name one"));
    assert!(import(Some("b:1")).await.unwrap().tags.contains(&"docker.io/library/b:1".into()));
    docker(json!([entry("a:1", "../../etc/passwd")]), false);
    assert!(import(None).await.unwrap_err().to_string().contains("lacks"));
    let compressed = gzip(&fs::read(&path).unwrap());
    fs::write(&path, compressed).unwrap();
    assert!(import(None).await.unwrap_err().to_string().contains("decompress it first"));
    // A header that claims a gigabyte of names is not believed.
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(1 << 30);
    header.set_cksum();
    fs::write(&path, header.as_bytes()).unwrap();
    assert!(import(None).await.unwrap_err().to_string().contains("an extended header of"));
}
