//! The coordinator's loop: sockets, the clock and, while it leads, the machine.
//!
//! Owns the listener and all connections. What a message does is left to `machine` or `standby`,
//! what takes time to `helpers`, who leads to `elector`.
//!
//! Invariant: the loop never waits for a peer, the store or a place, so that it looks at all
//! servers each [`TICK_EVERY`]. A leader that is not sure that it leads reads nothing and says
//! nothing, as if it stood still.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use wire::{CONTROL_BYTES_MAX, Time, ToCoordinator, ToMember, control_frame};

use super::claims::Claims;
use super::connection::{Connection, Ended};
use super::contest::SURE_FOR;
use super::elector::{Elector, Won, Word};
use super::event::{Action, ConnectionId, Event};
use super::helpers::{Told, Wake};
use super::lead::{Lead, Start};
use super::service::{Duty, Shared, Stored};
use super::spec::{ClusterSpec, SpecError};
use super::standby::Standby;
use super::store::StoreError;

/// How often the machine looks at all servers.
pub const TICK_EVERY: Duration = Duration::from_millis(10);

/// Connections at once; more are closed as they come.
pub const CONNECTIONS_MAX: usize = 4096;

/// How often connections are looked at for peers that say or read nothing.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Events that are taken at once.
const EVENTS_MAX: usize = 256;

/// Connections that are accepted at once.
const ACCEPTS_MAX: usize = 64;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
/// Numbers of connections begin here.
const CONNECTION_FIRST: u64 = 2;

/// The loop's own state.
pub(super) struct Loop {
    poll: rustix::fd::OwnedFd,
    listener: TcpListener,
    wake: UnixStream,
    waker: Wake,
    spec: ClusterSpec,
    stored: Stored,
    shared: Arc<Shared>,
    role: Role,
    /// None: there is no other coordinator.
    rivals: Option<Rivals>,
    connections: BTreeMap<u64, Connection>,
    connections_made: u64,
    began: Instant,
    piece: Vec<u8>,
}

enum Role {
    Leading(Box<Lead>),
    Standing(Standby),
}

/// What a coordinator has that may not be the only one.
struct Rivals {
    elector: Elector,
    words: Receiver<Word>,
    /// When the newest claim of this one was made that the store has.
    said_at: Instant,
}

impl Loop {
    /// A loop that leads nothing yet.
    ///
    /// - Errors: there are no sockets left.
    pub(super) fn new(
        listener: TcpListener,
        spec: ClusterSpec,
        stored: Stored,
        shared: Arc<Shared>,
    ) -> io::Result<Loop> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (wake, rings) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        rings.set_nonblocking(true)?;
        epoll::add(&poll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        epoll::add(&poll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Loop {
            poll,
            listener,
            wake,
            waker: Wake::new(rings),
            spec,
            stored,
            shared,
            role: Role::Standing(Standby::default()),
            rivals: None,
            connections: BTreeMap::new(),
            connections_made: CONNECTION_FIRST,
            began: Instant::now(),
            piece: vec![0; PIECE_BYTES],
        })
    }

    /// What wakes it.
    ///
    /// - Errors: there are no files left.
    pub(super) fn waker(&self) -> io::Result<Wake> {
        self.waker.another()
    }

    /// Leads.
    ///
    /// - Errors: there are no threads or files left.
    pub(super) fn lead(&mut self, start: Start) -> io::Result<()> {
        let term = start.term;
        let lead = Lead::new(start, &self.stored, &self.waker, self.now())?;
        self.role = Role::Leading(Box::new(lead));
        self.show_duty(Duty::Leads { term });
        Ok(())
    }

    /// Stands by, and leads when it is its turn.
    ///
    /// - Errors: there is no thread left.
    pub(super) fn contend(
        &mut self,
        claims: Box<dyn Claims>,
        address: Option<String>,
    ) -> io::Result<()> {
        let (tells, words) = channel();
        let elector = Elector::start(claims, address, tells, self.waker.another()?)?;
        self.rivals = Some(Rivals { elector, words, said_at: self.began });
        self.show_duty(Duty::StandsBy { leader: None, why: None });
        Ok(())
    }

    fn now(&self) -> Time {
        Time::default() + self.began.elapsed()
    }

    fn show_duty(&self, duty: Duty) {
        *self.shared.duty.lock().unwrap_or_else(PoisonError::into_inner) = duty;
    }

