//! The verbs library's binary interface: structures, numbers, and how a zeroed one is made.
//!
//! Owns the checks that our structures lie in memory as the library's do. Finding the functions is
//! left to [`super::library`], calling them to the objects.
//!
//! Invariant: every structure here is plain C: integers, arrays, unions of those, raw pointers and
//! optional functions. So zeros are a value of each.

#[expect(
    dead_code,
    non_camel_case_types,
    unreachable_pub,
    reason = "generated: the header's own names, whole"
)]
mod bindings;

use std::mem::{self, offset_of, size_of};

pub(super) use bindings::*;

/// A structure of which zeros are a value.
///
/// # Safety
/// It holds integers, raw pointers, `Option`s of functions, and arrays and unions of those alone.
pub(super) unsafe trait Zeroable: Sized {}

// SAFETY: integers alone, in it and in all that it holds.
unsafe impl Zeroable for ibv_qp_attr {}
// SAFETY: integers and raw pointers alone.
unsafe impl Zeroable for ibv_qp_init_attr {}
// SAFETY: integers alone.
unsafe impl Zeroable for ibv_device_attr {}
// SAFETY: integers alone.
unsafe impl Zeroable for ibv_port_attr {}
// SAFETY: integers and a union of integers.
unsafe impl Zeroable for ibv_wc {}
// SAFETY: integers, raw pointers, and unions of integers and raw pointers.
unsafe impl Zeroable for ibv_send_wr {}
// SAFETY: integers and a union of arrays of integers.
unsafe impl Zeroable for ibv_gid_entry {}
// SAFETY: an integer and a union of raw pointers and an integer.
unsafe impl Zeroable for ibv_async_event {}

/// The structure of zeros, as C's `memset` makes it.
pub(super) fn zeroed<T: Zeroable>() -> T {
    // SAFETY: zeros are a value of it, by the promise of `Zeroable`.
    unsafe { mem::zeroed() }
}

// Sizes and offsets as a C program prints them on a 64-bit machine: what the library reads and
// writes lies where we think. The fields are those that we use.
const _: () = {
    assert!(size_of::<ibv_wc>() == 48);
    assert!(offset_of!(ibv_wc, __bindgen_anon_1) == 24 && offset_of!(ibv_wc, qp_num) == 28);
    assert!(offset_of!(ibv_wc, wc_flags) == 36);
    assert!(size_of::<ibv_sge>() == 16 && size_of::<ibv_recv_wr>() == 32);
    assert!(size_of::<ibv_send_wr>() == 128);
    assert!(offset_of!(ibv_send_wr, __bindgen_anon_1) == 36 && offset_of!(ibv_send_wr, wr) == 40);
    assert!(offset_of!(ibv_send_wr, __bindgen_anon_2) == 80);
    assert!(size_of::<ibv_mw_bind_info>() == 32);
    assert!(offset_of!(ibv_mw_bind_info, mw_access_flags) == 24);
    assert!(size_of::<ibv_mw>() == 32 && offset_of!(ibv_mw, rkey) == 16);
    assert!(size_of::<ibv_qp_attr>() == 144 && offset_of!(ibv_qp_attr, ah_attr) == 56);
    assert!(offset_of!(ibv_qp_attr, port_num) == 129 && offset_of!(ibv_qp_attr, timeout) == 130);
    assert!(size_of::<ibv_qp_init_attr>() == 64 && offset_of!(ibv_qp_init_attr, cap) == 32);
    assert!(size_of::<ibv_device_attr>() == 232);
    assert!(offset_of!(ibv_device_attr, device_cap_flags) == 116);
    assert!(offset_of!(ibv_device_attr, max_mw) == 176);
    assert!(offset_of!(ibv_device_attr, phys_port_cnt) == 227);
    assert!(size_of::<ibv_port_attr>() == 52 && offset_of!(ibv_port_attr, link_layer) == 46);
    assert!(size_of::<ibv_gid>() == 16 && size_of::<ibv_gid_entry>() == 32);
    assert!(size_of::<ibv_async_event>() == 16 && offset_of!(ibv_async_event, event_type) == 8);
    assert!(size_of::<ibv_mr>() == 48);
    assert!(offset_of!(ibv_mr, lkey) == 36 && offset_of!(ibv_mr, rkey) == 40);
    assert!(offset_of!(ibv_qp, qp_num) == 52 && offset_of!(ibv_cq, cqe) == 28);
    assert!(offset_of!(ibv_comp_channel, fd) == 8);
    assert!(offset_of!(ibv_context, ops) == 8 && size_of::<ibv_context_ops>() == 256);
    assert!(offset_of!(ibv_context, async_fd) == 268);
    assert!(offset_of!(ibv_context_ops, alloc_mw) == 56);
    assert!(offset_of!(ibv_context_ops, dealloc_mw) == 72);
    assert!(offset_of!(ibv_context_ops, poll_cq) == 88);
    assert!(offset_of!(ibv_context_ops, req_notify_cq) == 96);
    assert!(offset_of!(ibv_context_ops, post_send) == 200);
    assert!(offset_of!(ibv_context_ops, post_recv) == 208);
    assert!(offset_of!(ibv_device, transport_type) == 20);
};
