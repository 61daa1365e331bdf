//! Frames of SPDY/3.1 (draft, 2.2 and 2.6): their layout in bytes, and no more meaning than that.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest control frame that is taken. The draft wants 8 KiB at least (2.2.1).
const MAX_CONTROL: usize = 16 << 10;
/// Longest piece of data that is handed on at once.
pub(super) const MAX_PIECE: usize = 16 << 10;
/// Bytes before the payload of each frame.
const HEAD: usize = 8;
const VERSION: u16 = 3;
const CONTROL: u16 = 1 << 15;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
/// Stream ids have 31 bits; the one above them is reserved.
const ID: u32 = u32::MAX >> 1;

/// Status codes of RST_STREAM (draft, 2.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(in crate::streaming) enum Status {
    Protocol = 1,
    InvalidStream = 2,
    Refused = 3,
    Cancel = 5,
    FlowControl = 7,
    AlreadyClosed = 9,
}

/// Status codes of GOAWAY (draft, 2.6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Goodbye {
    Ok = 0,
    Protocol = 1,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame is of version {0} of SPDY, not 3")]
    Version(u16),
    #[error("a control frame has {0} bytes, more than {MAX_CONTROL}")]
    TooLong(usize),
    #[error("a frame of type {kind} has {length} bytes, which it cannot have")]
    Length { kind: u16, length: usize },
    #[error("a frame is for stream 0")]
    NoStream,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        unidirectional: bool,
        block: Bytes,
    },
    SynReply {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    Reset {
        id: u32,
        status: u32,
    },
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    /// A data frame, or a piece of a large one.
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
    /// SETTINGS, WINDOW_UPDATE and types that the draft does not know (they are to be ignored): nothing follows.
    Ignored(u16),
}

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

impl Frame {
    pub(super) fn encode(&self) -> Bytes {
        let fin = |fin: &bool| if *fin { FIN } else { 0 };
        let mut payload = BytesMut::new();
        match self {
            Self::SynStream { id, fin: last, unidirectional, block } => {
                payload.put_u32(*id);
                // No stream that this one belongs to, highest priority, no credential.
                payload.put_u32(0);
                payload.put_u16(0);
                payload.put_slice(block);
                let flags = fin(last) | if *unidirectional { UNIDIRECTIONAL } else { 0 };
                control(SYN_STREAM, flags, &payload)
            }
            Self::SynReply { id, fin: last, block } => {
                payload.put_u32(*id);
                payload.put_slice(block);
                control(SYN_REPLY, fin(last), &payload)
            }
            Self::Headers { id, fin: last, block } => {
                payload.put_u32(*id);
                payload.put_slice(block);
                control(HEADERS, fin(last), &payload)
            }
            Self::Reset { id, status } => {
                payload.put_u32(*id);
                payload.put_u32(*status);
                control(RST_STREAM, 0, &payload)
            }
            Self::Ping(id) => {
                payload.put_u32(*id);
                control(PING, 0, &payload)
            }
            Self::GoAway { last, status } => {
                payload.put_u32(*last);
                payload.put_u32(*status);
                control(GOAWAY, 0, &payload)
            }
            Self::Ignored(kind) => control(*kind, 0, &payload),
            Self::Data { id, fin: last, data } => {
                let mut frame = BytesMut::with_capacity(HEAD + data.len());
                frame.put_u32(id & ID);
                put_length(&mut frame, fin(last), data.len());
                frame.put_slice(data);
                frame.freeze()
            }
        }
    }
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + payload.len());
    frame.put_u16(CONTROL | VERSION);
    frame.put_u16(kind);
    put_length(&mut frame, flags, payload.len());
    frame.put_slice(payload);
    frame.freeze()
}

/// Flags and length share 32 bits. Nobody here writes frames of 16 MiB.
fn put_length(frame: &mut BytesMut, flags: u8, length: usize) {
    debug_assert!(length < 1 << 24);
    frame.put_u8(flags);
    frame.put_uint(length as u64, 3);
}

/// Finds frames in a stream of bytes. Holds one control frame at most, besides what was put into it.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: BytesMut,
    /// The data frame that is being read.
    data: Option<DataFrame>,
}

