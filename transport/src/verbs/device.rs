//! RDMA devices: which there are, one that is open, and what it reports by itself.
//!
//! Owns the open device and its protection domain. Its ports are left to [`super::port`]; memory,
//! queues and queue pairs to files of their own.
//!
//! Invariant: whatever was made of a device holds the device, which is closed when the last of
//! them is gone.

use std::ffi::{CStr, c_int};
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::error::{VerbsError, check, last_errno, non_null};
use super::ffi::{
    self, ibv_async_event, ibv_context, ibv_cq, ibv_device, ibv_device_attr, ibv_mw, ibv_mw_type,
    ibv_pd, ibv_qp, ibv_recv_wr, ibv_send_wr, ibv_wc, zeroed,
};
use super::library::{Library, library};
use super::port::Asked;

pub use super::port::{GidInfo, LinkLayer, Mtu, PortInfo, PortState};

/// What one device shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name, as `rdma link` shows it.
    pub name: String,
    /// The GUID of its node.
    pub node_guid: u64,
    /// What carries its packets.
    pub transport: TransportKind,
    /// Whose writes a key to its memory may let in.
    pub windows: Windows,
    /// Its ports, in order, the first of number 1.
    pub ports: Vec<PortInfo>,
}

/// What carries a device's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// InfiniBand's transport: over InfiniBand or Ethernet.
    InfiniBand,
    /// iWARP: over TCP. Lanes do not use it.
    Iwarp,
    /// Another one, by its number.
    Other(i32),
}

/// Whose writes a key to a device's memory may let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// Those of one queue pair alone: it has memory windows of type 2B.
    OfQueuePair,
    /// Those of all queue pairs, as it has no such windows.
    None,
}

/// What a device can do at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceLimits {
    /// Queue pairs.
    pub(crate) qps_max: u32,
    /// Work requests in one queue.
    pub(crate) requests_max: u32,
    /// Completion queues.
    pub(crate) cqs_max: u32,
    /// Entries of a completion queue.
    pub(crate) completions_max: u32,
    /// Registered regions.
    pub(crate) regions_max: u32,
    /// Bytes of a registered region.
    pub(crate) region_bytes_max: u64,
    /// Reads under way at one queue pair, as the one that answers.
    pub(crate) reads_max: u8,
    /// Ports, numbered from 1.
    pub(crate) ports: u8,
}

/// What a device reports by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsyncEvent {
    /// A queue pair failed.
    QpFailed { qp_number: u32, event: u32 },
    /// Something harmless about a queue pair.
    QpNews { qp_number: u32, event: u32 },
    /// A completion queue overran: all its queue pairs are to be given up.
    CqOverrun,
    /// A port is active.
    PortActive { port: u8 },
    /// A port is down.
    PortError { port: u8 },
    /// A port's LID, partition keys, GIDs or subnet manager are others.
    PortChanged { port: u8, event: u32 },
    /// The device is gone or dead.
    DeviceFatal,
    /// Another one, about nothing that is used here.
    Other { event: u32 },
}

/// An open device with a protection domain; clones are the same one.
#[derive(Clone)]
pub(crate) struct Device(Arc<Opened>);

/// What clones of a [`Device`] share.
struct Opened {
    pd: NonNull<ibv_pd>,
    data_path: DataPath,
    name: String,
    node_guid: u64,
    transport: TransportKind,
    limits: DeviceLimits,
    window_calls: Option<WindowCalls>,
    // Last: closed after the domain is gone.
    context: Context,
}

/// The functions that work is done by. The device's own: the library only passes on.
#[derive(Clone, Copy)]
pub(super) struct DataPath {
    pub(super) poll_cq: unsafe extern "C" fn(*mut ibv_cq, c_int, *mut ibv_wc) -> c_int,
    pub(super) req_notify_cq: unsafe extern "C" fn(*mut ibv_cq, c_int) -> c_int,
    pub(super) post_send:
        unsafe extern "C" fn(*mut ibv_qp, *mut ibv_send_wr, *mut *mut ibv_send_wr) -> c_int,
    pub(super) post_recv:
        unsafe extern "C" fn(*mut ibv_qp, *mut ibv_recv_wr, *mut *mut ibv_recv_wr) -> c_int,
}

/// The functions that memory windows are made and freed by: the device's own too.
#[derive(Clone, Copy)]
pub(super) struct WindowCalls {
    pub(super) alloc: unsafe extern "C" fn(*mut ibv_pd, ibv_mw_type) -> *mut ibv_mw,
    pub(super) dealloc: unsafe extern "C" fn(*mut ibv_mw) -> c_int,
}

