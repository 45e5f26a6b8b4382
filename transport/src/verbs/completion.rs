//! Completion queues: which work requests are over, and how they ended.
//!
//! Owns the queue and the channel that a thread sleeps on. What a request was for is left to who
//! posted it, by its `wr_id`.
//!
//! Invariant: every event that is taken from the channel is acknowledged before the call returns,
//! since a queue is not destroyed before. Plain queues alone are used, not extended ones.

use std::ffi::c_int;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::OFlags;

use super::device::{DataPath, Device};
use super::error::{VerbsError, check, last_errno, non_null};
use super::ffi::{self, ibv_comp_channel, ibv_cq, ibv_wc, zeroed};

/// Completions that one [`CompletionQueue::poll`] takes at most.
pub(crate) const POLL_MAX: usize = 32;

/// Events that one [`CompletionQueue::clear_events`] takes at most: an armed queue has one, and it
/// is armed again only after.
const EVENTS_MAX: usize = 16;

/// A work request that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// What the request was posted with.
    pub(crate) wr_id: u64,
    /// The queue pair's number. It may have been destroyed since.
    pub(crate) qp_number: u32,
    /// How it ended.
    pub(crate) outcome: Result<Done, Failure>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) opcode: Opcode,
    /// How much came, in bytes; of a receive or read alone.
    pub(crate) bytes: u32,
    /// The number that came with it, of a receive alone.
    pub(crate) imm: Option<u32>,
}

/// What a completion is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Send,
    Write,
    Read,
    /// A receive that a send filled.
    Recv,
    /// A receive that a write with a number used up.
    RecvOfWrite,
    Other(u32),
}

/// Why a request failed. Its queue pair takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    /// What the vendor's manual explains.
    pub(crate) vendor_code: u32,
}

/// How a request failed, by the library's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(u32);

impl Status {
    /// The queue pair was in error already: this request was not worked on.
    pub(crate) const FLUSHED: Status = Status(ffi::IBV_WC_WR_FLUSH_ERR);
    /// The peer's memory may not be reached like this: a wrong rkey or range.
    pub(crate) const REMOTE_ACCESS: Status = Status(ffi::IBV_WC_REM_ACCESS_ERR);
    /// A memory window was not bound: this side asked for what the device does not do.
    pub(crate) const NOT_BOUND: Status = Status(ffi::IBV_WC_MW_BIND_ERR);
    /// The peer did not answer, however often it was asked.
    pub(crate) const RETRIES_EXCEEDED: Status = Status(ffi::IBV_WC_RETRY_EXC_ERR);
    /// The peer had no receive posted, however often it was asked.
    pub(crate) const NO_RECEIVE: Status = Status(ffi::IBV_WC_RNR_RETRY_EXC_ERR);
}

/// A completion queue with a channel to sleep on. Used by the thread that made it.
pub(crate) struct CompletionQueue {
    data_path: DataPath,
    /// What the device fills in, kept from poll to poll.
    raw: Box<[ibv_wc]>,
    entries: u32,
    inner: Rc<Inner>,
}

/// What queue pairs hold of their completion queue.
pub(super) struct Inner {
    cq: NonNull<ibv_cq>,
    channel: Channel,
}

impl CompletionQueue {
    /// A queue of at least `entries`.
    ///
    /// Errors: [`VerbsError::Limit`], [`VerbsError::Call`].
    pub(crate) fn new(device: &Device, entries: u32) -> Result<CompletionQueue, VerbsError> {
        let entries_wanted = checked_entries(device, entries)?;
        let channel = Channel::new(device)?;
        let context = device.context().as_ptr();
        let vector = next_vector(device);
        let create_cq = device.library().create_cq;
        // SAFETY: the context is open and the channel is one of it, both held by `channel`, which
        // `Inner` drops after the queue.
        let cq = unsafe {
            create_cq(context, entries_wanted, ptr::null_mut(), channel.raw.as_ptr(), vector)
        };
        let on = || format!("{}, {entries} entries", device.name());
        let cq = non_null(cq).map_err(|errno| VerbsError::call("ibv_create_cq", on())(errno))?;
        let inner = Rc::new(Inner { cq, channel });
        let raw = (0..POLL_MAX).map(|_| zeroed()).collect();
        let entries = inner.entries();
        Ok(CompletionQueue { data_path: device.data_path(), raw, entries, inner })
    }

    /// Entries that it has.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// Makes it have at least `entries`. It is as it was if that fails: some devices cannot.
    ///
    /// Errors: [`VerbsError::Limit`], [`VerbsError::Call`].
    pub(crate) fn resize(&mut self, entries: u32) -> Result<(), VerbsError> {
        let device = &self.inner.channel.device;
        let entries_wanted = checked_entries(device, entries)?;
        // SAFETY: the queue is alive until `Inner` is dropped; completions in it are kept.
        let answer =
            unsafe { (device.library().resize_cq)(self.inner.cq.as_ptr(), entries_wanted) };
        let on = || format!("{}, {entries} entries", device.name());
        check(answer).map_err(|errno| VerbsError::call("ibv_resize_cq", on())(errno))?;
        self.entries = self.inner.entries();
        Ok(())
    }