#[derive(Debug)]
struct DataFrame {
    id: u32,
    fin: bool,
    rest: usize,
}

impl Decoder {
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; none when more bytes must come first. After an error there is nothing more to be had.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.data.is_some() {
            return Ok(self.piece());
        }
        let Some(&[a, b, c, d, flags, ref length @ ..]) = self.buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let (first, kind) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        if first & CONTROL == 0 {
            let id = some_stream(u32::from_be_bytes([a, b, c, d]))?;
            self.buffer.advance(HEAD);
            self.data = Some(DataFrame { id, fin: flags & FIN != 0, rest: length });
            return Ok(self.piece());
        }
        match first & !CONTROL {
            VERSION => {}
            other => return Err(FrameError::Version(other)),
        }
        if length > MAX_CONTROL {
            return Err(FrameError::TooLong(length));
        }
        if self.buffer.len() < HEAD + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let payload = Bytes::copy_from_slice(&self.buffer[..length]);
        self.buffer.advance(length);
        parse(kind, flags, payload).map(Some)
    }

    /// The next piece of the data frame; an empty frame has one, too.
    fn piece(&mut self) -> Option<Frame> {
        let frame = self.data.as_mut()?;
        let length = frame.rest.min(self.buffer.len()).min(MAX_PIECE);
        if length == 0 && frame.rest > 0 {
            return None;
        }
        // A copy: a slice would keep all of the buffer for as long as the piece waits for its reader.
        let data = Bytes::copy_from_slice(&self.buffer[..length]);
        self.buffer.advance(length);
        frame.rest -= length;
        let (id, last) = (frame.id, frame.rest == 0);
        let fin = frame.fin && last;
        if last {
            self.data = None;
        }
        Some(Frame::Data { id, fin, data })
    }
}

fn some_stream(id: u32) -> Result<u32, FrameError> {
    match id & ID {
        0 => Err(FrameError::NoStream),
        id => Ok(id),
    }
}

