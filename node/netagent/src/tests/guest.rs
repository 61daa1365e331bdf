//! A stand-in for a VM: has a tap open, and speaks Ethernet frames.

use std::{
    fs::File,
    io::{Read, Write},
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags};

use crate::{
    namespace::Namespace,
    records::{Attachment, Mac},
    tap,
};

/// virtio_net_hdr
const HEADER: usize = 10;
/// How long what must come may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Packets arrive within microseconds; what has not come after this will not. Nothing that must come is waited for so briefly.
const SILENCE: Duration = Duration::from_millis(400);

pub struct Guest {
    tap: File,
    pub mac: Mac,
    pub ip: Ipv4Addr,
}

impl Guest {
    /// Opens the tap as hyperd does.
    pub async fn boot(directory: &std::path::Path, attachment: &Attachment) -> Self {
        let namespace = Namespace::open(directory, &attachment.namespace().unwrap()).await.unwrap().unwrap();
        let name = attachment.tap().unwrap();
        let tap = namespace.run("opening a tap", move || tap::open(&name)).await.unwrap();
        Self::attached(attachment, tap)
    }

    /// Has had its tap open since before it was the attachment's. Waits until its gateway answers: the kernel drops what it
    /// has for a tap whose carrier it has not noticed yet, which takes it a second where many links change.
    pub fn attached(attachment: &Attachment, tap: OwnedFd) -> Self {
        let address = &attachment.addresses[0];
        let guest = Self { tap: tap.into(), mac: attachment.mac, ip: address.ip };
        let gateway = address.gateway.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !guest.reaches(gateway) {
            assert!(Instant::now() < deadline, "the gateway of {} does not answer", guest.ip);
        }
        // Answers to earlier questions are no answers to later ones.
        while guest.receive(SILENCE / 4, |_| Some(())).is_some() {}
        guest
    }

    fn send(&self, frame: &[u8]) {
        let mut buffer = vec![0; HEADER];
        buffer.extend_from_slice(frame);
        (&self.tap).write_all(&buffer).unwrap();
    }

    /// The next frame that satisfies, unless there is none for so long.
    fn receive<T>(&self, patience: Duration, satisfies: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() as u16;
            let mut polled = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
            if left == 0 || nix::poll::poll(&mut polled, left).unwrap() == 0 {
                return None;
            }
            let mut buffer = [0; 2048];
            let length = (&self.tap).read(&mut buffer).unwrap();
            if let Some(found) = satisfies(&buffer[HEADER..length]) {
                return Some(found);
            }
        }
    }

    /// Who has that address? Somebody must.
    pub fn ask(&self, target: Ipv4Addr) -> Mac {
        self.ask_as(self.mac, self.ip, target);
        self.receive(PATIENCE, |frame| answer(frame, target)).unwrap_or_else(|| panic!("nobody has {target}"))
    }

    /// Asks once who has an address, and says whether anybody answered soon.
    pub fn reaches(&self, target: Ipv4Addr) -> bool {
        self.reaches_as(self.mac, self.ip, target)
    }

    /// Likewise, with sources of the caller's choice.
    pub fn reaches_as(&self, mac: Mac, ip: Ipv4Addr, target: Ipv4Addr) -> bool {
        self.ask_as(mac, ip, target);
        self.receive(SILENCE, |frame| answer(frame, target)).is_some()
    }

    fn ask_as(&self, mac: Mac, ip: Ipv4Addr, target: Ipv4Addr) {
        let mut frame = ethernet(Mac([0xff; 6]), self.mac, 0x0806);
        frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend_from_slice(&mac.0);
        frame.extend_from_slice(&ip.octets());
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&target.octets());
        self.send(&frame);
    }

    /// Sends an ICMP echo request by way of the station `by`, with sources of the caller's choice.
    pub fn ping_as(&self, mac: Mac, ip: Ipv4Addr, target: Ipv4Addr, by: Mac) {
        let mut icmp = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
        icmp.extend_from_slice(b"hello");
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut packet = vec![0x45, 0, 0, (20 + icmp.len()) as u8, 0, 0, 0, 0, 64, 1, 0, 0];
        packet.extend_from_slice(&ip.octets());
        packet.extend_from_slice(&target.octets());
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut frame = ethernet(by, mac, 0x0800);
        frame.extend_from_slice(&packet);
        frame.extend_from_slice(&icmp);
        self.send(&frame);
    }

    pub fn ping(&self, target: Ipv4Addr, by: Mac) {
        self.ping_as(self.mac, self.ip, target, by);
    }

    /// The source and ICMP type of the next ping or answer, which must come.
    pub fn pinged(&self) -> (Ipv4Addr, u8) {
        self.receive(PATIENCE, |frame| self.echo(frame)).unwrap_or_else(|| panic!("nobody has pinged {}", self.ip))
    }

    /// No ping or answer comes.
    pub fn is_left_alone(&self) -> bool {
        self.receive(SILENCE, |frame| self.echo(frame)).is_none()
    }

    fn echo(&self, frame: &[u8]) -> Option<(Ipv4Addr, u8)> {
        let is_icmp = frame.get(12..14)? == [8, 0] && *frame.get(23)? == 1;
        let source: [u8; 4] = frame.get(26..30)?.try_into().ok()?;
        let kind = *frame.get(34)?;
        (is_icmp && frame[..6] == self.mac.0).then(|| (source.into(), kind))
    }
}

/// Who has the address, if the frame is an answer to that.
fn answer(frame: &[u8], target: Ipv4Addr) -> Option<Mac> {
    let reply = frame.get(12..14)? == [8, 6] && frame.get(20..22)? == [0, 2];
    let sender = frame.get(28..32)?;
    (reply && sender == target.octets()).then(|| Mac(frame[22..28].try_into().unwrap()))
}

fn ethernet(to: Mac, from: Mac, protocol: u16) -> Vec<u8> {
    [&to.0[..], &from.0[..], &protocol.to_be_bytes()].concat()
}

/// RFC 1071
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
