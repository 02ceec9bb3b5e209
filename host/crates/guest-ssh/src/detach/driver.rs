//! Follows a detached program to its end, over as many connections as it takes.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::frames::{FRAME_MAX, Frames, Position, Said};
use super::queue::Queue;
use super::{ASKED_QUEUED, Job, scripts};
use crate::Error;
use crate::command::{self, Exit, OutputChunk, Signal, Stream, Tail};
use crate::connection::Following;
use crate::running::Event;
use crate::transfer::Beginning;

/// Bytes that a follower may send ahead of what was taken. More than a frame and what is not yet acknowledged.
const WINDOW: u64 = 1024 * 1024;

/// Bytes taken before they are acknowledged.
const ACKNOWLEDGE_AT: u64 = WINDOW / 4;

/// What waits for whoever reads it may take in memory; only a VM that breaks its word comes to more than [`WINDOW`], or one whose
/// streams take turns byte by byte.
const QUEUE_MAX: usize = (WINDOW + FRAME_MAX) as usize;

/// How often the VM is told that somebody follows.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// How long a new connection is tried for after one was lost, where one that brings nothing is none: a VM that is started anew has
/// lost the program anyway.
pub(super) const REACH_AGAIN_MAX: Duration = Duration::from_secs(120);

/// A follower that still hears us after so long was worth its connection, also if the program has nothing to say.
const FRUITFUL: Duration = Duration::from_secs(5);

/// Pauses between those tries, doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Followers in a row that may end without a word before the program is given up.
const FRUITLESS_MAX: u32 = 4;

/// Starts in all of a program whose start was never confirmed.
const STARTS_MAX: usize = 5;

/// Between SIGTERM and SIGKILL for a program that nobody wants any more, in tenths of a second.
const GRACE_TENTHS: u64 = 10;

/// How long removing what is left in the VM may take, a new connection included.
const TIDY_MAX: Duration = Duration::from_secs(20);

/// What is told to the holder of the command.
#[derive(Debug)]
pub(super) enum Told {
    Event(Event),
    /// Nothing follows.
    Ending(Result<Exit, Error>),
}

/// What the holder of the command asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Signal(Signal),
    /// [`Event::Heard`].
    Sign,
}

/// What comes from the holder of the command.
pub(super) struct Requests {
    pub(super) asked: mpsc::Receiver<Asked>,
    /// SIGKILL, which waits for no other signal. Several at once are one.
    pub(super) kill: Arc<Notify>,
}

/// A signal that the VM has not confirmed. It goes to each follower again, under its number, until one has heard it.
struct Unheard {
    number: u64,
    signal: Signal,
    /// Which word to the follower of now it was.
    word: u64,
}

/// How a follower ended.
enum Followed {
    Ended(Exit),
    /// The program was never started.
    Absent,
    Lost(Error),
    /// The follower ended and the connection did not.
    Stopped(String),
    Failed(Error),
    /// Nobody reads any more.
    Dropped,
}

/// The tries since the last connection that brought something.
struct Tries {
    until: Option<Instant>,
    pause: Duration,
}

impl Default for Tries {
    fn default() -> Self {
        Self {
            until: None,
            pause: PAUSE_FIRST,
        }
    }
}

pub(super) struct Driver {
    job: Job,
    tries: Tries,
    /// Feeds the program's standard input.
    feeding: Option<command::Command>,
    tell: mpsc::Sender<Told>,
    requests: Requests,
    /// Signals so far.
    signals: u64,
    unheard: VecDeque<Unheard>,
    /// The word whose being heard is to be told.
    sign: Option<u64>,
    waiting: Queue,
    position: Position,
    _following: Following,
}

impl Driver {
    pub(super) fn new(
        job: Job,
        feeding: Option<command::Command>,
        tell: mpsc::Sender<Told>,
        requests: Requests,
    ) -> Self {
        Self {
            _following: job.sessions.follow(),
            job,
            tries: Tries::default(),
            feeding,
            tell,
            requests,
            signals: 0,
            unheard: VecDeque::new(),
            sign: None,
            waiting: Queue::default(),
            position: Position::default(),
        }
    }