    /// Puts what is over at the front of `out` and says how many. Never waits.
    ///
    /// Errors: [`VerbsError::Call`]: the device is gone.
    pub(crate) fn poll(&mut self, out: &mut [Completion; POLL_MAX]) -> Result<usize, VerbsError> {
        let (cq, entries) = (self.inner.cq.as_ptr(), POLL_MAX as c_int);
        // SAFETY: the queue is alive until `Inner` is dropped, `&mut self` polls alone, and `raw`
        // has `POLL_MAX` entries.
        let count = unsafe { (self.data_path.poll_cq)(cq, entries, self.raw.as_mut_ptr()) };
        let count = usize::try_from(count)
            .map_err(|_| VerbsError::call("ibv_poll_cq", self.inner.name())(last_errno()))?;
        for (to, from) in out.iter_mut().zip(&self.raw[..count]) {
            *to = completion(from);
        }
        Ok(count)
    }

    /// Has the next completion make [`CompletionQueue::fd`] readable. What came before does not:
    /// poll once more after it.
    ///
    /// Errors: [`VerbsError::Call`]: the device is gone.
    pub(crate) fn arm(&mut self) -> Result<(), VerbsError> {
        const ANY_COMPLETION: c_int = 0;
        // SAFETY: the queue is alive until `Inner` is dropped.
        let answer =
            unsafe { (self.data_path.req_notify_cq)(self.inner.cq.as_ptr(), ANY_COMPLETION) };
        check(answer).map_err(VerbsError::call("ibv_req_notify_cq", self.inner.name()))
    }

    /// Readable after an armed queue got a completion, until [`CompletionQueue::clear_events`].
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.inner.channel.fd()
    }

    /// Takes what made the descriptor readable, and says how many events there were. Never waits.
    ///
    /// Errors: [`VerbsError::Call`]: the device is gone.
    pub(crate) fn clear_events(&mut self) -> Result<usize, VerbsError> {
        let Inner { cq, channel } = &*self.inner;
        let library = channel.device.library();
        for count in 0..EVENTS_MAX {
            let (mut of, mut with) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: the channel is alive until `Inner` is dropped; the function writes both.
            let answer =
                unsafe { (library.get_cq_event)(channel.raw.as_ptr(), &raw mut of, &raw mut with) };
            if answer != 0 {
                return match last_errno() {
                    libc::EAGAIN | libc::EINTR => Ok(count),
                    errno => {
                        Err(VerbsError::call("ibv_get_cq_event", channel.device.name())(errno))
                    }
                };
            }
            // SAFETY: the channel has this queue alone, and one event of it was taken above.
            unsafe { (library.ack_cq_events)(cq.as_ptr(), 1) };
        }
        Ok(EVENTS_MAX)
    }

    /// For a queue pair, which outlives neither.
    pub(super) fn inner(&self) -> &Rc<Inner> {
        &self.inner
    }
}

impl Completion {
    /// One of nothing, to fill an array with.
    pub(crate) const EMPTY: Completion = Completion {
        wr_id: 0,
        qp_number: 0,
        outcome: Ok(Done { opcode: Opcode::Other(0), bytes: 0, imm: None }),
    };
}

impl Inner {
    pub(super) fn raw(&self) -> NonNull<ibv_cq> {
        self.cq
    }

    fn name(&self) -> &str {
        self.channel.device.name()
    }

    /// Entries as the device rounded them.
    fn entries(&self) -> u32 {
        // SAFETY: alive until `drop`; the library writes the field in `create` and `resize` alone.
        let entries = unsafe { (*self.cq.as_ptr()).cqe };
        u32::try_from(entries).unwrap_or(0)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let library = self.channel.device.library();
        // SAFETY: made by `CompletionQueue::new`, destroyed this once: its queue pairs held `self`,
        // and every event was acknowledged (invariant).
        let answer = unsafe { (library.destroy_cq)(self.cq.as_ptr()) };
        if let Err(errno) = check(answer) {
            tracing::debug!(device = self.name(), errno, "RDMA: a completion queue is left over");
        }
    }
}

/// A channel of a device's, destroyed on drop.
struct Channel {
    raw: NonNull<ibv_comp_channel>,
    device: Device,
}

