//! The contest: which coordinator leads, as one of them sees it.
//!
//! Owns when the claim is looked at, said again and taken over, and since when this one knows that
//! it leads. The store is left to `claims`, waiting to `elector`; it is pure.
//!
//! A leader says its claim again every [`RENEW_EVERY`]. Whoever stands by looks as often, and takes
//! over once the claim has stood still for [`TAKE_OVER_AFTER`] while the store answered: only a
//! steady clock counts, and a store that is away makes nobody a leader. A leader that was not heard
//! by the store for [`SURE_FOR`] keeps still, and for [`LET_GO_AFTER`] gives up.
//!
//! Invariant: [`SURE_FOR`] is shorter than [`TAKE_OVER_AFTER`] and begins earlier, so that a leader
//! is quiet before another one speaks, as long as their clocks run within a fifth of each other.
//! What it records is refused by its term, whatever the clocks.

use std::time::Duration;

use wire::Time;

use super::claims::Claim;
use super::store::StoreError;

/// How often a leader says that it leads.
pub const RENEW_EVERY: Duration = Duration::from_millis(200);

/// How often who stands by looks at the claim.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a claim stands still before another coordinator takes over.
pub const TAKE_OVER_AFTER: Duration = Duration::from_millis(1000);

/// How long after its last word a leader goes on.
pub const SURE_FOR: Duration = Duration::from_millis(800);

/// How long a leader waits for the store before it lets its members look for another one.
pub const LET_GO_AFTER: Duration = Duration::from_millis(2000);

/// How long a claim stands still before its address is not given to others any more.
const STALE_AFTER: Duration = Duration::from_millis(500);

/// What is to be done at the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// See who claims.
    Look,
    /// Write this, unless another claim was written.
    Claim(Claim),
}

/// What an answer has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing that others need to know.
    Nothing,
    /// This one leads from now on; it said so at this time.
    Won { term: u64, said_at: Time },
    /// It still does.
    Leads { said_at: Time },
    /// It does no more.
    Lost { why: String },
}

/// One coordinator's view.
#[derive(Debug)]
pub(super) struct Contest {
    writer: u64,
    address: Option<String>,
    /// The newest claim, and since when it stands still while the store answers.
    seen: Option<(Claim, Time)>,
    has_looked: bool,
    /// What the store said last, if it failed.
    silence: Option<String>,
    role: Role,
    /// What was to be written last.
    wanted: Option<Claim>,
    /// How often this one has claimed: no two of its claims are the same.
    beats: u64,
    due: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Standing,
    Leading {
        term: u64,
        /// When the newest claim that the store is known to have was sent.
        said_at: Time,
    },
}

impl Contest {
    /// A coordinator that stands by; its first task is due at once.
    pub(super) fn new(writer: u64, address: Option<String>, now: Time) -> Contest {
        Contest {
            writer,
            address,
            seen: None,
            has_looked: false,
            silence: None,
            role: Role::Standing,
            wanted: None,
            beats: 0,
            due: now,
        }
    }

    /// When the next task is due.
    pub(super) fn due(&self) -> Time {
        self.due
    }

    /// The task that is due.
    pub(super) fn task(&mut self, now: Time) -> Task {
        let (term, every) = match self.role {
            Role::Leading { term, .. } => (Some(term), RENEW_EVERY),
            Role::Standing => (self.may_take_over(now), LOOK_EVERY),
        };
        self.due = now + every;
        self.wanted = term.map(|term| self.claim(term));
        self.wanted.clone().map_or(Task::Look, Task::Claim)
    }

    /// The last word of one who ends; none: it does not lead.
    pub(super) fn farewell(&mut self) -> Option<Claim> {
        let Role::Leading { term, .. } = self.role else { return None };
        Some(Claim { is_over: true, ..self.claim(term) })
    }

    /// This one leads no more, since its log was refused. It may lead again, in another term.
    pub(super) fn resign(&mut self, now: Time) {
        self.role = Role::Standing;
        self.due = now + LOOK_EVERY;
    }

    /// Takes the store's answer to the last task: the newest claim.
    ///
    /// - `asked_at`: when it was asked.
    pub(super) fn answered(
        &mut self,
        answer: Result<Option<Claim>, StoreError>,
        asked_at: Time,
        now: Time,
    ) -> Turn {
        let newest = match answer {
            Ok(newest) => newest,
            Err(error) => return self.unanswered(error.to_string(), now),
        };
        (self.has_looked, self.silence) = (true, None);
        if self.seen.as_ref().map(|(claim, _)| claim) != newest.as_ref() {
            self.seen = newest.clone().map(|claim| (claim, now));
        }
        let wanted = self.wanted.take();
        let is_written = wanted.is_some() && wanted == newest;
        let (said_at, mine) = (asked_at, newest.filter(|one| one.writer == self.writer));
        match (self.role, mine) {
            (Role::Standing, Some(Claim { term, .. })) if is_written => {
                self.role = Role::Leading { term, said_at };
                Turn::Won { term, said_at }
            }
            (Role::Leading { term, .. }, Some(_)) if is_written => {
                self.role = Role::Leading { term, said_at };
                Turn::Leads { said_at }
            }
            // An earlier claim whose answer was lost: it says nothing of now.
            (Role::Leading { term, .. }, Some(mine)) if mine.term == term => {
                self.due = now;
                Turn::Nothing
            }
            (Role::Leading { term, .. }, _) => {
                self.role = Role::Standing;
                let theirs = self.seen.as_ref().map_or(0, |(claim, _)| claim.term);
                Turn::Lost { why: StoreError::Fenced { ours: term, theirs }.to_string() }
            }
            (Role::Standing, _) => Turn::Nothing,
        }
    }

