//! Files: how many this process may have open.
//!
//! Owns raising the bound at the start, for each connection is a file.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files below which a server or a coordinator says that there are few: those of a thousand
/// connections, with some room.
const FILES_WANTED: u64 = 4096;

/// Raises what this process may have open to what it may raise it to, and says so if that is
/// little.
pub(crate) fn raise_files_max() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the number of open files is not raised");
    }
    let files_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if files_max < FILES_WANTED {
        tracing::warn!(
            files_max,
            FILES_WANTED,
            "few files may be open, and each connection is one: raise `ulimit -Hn`"
        );
    }
}
