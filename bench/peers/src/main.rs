//! The same work on other runtimes, tables and servers, beside gradwire's, in one table.
//!
//! `cargo run --release -p gradwire-bench-peers --features peers -- [ROUNDS] [SECONDS]`
//!
//! Owns the order of things: in each round everyone has one turn with each piece of work, and a
//! figure is the median of its rounds. What the work is stands in `work`, how each does it in its
//! own file. Who is not there is skipped by name.
//!
//! Invariant: peers are built and run only with the feature `peers`, which nothing else turns on.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "peers")]
mod board;
#[cfg(feature = "peers")]
mod maps;
#[cfg(feature = "peers")]
mod on_glommio;
#[cfg(feature = "peers")]
mod on_monoio;
#[cfg(feature = "peers")]
mod on_tokio;
#[cfg(feature = "peers")]
mod ours;
#[cfg(feature = "peers")]
mod redis;
#[cfg(feature = "peers")]
mod work;

#[cfg(not(feature = "peers"))]
fn main() {
    eprintln!("peers are built with: --features peers");
}

#[cfg(feature = "peers")]
fn main() {
    let mut arguments = std::env::args().skip(1).map(|word| word.parse::<f64>().ok());
    let rounds = arguments.next().flatten().unwrap_or(5.0).clamp(1.0, 1000.0) as usize;
    let seconds = arguments.next().flatten().unwrap_or(0.3).clamp(0.01, 60.0);
    let phase = std::time::Duration::from_secs_f64(seconds);
    let mut board = board::Board::default();
    let mut redis = redis::Redis::start();
    let mut maps = maps::Maps::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        board.note("gradwire (uring)", ours::over_tcp(phase));
        board.note("tokio", on_tokio::measure(phase));
        board.note("monoio", on_monoio::measure(phase));
        board.note("glommio", on_glommio::measure(phase));
        board.note("gradwire (one shard, in its thread)", ours::table(phase));
        board.note("hashbrown + foldhash", Ok(maps.measure(phase)));
        match &mut redis {
            Ok(redis) => board.note("redis-server (MSET, MGET)", redis.measure(phase)),
            Err(why) => board.skip("redis-server", why),
        }
    }
    print!("{}", board.render(rounds));
}