fn parse(kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, FrameError> {
    let length = payload.len();
    let fits = match kind {
        SYN_STREAM => length >= 10,
        SYN_REPLY | HEADERS | SETTINGS => length >= 4,
        RST_STREAM | GOAWAY | WINDOW_UPDATE => length == 8,
        PING => length == 4,
        _ => true,
    };
    if !fits {
        return Err(FrameError::Length { kind, length });
    }
    let fin = flags & FIN != 0;
    Ok(match kind {
        SYN_STREAM => {
            let id = some_stream(payload.get_u32())?;
            // The stream that it belongs to, priority and slot are of no interest.
            payload.advance(6);
            Frame::SynStream { id, fin, unidirectional: flags & UNIDIRECTIONAL != 0, block: payload }
        }
        SYN_REPLY => Frame::SynReply { id: some_stream(payload.get_u32())?, fin, block: payload },
        HEADERS => Frame::Headers { id: some_stream(payload.get_u32())?, fin, block: payload },
        RST_STREAM => Frame::Reset { id: some_stream(payload.get_u32())?, status: payload.get_u32() },
        PING => Frame::Ping(payload.get_u32()),
        GOAWAY => Frame::GoAway { last: payload.get_u32() & ID, status: payload.get_u32() },
        other => Frame::Ignored(other),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::default();
        decoder.put(bytes);
        std::iter::from_fn(|| decoder.next().transpose()).collect()
    }

    #[test]
    fn frames_have_the_layout_of_the_draft() {
        let frame = Frame::SynStream { id: 1, fin: true, unidirectional: false, block: Bytes::from_static(b"xy") };
        let bytes = b"\x80\x03\0\x01\x01\0\0\x0c\0\0\0\x01\0\0\0\0\0\0xy";
        assert_eq!(frame.encode(), &bytes[..]);
        assert_eq!(Frame::Ping(7).encode(), &b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x07"[..]);
        let data = Frame::Data { id: 3, fin: true, data: Bytes::from_static(b"hi") };
        assert_eq!(data.encode(), &b"\0\0\0\x03\x01\0\0\x02hi"[..]);
        // SETTINGS with one entry, and WINDOW_UPDATE.
        let ignored =
            b"\x80\x03\0\x04\0\0\0\x0c\0\0\0\x01\0\0\0\x07\0\0\x10\0\x80\x03\0\x09\0\0\0\x08\0\0\0\x01\0\0\x10\0";
        assert_eq!(decode(ignored).unwrap(), [Frame::Ignored(SETTINGS), Frame::Ignored(WINDOW_UPDATE)]);
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let error = |bytes: &[u8]| decode(bytes).unwrap_err();
        assert_eq!(error(b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01"), FrameError::Version(2));
        assert_eq!(error(b"\x80\x03\0\x01\0\xff\xff\xff"), FrameError::TooLong(0xff_ffff));
        assert_eq!(error(b"\x80\x03\0\x06\0\0\0\x03abc"), FrameError::Length { kind: PING, length: 3 });
        assert_eq!(error(b"\x80\x03\0\x01\0\0\0\0"), FrameError::Length { kind: SYN_STREAM, length: 0 });
        assert_eq!(error(b"\0\0\0\0\0\0\0\0"), FrameError::NoStream);
        assert_eq!(error(b"\x80\x03\0\x03\0\0\0\x08\x80\0\0\0\0\0\0\0"), FrameError::NoStream);
        // An HTTP client that went astray.
        assert_eq!(decode(b"GET / HTTP/1.1\r\n\r\n").unwrap().len(), 1);
    }

    #[test]
    fn large_data_comes_in_pieces_and_ends_once() {
        let data = Frame::Data { id: 5, fin: true, data: vec![1; 3 * MAX_PIECE + 1].into() }.encode();
        let frames = decode(&data).unwrap();
        let fins: Vec<bool> = frames.iter().map(|f| matches!(f, Frame::Data { fin: true, .. })).collect();
        assert_eq!(fins, [false, false, false, true]);
        // A frame of which nothing came yet has no piece.
        assert_eq!(decode(&data[..HEAD]).unwrap(), []);
        let empty = Frame::Data { id: 5, fin: true, data: Bytes::new() };
        assert_eq!(decode(&empty.encode()).unwrap(), [empty]);
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let id = 1u32..=ID;
        let block = || prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        prop_oneof![
            (id.clone(), any::<bool>(), any::<bool>(), block())
                .prop_map(|(id, fin, unidirectional, block)| Frame::SynStream { id, fin, unidirectional, block }),
            (id.clone(), any::<bool>(), block()).prop_map(|(id, fin, block)| Frame::SynReply { id, fin, block }),
            (id.clone(), any::<bool>(), block()).prop_map(|(id, fin, block)| Frame::Headers { id, fin, block }),
            (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::Reset { id, status }),
            any::<u32>().prop_map(Frame::Ping),
            (0..=ID, any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (id, any::<bool>(), block()).prop_map(|(id, fin, data)| Frame::Data { id, fin, data }),
        ]
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn random_control_frames_never_panic(kind in 0u16..12, flags: u8, payload in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&control(kind, flags, &payload));
        }

        #[test]
        fn frames_round_trip_however_they_are_cut(frames in prop::collection::vec(frames(), 0..8), cut in 1usize..64) {
            let bytes: Vec<u8> = frames.iter().flat_map(|f| f.encode().to_vec()).collect();
            let mut decoder = Decoder::default();
            let mut found: Vec<Frame> = Vec::new();
            for part in bytes.chunks(cut) {
                decoder.put(part);
                while let Some(frame) = decoder.next().unwrap() {
                    // Pieces of one frame are put together again.
                    match (found.last_mut(), frame) {
                        (Some(Frame::Data { id, fin: fin @ false, data }), Frame::Data { id: same, fin: last, data: more })
                            if *id == same => {
                            *data = [&data[..], &more[..]].concat().into();
                            *fin = last;
                        }
                        (_, frame) => found.push(frame),
                    }
                }
            }
            let mut expected: Vec<Frame> = Vec::new();
            for frame in frames {
                match (expected.last_mut(), frame) {
                    (Some(Frame::Data { id, fin: fin @ false, data }), Frame::Data { id: same, fin: last, data: more })
                        if *id == same => {
                        *data = [&data[..], &more[..]].concat().into();
                        *fin = last;
                    }
                    (_, frame) => expected.push(frame),
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
