//! `refrain stream`: a clip or a camera's pipe in another style, frame by frame as it comes.

mod feed;
pub(crate) mod options;
mod session;
mod tally;
mod work;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use refrain_media::sequence::{FrameSink, SequenceInfo, create_sink};
use refrain_media::{MediaError, Picture};
use refrain_pipeline::{LoadOptions, RestylePipeline};
use refrain_stream::{Inbox, Taken};

use crate::errors::{interrupted, usage};
use crate::events::{Console, Event, Verbosity};
use crate::{interrupt, machine};
use feed::Arrival;
use options::StreamCallOptions;
pub(crate) use session::{Session, run_header};
pub(crate) use tally::StreamReport;
use tally::Tally;
pub(crate) use work::Settings;
use work::Work;

/// How long to wait for a frame before looking whether Ctrl-C was pressed.
const PATIENCE: Duration = Duration::from_millis(50);

/// Restyles a stream until its input ends, its output closes or the user stops it.
///
/// # Errors
/// Everything that a call, an input, a model, the disk or the user may do; what was finished before is kept.
pub(crate) fn run(options: StreamCallOptions, verbosity: Verbosity) -> anyhow::Result<()> {
    let (threads, json) = (options.threads, options.json);
    let to_stdout = options.output.as_os_str() == "-";
    if json && to_stdout {
        return Err(usage("--json and --output - both want standard output: name a file with --output"));
    }
    let work = Work::plan(options)?;
    let console = Console::new(verbosity, json, to_stdout);
    machine::set_threads(threads)?;
    interrupt::listen();
    machine::in_pool(|| restyle(&work, console))
}

fn restyle(work: &Work, console: Console) -> anyhow::Result<()> {
    let began = Instant::now();
    let load =
        || RestylePipeline::load(&work.settings.model.source, LoadOptions { precision: work.settings.precision });
    let pipeline = load().with_context(|| format!("model {}", work.settings.model.name))?;
    let mut session = Session::begin(&work.settings, &pipeline)?;
    let (info, inbox) = feed::start(work)?;
    let sink = create_sink(&work.output, work.sink(info.rate))?;
    note_start(work, console, info);
    let mut stream = Stream { work, sink: Some(sink), tally: Tally::new(began), waiting: VecDeque::new(), prompts: 0 };
    let ended = stream.answer_all(&mut session, &inbox);
    inbox.close();
    let finished = stream.finish(&mut session, &ended);
    let report = stream.tally.report(inbox.dropped(), session.computed_share());
    console.event(&Event::Stream { report: &report })?;
    report.lines().iter().for_each(|line| console.note(line));
    // What ended the stream says more than what the end then met.
    match ended {
        Err(error) if !is_closed_pipe(&error) => Err(error),
        _ => finished,
    }
}

fn note_start(work: &Work, console: Console, info: SequenceInfo) {
    let count = info.frames.map_or(String::new(), |frames| format!(", {frames} frames"));
    let (width, height, rate) = (info.width, info.height, info.rate);
    console.note(&format!(
        "{}: {width}x{height} at {rate} frames/s{count}; {:?}",
        work.input.display(),
        work.settings.prompt
    ));
}

/// A stream on its way from input to output.
struct Stream<'a> {
    work: &'a Work,
    sink: Option<Box<dyn FrameSink>>,
    tally: Tally,
    /// When the frames in flight had come, oldest first.
    waiting: VecDeque<Instant>,
    /// Later prompts that have begun.
    prompts: usize,
}

impl Stream<'_> {
    /// Answers frames until the input ends.
    fn answer_all(&mut self, session: &mut Session<'_>, inbox: &Inbox<Arrival>) -> anyhow::Result<()> {
        loop {
            if interrupt::requested() {
                return Err(interrupted("stopped; the frames so far are kept"));
            }
            match inbox.take(PATIENCE) {
                Taken::Nothing => {}
                Taken::Closed => return Ok(()),
                Taken::Some(arrival) => {
                    let arrived = arrival?;
                    let since = Instant::now();
                    self.change_prompt(session, arrived.number)?;
                    self.waiting.push_back(arrived.at);
                    let finished = session.push(&arrived.picture)?;
                    self.write(finished)?;
                    self.tally.work(since);
                }
            }
        }
    }

    fn change_prompt(&mut self, session: &mut Session<'_>, frame: u64) -> anyhow::Result<()> {
        while let Some((begin, prompt)) = self.work.later_prompts.get(self.prompts) {
            if *begin > frame {
                break;
            }
            session.set_prompt(prompt)?;
            self.prompts += 1;
        }
        Ok(())
    }

    fn write(&mut self, finished: Option<(u64, Picture)>) -> anyhow::Result<()> {
        let (Some((_, picture)), Some(sink)) = (finished, &mut self.sink) else { return Ok(()) };
        sink.write_frame(&picture)?;
        if let Some(arrived) = self.waiting.pop_front() {
            self.tally.answer(arrived);
        }
        Ok(())
    }

    /// Empties the stream batch and completes the output, so that it is valid whatever ended the input.
    fn finish(&mut self, session: &mut Session<'_>, ended: &anyhow::Result<()>) -> anyhow::Result<()> {
        if ended.is_ok() {
            while let Some(finished) = session.flush()? {
                self.write(Some(finished))?;
            }
        }
        let Some(sink) = self.sink.take() else { return Ok(()) };
        sink.finish().map_err(anyhow::Error::from)
    }
}

/// Whether the reader of our output went away: the end of the stream, not a failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<MediaError>()).any(MediaError::is_broken_pipe)
}
