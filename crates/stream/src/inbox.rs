//! Where pictures wait between the thread that reads them and the one that answers them.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens to a picture that comes while others wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxPolicy {
    /// Its sender waits until fewer than this many (at least 1) wait: every picture is answered.
    KeepAll(usize),
    /// It takes the place of the one that waits: the newest wins, and latency never builds up.
    Newest,
}

/// A queue between one sender and one receiver.
#[derive(Debug)]
pub struct Inbox<T> {
    policy: InboxPolicy,
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    dropped: u64,
    closed: bool,
}

/// What the receiver finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// The oldest that waited.
    Some(T),
    /// Nothing came in time.
    Nothing,
    /// The sender is done, and nothing waits.
    Closed,
}

impl<T> Inbox<T> {
    /// An empty inbox.
    pub fn new(policy: InboxPolicy) -> Self {
        let state = State { waiting: VecDeque::new(), dropped: 0, closed: false };
        Self { policy, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Hands something in; false when the receiver has gone.
    pub fn put(&self, value: T) -> bool {
        let mut state = self.lock();
        match self.policy {
            InboxPolicy::Newest => {
                state.dropped += state.waiting.len() as u64;
                state.waiting.clear();
            }
            InboxPolicy::KeepAll(depth) => {
                while state.waiting.len() >= depth.max(1) && !state.closed {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        if state.closed {
            return false;
        }
        state.waiting.push_back(value);
        self.changed.notify_all();
        true
    }

    /// Takes the oldest, waiting for it no longer than `patience`.
    pub fn take(&self, patience: Duration) -> Taken<T> {
        let idle = |state: &mut State<T>| state.waiting.is_empty() && !state.closed;
        let waited = self.changed.wait_timeout_while(self.lock(), patience, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let taken = state.waiting.pop_front();
        self.changed.notify_all();
        match taken {
            Some(value) => Taken::Some(value),
            None if state.closed => Taken::Closed,
            None => Taken::Nothing,
        }
    }

    /// Says that nothing more comes, or that nobody takes any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// How many gave way to newer ones.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_newest_wins_and_drops_are_counted() {
        let inbox = Inbox::new(InboxPolicy::Newest);
        assert_eq!(inbox.take(Duration::ZERO), Taken::Nothing);
        assert!((1..=5).all(|number| inbox.put(number)));
        assert_eq!((inbox.take(LONG), inbox.dropped()), (Taken::Some(5), 4));
        inbox.put(6);
        inbox.close();
        // What waits is still answered.
        assert_eq!(inbox.take(LONG), Taken::Some(6));
        assert_eq!(inbox.take(LONG), Taken::Closed);
        assert!(!inbox.put(7));
    }

    #[test]
    fn nothing_is_lost_when_all_are_kept() {
        let inbox = Inbox::new(InboxPolicy::KeepAll(2));
        let received = thread::scope(|scope| {
            scope.spawn(|| {
                assert!((0..1000).all(|number| inbox.put(number)));
                inbox.close();
            });
            std::iter::from_fn(|| match inbox.take(LONG) {
                Taken::Some(number) => Some(number),
                _ => None,
            })
            .collect::<Vec<u32>>()
        });
        assert_eq!((received, inbox.dropped()), ((0..1000).collect(), 0));
    }

    #[test]
    fn a_receiver_that_leaves_frees_the_sender() {
        let inbox = Inbox::new(InboxPolicy::KeepAll(1));
        thread::scope(|scope| {
            let sender = scope.spawn(|| (0..).take_while(|&number| inbox.put(number)).count());
            assert_eq!(inbox.take(LONG), Taken::Some(0));
            inbox.close();
            assert!(sender.join().unwrap() >= 1);
        });
    }
}