    fn unanswered(&mut self, why: String, now: Time) -> Turn {
        // Nobody's silence is known while the store says nothing.
        if let Some((_, still_since)) = &mut self.seen {
            *still_since = now;
        }
        let turn = match self.role {
            Role::Leading { said_at, .. } if now - said_at > LET_GO_AFTER => {
                self.role = Role::Standing;
                let waited_ms = (now - said_at).as_millis();
                Turn::Lost { why: format!("its store has not heard it for {waited_ms} ms: {why}") }
            }
            _ => Turn::Nothing,
        };
        self.silence = Some(why);
        turn
    }

    /// Where the leader is, if another one leads and was heard.
    pub(super) fn leader(&self, now: Time) -> Option<String> {
        let (claim, still_since) = self.seen.as_ref()?;
        let is_other = claim.writer != self.writer && !claim.is_over;
        let is_heard = self.silence.is_none() && now - *still_since <= STALE_AFTER;
        claim.address.clone().filter(|_| is_other && is_heard)
    }

    /// What the store said last, if it failed.
    pub(super) fn silence(&self) -> Option<&str> {
        self.silence.as_deref()
    }

    fn claim(&mut self, term: u64) -> Claim {
        self.beats += 1;
        let (writer, address) = (self.writer, self.address.clone());
        Claim { term, beat: self.beats, writer, address, is_over: false }
    }

