//! Reliable queue pairs: where work requests are posted.
//!
//! Owns the queue pair, its way from made to connected to failed, and how requests are written
//! down for the device. What is posted, and how much at a time, is left to the holder.
//!
//! Invariant: requests are chained and given to the device in the order of the call, one doorbell
//! for each [`CHAIN_MAX`] of them; the lists that the device reads are this value's own.

use std::ffi::c_int;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use super::completion::{CompletionQueue, Inner};
use super::device::{DataPath, Device, LinkLayer, Mtu};
use super::error::{VerbsError, check, non_null};
use super::ffi::{
    self, ibv_gid, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_init_attr, ibv_recv_wr,
    ibv_send_wr, ibv_sge, zeroed,
};
use super::gid::Gid;
use super::memory::Local;
use super::window::MemoryWindow;

pub(crate) use super::request::{Operation, Payload, PostError, Request, Signal, WriteImm};

/// Requests that one doorbell is rung for at most; longer lists are cut.
pub(crate) const CHAIN_MAX: usize = 64;

/// How long a peer without a posted receive asks for before it is tried again: 0.64 ms, in the
/// code of the InfiniBand specification (table 45).
const RNR_TIMER_0_64_MS: u8 = 12;

/// Routers that a packet may pass.
const HOPS_MAX: u8 = 255;

/// Bounds of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QpSpec {
    /// Sends, writes and reads under way at most.
    pub(crate) sends_max: u32,
    /// Posted receives at most.
    pub(crate) recvs_max: u32,
    /// Payload that a request may carry in itself, in bytes; less if the device has less.
    pub(crate) inline_bytes: u32,
}

/// This side's way to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// From 1.
    pub(crate) port: u8,
    /// Decides on how the peer is addressed: see [`Remote`].
    pub(crate) link_layer: LinkLayer,
    pub(crate) gid_index: u8,
    pub(crate) pkey_index: u16,
    /// At most that of either port.
    pub(crate) mtu: Mtu,
    pub(crate) service_level: u8,
    pub(crate) traffic_class: u8,
    /// A packet is sent again after 4.096 us times two to this power; 1 to 31.
    pub(crate) timeout: u8,
    /// How often it is; at most 7.
    pub(crate) retry_count: u8,
    /// How often a send waits for a receive at the peer; at most 6, as 7 is for ever.
    pub(crate) rnr_retry_count: u8,
    /// Reads under way in either direction; 0 forbids them.
    pub(crate) reads_max: u8,
    /// Number of the first packet sent: 24 bits.
    pub(crate) psn: u32,
}

/// The peer's end. Packets carry its GID on either link layer: a port may ask for that on
/// InfiniBand too, where it costs 40 bytes a packet; the LID goes with it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// 24 bits.
    pub(crate) qp_number: u32,
    /// Number of the first packet it sends: 24 bits.
    pub(crate) psn: u32,
    /// 0 on Ethernet.
    pub(crate) lid: u16,
    pub(crate) gid: Gid,
}

/// A reliable queue pair. On drop it is destroyed before its completion queue and its device;
/// completions of it that were not polled may still come, or not.
pub(crate) struct QueuePair {
    qp: NonNull<ibv_qp>,
    number: u32,
    inline_bytes_max: usize,
    data_path: DataPath,
    /// What the device reads while it is posted to, kept from call to call.
    sends: Box<[ibv_send_wr]>,
    parts: Box<[ibv_sge]>,
    recvs: Box<[ibv_recv_wr]>,
    _cq: Rc<Inner>,
    device: Device,
}

