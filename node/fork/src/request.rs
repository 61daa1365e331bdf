//! What is asked for: one message, with the descriptors beside it (`SCM_RIGHTS`).
//!
//! Both ends are parts of one build, on one host; the magic word is for those that were not.

/// Most descriptors that come with one request.
pub const MAX_DESCRIPTORS: usize = 16;
/// Most instructions of a seccomp program (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;
/// Of one instruction (`struct sock_filter`).
const INSTRUCTION: usize = 8;
const MAGIC: [u8; 8] = *b"hnfork1\0";
const HEADER: usize = 8 + 4 * 4 + 4 * MAX_DESCRIPTORS;
/// Of the largest request.
pub const MAX_BYTES: usize = HEADER + MAX_INSTRUCTIONS * INSTRUCTION;
const JOIN: i32 = -1;
const GROUP: i32 = -2;

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It takes the place of the descriptor of that number.
    Number(i32),
    /// A file by which control groups of version 1 are joined (`tasks`).
    Join,
    /// The directory of a control group of version 2, which the copy begins in.
    Group,
}

impl Place {
    fn code(self) -> i32 {
        match self {
            Self::Number(number) => number,
            Self::Join => JOIN,
            Self::Group => GROUP,
        }
    }

    fn parse(code: i32) -> Option<Self> {
        match code {
            JOIN => Some(Self::Join),
            GROUP => Some(Self::Group),
            number => (number >= 0).then_some(Self::Number(number)),
        }
    }
}

/// One copy that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// What it runs as. With it go all capabilities.
    pub uid: u32,
    pub gid: u32,
    /// What each descriptor beside the message is for, in their order.
    pub places: Places,
    /// A seccomp program: `struct sock_filter`s.
    pub filter: &'a [u8],
}

/// At most [`MAX_DESCRIPTORS`] of them, without allocating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    list: [Place; MAX_DESCRIPTORS],
    count: usize,
}

impl Places {
    /// None when there are too many.
    pub fn new(places: &[Place]) -> Option<Self> {
        let mut list = [Place::Join; MAX_DESCRIPTORS];
        list.get_mut(..places.len())?.copy_from_slice(places);
        Some(Self { list, count: places.len() })
    }

    pub fn as_slice(&self) -> &[Place] {
        &self.list[..self.count]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeError;

impl<'a> Request<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let places = self.places.as_slice();
        let mut message = Vec::with_capacity(HEADER + self.filter.len());
        message.extend(MAGIC);
        let instructions = (self.filter.len() / INSTRUCTION) as u32;
        for number in [self.uid, self.gid, places.len() as u32, instructions] {
            message.extend(number.to_le_bytes());
        }
        for place in places {
            message.extend(place.code().to_le_bytes());
        }
        message.resize(HEADER, 0);
        message.extend(&self.filter[..instructions as usize * INSTRUCTION]);
        message
    }

    /// Reads a message. Root is nobody that a copy can be.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let (header, filter) = message.split_at_checked(HEADER).ok_or(DecodeError)?;
        let word = |index: usize| {
            let at = MAGIC.len() + 4 * index;
            header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes).ok_or(DecodeError)
        };
        let (uid, gid, count, instructions) = (word(0)?, word(1)?, word(2)? as usize, word(3)? as usize);
        let fits = instructions <= MAX_INSTRUCTIONS && filter.len() == instructions * INSTRUCTION;
        if !header.starts_with(&MAGIC) || uid == 0 || gid == 0 || count > MAX_DESCRIPTORS || !fits {
            return Err(DecodeError);
        }
        let mut list = [Place::Join; MAX_DESCRIPTORS];
        for (index, place) in list.iter_mut().take(count).enumerate() {
            *place = Place::parse(word(4 + index)?.cast_signed()).ok_or(DecodeError)?;
        }
        Ok(Self { uid, gid, places: Places { list, count }, filter })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = Place> {
        prop_oneof![(0..1024).prop_map(Place::Number), Just(Place::Join), Just(Place::Group)]
    }

    proptest! {
        #[test]
        fn what_is_asked_is_what_is_heard(
            uid in 1u32.., gid in 1u32..,
            places in prop::collection::vec(place(), 0..=MAX_DESCRIPTORS),
            instructions in prop::collection::vec(any::<[u8; 8]>(), 0..100),
        ) {
            let filter = instructions.concat();
            let request = Request { uid, gid, places: Places::new(&places).unwrap(), filter: &filter };
            let message = request.encode();
            prop_assert!(message.len() <= MAX_BYTES);
            prop_assert_eq!(Request::decode(&message), Ok(request));
            for cut in 0..message.len() {
                prop_assert_eq!(Request::decode(&message[..cut]), Err(DecodeError));
            }
        }

        #[test]
        fn any_bytes_are_heard_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(&bytes);
        }
    }

    #[test]
    fn nobody_becomes_root() {
        let request = |uid, gid| Request { uid, gid, places: Places::new(&[]).unwrap(), filter: &[] }.encode();
        assert!(Request::decode(&request(1, 1)).is_ok());
        assert!(Request::decode(&request(0, 1)).is_err() && Request::decode(&request(1, 0)).is_err());
        assert_eq!(Places::new(&[Place::Join; MAX_DESCRIPTORS + 1]), None);
    }
}
