//! What programs do, done once before there are any.
//!
//! Where VMs are forked from one that stands still, what ran in that one runs at once in all others: the kernel's ways through
//! files, memory, processes, pipes. So the template runs this agent as a container's program. Nothing here may leave a trace
//! that two VMs would share: no network (the kernel's secret for TCP's sequence numbers is made at the first connection).

use std::{
    env, fs,
    io::{self, Read, Write},
    os::unix::{fs::symlink, net::UnixStream},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

/// The first argument.
pub const REHEARSE: &str = "rehearse";
/// The second: what to do.
const WAIT: &str = "wait";
const ECHO: &str = "echo";

/// Runs as a container's program: all that programs do; `wait`: nothing, for ever; `echo`: what it reads.
pub fn main(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let done = match arguments.next().as_deref() {
        Some(WAIT) => loop {
            thread::park();
        },
        Some(ECHO) => io::copy(&mut io::stdin(), &mut io::stdout()).map(drop),
        _ => everything(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn everything() -> io::Result<()> {
    let program = env::current_exe()?;
    println!("{} {}", program.display(), env::current_dir()?.display());
    files(&program)?;
    // More than a program's first memory, and given back.
    drop(vec![1u8; 4 << 20]);
    threads();
    streams()?;
    let mut child = Command::new(&program)
        .args([REHEARSE, ECHO])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&[b'x'; 10_000])?;
    }
    child.wait_with_output().map(drop)
}

fn files(program: &Path) -> io::Result<()> {
    fs::read(program)?;
    for path in ["/proc/self/status", "/proc/mounts", "/etc/passwd"] {
        fs::read(path)?;
    }
    for entry in fs::read_dir("/")? {
        entry?.metadata()?;
    }
    // One of the image's, changed: it is copied first.
    fs::OpenOptions::new().append(true).open("/etc/passwd")?.write_all(b"\n")?;
    fs::create_dir_all("/rehearsed/below")?;
    let (file, other) = (Path::new("/rehearsed/file"), Path::new("/rehearsed/below/other"));
    fs::write(file, vec![b'x'; 100_000])?;
    fs::hard_link(file, "/rehearsed/link")?;
    symlink("file", "/rehearsed/symlink")?;
    fs::rename(file, other)?;
    fs::read(other)?;
    fs::File::open(other)?.sync_all()?;
    fs::remove_dir_all("/rehearsed")?;
    io::copy(
        &mut fs::File::open("/dev/zero")?.take(10_000),
        &mut fs::OpenOptions::new().write(true).open("/dev/null")?,
    )?;
    Ok(())
}

fn threads() {
    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let other = pair.clone();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1));
        if let Ok(mut done) = other.0.lock() {
            *done = true;
        }
        other.1.notify_all();
    });
    if let Ok(done) = pair.0.lock() {
        drop(pair.1.wait_timeout_while(done, Duration::from_secs(5), |done| !*done));
    }
    let _ = thread.join();
}

fn streams() -> io::Result<()> {
    let (mut here, mut there) = UnixStream::pair()?;
    here.write_all(b"hello")?;
    let mut buffer = [0; 5];
    there.read_exact(&mut buffer)
}
