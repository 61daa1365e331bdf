//! Bytes of the other side where a conversation begins: the guest's, as hyperd reads them, and hyperd's, as the agent does.
#![no_main]

use std::sync::LazyLock;

use hypernetes_guest_protocol::session;
use tokio::{io::AsyncWriteExt, runtime::Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap());

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    RUNTIME.block_on(async {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        let said = &bytes[..bytes.len().min(1 << 15)];
        theirs.write_all(said).await.unwrap();
        theirs.shutdown().await.unwrap();
        let opened = session::open(&mut ours).await;
        assert!(opened.is_err(), "nobody knew the nonce");

        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(said).await.unwrap();
        theirs.shutdown().await.unwrap();
        if let Ok(first) = session::accept(&mut ours).await {
            assert_eq!(first.len(), session::HOST_MAGIC.len());
        }
    });
});