    /// Follows the program to its end, removes what there is of it in the VM, and tells how it ended.
    pub(super) async fn run(mut self, lost: Option<Error>) {
        let mut closing = self.job.sessions.closing();
        let ending = tokio::select! {
            ending = self.follow_on(lost) => ending,
            _ = closing.wait_for(|closing| *closing) => ControlFlow::Continue(Err(Error::Lost {
                address: self.job.sessions.address(),
                reason: "it was closed".to_owned(),
            })),
        };
        let grace = match &ending {
            ControlFlow::Continue(Ok(_)) => 0,
            _ => GRACE_TENTHS,
        };
        self.requests.asked.close();
        let Self {
            job, tell, waiting, ..
        } = &mut self;
        let deliver = async {
            while let Some(event) = waiting.pop() {
                if tell.send(Told::Event(event)).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(deliver, job.tidy_in_time(grace));
        // Not before: a program whose input broke off would take this for its end.
        self.feeding = None;
        if let ControlFlow::Continue(ending) = ending {
            // Nobody may want to know any more.
            let _ = self.tell.send(Told::Ending(ending)).await;
        }
    }

    /// Breaks if nobody reads any more.
    async fn follow_on(&mut self, mut lost: Option<Error>) -> ControlFlow<(), Result<Exit, Error>> {
        let mut fruitless = 0;
        loop {
            if let Some(problem) = lost.take() {
                match self.reach_again(problem).await? {
                    Ok(()) => {}
                    Err(problem) => return ControlFlow::Continue(Err(problem)),
                }
            }
            let before = self.position.clone();
            let followed = self.follow().await;
            if self.position != before {
                fruitless = 0;
                self.tries = Tries::default();
            }
            match followed {
                Followed::Ended(exit) => return ControlFlow::Continue(Ok(exit)),
                Followed::Failed(problem) => return ControlFlow::Continue(Err(problem)),
                Followed::Dropped => return ControlFlow::Break(()),
                Followed::Lost(problem) => lost = Some(problem),
                Followed::Absent if !self.job.is_fed && self.job.void.len() + 1 < STARTS_MAX => {
                    self.job.start_anew();
                    match self.job.launch(None).await {
                        Ok(_) => {}
                        Err(problem @ (Error::Lost { .. } | Error::Gone { .. })) => {
                            lost = Some(problem);
                        }
                        Err(problem) => return ControlFlow::Continue(Err(problem)),
                    }
                }
                Followed::Absent => {
                    return ControlFlow::Continue(Err(self.unfollowed("the VM never started it")));
                }
                Followed::Stopped(reason) => {
                    fruitless += 1;
                    if fruitless > FRUITLESS_MAX {
                        return ControlFlow::Continue(Err(self.unfollowed(&reason)));
                    }
                }
            }
        }
    }

    fn unfollowed(&self, reason: &str) -> Error {
        Error::Detached {
            address: self.job.sessions.address(),
            reason: reason.to_owned(),
        }
    }

    /// Makes a new connection. Breaks if nobody reads any more.
    async fn reach_again(&mut self, problem: Error) -> ControlFlow<(), Result<(), Error>> {
        let reason = match problem {
            Error::Lost { reason, .. } => reason,
            other => other.to_string(),
        };
        if let Err(gone) = self.job.sessions.still_there() {
            return ControlFlow::Continue(Err(Error::Lost {
                address: self.job.sessions.address(),
                reason: gone.to_string(),
            }));
        }
        tracing::debug!(reason, "a detached command lost its connection");
        self.waiting.push(Event::Interrupted {
            reason: reason.clone(),
        });
        let first = self.tries.until.is_none();
        let until = *(self.tries.until).get_or_insert_with(|| Instant::now() + REACH_AGAIN_MAX);
        if !first {
            self.pause().await?;
        }
        loop {
            let last = {
                let renewing = self.job.sessions.renew();
                tokio::pin!(renewing);
                loop {
                    tokio::select! {
                        renewed = &mut renewing => break renewed,
                        told = tell_next(&self.tell, &mut self.waiting) => if !told {
                            return ControlFlow::Break(());
                        },
                    }
                }
            };
            let problem = match last {
                Ok(()) if !first && Instant::now() >= until => {
                    return ControlFlow::Continue(Err(Error::Lost {
                        address: self.job.sessions.address(),
                        reason: format!("{reason}; and new ones are no better"),
                    }));
                }
                Ok(()) => {
                    self.waiting.push(Event::Resumed);
                    return ControlFlow::Continue(Ok(()));
                }
                Err(problem) => problem,
            };
            let may_pass = problem.may_pass() || matches!(problem, Error::Lost { .. });
            if !may_pass || Instant::now() >= until {
                return ControlFlow::Continue(Err(Error::Lost {
                    address: self.job.sessions.address(),
                    reason: format!("{reason}; and no new one can be made: {problem}"),
                }));
            }
            self.pause().await?;
        }
    }

    /// Waits before the next try, each time for longer. Breaks if nobody reads any more.
    async fn pause(&mut self) -> ControlFlow<()> {
        let pausing = sleep(self.tries.pause);
        self.tries.pause = (self.tries.pause * 2).min(PAUSE_MAX);
        tokio::pin!(pausing);
        loop {
            tokio::select! {
                () = &mut pausing => return ControlFlow::Continue(()),
                told = tell_next(&self.tell, &mut self.waiting) => if !told {
                    return ControlFlow::Break(());
                },
            }
        }
    }

    /// Follows the program on one connection.
    async fn follow(&mut self) -> Followed {
        let start = scripts::follow(&self.job.name, &self.position, WINDOW);
        let mut command = match self.job.begin(start).await {
            Ok(command) => command,
            Err(problem @ (Error::Lost { .. } | Error::Gone { .. })) => {
                return Followed::Lost(problem);
            }
            Err(problem) if problem.may_pass() => return Followed::Lost(problem),
            Err(problem) => return Followed::Failed(problem),
        };
        let mut words = Words::to(&command);
        let mut frames = Frames::new(self.position.clone());
        let mut reading = Reading {
            began: Instant::now(),
            beginning: Beginning::default(),
            stderr: Tail::default(),
        };
        let mut signs = interval(SIGN_OF_LIFE);
        signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut acknowledged = 0;
        self.sign = None;
        for signal in &mut self.unheard {
            words.signal(signal);
        }
        let followed = loop {
            tokio::select! {
                chunk = command.next_output(), if self.waiting.held() < QUEUE_MAX => {
                    let Some(chunk) = chunk else {
                        break self.ended(&mut command, &reading).await;
                    };
                    if let Some(followed) = self.take(chunk, &mut reading, &mut frames, &mut words) {
                        break followed;
                    }
                }
                told = tell_next(&self.tell, &mut self.waiting) => {
                    if !told {
                        break Followed::Dropped;
                    }
                }
                () = self.requests.kill.notified() => {
                    // One that was not heard yet does what another would.
                    if !self.unheard.iter().any(|unheard| matches!(unheard.signal, Signal::Kill)) {
                        self.say_signal(Signal::Kill, &mut words);
                    }
                }
                Some(asked) = self.requests.asked.recv(), if self.unheard.len() < ASKED_QUEUED => match asked {
                    Asked::Signal(signal) => self.say_signal(signal, &mut words),
                    Asked::Sign => {
                        words.say("live\n".to_owned());
                        self.sign = Some(words.said);
                    }
                },
                _ = signs.tick() => words.say("live\n".to_owned()),
                fed = fed(&mut self.feeding) => match fed {
                    Ok(()) => self.feeding = None,
                    // What the program has read was cut off, so what it does with that is not what was asked for.
                    Err(problem) => break Followed::Failed(problem),
                },
            }
            let taken = frames
                .arrived
                .saturating_sub(self.waiting.output_bytes() as u64);
            if taken >= acknowledged + ACKNOWLEDGE_AT {
                acknowledged = taken;
                words.say(format!("ack {taken}\n"));
            }
        };
        self.position = frames.position();
        if matches!(followed, Followed::Ended(_)) {
            // It is over with this; its session is free for what comes next.
            let _ = timeout(Duration::from_secs(1), command.wait()).await;
        }
        followed
    }

    fn say_signal(&mut self, signal: Signal, words: &mut Words) {
        self.signals += 1;
        let mut signal = Unheard {
            number: self.signals,
            signal,
            word: 0,
        };
        words.signal(&mut signal);
        self.unheard.push_back(signal);
    }

    /// Takes a piece of the follower's answer.
    fn take(
        &mut self,
        chunk: OutputChunk,
        reading: &mut Reading,
        frames: &mut Frames,
        words: &mut Words,
    ) -> Option<Followed> {
        if chunk.stream == Stream::Stderr {
            reading.stderr.push(&chunk.data);
            return None;
        }
        let data = reading.beginning.strip(chunk.data);
        let mut followed = None;
        let read = frames.push(data, |said| match said {
            Said::Output(stream, data) => self.waiting.push_output(stream, data),
            Said::Heard(count) => {
                if reading.began.elapsed() >= FRUITFUL {
                    self.tries = Tries::default();
                }
                self.unheard.retain(|signal| signal.word > count);
                if self.sign.is_some_and(|word| word <= count) {
                    self.sign = None;
                    self.waiting.push(Event::Heard);
                }
            }
            Said::Fetched(file) => words.say(format!("rm {file}\n")),
            Said::End(exit) => followed = Some(Ok(exit)),
            Said::Absent => followed = Some(Err(None)),
            Said::Gone => followed = Some(Err(Some(GONE.to_owned()))),
            Said::Fault(why) => followed = Some(Err(Some(why))),
        });
        if let Err(problem) = read {
            return Some(Followed::Failed(self.unfollowed(&problem)));
        }
        followed.map(|followed| match followed {
            Ok(exit) => Followed::Ended(exit),
            Err(None) => Followed::Absent,
            Err(Some(why)) => Followed::Failed(self.unfollowed(&why)),
        })
    }

    /// What follows from the end of an answer that did not say what it means.
    async fn ended(&self, command: &mut command::Command, reading: &Reading) -> Followed {
        match command.wait().await {
            Ok(exit) => Followed::Stopped(format!(
                "what follows it in the VM ended with {exit}: {}",
                reading.stderr.text()
            )),
            Err(problem) => Followed::Lost(problem),
        }
    }
}

/// Why a program is given up.
const GONE: &str = "nobody watches it in the VM any more, so how it ended is not known; the VM may have been started anew";

/// What one follower has said beside its frames.
struct Reading {
    began: Instant,
    beginning: Beginning,
    stderr: Tail,
}

/// Tells the first event that waits, or waits until nobody reads any more. Says whether somebody does.
async fn tell_next(tell: &mpsc::Sender<Told>, waiting: &mut Queue) -> bool {
    if waiting.is_empty() {
        tell.closed().await;
        return false;
    }
    let Ok(room) = tell.reserve().await else {
        return false;
    };
    if let Some(event) = waiting.pop() {
        room.send(Told::Event(event));
    }
    true
}

/// Returns when the program's input has been handed over; never if it has none.
async fn fed(feeding: &mut Option<command::Command>) -> Result<(), Error> {
    match feeding {
        Some(command) => command.wait().await.map(drop),
        None => std::future::pending().await,
    }
}

/// What is said to a follower: from a task of its own, so that saying never waits for reading.
struct Words {
    lines: mpsc::UnboundedSender<Bytes>,
    /// How many so far.
    said: u64,
    task: tokio::task::JoinHandle<()>,
}

impl Words {
    fn to(command: &command::Command) -> Self {
        let (lines, mut queue) = mpsc::unbounded_channel::<Bytes>();
        let writer = command.writer();
        let task = tokio::spawn(async move {
            while let Some(line) = queue.recv().await {
                if writer.data_bytes(line).await.is_err() {
                    return;
                }
            }
        });
        let said = 0;
        Self { lines, said, task }
    }

    fn signal(&mut self, signal: &mut Unheard) {
        let name = name_of(signal.signal);
        self.say(format!("signal {} {name}\n", signal.number));
        signal.word = self.said;
    }

    fn say(&mut self, line: String) {
        self.said += 1;
        // A follower that is gone is noticed by its silence.
        let _ = self.lines.send(line.into());
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Job {
    /// Ends the program and removes what there is of it; on a new connection if it must, and not for ever.
    pub(super) async fn tidy_in_time(&self, tenths_of_grace: u64) {
        let tidied = timeout(TIDY_MAX, async {
            let mut pause = PAUSE_FIRST;
            loop {
                match self.tidy(tenths_of_grace).await {
                    Err(problem) if problem.may_pass() || matches!(problem, Error::Lost { .. }) => {
                    }
                    // So is everything that was in it.
                    Err(Error::Gone { .. }) => return Ok(()),
                    other => return other,
                }
                if *self.sessions.closing().borrow() {
                    return Ok(());
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                // Whether it worked shows at the next try.
                let _ = self.sessions.renew().await;
            }
        });
        match tidied.await {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => {
                tracing::warn!(%problem, "a detached command was not removed from the VM")
            }
            Err(_) => tracing::warn!(
                "a detached command was not removed from the VM in time; it ends there by itself"
            ),
        }
    }

    pub(super) async fn tidy_after_loss(&self) {
        self.tidy_in_time(GRACE_TENTHS).await;
    }
}

fn name_of(signal: Signal) -> &'static str {
    match signal {
        Signal::Hup => "HUP",
        Signal::Int => "INT",
        Signal::Quit => "QUIT",
        Signal::Kill => "KILL",
        Signal::Term => "TERM",
        Signal::Usr1 => "USR1",
        Signal::Abrt => "ABRT",
        Signal::Alrm => "ALRM",
        Signal::Pipe => "PIPE",
    }
}
