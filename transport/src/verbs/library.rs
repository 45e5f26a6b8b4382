//! The verbs library, looked for at run time.
//!
//! Owns loading it, once a process, and the addresses of its functions. What they are called with
//! is left to the objects.
//!
//! Invariant: it is never unloaded, so an address stays one. A name has the default version of its
//! symbol, which is that of the structures in [`super::ffi`]: the dynamic linker gives no other.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem;
use std::sync::OnceLock;

use super::error::LoadError;
use super::ffi::{
    _compat_ibv_port_attr, ibv_async_event, ibv_comp_channel, ibv_context, ibv_cq, ibv_device,
    ibv_device_attr, ibv_gid_entry, ibv_mr, ibv_pd, ibv_qp, ibv_qp_attr, ibv_qp_init_attr,
};

/// The file, as the dynamic linker looks for it. Version 1 is the only one since 2006.
const LIBRARY: &CStr = c"libibverbs.so.1";

/// The library, loaded with the first call.
///
/// Errors: [`LoadError`], the same on each call.
pub(crate) fn library() -> Result<&'static Library, LoadError> {
    static LOADED: OnceLock<Result<Library, LoadError>> = OnceLock::new();
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// Declares the structure of the functions and how it is filled.
macro_rules! library {
    ($($name:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions that every version of the library has, and those that some have. Named
        /// as in its header, without `ibv_`.
        pub(crate) struct Library {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// None before rdma-core 32.
            pub(super) query_gid_table: Option<QueryGidTable>,
        }

        /// What the library must have.
        #[cfg(all(test, target_env = "gnu"))]
        const SYMBOLS: &[&CStr] = &[$($symbol),*];

        fn find_all(handle: *mut c_void) -> Result<Library, LoadError> {
            Ok(Library {
                $($name: {
                    let address = find(handle, $symbol)?;
                    // SAFETY: `find` gave no null, and the header declares the function of this
                    // name with these arguments and this result.
                    unsafe {
                        mem::transmute::<
                            *mut c_void,
                            unsafe extern "C" fn($($argument),*) $(-> $result)?,
                        >(address)
                    }
                },)*
                query_gid_table: find(handle, c"_ibv_query_gid_table").ok().map(|address| {
                    // SAFETY: as above.
                    unsafe { mem::transmute::<*mut c_void, QueryGidTable>(address) }
                }),
            })
        }
    };
}

/// All used entries of all GID tables of a device: context, entries, how many fit, flags (0), size
/// of an entry in bytes; gives how many there are, or `-errno`.
type QueryGidTable =
    unsafe extern "C" fn(*mut ibv_context, *mut ibv_gid_entry, usize, u32, usize) -> isize;

library! {
    get_device_list = c"ibv_get_device_list": fn(*mut c_int) -> *mut *mut ibv_device;
    free_device_list = c"ibv_free_device_list": fn(*mut *mut ibv_device);
    get_device_name = c"ibv_get_device_name": fn(*mut ibv_device) -> *const c_char;
    get_device_guid = c"ibv_get_device_guid": fn(*mut ibv_device) -> u64;
    open_device = c"ibv_open_device": fn(*mut ibv_device) -> *mut ibv_context;
    close_device = c"ibv_close_device": fn(*mut ibv_context) -> c_int;
    query_device = c"ibv_query_device": fn(*mut ibv_context, *mut ibv_device_attr) -> c_int;
    query_port = c"ibv_query_port": fn(*mut ibv_context, u8, *mut _compat_ibv_port_attr) -> c_int;
    get_async_event = c"ibv_get_async_event":
        fn(*mut ibv_context, *mut ibv_async_event) -> c_int;
    ack_async_event = c"ibv_ack_async_event": fn(*mut ibv_async_event);
    alloc_pd = c"ibv_alloc_pd": fn(*mut ibv_context) -> *mut ibv_pd;
    dealloc_pd = c"ibv_dealloc_pd": fn(*mut ibv_pd) -> c_int;
    reg_mr = c"ibv_reg_mr": fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
    dereg_mr = c"ibv_dereg_mr": fn(*mut ibv_mr) -> c_int;
    create_comp_channel = c"ibv_create_comp_channel":
        fn(*mut ibv_context) -> *mut ibv_comp_channel;
    destroy_comp_channel = c"ibv_destroy_comp_channel": fn(*mut ibv_comp_channel) -> c_int;
    create_cq = c"ibv_create_cq":
        fn(*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq;
    resize_cq = c"ibv_resize_cq": fn(*mut ibv_cq, c_int) -> c_int;
    destroy_cq = c"ibv_destroy_cq": fn(*mut ibv_cq) -> c_int;
    get_cq_event = c"ibv_get_cq_event":
        fn(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
    ack_cq_events = c"ibv_ack_cq_events": fn(*mut ibv_cq, c_uint);
    create_qp = c"ibv_create_qp": fn(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
    modify_qp = c"ibv_modify_qp": fn(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
    destroy_qp = c"ibv_destroy_qp": fn(*mut ibv_qp) -> c_int;
    fork_init = c"ibv_fork_init": fn() -> c_int;
}

fn load() -> Result<Library, LoadError> {
    // SAFETY: the name is a string of C. Loading runs the library's initialisers, which is what it
    // is for; nothing of ours is changed by them.
    let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        let library = LIBRARY.to_str().expect("ASCII");
        return Err(LoadError::Open { library, reason: last_reason() });
    }
    let library = find_all(handle)?;
    // Before anything is registered: a child that this process starts must not make the kernel
    // give us other pages than those the device writes to. Newer kernels see to that by themselves.
    // SAFETY: takes nothing and may be called at any time.
    let refused = unsafe { (library.fork_init)() };
    if refused != 0 {
        tracing::warn!(errno = refused, "RDMA: memory is not kept from child processes");
    }
    Ok(library)
}

/// The address of a function.
fn find(handle: *mut c_void, symbol: &'static CStr) -> Result<*mut c_void, LoadError> {
    // SAFETY: `dlopen` gave the handle and nothing closes it; the name is a string of C.
    let address = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
    if address.is_null() {
        let symbol = symbol.to_str().expect("ASCII");
        return Err(LoadError::Symbol { symbol, reason: last_reason() });
    }
    Ok(address)
}

/// What the dynamic linker said of the call before, on this thread.
fn last_reason() -> String {
    // SAFETY: takes nothing; its answer is this thread's.
    let reason = unsafe { libc::dlerror() };
    if reason.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: no null, a string of C, and left alone until this thread's next `dl` call.
    unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned()
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::io::Write;

    use super::*;

    /// Since when a symbol has the structures of [`super::super::ffi`].
    fn version(symbol: &CStr) -> &'static CStr {
        match symbol.to_bytes() {
            b"ibv_create_comp_channel" | b"ibv_destroy_comp_channel" => c"IBVERBS_1.0",
            _ => c"IBVERBS_1.1",
        }
    }

    #[test]
    fn each_symbol_is_of_the_version_that_the_structures_are_of() {
        if let Err(error) = library() {
            let test = "each_symbol_is_of_the_version_that_the_structures_are_of";
            // Past the harness's capture: a skip is to be seen.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {error}");
            return;
        }
        // SAFETY: as in `load`.
        let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        for symbol in SYMBOLS {
            // SAFETY: as in `find`.
            let address =
                unsafe { libc::dlvsym(handle, symbol.as_ptr(), version(symbol).as_ptr()) };
            assert!(!address.is_null(), "{symbol:?} {:?}", version(symbol));
            assert_eq!(find(handle, symbol).unwrap(), address, "{symbol:?}");
        }
    }

    #[test]
    fn a_symbol_that_is_not_there_is_named() {
        let Ok(_) = library() else { return };
        // SAFETY: as in `load`.
        let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        let error = find(handle, c"ibv_make_tea").unwrap_err();
        assert!(error.to_string().contains("ibv_make_tea"), "{error}");
    }
}