impl Channel {
    fn new(device: &Device) -> Result<Channel, VerbsError> {
        // SAFETY: the context is open, as the device is held.
        let raw = unsafe { (device.library().create_comp_channel)(device.context().as_ptr()) };
        let failed = |call| VerbsError::call(call, device.name());
        let raw = non_null(raw).map_err(failed("ibv_create_comp_channel"))?;
        let channel = Channel { raw, device: device.clone() };
        let flags = rustix::fs::fcntl_getfl(channel.fd())
            .and_then(|flags| rustix::fs::fcntl_setfl(channel.fd(), flags | OFlags::NONBLOCK));
        flags.map_err(|errno| failed("fcntl")(errno.raw_os_error()))?;
        Ok(channel)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: alive until `drop`; the field is written when it is made, and never again.
        let fd = unsafe { (*self.raw.as_ptr()).fd };
        // SAFETY: the library opened it with the channel and closes it with it, after `self`.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed this once, after the queue that used it.
        let answer = unsafe { (self.device.library().destroy_comp_channel)(self.raw.as_ptr()) };
        if let Err(errno) = check(answer) {
            tracing::debug!(device = self.device.name(), errno, "RDMA: a channel is left over");
        }
    }
}

/// Entries as the library takes them, if the device has so many.
fn checked_entries(device: &Device, entries: u32) -> Result<c_int, VerbsError> {
    let limit = device.limits().completions_max;
    let fitting = c_int::try_from(entries).ok().filter(|_| entries <= limit);
    fitting.ok_or_else(|| VerbsError::Limit {
        what: "entries of a completion queue",
        device: device.name().to_owned(),
        wanted: entries,
        limit,
    })
}

/// Which of the device's interrupts a queue uses: one after the other, so that cores do not share.
fn next_vector(device: &Device) -> c_int {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // SAFETY: the context is open, as the device is held; the field is written while it is opened.
    let vectors = unsafe { (*device.context().as_ptr()).num_comp_vectors };
    let vectors = u32::try_from(vectors).unwrap_or(1).max(1);
    let vector = NEXT.fetch_add(1, Ordering::Relaxed) % vectors;
    c_int::try_from(vector).expect("below a number that fits")
}

/// What the device filled in. Of a request that failed it is the id, queue pair and status alone.
fn completion(raw: &ibv_wc) -> Completion {
    let outcome = if raw.status == ffi::IBV_WC_SUCCESS {
        Ok(done(raw))
    } else {
        Err(Failure { status: Status(raw.status), vendor_code: raw.vendor_err })
    };
    Completion { wr_id: raw.wr_id, qp_number: raw.qp_num, outcome }
}

fn done(raw: &ibv_wc) -> Done {
    let opcode = match raw.opcode {
        ffi::IBV_WC_SEND => Opcode::Send,
        ffi::IBV_WC_RDMA_WRITE => Opcode::Write,
        ffi::IBV_WC_RDMA_READ => Opcode::Read,
        ffi::IBV_WC_RECV => Opcode::Recv,
        ffi::IBV_WC_RECV_RDMA_WITH_IMM => Opcode::RecvOfWrite,
        other => Opcode::Other(other),
    };
    let with_imm = raw.wc_flags & ffi::IBV_WC_WITH_IMM != 0;
    // SAFETY: both parts of the union are a 32-bit integer.
    let imm = u32::from_be(unsafe { raw.__bindgen_anon_1.imm_data });
    Done { opcode, bytes: raw.byte_len, imm: with_imm.then_some(imm) }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            ffi::IBV_WC_LOC_LEN_ERR => "what came is longer than its receive",
            ffi::IBV_WC_LOC_QP_OP_ERR => "the device could not work on the request",
            ffi::IBV_WC_LOC_PROT_ERR => "the request names memory that is not registered",
            ffi::IBV_WC_WR_FLUSH_ERR => "the queue pair was in error already",
            ffi::IBV_WC_MW_BIND_ERR => "the memory window was not bound",
            ffi::IBV_WC_BAD_RESP_ERR => "the peer's device answered out of turn",
            ffi::IBV_WC_LOC_ACCESS_ERR => "the request may not use its memory like this",
            ffi::IBV_WC_REM_INV_REQ_ERR => "the peer's device takes no such request",
            ffi::IBV_WC_REM_ACCESS_ERR => "the peer's memory may not be reached like this",
            ffi::IBV_WC_REM_OP_ERR => "the peer's device could not work on the request",
            ffi::IBV_WC_RETRY_EXC_ERR => "the peer does not answer",
            ffi::IBV_WC_RNR_RETRY_EXC_ERR => "the peer has no receive posted",
            ffi::IBV_WC_REM_ABORT_ERR => "the peer's device gave the request up",
            ffi::IBV_WC_FATAL_ERR => "the device failed",
            ffi::IBV_WC_RESP_TIMEOUT_ERR => "the device did not answer",
            ffi::IBV_WC_GENERAL_ERR => "the device failed for a reason that it does not name",
            other => return write!(f, "work completion status {other}"),
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { status, vendor_code } = self;
        write!(f, "{status} (status {}, vendor's code {vendor_code:#x})", status.0)
    }
}