    /// Runs until it is told to stop, or another coordinator is active where there should be one.
    pub(super) fn run(&mut self, stopping: &AtomicBool) -> Result<(), StoreError> {
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
        let (mut tick_at, mut look_at) = (self.now(), self.now());
        while !stopping.load(Ordering::Relaxed) {
            self.hear_words()?;
            if self.is_unsure() {
                std::thread::sleep(TICK_EVERY);
                continue;
            }
            let wait = (tick_at - self.now()).min(TICK_EVERY);
            let timeout = Timespec::try_from(wait).expect("10 ms at most");
            ready.clear();
            // Interrupted or not: what is ready stays so.
            let _ = epoll::wait(&self.poll, spare_capacity(&mut ready), Some(&timeout));
            // It may have stood still meanwhile, for longer than its word holds.
            self.hear_words()?;
            if self.is_unsure() {
                continue;
            }
            for event in &ready {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    WAKE => {
                        while matches!((&self.wake).read(&mut self.piece), Ok(1..)) {}
                        self.hear_wish();
                    }
                    number => self.serve(number),
                }
            }
            self.hear_helpers()?;
            let now = self.now();
            if now >= tick_at {
                tick_at = now + TICK_EVERY;
                self.tick(now);
            }
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                self.look(now);
            }
        }
        Ok(())
    }

    /// Whether it leads, and another one may lead already.
    fn is_unsure(&self) -> bool {
        let said_at = self.rivals.as_ref().map(|rivals| rivals.said_at);
        let leads = matches!(self.role, Role::Leading(_));
        leads && said_at.is_some_and(|said_at| said_at.elapsed() > SURE_FOR)
    }

    /// Takes in what the elector says.
    fn hear_words(&mut self) -> Result<(), StoreError> {
        while let Some(rivals) = &mut self.rivals
            && let Ok(word) = rivals.words.try_recv()
        {
            match word {
                Word::Won(won) => {
                    rivals.said_at = won.said_at;
                    self.begin_lead(*won)?;
                }
                Word::Leads { said_at } => rivals.said_at = said_at,
                Word::Lost { why } => self.stand_by(&why),
                Word::Standing { leader, why } => {
                    if let Role::Standing(standby) = &mut self.role {
                        (standby.leader, standby.why) = (leader.clone(), why.clone());
                        self.show_duty(Duty::StandsBy { leader, why });
                    }
                }
                Word::Unfit(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn begin_lead(&mut self, won: Won) -> Result<(), StoreError> {
        let Won { term, address, said_at: _, cluster_id, newest, past, jobs, store } = won;
        let unfit = |error: SpecError| StoreError::Unfit { what: error.to_string() };
        self.spec.check(newest.as_ref()).map_err(unfit)?;
        tracing::info!(term, "leads");
        let spec = self.spec.clone();
        let start = Start { spec, term, address, cluster_id, newest, past, jobs, store };
        if let Err(error) = self.lead(start) {
            tracing::error!(%error, term, "the lead is not taken");
            self.rivals.iter().for_each(|rivals| rivals.elector.resign());
        }
        Ok(())
    }

    /// Leads no more: whoever is connected looks for another one.
    fn stand_by(&mut self, why: &str) {
        let standby = Role::Standing(Standby::default());
        let Role::Leading(lead) = std::mem::replace(&mut self.role, standby) else { return };
        tracing::warn!(why, "leads no more, and stands by");
        let last = Some(Arc::clone(lead.machine.placement()));
        self.role = Role::Standing(Standby { last, leader: None, why: Some(why.to_owned()) });
        lead.dismiss();
        self.connections.clear();
        self.show_duty(Duty::StandsBy { leader: None, why: Some(why.to_owned()) });
    }

    /// Takes in what helpers of the lead say.
    fn hear_helpers(&mut self) -> Result<(), StoreError> {
        let mut has_heard = false;
        while let Role::Leading(lead) = &mut self.role
            && let Some(told) = lead.next_told()
        {
            has_heard = true;
            match (told, &self.rivals) {
                (Told::Happened(event), _) => self.handle(event),
                (Told::Fenced(error), None) => return Err(error),
                (Told::Fenced(error), Some(rivals)) => {
                    rivals.elector.resign();
                    self.stand_by(&error.to_string());
                }
            }
        }
        if has_heard {
            self.show_checkpoints(self.now());
        }
        Ok(())
    }

    /// Takes in that whoever started the loop wants a checkpoint.
    fn hear_wish(&mut self) {
        if self.shared.is_checkpoint_wanted.load(Ordering::Relaxed) {
            self.handle(Event::TakeCheckpoint);
            // It may be over before the next tick, and would be taken once more.
            self.show_checkpoints(self.now());
        }
    }

    fn tick(&mut self, now: Time) {
        self.hear_wish();
        self.handle(Event::Tick);
        self.show_checkpoints(now);
        self.flush(now);
    }

    /// Tells whoever started the loop about checkpoints.
    fn show_checkpoints(&self, now: Time) {
        let status = match &self.role {
            Role::Leading(lead) => lead.machine.conductor.status(now),
            Role::Standing(_) => None,
        };
        if status.as_ref().is_some_and(|status| status.under_way.is_some()) {
            self.shared.is_checkpoint_wanted.store(false, Ordering::Relaxed);
        }
        *self.shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_MAX {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "a connection is not accepted");
                    return self.listen(epoll::EventFlags::empty());
                }
            };
            if self.connections.len() >= CONNECTIONS_MAX {
                tracing::warn!(CONNECTIONS_MAX, "too many connections: one is turned away");
                continue;
            }
            let number = self.connections_made;
            self.connections_made += 1;
            let added = Connection::new(stream, self.now()).and_then(|connection| {
                let data = epoll::EventData::new_u64(number);
                epoll::add(&self.poll, connection.stream(), data, epoll::EventFlags::IN)?;
                Ok(connection)
            });
            if let Ok(connection) = added {
                self.connections.insert(number, connection);
            }
        }
    }

    /// Reads what has arrived on a connection.
    fn serve(&mut self, number: u64) {
        let now = self.now();
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let mut messages = Vec::new();
        let read = connection.read(&mut self.piece, now, |message| messages.push(message));
        match &self.role {
            Role::Leading(_) => {
                for message in messages {
                    self.handle(Event::Said { connection: ConnectionId(number), message });
                }
            }
            Role::Standing(_) => self.turn_away(number, messages.first()),
        }
        if let Err(ended) = read {
            self.end(number, &ended);
        }
    }

    /// Answers a first message as one who stands by, and ends the link.
    fn turn_away(&mut self, number: u64, message: Option<&ToCoordinator>) {
        let (Role::Standing(standby), Some(message)) = (&self.role, message) else { return };
        for answer in standby.answer(&self.spec, message) {
            if let Some(frame) = framed(&answer) {
                self.send(ConnectionId(number), &frame);
            }
        }
        self.close(ConnectionId(number));
    }

    /// Hands an event to the machine, if there is one, and does what it wants.
    fn handle(&mut self, event: Event) {
        let now = self.now();
        let Role::Leading(lead) = &mut self.role else { return };
        for action in lead.machine.handle(event, now) {
            let Role::Leading(lead) = &mut self.role else { return };
            match lead.act(action) {
                Some(Action::Send { connection, message }) => {
                    if let Some(frame) = framed(&message) {
                        self.send(connection, &frame);
                    }
                }
                Some(Action::Publish { connections, placement }) => {
                    tracing::info!(
                        epoch = placement.epoch.get(),
                        cause = placement.cause,
                        "placed"
                    );
                    let message = ToMember::Placement((*placement).clone());
                    let Some(frame) = framed(&message) else { continue };
                    connections.into_iter().for_each(|connection| self.send(connection, &frame));
                }
                Some(Action::Close { connection }) => self.close(connection),
                Some(
                    Action::Probe { .. }
                    | Action::Record(_)
                    | Action::KeepJob(_)
                    | Action::Look { .. }
                    | Action::Store(_),
                )
                | None => {}
            }
        }
    }

    fn send(&mut self, connection: ConnectionId, frame: &Arc<[u8]>) {
        let now = self.now();
        let Some(known) = self.connections.get_mut(&connection.0) else { return };
        if let Err(ended) = known.send(Arc::clone(frame), now) {
            self.end(connection.0, &ended);
        }
    }

    /// Ends a link after what was sent has left.
    fn close(&mut self, connection: ConnectionId) {
        let now = self.now();
        let known = self.connections.get_mut(&connection.0);
        if let Some(Err(ended)) = known.map(|one| one.close(now)) {
            self.end(connection.0, &ended);
        }
    }

    /// Forgets a connection; the machine is told, with the next of its events at the latest.
    fn end(&mut self, number: u64, ended: &Ended) {
        if self.connections.remove(&number).is_none() {
            return;
        }
        match ended {
            Ended::Closed | Ended::Done => tracing::debug!(number, "a connection is closed"),
            ended => tracing::warn!(number, ?ended, "a connection is given up"),
        }
        if let Role::Leading(lead) = &self.role {
            lead.bell().happened(Event::Closed { connection: ConnectionId(number) });
        }
    }

    /// Sends what had to wait.
    fn flush(&mut self, now: Time) {
        let waiting = self.connections.iter_mut().filter(|(_, one)| one.is_waiting());
        let over: Vec<(u64, Ended)> =
            waiting.filter_map(|(number, one)| Some((*number, one.flush(now).err()?))).collect();
        for (number, ended) in over {
            self.end(number, &ended);
        }
    }

    /// Listens, or does not until the next look.
    fn listen(&self, flags: epoll::EventFlags) {
        let data = epoll::EventData::new_u64(LISTENER);
        if let Err(error) = epoll::modify(&self.poll, &self.listener, data, flags) {
            tracing::error!(%error, "the listener cannot be watched");
        }
    }

    /// Ends connections whose peers say or read nothing.
    fn look(&mut self, now: Time) {
        self.listen(epoll::EventFlags::IN);
        let tired = |(number, one): (&u64, &Connection)| Some((*number, one.look(now).err()?));
        let over: Vec<(u64, Ended)> = self.connections.iter().filter_map(tired).collect();
        for (number, ended) in over {
            self.end(number, &ended);
        }
    }
}

fn framed(message: &ToMember) -> Option<Arc<[u8]>> {
    match control_frame(message, CONTROL_BYTES_MAX) {
        Ok(frame) => Some(frame.into()),
        Err(error) => {
            // The bounds on names, servers and shards keep it below; see `wire::control`.
            tracing::error!(%error, "a message is not sent");
            None
        }
    }
}
