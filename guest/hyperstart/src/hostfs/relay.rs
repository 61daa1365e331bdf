//! Requests on their way to hyperd. Those that were not answered are kept: a hyperd that was killed is followed by one
//! that answers them, and whoever waits does not notice.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use fuser::Errno;
use hypernetes_guest_protocol::v1::{HostPathReply, HostPathRequest, host_path_request::Operation};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The kernel lets each waiting process have one request under way, and a few for itself: there are not many.
pub type Requests = UnboundedReceiver<HostPathRequest>;
type Answered = Box<dyn FnOnce(Result<HostPathReply, Errno>) + Send>;

#[derive(Default)]
pub struct Relay(Mutex<State>);

#[derive(Default)]
struct State {
    last: u64,
    waiting: BTreeMap<u64, (HostPathRequest, Answered)>,
    /// The newest conversation's.
    out: Option<UnboundedSender<HostPathRequest>>,
}

impl Relay {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the host; `answered` is called once, by whoever brings the answer.
    pub fn ask(
        &self,
        path: Vec<u8>,
        operation: Operation,
        answered: impl FnOnce(Result<HostPathReply, Errno>) + Send + 'static,
    ) {
        let mut state = self.state();
        let request = state.send(path, operation);
        state.waiting.insert(request.id, (request, Box::new(answered)));
    }

    /// Tells the host; nobody waits, and it may get lost.
    pub fn tell(&self, operation: Operation) {
        self.state().send(Vec::new(), operation);
    }

    /// A new conversation: what was not answered goes to it first.
    pub fn attach(&self) -> Requests {
        let (out, requests) = unbounded_channel();
        let mut state = self.state();
        for (request, _) in state.waiting.values() {
            let _ = out.send(HostPathRequest { again: true, ..request.clone() });
        }
        state.out = Some(out);
        requests
    }

    /// Ends the conversation: nothing will be asked any more.
    pub fn detach(&self) {
        self.state().out = None;
    }

    pub fn answer(&self, reply: HostPathReply) {
        let waiting = self.state().waiting.remove(&reply.id);
        // An earlier conversation may have brought it already.
        let Some((_, answered)) = waiting else { return };
        match i32::try_from(reply.errno) {
            Ok(0) => answered(Ok(reply)),
            Ok(number) => answered(Err(Errno::from_i32(number))),
            Err(_) => answered(Err(Errno::EIO)),
        }
    }
}

impl State {
    fn send(&mut self, path: Vec<u8>, operation: Operation) -> HostPathRequest {
        self.last += 1;
        let request = HostPathRequest { id: self.last, again: false, path, operation: Some(operation) };
        // Without a conversation it waits for the next one.
        if let Some(out) = &self.out {
            let _ = out.send(request.clone());
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use hypernetes_guest_protocol::v1::{HostPathClose, HostPathReadLink};

    use super::*;

    #[test]
    fn what_was_not_answered_is_asked_again_in_order() {
        let relay = Relay::default();
        let (sender, answers) = mpsc::channel();
        let ask = |path: &str| {
            let sender = sender.clone();
            let link = Operation::ReadLink(HostPathReadLink {});
            relay
                .ask(path.into(), link, move |answer| sender.send(answer.map(|a| a.id).map_err(|e| e.code())).unwrap());
        };
        ask("before anybody came");
        let mut first = relay.attach();
        ask("a");
        ask("b");
        relay.tell(Operation::Close(HostPathClose { number: 1 }));
        let seen: Vec<_> = std::iter::from_fn(|| first.try_recv().ok()).map(|r| (r.id, r.again)).collect();
        assert_eq!(seen, [(1, true), (2, false), (3, false), (4, false)]);
        relay.answer(HostPathReply { id: 2, ..Default::default() });
        let mut second = relay.attach();
        ask("c");
        let seen: Vec<_> = std::iter::from_fn(|| second.try_recv().ok()).map(|r| (r.id, r.again)).collect();
        assert_eq!(seen, [(1, true), (3, true), (5, false)]);
        // The first conversation's answer comes late, and twice.
        relay.answer(HostPathReply { id: 3, errno: 2, ..Default::default() });
        relay.answer(HostPathReply { id: 3, ..Default::default() });
        relay.answer(HostPathReply { id: 99, ..Default::default() });
        assert_eq!(answers.try_iter().collect::<Vec<_>>(), [Ok(2), Err(2)]);
    }
}