impl QueuePair {
    /// A queue pair, not connected, whose completions go to `cq`.
    ///
    /// Errors: [`VerbsError::Limit`], [`VerbsError::Call`].
    pub(crate) fn new(
        device: &Device,
        cq: &CompletionQueue,
        spec: QpSpec,
    ) -> Result<QueuePair, VerbsError> {
        check_limits(device, spec)?;
        let mut inline_bytes = spec.inline_bytes;
        let (qp, inline_bytes_max) = loop {
            match create(device, cq, QpSpec { inline_bytes, ..spec }) {
                // Devices that have less say so by refusing.
                Err(libc::EINVAL) if inline_bytes > 0 => inline_bytes /= 2,
                Err(errno) => {
                    let QpSpec { sends_max, recvs_max, .. } = spec;
                    let name = device.name();
                    let on = format!("{name}, {sends_max} sends, {recvs_max} receives");
                    return Err(VerbsError::call("ibv_create_qp", on)(errno));
                }
                Ok(made) => break made,
            }
        };
        // SAFETY: `create` gave it, and it is destroyed by `drop` alone.
        let number = unsafe { qp.as_ref() }.qp_num;
        let empty =
            ibv_recv_wr { wr_id: 0, next: ptr::null_mut(), sg_list: ptr::null_mut(), num_sge: 0 };
        Ok(QueuePair {
            qp,
            number,
            inline_bytes_max,
            data_path: device.data_path(),
            sends: (0..CHAIN_MAX).map(|_| zeroed()).collect(),
            parts: vec![ibv_sge { addr: 0, length: 0, lkey: 0 }; CHAIN_MAX].into(),
            recvs: vec![empty; CHAIN_MAX].into(),
            _cq: Rc::clone(cq.inner()),
            device: device.clone(),
        })
    }

    /// Its number: 24 bits, this device's alone while it lives.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Payload that a request may carry in itself, in bytes.
    pub(crate) fn inline_bytes_max(&self) -> usize {
        self.inline_bytes_max
    }

    /// To INIT, from when on receives may be posted, and where they are to be before the peer may
    /// know the number.
    ///
    /// Errors: [`VerbsError::Call`].
    pub(crate) fn init(&mut self, path: &Path) -> Result<(), VerbsError> {
        let reads = if path.reads_max > 0 { ffi::IBV_ACCESS_REMOTE_READ } else { 0 };
        let mut attributes: ibv_qp_attr = zeroed();
        attributes.qp_state = ffi::IBV_QPS_INIT;
        attributes.pkey_index = path.pkey_index;
        attributes.port_num = path.port;
        attributes.qp_access_flags = ffi::IBV_ACCESS_REMOTE_WRITE | reads;
        let mask = ffi::IBV_QP_STATE
            | ffi::IBV_QP_PKEY_INDEX
            | ffi::IBV_QP_PORT
            | ffi::IBV_QP_ACCESS_FLAGS;
        self.modify(attributes, mask, "to INIT")
    }

    /// From INIT to ready to receive and ready to send.
    ///
    /// Errors: [`VerbsError::Call`]: also where the peer's address is not reached, for which the
    /// kernel may ask the network for some time.
    pub(crate) fn connect(&mut self, path: &Path, remote: &Remote) -> Result<(), VerbsError> {
        let mut attributes: ibv_qp_attr = zeroed();
        attributes.qp_state = ffi::IBV_QPS_RTR;
        attributes.path_mtu = path.mtu as u32;
        attributes.dest_qp_num = remote.qp_number;
        attributes.rq_psn = remote.psn;
        attributes.max_dest_rd_atomic = path.reads_max;
        attributes.min_rnr_timer = RNR_TIMER_0_64_MS;
        attributes.ah_attr.grh.dgid = ibv_gid { raw: remote.gid.0 };
        attributes.ah_attr.grh.sgid_index = path.gid_index;
        attributes.ah_attr.grh.hop_limit = HOPS_MAX;
        attributes.ah_attr.grh.traffic_class = path.traffic_class;
        attributes.ah_attr.is_global = 1;
        attributes.ah_attr.dlid = match path.link_layer {
            LinkLayer::InfiniBand => remote.lid,
            LinkLayer::Ethernet => 0,
        };
        attributes.ah_attr.sl = path.service_level;
        attributes.ah_attr.port_num = path.port;
        let mask = ffi::IBV_QP_STATE
            | ffi::IBV_QP_AV
            | ffi::IBV_QP_PATH_MTU
            | ffi::IBV_QP_DEST_QPN
            | ffi::IBV_QP_RQ_PSN
            | ffi::IBV_QP_MAX_DEST_RD_ATOMIC
            | ffi::IBV_QP_MIN_RNR_TIMER;
        self.modify(attributes, mask, "to RTR")?;
        let mut attributes: ibv_qp_attr = zeroed();
        attributes.qp_state = ffi::IBV_QPS_RTS;
        attributes.timeout = path.timeout;
        attributes.retry_cnt = path.retry_count;
        attributes.rnr_retry = path.rnr_retry_count;
        attributes.sq_psn = path.psn;
        attributes.max_rd_atomic = path.reads_max;
        let mask = ffi::IBV_QP_STATE
            | ffi::IBV_QP_TIMEOUT
            | ffi::IBV_QP_RETRY_CNT
            | ffi::IBV_QP_RNR_RETRY
            | ffi::IBV_QP_SQ_PSN
            | ffi::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(attributes, mask, "to RTS")
    }