// SAFETY: the library's objects belong to no thread and lock themselves: "by default all verbs
// objects are safe for multi-threaded access" (ibv_alloc_td(3)); no thread domain is made here.
unsafe impl Send for Opened {}
// SAFETY: as above; what is written after `open` is the library's own.
unsafe impl Sync for Opened {}

/// Every device that the library shows, with its ports and GIDs, in its order. None where the
/// kernel has no RDMA at all. A device that cannot be opened is left out, and logged.
///
/// Errors: [`VerbsError`]; of the first device if none can be opened.
pub fn devices() -> Result<Vec<DeviceInfo>, VerbsError> {
    let list = List::new()?;
    let mut found = Vec::with_capacity(list.count);
    let mut refused = None;
    for index in 0..list.count {
        match list.open(index).and_then(|device| device.info()) {
            Ok(info) => found.push(info),
            Err(error) => {
                tracing::warn!(device = list.name(index), %error, "RDMA: a device is left out");
                refused.get_or_insert(error);
            }
        }
    }
    match refused {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

impl Device {
    /// Opens the device of this name.
    ///
    /// Errors: [`VerbsError`].
    pub(crate) fn open(name: &str) -> Result<Device, VerbsError> {
        let list = List::new()?;
        if list.count == 0 {
            return Err(VerbsError::NoDevice);
        }
        let index = (0..list.count).find(|&index| list.name(index) == name);
        let index = index.ok_or_else(|| VerbsError::UnknownDevice {
            device: name.to_owned(),
            devices: (0..list.count).map(|index| list.name(index)).collect(),
        })?;
        list.open(index)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// What it shows now: ports and GIDs are asked again.
    ///
    /// Errors: [`VerbsError::Call`].
    pub(crate) fn info(&self) -> Result<DeviceInfo, VerbsError> {
        let ports = (1..=self.0.limits.ports).map(|port| self.port(port)).collect::<Result<_, _>>();
        Ok(DeviceInfo {
            name: self.0.name.clone(),
            node_guid: self.0.node_guid,
            transport: self.0.transport,
            windows: self.0.window_calls.map_or(Windows::None, |_| Windows::OfQueuePair),
            ports: ports?,
        })
    }

    /// What the port shows now.
    ///
    /// Errors: [`VerbsError::UnknownPort`], [`VerbsError::Call`].
    pub(crate) fn port(&self, port: u8) -> Result<PortInfo, VerbsError> {
        let ports = self.0.limits.ports;
        if !(1..=ports).contains(&port) {
            return Err(VerbsError::UnknownPort { device: self.0.name.clone(), port, ports });
        }
        let context = self.0.context.raw;
        let asked = Asked { library: self.library(), context, device: &self.0.name };
        // SAFETY: `Context` closes it on drop, and `self` holds it.
        unsafe { asked.port(port) }
    }

    /// What it can do at most, as it said when it was opened.
    pub(crate) fn limits(&self) -> DeviceLimits {
        self.0.limits
    }

    /// Readable when [`Device::async_event`] has something.
    pub(crate) fn async_fd(&self) -> BorrowedFd<'_> {
        self.0.context.async_fd()
    }

    /// What it reports next; none if there is nothing. Never waits.
    ///
    /// Errors: [`VerbsError::Call`]: the device is gone.
    pub(crate) fn async_event(&self) -> Result<Option<AsyncEvent>, VerbsError> {
        let mut event: ibv_async_event = zeroed();
        let context = self.0.context.raw.as_ptr();
        // SAFETY: the context is open; the function writes one event, or none.
        let answer = unsafe { (self.library().get_async_event)(context, &raw mut event) };
        if answer != 0 {
            let errno = last_errno();
            return match errno {
                libc::EAGAIN | libc::EINTR => Ok(None),
                _ => Err(VerbsError::call("ibv_get_async_event", self.name())(errno)),
            };
        }
        let seen = async_event(&event);
        // SAFETY: the event came from the function above and is acknowledged this once.
        unsafe { (self.library().ack_async_event)(&raw mut event) };
        Ok(Some(seen))
    }

    pub(super) fn library(&self) -> &'static Library {
        self.0.context.library
    }

    pub(super) fn context(&self) -> NonNull<ibv_context> {
        self.0.context.raw
    }

    pub(super) fn pd(&self) -> NonNull<ibv_pd> {
        self.0.pd
    }

    pub(super) fn data_path(&self) -> DataPath {
        self.0.data_path
    }

    /// None if it has no windows of type 2B.
    pub(super) fn window_calls(&self) -> Option<WindowCalls> {
        self.0.window_calls
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: the domain is this device's, unused since everything made in it held the device
        // (invariant), and freed this once.
        let answer = unsafe { (self.context.library.dealloc_pd)(self.pd.as_ptr()) };
        if let Err(errno) = check(answer) {
            tracing::debug!(device = self.name, errno, "RDMA: a protection domain is left over");
        }
    }
}

/// What an event says.
fn async_event(event: &ibv_async_event) -> AsyncEvent {
    let number = event.event_type;
    match number {
        ffi::IBV_EVENT_QP_FATAL | ffi::IBV_EVENT_QP_REQ_ERR | ffi::IBV_EVENT_QP_ACCESS_ERR => {
            AsyncEvent::QpFailed { qp_number: qp_number(event), event: number }
        }
        ffi::IBV_EVENT_COMM_EST
        | ffi::IBV_EVENT_SQ_DRAINED
        | ffi::IBV_EVENT_PATH_MIG
        | ffi::IBV_EVENT_PATH_MIG_ERR
        | ffi::IBV_EVENT_QP_LAST_WQE_REACHED => {
            AsyncEvent::QpNews { qp_number: qp_number(event), event: number }
        }
        ffi::IBV_EVENT_CQ_ERR => AsyncEvent::CqOverrun,
        ffi::IBV_EVENT_PORT_ACTIVE => AsyncEvent::PortActive { port: port_number(event) },
        ffi::IBV_EVENT_PORT_ERR => AsyncEvent::PortError { port: port_number(event) },
        ffi::IBV_EVENT_LID_CHANGE
        | ffi::IBV_EVENT_PKEY_CHANGE
        | ffi::IBV_EVENT_GID_CHANGE
        | ffi::IBV_EVENT_SM_CHANGE
        | ffi::IBV_EVENT_CLIENT_REREGISTER => {
            AsyncEvent::PortChanged { port: port_number(event), event: number }
        }
        ffi::IBV_EVENT_DEVICE_FATAL => AsyncEvent::DeviceFatal,
        other => AsyncEvent::Other { event: other },
    }
}

/// The queue pair of an event that is about one, before it is acknowledged.
fn qp_number(event: &ibv_async_event) -> u32 {
    // SAFETY: `async_event` asks for events about a queue pair alone, of which the library fills
    // this part of the union in.
    let qp = unsafe { event.element.qp };
    // SAFETY: the library destroys no queue pair while an event about it is not acknowledged, and
    // leaves its number as it is.
    unsafe { (*qp).qp_num }
}

/// The port of an event that is about one.
fn port_number(event: &ibv_async_event) -> u8 {
    // SAFETY: `async_event` asks for events about a port alone, of which the library fills this
    // part of the union in; every other part is at least as long, and bits.
    let port = unsafe { event.element.port_num };
    u8::try_from(port).unwrap_or(0)
}

/// An open device, closed on drop.
struct Context {
    raw: NonNull<ibv_context>,
    library: &'static Library,
}

impl Context {
    fn async_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open until `drop`; the field is written by `ibv_open_device` alone.
        let fd = unsafe { (*self.raw.as_ptr()).async_fd };
        // SAFETY: the library opened it with the device and closes it with it, after `self`.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// The functions that work is done by; the name of one that the device has not otherwise.
    fn data_path(&self) -> Result<DataPath, &'static str> {
        // SAFETY: open until `drop`; the device fills its functions in while it is opened.
        let ops = unsafe { (*self.raw.as_ptr()).ops };
        Ok(DataPath {
            poll_cq: ops.poll_cq.ok_or("ibv_poll_cq")?,
            req_notify_cq: ops.req_notify_cq.ok_or("ibv_req_notify_cq")?,
            post_send: ops.post_send.ok_or("ibv_post_send")?,
            post_recv: ops.post_recv.ok_or("ibv_post_recv")?,
        })
    }

    /// Given the device's flags, what makes windows of type 2B, if it has them.
    fn window_calls(&self, cap_flags: u32) -> Option<WindowCalls> {
        // SAFETY: as in `data_path`.
        let ops = unsafe { (*self.raw.as_ptr()).ops };
        let calls = WindowCalls { alloc: ops.alloc_mw?, dealloc: ops.dealloc_mw? };
        (cap_flags & ffi::IBV_DEVICE_MEM_WINDOW_TYPE_2B != 0).then_some(calls)
    }

    /// What it can do at most, and its flags.
    fn limits(&self, name: &str) -> Result<(DeviceLimits, u32), VerbsError> {
        let mut found: ibv_device_attr = zeroed();
        // SAFETY: open until `drop`; the function fills the structure in.
        let answer = unsafe { (self.library.query_device)(self.raw.as_ptr(), &raw mut found) };
        check(answer).map_err(VerbsError::call("ibv_query_device", name))?;
        let count = |limit: c_int| u32::try_from(limit).unwrap_or(0);
        let limits = DeviceLimits {
            qps_max: count(found.max_qp),
            requests_max: count(found.max_qp_wr),
            cqs_max: count(found.max_cq),
            completions_max: count(found.max_cqe),
            regions_max: count(found.max_mr),
            region_bytes_max: found.max_mr_size,
            reads_max: u8::try_from(found.max_qp_rd_atom).unwrap_or(u8::MAX),
            ports: found.phys_port_cnt,
        };
        Ok((limits, found.device_cap_flags))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened by `List::open`, closed this once; what was made of it is gone, as all of
        // it holds the device that holds this.
        let answer = unsafe { (self.library.close_device)(self.raw.as_ptr()) };
        if let Err(errno) = check(answer) {
            tracing::debug!(errno, "RDMA: a device is left open");
        }
    }
}

