//! What lies in which slot of a cache.

use std::collections::VecDeque;

use super::{KvOptions, KvPolicy, relative, sdv2, shift};

/// A slot that holds one latent frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Number of the frame in the stream, from 0.
    pub frame: u64,
    /// Its time as the policy counts it when the frame arrives.
    pub time: u64,
    /// Whether it is a sink.
    pub sink: bool,
}

/// A chunk that asks for slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival<'a> {
    /// Number of its first frame.
    pub(super) frame: u64,
    /// Number of its frames.
    pub(super) count: usize,
    /// Time of its first frame.
    pub(super) time: u64,
    /// Similarity of the newest frame to each sink, where the policy asks; an empty sink's is 0.
    pub(super) similarities: Option<&'a [f32]>,
}

/// The slots of one row and block, and what the policy remembers of them.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotMap {
    pub(super) options: KvOptions,
    pub(super) slots: Vec<Option<Slot>>,
    /// Slots in use: they fill from the first on.
    pub(super) filled: usize,
    /// Ends of the slots that `sdv2` will overwrite, next first.
    pub(super) queue: VecDeque<usize>,
    /// Frame at which `relative` last replaced a sink.
    pub(super) refreshed: Option<u64>,
    /// Sinks that gave way to other frames so far.
    refreshes: u64,
    /// First frame of the newest chunk, and its places in order of frames.
    present: Option<(u64, Vec<usize>)>,
}

impl SlotMap {
    /// An empty map. The options must have been [checked](KvOptions::checked).
    pub fn new(options: KvOptions) -> Self {
        let slots = vec![None; options.length];
        Self { options, slots, filled: 0, queue: VecDeque::new(), refreshed: None, refreshes: 0, present: None }
    }

    /// What each slot holds.
    pub fn slots(&self) -> &[Option<Slot>] {
        &self.slots
    }

    /// Frames held, by slot.
    pub fn frames(&self) -> Vec<u64> {
        self.slots.iter().flatten().map(|slot| slot.frame).collect()
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Ends of the slots that `sdv2` overwrites next.
    pub fn queue(&self) -> Vec<usize> {
        self.queue.iter().copied().collect()
    }

    /// First frame of the chunk that was placed last.
    pub fn newest_chunk(&self) -> Option<u64> {
        self.present.as_ref().map(|(frame, _)| *frame)
    }

    /// Sinks that gave way to other frames so far.
    pub fn refreshes(&self) -> u64 {
        self.refreshes
    }

    /// Places of the newest chunk's frames, in their order.
    pub fn present(&self) -> &[usize] {
        self.present.as_ref().map_or(&[], |(_, places)| places)
    }

    /// Whether the policy wants to know how similar the next chunk's frame is to the sinks.
    pub(super) fn wants_similarities(&self, count: usize) -> bool {
        count == 1
            && match self.options.policy {
                KvPolicy::Sdv2 { threshold, .. } => threshold.is_some() && self.options.sinks > 0,
                KvPolicy::Relative { refresh } => refresh.is_some() && self.options.sinks > 0,
                KvPolicy::Shift => false,
            }
    }

    /// Finds slots for a chunk; one that was placed last keeps its own. Gives the places in order of frames.
    pub(super) fn place(&mut self, arrival: &Arrival<'_>) -> Vec<usize> {
        if let Some((frame, places)) = &self.present
            && *frame == arrival.frame
        {
            return places.clone();
        }
        let places = match self.options.policy {
            KvPolicy::Sdv2 { threshold, .. } => sdv2::place(self, arrival, threshold),
            KvPolicy::Shift => shift::place(self, arrival),
            KvPolicy::Relative { refresh } => relative::place(self, arrival, refresh),
        };
        for (index, &place) in places.iter().enumerate() {
            let (frame, time) = (arrival.frame + index as u64, arrival.time + index as u64);
            if let Some(slot) = self.slots.get_mut(place) {
                self.refreshes += u64::from(place < self.options.sinks && slot.is_some());
                *slot = Some(Slot { frame, time, sink: place < self.options.sinks });
            }
        }
        self.filled = self.slots.iter().take_while(|slot| slot.is_some()).count();
        self.present = Some((arrival.frame, places.clone()));
        places
    }

    /// Times at which the filled slots are seen, by slot.
    pub fn times(&self) -> Vec<f64> {
        let held = self.slots.iter().flatten();
        match self.options.policy {
            KvPolicy::Sdv2 { .. } | KvPolicy::Shift => held.map(|slot| slot.time as f64).collect(),
            KvPolicy::Relative { .. } => relative::times(&self.frames()),
        }
    }
}