    /// To the error state: what is posted completes as flushed, and no more goes or comes.
    ///
    /// Errors: [`VerbsError::Call`]: the device is gone.
    pub(crate) fn fail(&mut self) -> Result<(), VerbsError> {
        let mut attributes: ibv_qp_attr = zeroed();
        attributes.qp_state = ffi::IBV_QPS_ERR;
        self.modify(attributes, ffi::IBV_QP_STATE, "to ERR")
    }

    /// Posts `count` receives of no bytes, all of this `wr_id`.
    ///
    /// Errors: [`PostError`].
    pub(crate) fn post_recvs(&mut self, count: usize, wr_id: u64) -> Result<(), PostError> {
        let empty = |_| (wr_id, None);
        self.post_recv_chain((0..count).map(empty))
    }

    /// Posts a receive for each part, in order.
    ///
    /// Errors: [`PostError`].
    ///
    /// # Safety
    /// Until its receive is over, there is no slice of a part's bytes, and its memory stays
    /// registered.
    pub(crate) unsafe fn post_recvs_into(
        &mut self,
        recvs: &[(u64, Local)],
    ) -> Result<(), PostError> {
        self.post_recv_chain(recvs.iter().map(|&(wr_id, local)| (wr_id, Some(local))))
    }

    /// Posts the writes in order, by one doorbell for each [`CHAIN_MAX`].
    ///
    /// - Errors: [`PostError`].
    /// - Panics: if an inline payload is longer than [`QueuePair::inline_bytes_max`].
    pub(crate) fn post_writes(&mut self, writes: &[WriteImm<'_>]) -> Result<(), PostError> {
        self.post_send_chain(writes, WriteImm::request)
    }

    /// Posts requests of any kind in order, by one doorbell for each [`CHAIN_MAX`].
    ///
    /// - Errors: [`PostError`].
    /// - Panics: as [`QueuePair::post_writes`]; of a read without registered memory.
    ///
    /// # Safety
    /// Until a read is over, there is no slice of the bytes that it fills, and their memory stays
    /// registered.
    pub(crate) unsafe fn post_requests(
        &mut self,
        requests: &[Request<'_>],
    ) -> Result<(), PostError> {
        self.post_send_chain(requests, |request| *request)
    }

    /// Posts the request by which a window opens to this queue pair, which must be ready to send.
    /// It has a completion; the peer may have the window's key after that.
    ///
    /// Errors: [`PostError`]: also where the device's library has no such requests.
    pub(crate) fn post_bind(&mut self, wr_id: u64, window: &MemoryWindow) -> Result<(), PostError> {
        let (mw, bind_info) = window.binding();
        let bind_mw = ffi::ibv_send_wr__bindgen_ty_4__bindgen_ty_1 {
            mw: mw.as_ptr(),
            rkey: window.rkey(),
            bind_info,
        };
        self.sends[0] = ibv_send_wr {
            wr_id,
            opcode: ffi::IBV_WR_BIND_MW,
            send_flags: ffi::IBV_SEND_SIGNALED,
            __bindgen_anon_2: ffi::ibv_send_wr__bindgen_ty_4 { bind_mw },
            ..zeroed()
        };
        let (first, mut bad) = (self.sends.as_mut_ptr(), ptr::null_mut());
        // SAFETY: the queue pair is alive until `drop`; the chain is the one request in `sends`,
        // whose window and memory are alive through the call, as `window` holds both. It opens
        // bytes that are read by unsafe functions alone, whose callers reckon with a peer.
        let answer = unsafe { (self.data_path.post_send)(self.qp.as_ptr(), first, &raw mut bad) };
        check(answer).map_err(|errno| PostError { posted: 0, errno })
    }

    fn post_send_chain<'a, T>(
        &mut self,
        items: &[T],
        request: impl Fn(&T) -> Request<'a>,
    ) -> Result<(), PostError> {
        for (chunk_index, chunk) in items.chunks(CHAIN_MAX).enumerate() {
            for (index, item) in chunk.iter().enumerate() {
                self.write_down(index, chunk.len(), &request(item));
            }
            let (first, mut bad) = (self.sends.as_mut_ptr(), ptr::null_mut());
            // SAFETY: the queue pair is alive until `drop`; the chain lies in `sends` and `parts`,
            // ends at the chunk's last, and is read before the call returns. Memory of this
            // process that the requests name is bytes that the callers' slices keep alive through
            // the call, if inline, or else known to the device by its key: the device reads what
            // is registered and writes what `post_requests`' caller promised is free.
            let answer =
                unsafe { (self.data_path.post_send)(self.qp.as_ptr(), first, &raw mut bad) };
            check(answer).map_err(|errno| {
                let posted = index_in(first, bad, chunk.len());
                PostError { posted: chunk_index * CHAIN_MAX + posted, errno }
            })?;
        }
        Ok(())
    }

    /// Makes the request the `index`-th of a chain of `count`.
    fn write_down(&mut self, index: usize, count: usize, request: &Request<'_>) {
        let (part, inline) = match request.payload {
            Payload::Empty => (None, 0),
            Payload::Registered(Local { address, bytes, lkey }) => {
                (Some(ibv_sge { addr: address, length: bytes, lkey }), 0)
            }
            Payload::Inline(bytes) => {
                let limit = self.inline_bytes_max;
                assert!(bytes.len() <= limit, "{} bytes inline, at most {limit}", bytes.len());
                let length = u32::try_from(bytes.len()).expect("at most the device's limit");
                let addr = bytes.as_ptr().expose_provenance() as u64;
                (Some(ibv_sge { addr, length, lkey: 0 }), ffi::IBV_SEND_INLINE)
            }
        };
        let signaled = match request.signal {
            Signal::Completes => ffi::IBV_SEND_SIGNALED,
            Signal::Silent => 0,
        };
        let (opcode, remote, imm) = match request.operation {
            Operation::Send => (ffi::IBV_WR_SEND, (0, 0), 0),
            Operation::Write { remote_address, rkey } => {
                (ffi::IBV_WR_RDMA_WRITE, (remote_address, rkey), 0)
            }
            Operation::WriteImm { remote_address, rkey, imm } => {
                (ffi::IBV_WR_RDMA_WRITE_WITH_IMM, (remote_address, rkey), imm)
            }
            Operation::Read { remote_address, rkey } => {
                assert!(matches!(request.payload, Payload::Registered(_)), "a read fills memory");
                (ffi::IBV_WR_RDMA_READ, (remote_address, rkey), 0)
            }
        };
        let next = self.sends.as_mut_ptr().wrapping_add(index + 1);
        let list = self.parts.as_mut_ptr().wrapping_add(index);
        let send = &mut self.sends[index];
        send.wr_id = request.wr_id;
        send.next = if index + 1 < count { next } else { ptr::null_mut() };
        send.sg_list = list;
        send.num_sge = c_int::from(part.is_some());
        send.opcode = opcode;
        send.send_flags = signaled | inline;
        send.__bindgen_anon_1.imm_data = imm.to_be();
        send.wr.rdma =
            ffi::ibv_send_wr__bindgen_ty_2__bindgen_ty_1 { remote_addr: remote.0, rkey: remote.1 };
        if let Some(part) = part {
            self.parts[index] = part;
        }
    }

    fn post_recv_chain(
        &mut self,
        mut recvs: impl ExactSizeIterator<Item = (u64, Option<Local>)>,
    ) -> Result<(), PostError> {
        let mut posted = 0;
        while recvs.len() > 0 {
            let count = recvs.len().min(CHAIN_MAX);
            for (index, (wr_id, local)) in recvs.by_ref().take(count).enumerate() {
                let next = self.recvs.as_mut_ptr().wrapping_add(index + 1);
                let next = if index + 1 < count { next } else { ptr::null_mut() };
                let sg_list = self.parts.as_mut_ptr().wrapping_add(index);
                let num_sge = c_int::from(local.is_some());
                if let Some(Local { address, bytes, lkey }) = local {
                    self.parts[index] = ibv_sge { addr: address, length: bytes, lkey };
                }
                self.recvs[index] = ibv_recv_wr { wr_id, next, sg_list, num_sge };
            }
            let (first, mut bad) = (self.recvs.as_mut_ptr(), ptr::null_mut());
            // SAFETY: the queue pair is alive until `drop`; the chain lies in `recvs` and `parts`,
            // ends at the last of `count`, and is read before the call returns. What the device
            // writes to is what `post_recvs_into`'s caller promised is free.
            let answer =
                unsafe { (self.data_path.post_recv)(self.qp.as_ptr(), first, &raw mut bad) };
            check(answer).map_err(|errno| PostError {
                posted: posted + index_in(first, bad, count),
                errno,
            })?;
            posted += count;
        }
        Ok(())
    }

    fn modify(
        &mut self,
        mut attributes: ibv_qp_attr,
        mask: ibv_qp_attr_mask,
        what: &str,
    ) -> Result<(), VerbsError> {
        let mask = c_int::try_from(mask).expect("bits below the sign");
        let modify_qp = self.device.library().modify_qp;
        // SAFETY: the queue pair is alive until `drop`; the function reads the masked fields.
        let answer = unsafe { modify_qp(self.qp.as_ptr(), &raw mut attributes, mask) };
        let on = || format!("{}, queue pair {} {what}", self.device.name(), self.number);
        check(answer).map_err(|errno| VerbsError::call("ibv_modify_qp", on())(errno))
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: `new` made it, and it is destroyed this once, before the queue and the domain
        // that it uses: `self` holds both. Events about it are acknowledged where they are taken.
        let answer = unsafe { (self.device.library().destroy_qp)(self.qp.as_ptr()) };
        if let Err(errno) = check(answer) {
            tracing::debug!(device = self.device.name(), errno, "RDMA: a queue pair is left over");
        }
    }
}

/// Refuses what the device has not, with both numbers.
fn check_limits(device: &Device, spec: QpSpec) -> Result<(), VerbsError> {
    let limit = device.limits().requests_max;
    for (what, wanted) in [("sends", spec.sends_max), ("receives", spec.recvs_max)] {
        if wanted > limit {
            let device = device.name().to_owned();
            return Err(VerbsError::Limit { what, device, wanted, limit });
        }
    }
    Ok(())
}

/// A queue pair, and how much a request of it carries in itself, in bytes.
fn create(
    device: &Device,
    cq: &CompletionQueue,
    spec: QpSpec,
) -> Result<(NonNull<ibv_qp>, usize), i32> {
    let mut attributes: ibv_qp_init_attr = zeroed();
    attributes.send_cq = cq.inner().raw().as_ptr();
    attributes.recv_cq = cq.inner().raw().as_ptr();
    attributes.cap.max_send_wr = spec.sends_max;
    attributes.cap.max_recv_wr = spec.recvs_max;
    attributes.cap.max_send_sge = 1;
    attributes.cap.max_recv_sge = 1;
    attributes.cap.max_inline_data = spec.inline_bytes;
    attributes.qp_type = ffi::IBV_QPT_RC;
    let create_qp = device.library().create_qp;
    // SAFETY: the domain and the queue are alive: the caller holds both, and the queue pair holds
    // them from here on. The function writes back what it gave.
    let qp = non_null(unsafe { create_qp(device.pd().as_ptr(), &raw mut attributes) })?;
    let inline_bytes = attributes.cap.max_inline_data.min(spec.inline_bytes);
    Ok((qp, inline_bytes as usize))
}

/// Which of a chain's requests was the first that was not posted.
fn index_in<T>(first: *const T, bad: *const T, count: usize) -> usize {
    let offset_bytes = bad.addr().saturating_sub(first.addr());
    if bad.is_null() { 0 } else { (offset_bytes / size_of::<T>()).min(count) }
}
