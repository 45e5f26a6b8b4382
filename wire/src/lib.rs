//! Names and bytes: identifiers, the fixed header, and every message as a view over bytes.
//!
//! Owns the layout that peers agree on (`docs/wire.md` draws it) and the checks of it: magic,
//! version, lengths, ranges and order are verified here, once, and held by the types from then on.
//! Leaves moving the bytes to `transport` and the meaning of a refusal to `shard` and `worker`.
//!
//! Invariant: no function here allocates by, or indexes with, a length that it has not bounded.
#![forbid(unsafe_code)]

mod acknowledge;
mod checkpointing;
mod cluster_status;
mod control;
mod control_frame;
mod define;
mod encoding;
mod frame;
mod header;
mod ids;
mod jobs;
mod join;
mod lane;
mod life;
mod merged;
mod message;
mod placement;
mod routing;
mod rows;
mod status;
mod time;

pub use acknowledge::Acknowledge;
pub use checkpointing::{
    CheckpointStatus, CheckpointTaken, CheckpointUnderWay, RecordOrder, RecordedPart,
    RestoreStatus, RestoredFrom, STORE_FAILURES_SHOWN_MAX, StoreReport, StoreState, StoredValues,
};
pub use cluster_status::{
    ChainState, ChainStatus, ClusterStatus, EpochCause, EpochCounts, ServerState, ServerStatus,
    StoreCounts, WorkStatus,
};
pub use control::{
    Applicant, Apply, Ask, Beat, CONTROL_NAME_BYTES_MAX, Candidate, ChainReport, Denial, Life,
    Observation, ServerWork, ToCoordinator, ToMember, Welcome,
};
pub use control_frame::{
    CONTROL_BYTES_MAX, CONTROL_REQUEST_BYTES_MAX, ControlBuffer, ControlError, control_frame,
};
pub use define::{
    AggregateError, Announced, DEFINE_BODY_BYTES, Define, PARAMETERS_MAX, TABLE_NAME_BYTES_MAX,
    TableSpec, TableSpecError,
};
pub use encoding::{
    Carried, Coded, ENCODED_KEYS_MAX, Encoding, KeyForm, LIST_KEYS_MAX, LISTS_MAX, ListHead,
    NUMBERS_MAX, NumbersHead, PART_BYTES, VALUES_BY_COLUMN, columns,
};
pub use frame::{FRAME_BYTES_MAX, HEADER_BYTES, Malformed, framed_bytes};
pub use header::{Flags, Header, Kind, MAGIC, RECORDED_SINCE, VERSION};
pub use ids::{
    Clock, Epoch, Incarnation, JobId, Key, Sequence, ServerId, ShardId, TableId, WorkerId,
};
pub use jobs::{
    AwayHost, BatchAt, Enrolled, JOB_EPOCHS_MAX, JOB_NAME_BYTES_MAX, JOB_PATIENCE_MS_MAX,
    JOB_PATIENCE_MS_MIN, JOB_REASON_BYTES_MAX, JOB_RESULT_BYTES_MAX, JOB_RESULTS_AT_ONCE_MAX,
    JOB_SETTING_BYTES_MAX, JOB_SETTINGS_MAX, JOB_SPLITS_MAX, JOB_STANDBYS_MAX, JOB_WORKERS_MAX,
    JobAnswer, JobAsk, JobBid, JobEnd, JobNews, JobRefusal, JobSetting, JobState, JobStatus,
    JobVerb, PORTION_BATCHES, PORTIONS_OPEN_MAX, PlaceHeld, PlaceNews, Portion, SPLIT_BATCHES,
    worker_words,
};
pub use join::{JOIN_BODY_BYTES, JOINED_BODY_BYTES, Join, Joined, Staleness};
pub use lane::{
    LANE_BODY_BYTES, LANE_RAILS_MAX, LANE_RING_BYTES_MAX, LaneFabric, LaneMessage, LaneOffer,
    LaneRail, LaneRails,
};
pub use life::{
    ADMISSION_COUNT_MAX, EXPIRY_CLOCKS_MAX, Expiry, KeyAdmission, RowLife, RowLifeError,
};
pub use merged::{MERGED_PUSHES_MAX, Merged, PushName};
pub use message::{
    COUNT_LINE_WIDTH, Keyed, Keys, Message, Seal, open, open_recorded, read_header, seal,
};
pub use placement::{
    Chain, Holds, Member, Placement, PlacementError, REPLICAS_MAX, SERVERS_MAX, Station,
};
pub use routing::{PARTITIONS, Routing, RoutingError, SHARDS_MAX, VIRTUAL_NODES, ring_number};
pub use rows::{RowsView, SIZE_BODY_BYTES, ScanCursor, TableSize};
pub use status::{BUSY_MIB_MAX, Refusal, Status};
pub use time::Time;

#[cfg(target_endian = "big")]
compile_error!("the wire is little-endian and read in place: big-endian hosts are not supported");