/// The library's list of devices, freed on drop.
struct List {
    library: &'static Library,
    /// Null where `count` is 0.
    first: *mut *mut ibv_device,
    count: usize,
}

impl List {
    fn new() -> Result<List, VerbsError> {
        let library = library().map_err(VerbsError::Library)?;
        let mut count: c_int = 0;
        // SAFETY: the function writes how many there are.
        let first = unsafe { (library.get_device_list)(&raw mut count) };
        let count = usize::try_from(count).unwrap_or(0);
        match non_null(first) {
            Ok(first) => Ok(List { library, first: first.as_ptr(), count }),
            // No kernel module for RDMA: no devices.
            Err(libc::ENOSYS | 0) => Ok(List { library, first, count: 0 }),
            Err(errno) => Err(VerbsError::call("ibv_get_device_list", "all devices")(errno)),
        }
    }

    fn device(&self, index: usize) -> *mut ibv_device {
        assert!(index < self.count, "device {index} of {}", self.count);
        // SAFETY: the library gave `count` entries, and `index` is below it.
        unsafe { *self.first.wrapping_add(index) }
    }

    fn name(&self, index: usize) -> String {
        // SAFETY: a device of the list, which is not freed yet.
        let name = unsafe { (self.library.get_device_name)(self.device(index)) };
        // SAFETY: the library gives a string of C inside the device.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }

    fn open(&self, index: usize) -> Result<Device, VerbsError> {
        let (library, device, name) = (self.library, self.device(index), self.name(index));
        // SAFETY: a device of the list, which is not freed yet.
        let raw = non_null(unsafe { (library.open_device)(device) });
        let raw = raw.map_err(VerbsError::call("ibv_open_device", &*name))?;
        let context = Context { raw, library };
        let flags = rustix::fs::fcntl_getfl(context.async_fd()).and_then(|flags| {
            rustix::fs::fcntl_setfl(context.async_fd(), flags | OFlags::NONBLOCK)
        });
        flags.map_err(|errno| VerbsError::call("fcntl", &*name)(errno.raw_os_error()))?;
        let (limits, cap_flags) = context.limits(&name)?;
        let window_calls = context.window_calls(cap_flags);
        let lacks = |function| VerbsError::call(function, &*name)(libc::EOPNOTSUPP);
        let data_path = context.data_path().map_err(lacks)?;
        // SAFETY: as above.
        let node_guid = u64::from_be(unsafe { (library.get_device_guid)(device) });
        // SAFETY: as above; the field is there since the structures are those of `ffi`.
        let transport = match unsafe { (*device).transport_type } {
            ffi::IBV_TRANSPORT_IB => TransportKind::InfiniBand,
            ffi::IBV_TRANSPORT_IWARP => TransportKind::Iwarp,
            other => TransportKind::Other(other),
        };
        // SAFETY: the context is open.
        let pd = non_null(unsafe { (library.alloc_pd)(context.raw.as_ptr()) });
        let pd = pd.map_err(VerbsError::call("ibv_alloc_pd", &*name))?;
        Ok(Device(Arc::new(Opened {
            pd,
            data_path,
            name,
            node_guid,
            transport,
            limits,
            window_calls,
            context,
        })))
    }
}

impl Drop for List {
    fn drop(&mut self) {
        if !self.first.is_null() {
            // SAFETY: the library gave the list and it is freed this once; a device that was
            // opened stays, as its context holds it.
            unsafe { (self.library.free_device_list)(self.first) };
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}, events at {})", self.name(), self.async_fd().as_raw_fd())
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransportKind::InfiniBand => f.write_str("InfiniBand"),
            TransportKind::Iwarp => f.write_str("iWARP"),
            TransportKind::Other(number) => write!(f, "kind {number}"),
        }
    }
}
