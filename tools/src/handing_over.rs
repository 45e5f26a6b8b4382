//! Handing over: what a server does between being told to end and its end.
//!
//! Owns how long that may take, and what a person sees meanwhile. Who gets the shards is the
//! coordinator's to say.

use std::time::{Duration, Instant};

use server::{Membership, Role, Server};

use crate::failure::Failure;
use crate::output::complain;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often it tells what is left.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How long no coordinator may be there, without which nobody takes a shard: longer than a standby
/// needs to take over, and than one that died needs to be started again.
const ABSENT_MAX: Duration = Duration::from_secs(60);

/// Gives what this server holds to others, as far as they can take it.
///
/// - `within`: how long that may take.
pub(crate) fn hand_over(
    server: &Server,
    membership: &Membership,
    within: Duration,
) -> Result<(), Failure> {
    if membership.server().is_none() {
        return Ok(()); // Never a member, or taken out: it holds nothing.
    }
    complain("gradwire: hands its shards over; a second Ctrl-C ends at once");
    membership.leave();
    let begun = Instant::now();
    let (mut linked, mut told) = (begun, begun);
    while !membership.is_released() {
        let now = Instant::now();
        if membership.agent().is_linked {
            linked = now;
        }
        let absent = now - linked;
        let what = |why: &str| format!("{why}: {} of its shards are still here", held(server));
        if absent >= ABSENT_MAX {
            let absent = absent.as_secs();
            return Err(Failure::failed(what(&format!("no coordinator for {absent} s"))));
        }
        if now - begun >= within {
            let within = within.as_secs();
            return Err(Failure::failed(what(&format!("not handed over within {within} s"))));
        }
        if now - told >= TELL_EVERY {
            told = now;
            let waited = (now - begun).as_secs();
            let why = match absent >= TELL_EVERY {
                true => format!("no coordinator for {} s", absent.as_secs()),
                false => format!("hands over for {waited} s"),
            };
            complain(&format!("gradwire: {}", what(&why)));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// How many shards this server has a place in.
fn held(server: &Server) -> usize {
    let cores = server.cores();
    let shards = cores.iter().flat_map(|core| &core.shards);
    shards.filter(|(_, view)| view.role != Role::Out).count()
}
