//! The thread that reads the input.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use refrain_media::sequence::{FrameSource, SequenceInfo, open_source};
use refrain_media::{MediaError, Picture};
use refrain_stream::Inbox;

use super::work::Work;

/// What the reader hands over: a picture, or why there are no more.
pub(super) type Arrival = Result<Arrived, MediaError>;

/// A picture that came in.
pub(super) struct Arrived {
    /// Number in the input, from 0, with those that were dropped.
    pub(super) number: u64,
    pub(super) picture: Picture,
    /// When it had been read.
    pub(super) at: Instant,
}

/// Opens the input, and reads it in a thread of its own until it ends or nobody listens.
///
/// # Errors
/// An input that cannot be opened.
pub(super) fn start(work: &Work) -> Result<(SequenceInfo, Arc<Inbox<Arrival>>), MediaError> {
    let source = open_source(&PathBuf::from(&work.input), work.source)?;
    let mut info = source.info();
    if let Some(rate) = work.source.rate {
        info.rate = rate;
    }
    let inbox = Arc::new(Inbox::new(work.inbox));
    let (sender, limit) = (Arc::clone(&inbox), work.frames.unwrap_or(u64::MAX));
    let pace = work.paced.then_some(info.rate);
    thread::spawn(move || {
        let began = Instant::now();
        read(source, limit, |number, arrival| {
            if let Some(rate) = pace {
                let due = began + Duration::from_micros(rate.ticks(number, 1_000_000));
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            sender.put(arrival.map(|picture| Arrived { number, picture, at: Instant::now() }))
        });
        sender.close();
    });
    Ok((info, inbox))
}

fn read(
    mut source: Box<dyn FrameSource>,
    limit: u64,
    mut hand_over: impl FnMut(u64, Result<Picture, MediaError>) -> bool,
) {
    for number in 0..limit {
        let arrival = match source.next_frame() {
            Ok(None) => return,
            Ok(Some(picture)) => Ok(picture),
            Err(error) => Err(error),
        };
        let last = arrival.is_err();
        if !hand_over(number, arrival) || last {
            return;
        }
    }
}
