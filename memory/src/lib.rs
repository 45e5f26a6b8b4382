//! Regions, arenas and slots of aligned memory.