    /// The term to claim, if it is time.
    fn may_take_over(&self, now: Time) -> Option<u64> {
        if !self.has_looked || self.silence.is_some() {
            return None;
        }
        let Some((claim, still_since)) = &self.seen else { return Some(1) };
        let is_free = claim.is_over || claim.writer == self.writer;
        let is_still = now - *still_since > TAKE_OVER_AFTER;
        (is_free || is_still).then_some(claim.term + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that keeps the newest claim, and coordinators that run on one clock.
    struct World {
        newest: Option<Claim>,
        revision: u64,
        is_away: bool,
        now: Time,
        contests: Vec<(Contest, u64)>,
        asleep: Vec<usize>,
        /// Who was cut off from the store.
        parted: Vec<usize>,
        /// By coordinator: the time until which it may act.
        sure_until: Vec<Option<Time>>,
        turns: Vec<(usize, Turn)>,
    }

    impl World {
        fn new(count: usize) -> World {
            let now = Time::default();
            let contest = |number| {
                let address = Some(format!("h{number}:1"));
                (Contest::new(100 + number as u64, address, now), 0)
            };
            World {
                newest: None,
                revision: 0,
                is_away: false,
                now,
                contests: (0..count).map(contest).collect(),
                asleep: Vec::new(),
                parted: Vec::new(),
                sure_until: vec![None; count],
                turns: Vec::new(),
            }
        }

        fn run(&mut self, duration: Duration) {
            let until = self.now + duration;
            while self.now < until {
                self.now = self.now + Duration::from_millis(10);
                for number in 0..self.contests.len() {
                    self.step(number);
                }
                let sure = self.sure_until.iter().flatten().filter(|until| **until > self.now);
                assert!(sure.count() <= 1, "two act at {:?}", self.now);
            }
        }

        fn step(&mut self, number: usize) {
            let (now, is_parted) = (self.now, self.parted.contains(&number));
            let (contest, seen) = &mut self.contests[number];
            if self.asleep.contains(&number) || contest.due() > now {
                return;
            }
            let task = contest.task(now);
            let answer = if self.is_away || is_parted {
                Err(StoreError::Unreachable { what: "gone".to_owned() })
            } else {
                if let Task::Claim(claim) = task
                    && *seen == self.revision
                {
                    self.newest = Some(claim);
                    self.revision += 1;
                }
                *seen = self.revision;
                Ok(self.newest.clone())
            };
            let turn = contest.answered(answer, now, now);
            match &turn {
                Turn::Won { said_at, .. } | Turn::Leads { said_at } => {
                    self.sure_until[number] = Some(*said_at + SURE_FOR);
                }
                Turn::Lost { .. } => self.sure_until[number] = None,
                Turn::Nothing => {}
            }
            if !matches!(turn, Turn::Nothing | Turn::Leads { .. }) {
                self.turns.push((number, turn));
            }
        }

        /// Who may act now.
        fn leader(&self) -> Option<usize> {
            self.sure_until.iter().position(|until| until.is_some_and(|until| until > self.now))
        }

        fn term(&self) -> u64 {
            self.newest.as_ref().map_or(0, |claim| claim.term)
        }
    }

    const MOMENT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn one_leads_and_others_know_where() {
        let mut world = World::new(3);
        world.run(LONG);
        let leader = world.leader().expect("one");
        assert_eq!(world.term(), 1);
        for (number, (contest, _)) in world.contests.iter().enumerate() {
            let told = (number != leader).then(|| format!("h{leader}:1"));
            assert_eq!(contest.leader(world.now), told);
        }
    }

    #[test]
    fn a_leader_that_sleeps_is_followed_in_time_and_wakes_up_as_no_leader() {
        let mut world = World::new(2);
        world.run(LONG);
        let old = world.leader().expect("one");
        world.asleep = vec![old];
        world.run(TAKE_OVER_AFTER + MOMENT);
        assert_eq!((world.leader(), world.term()), (Some(1 - old), 2));
        world.asleep.clear();
        world.run(MOMENT);
        assert_eq!(world.leader(), Some(1 - old));
        assert!(matches!(world.turns.last(), Some((lost, Turn::Lost { .. })) if *lost == old));
        world.run(LONG);
        assert_eq!(world.term(), 2, "they do not take turns");
    }

    #[test]
    fn a_leader_that_the_store_does_not_hear_is_followed_and_lets_go() {
        let mut world = World::new(2);
        world.run(LONG);
        let old = world.leader().expect("one");
        world.parted = vec![old];
        world.run(TAKE_OVER_AFTER + MOMENT);
        assert_eq!((world.leader(), world.term()), (Some(1 - old), 2));
        world.run(LET_GO_AFTER);
        assert!(matches!(world.turns.last(), Some((lost, Turn::Lost { .. })) if *lost == old));
        let (contest, _) = &world.contests[old];
        assert_eq!((contest.leader(world.now), contest.silence().is_some()), (None, true));
    }

    #[test]
    fn a_store_that_is_away_makes_nobody_a_leader_and_the_first_leads_on() {
        let mut world = World::new(2);
        world.run(LONG);
        let old = world.leader();
        world.is_away = true;
        world.run(SURE_FOR + MOMENT);
        assert_eq!(world.leader(), None, "it keeps still");
        world.is_away = false;
        world.run(MOMENT);
        assert_eq!((world.leader(), world.term()), (old, 1));
        world.is_away = true;
        world.run(LONG);
        assert_eq!(world.leader(), None);
        world.is_away = false;
        world.run(MOMENT + TAKE_OVER_AFTER);
        assert_eq!((world.leader().is_some(), world.term()), (true, 2));
    }

    #[test]
    fn the_silence_of_a_store_is_not_its_leaders() {
        let mut world = World::new(2);
        world.run(LONG);
        let old = world.leader().expect("one");
        (world.is_away, world.asleep) = (true, vec![old]);
        world.run(LONG);
        world.is_away = false;
        world.run(TAKE_OVER_AFTER / 2);
        assert_eq!(world.term(), 1, "the time begins anew when the store answers");
        world.run(TAKE_OVER_AFTER);
        assert_eq!(world.term(), 2);
    }

    #[test]
    fn who_ends_is_followed_at_once() {
        let mut world = World::new(2);
        world.run(LONG);
        let old = world.leader().expect("one");
        world.newest = world.contests[old].0.farewell();
        world.revision += 1;
        (world.asleep, world.sure_until[old]) = (vec![old], None);
        world.run(MOMENT);
        assert_eq!((world.leader(), world.term()), (Some(1 - old), 2));
        assert_eq!(world.contests[1 - old].0.farewell().map(|claim| claim.is_over), Some(true));
    }

    #[test]
    fn a_claim_whose_answer_was_lost_says_nothing_of_now() {
        let mut contest = Contest::new(7, None, Time::default());
        let at = |ms| Time::default() + Duration::from_millis(ms);
        contest.task(at(0));
        assert_eq!(contest.answered(Ok(None), at(0), at(0)), Turn::Nothing);
        let Task::Claim(first) = contest.task(at(100)) else { panic!("nobody leads") };
        let won = contest.answered(Ok(Some(first)), at(100), at(101));
        assert_eq!(won, Turn::Won { term: 1, said_at: at(100) });
        let Task::Claim(lost) = contest.task(at(300)) else { panic!("it leads") };
        let error = StoreError::Unreachable { what: "no answer".to_owned() };
        assert_eq!(contest.answered(Err(error), at(300), at(600)), Turn::Nothing);
        contest.task(at(600));
        assert_eq!(contest.answered(Ok(Some(lost)), at(600), at(601)), Turn::Nothing);
        assert_eq!(contest.due(), at(601), "it is said again at once");
    }
}
