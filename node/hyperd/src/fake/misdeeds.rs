//! What a hostile guest may answer.

use futures::{StreamExt, stream};
use hypernetes_guest_protocol::v1;
use tonic::{Response, Status};

use super::{Answer, Answers};

/// Empty parts of a message: two bytes each on their way, hundreds in memory.
pub(crate) const MANY: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misdeed {
    /// Empty lines without end: each is fifty bytes of a log.
    Flood,
    /// One line without end.
    Endless,
    /// The same again and again.
    Again,
    /// Far ahead of where it was, each time.
    Jumps,
    /// Offsets that no stream can have.
    Beyond,
    /// Chunks that are larger than agreed.
    TooLarge,
    /// Chunks with nothing in them.
    Nothing,
    /// The stream ends without an end of the output.
    Ends,
    /// An error that is long and means to move the reader's cursor.
    Screams,
    /// No answer at all.
    Silence,
}

pub(crate) const ALL: [Misdeed; 10] = [
    Misdeed::Flood,
    Misdeed::Endless,
    Misdeed::Again,
    Misdeed::Jumps,
    Misdeed::Beyond,
    Misdeed::TooLarge,
    Misdeed::Nothing,
    Misdeed::Ends,
    Misdeed::Screams,
    Misdeed::Silence,
];

const CHUNK: usize = 64 << 10;

impl Misdeed {
    /// Of ReadOutput, asked for what follows an offset.
    pub(crate) fn output(self, from: u64) -> Answer<Answers<v1::OutputChunk>> {
        let chunk = |offset: u64, data: Vec<u8>| Ok(v1::OutputChunk { offset, data, ..Default::default() });
        let counted = stream::iter(0u64..);
        let chunks = match self {
            Self::Flood => counted.map(move |i| chunk(from + i * CHUNK as u64, vec![b'\n'; CHUNK])).boxed(),
            Self::Endless => counted.map(move |i| chunk(from + i * CHUNK as u64, vec![b'x'; CHUNK])).boxed(),
            Self::Again => counted.map(move |_| chunk(0, b"again\n".to_vec())).boxed(),
            Self::Jumps => counted.map(move |i| chunk(from.max(i << 40), b"far\n".to_vec())).boxed(),
            Self::Beyond => counted.map(move |_| chunk(u64::MAX - 1, b"beyond\n".to_vec())).boxed(),
            Self::TooLarge => counted.map(move |i| chunk(from, vec![b'x'; CHUNK * (2 + i as usize % 64)])).boxed(),
            Self::Nothing => counted.map(move |_| chunk(from, Vec::new())).boxed(),
            Self::Ends => stream::empty().boxed(),
            Self::Screams => return Err(scream()),
            Self::Silence => stream::pending().boxed(),
        };
        Ok(Response::new(chunks))
    }

    /// Of WaitProcess.
    pub(crate) async fn end(self) -> Answer<v1::WaitProcessResponse> {
        match self {
            // It says that all is over, and goes on.
            Self::Again => Ok(Response::new(v1::WaitProcessResponse {
                exit_code: i32::MIN,
                signal: u32::MAX,
                oom_killed: true,
                finished_unix_nanos: u64::MAX,
            })),
            Self::Screams => Err(scream()),
            _ => std::future::pending().await,
        }
    }
}

fn scream() -> Status {
    Status::internal("\x1b[2J\r\n".repeat(1000))
}

/// Of ReadFile, whatever was asked for.
pub(crate) fn too_much() -> Answer<v1::ReadFileResponse> {
    Ok(Response::new(v1::ReadFileResponse { data: vec![0x1b; 100 << 10] }))
}
