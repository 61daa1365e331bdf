//! What the fuzz target feeds: a VMM that a guest has taken over, at its monitor. It may not make this process panic or use memory
//! without bound.

use tokio::{io::AsyncWriteExt, net::UnixStream};

use super::{disks, qmp::Qmp};

/// What the monitor says, whatever it is told.
pub async fn monitor(bytes: &[u8]) {
    let Ok((ours, mut theirs)) = UnixStream::pair() else { return };
    let talk = async {
        let mut qmp = Qmp::greeted(ours).await?;
        disks::settle(&mut qmp, &[true, false, true]).await
    };
    let say = async {
        let _ = theirs.write_all(bytes).await;
        let _ = theirs.shutdown().await;
        // What it is told has to go somewhere.
        let _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
    };
    tokio::select! {
        settled = talk => if let Ok(empty) = settled {
            assert!(empty.len() <= 3);
        },
        () = async { say.await; std::future::pending().await } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whatever_a_monitor_says_ends() {
        let nested = format!("{{\"QMP\":{}", "[".repeat(100_000));
        let greeting = "{\"QMP\":{}}\n{\"return\":{}}\n";
        for said in ["", "\n", "{}\n", "{\"QMP\":1}\n{\"return\":[{\"node-name\":7}]}\n", &nested, greeting] {
            monitor(said.as_bytes()).await;
        }
        // Names of nodes that are not.
        monitor(format!("{greeting}{{\"return\":[{{\"node-name\":\"file0-x\",\"file\":\"x\"}}]}}\n").as_bytes()).await;
    }
}
