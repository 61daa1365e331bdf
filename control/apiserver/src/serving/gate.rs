//! Who has found no place is not heard for a moment: the kernel drops its requests for connections before they are any. A connection
//! that is accepted only to be hung up on costs the server as much as whoever asked for it; a dropped SYN costs next to nothing,
//! and comes again by itself after a second (RFC 6298, 5.7), as much for one behind the same address who means well.
//!
//! It is a filter of the listening socket, for which no privileges are needed: Linux asks a listener's filter about each SYN.
//! Sockets that are accepted meanwhile have it, too, and send no SYNs.

use std::{collections::VecDeque, future::pending, net::IpAddr, time::Duration};

use hypernetes_api::auth::Source;
use socket2::{SockFilter, SockRef};
use tokio::{net::TcpListener, time::Instant};

/// Less than the second after which a SYN comes again.
const SHUT: Duration = Duration::from_millis(900);
/// Sources that are not heard at the same time. The filter must fit in what a socket may have of the kernel's memory
/// (`net.core.optmem_max`, once 20 KiB).
const MOST: usize = 128;

/// Before one listener.
pub(super) struct Gate<'a> {
    listener: &'a TcpListener,
    /// Until when, whom. In that order.
    shut: VecDeque<(Instant, Source)>,
}

impl<'a> Gate<'a> {
    pub fn new(listener: &'a TcpListener) -> Self {
        Self { listener, shut: VecDeque::new() }
    }

    /// The source is not heard for a moment, but for those of its connections that there are.
    pub fn shut(&mut self, source: Source) {
        if self.shut.len() < MOST && self.shut.iter().all(|(_, other)| *other != source) {
            self.shut.push_back((Instant::now() + SHUT, source));
            self.set();
        }
    }

    /// Ends when [`Gate::open`] has somebody to hear again.
    pub async fn is_due(&self) {
        match self.shut.front() {
            Some((until, _)) => tokio::time::sleep_until(*until).await,
            None => pending().await,
        }
    }

    /// Hears those again whose moment is over.
    pub fn open(&mut self) {
        let now = Instant::now();
        let over = self.shut.partition_point(|(until, _)| *until <= now);
        self.shut.drain(..over);
        self.set();
    }

    fn set(&self) {
        let socket = SockRef::from(self.listener);
        let set = match self.shut.is_empty() {
            true => socket.detach_filter(),
            false => socket.attach_filter(&filter(self.shut.iter().map(|(_, source)| source.address()))),
        };
        // As it was before: they are heard, and hung up on.
        if let Err(error) = set {
            tracing::debug!(%error, "filtering who asks for connections");
        }
    }
}

/// Classic BPF over a TCP header that drops SYNs from these addresses, and of IPv6 from their networks of 64 bits.
fn filter(sources: impl Iterator<Item = IpAddr>) -> Vec<SockFilter> {
    // Of what is loaded, offsets are from the TCP header, or from that of IP.
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const AND: u16 = 0x54;
    const JUMP: u16 = 0x05;
    const JUMP_IF: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const IP: u32 = -0x10_0000_i32 as u32;
    let does = |code, what| SockFilter::new(code, 0, 0, what);
    let (pass, drop) = (|| does(RETURN, u32::MAX), || does(RETURN, 0));
    // So many instructions that follow are skipped: where it is this, or where it is another.
    let is = |what, skipped| SockFilter::new(JUMP_IF, 0, skipped, what);
    let is_not = |what, skipped| SockFilter::new(JUMP_IF, skipped, 0, what);

    let (mut v4, mut v6) = (vec![does(LOAD_WORD, IP + 12)], Vec::new());
    for source in sources {
        match source {
            IpAddr::V4(address) => v4.extend([is(address.to_bits(), 1), drop()]),
            IpAddr::V6(address) => {
                let [high, low] = [96, 64].map(|shift| (address.to_bits() >> shift) as u32);
                v6.extend([does(LOAD_WORD, IP + 8), is(high, 3), does(LOAD_WORD, IP + 12), is(low, 1), drop()]);
            }
        }
    }
    v4.push(pass());
    v6.push(pass());
    let mut filter = vec![
        // SYN, and not the ACK to one of ours.
        does(LOAD_BYTE, 13),
        does(AND, 0x12),
        is_not(0x02, 1),
        pass(),
        does(LOAD_BYTE, IP),
        does(AND, 0xf0),
        is_not(0x40, 1),
        does(JUMP, v4.len() as u32),
    ];
    filter.append(&mut v4);
    filter.append(&mut v6);
    filter
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpSocket, TcpStream},
        time::timeout,
    };

    use super::*;

    async fn from(address: IpAddr, listener: &TcpListener) -> std::io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind((address, 0).into())?;
        socket.connect(listener.local_addr()?).await
    }

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, last).into()
    }

    #[tokio::test]
    async fn who_is_shut_out_is_heard_again_and_nobody_else_notices() {
        let listener = TcpListener::bind((v4(1), 0)).await.unwrap();
        let mut gate = Gate::new(&listener);
        let mut before = from(v4(9), &listener).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        for last in [7, 9, 9, 8] {
            gate.shut(Source::from(v4(last)));
        }
        assert_eq!(gate.shut.len(), 3);
        let mut knocking = std::pin::pin!(from(v4(9), &listener));
        assert!(timeout(SHUT / 4, &mut knocking).await.is_err(), "its SYN was answered");
        for last in [1, 10] {
            from(v4(last), &listener).await.unwrap();
            let (_, address) = listener.accept().await.unwrap();
            assert_eq!(address.ip(), v4(last));
        }
        // What it has goes on.
        let mut byte = [0];
        accepted.write_all(b"a").await.unwrap();
        before.read_exact(&mut byte).await.unwrap();
        before.write_all(b"b").await.unwrap();
        accepted.read_exact(&mut byte).await.unwrap();
        while !gate.shut.is_empty() {
            gate.is_due().await;
            gate.open();
        }
        knocking.await.unwrap();
    }

    #[tokio::test]
    async fn as_many_as_there_may_be_fit_into_a_filter() {
        let listener = TcpListener::bind((v4(1), 0)).await.unwrap();
        let mut gate = Gate::new(&listener);
        // Those of IPv6 need the most.
        for number in 0..2 * MOST as u128 {
            gate.shut(Source::from(IpAddr::from(Ipv6Addr::from_bits(number << 64))));
        }
        gate.shut.pop_back();
        gate.shut(Source::from(v4(9)));
        assert_eq!(gate.shut.len(), MOST);
        assert!(timeout(SHUT / 4, from(v4(9), &listener)).await.is_err(), "its SYN was answered");
        from(v4(10), &listener).await.unwrap();
    }

    #[tokio::test]
    async fn of_ipv6_a_network_is_one_source() {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
        let mut gate = Gate::new(&listener);
        let own = IpAddr::from(Ipv6Addr::LOCALHOST);
        gate.shut(Source::from(IpAddr::from(Ipv6Addr::from_bits(5 << 64))));
        from(own, &listener).await.unwrap();
        gate.shut(Source::from(own));
        assert!(timeout(SHUT / 4, from(own, &listener)).await.is_err(), "its SYN was answered");
    }
}
