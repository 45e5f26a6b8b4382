//! Moves bytes between cores and hosts; knows no key and no row.
