//! Passing on: what an endpoint around another one leaves as it is.
//!
//! Simulations and tests watch an endpoint, or let time pass while it is parked: they differ in few
//! methods, and have all others here.

/// Makes methods of [`Transport`](crate::Transport) pass on to the transport in a field.
///
/// `passes_on!(inner: name, limits);` inside the `impl` of a type with a field `inner`.
#[macro_export]
macro_rules! passes_on {
    (@read $field:ident $method:ident $result:ty) => {
        fn $method(&self) -> $result {
            $crate::Transport::$method(&self.$field)
        }
    };
    (@change $field:ident $method:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?) => {
        fn $method(&mut self, $($argument: $type),*) $(-> $result)? {
            $crate::Transport::$method(&mut self.$field, $($argument),*)
        }
    };
    (@one $f:ident name) => { $crate::passes_on!(@read $f name &'static str); };
    (@one $f:ident limits) => { $crate::passes_on!(@read $f limits $crate::Limits); };
    (@one $f:ident integrity) => { $crate::passes_on!(@read $f integrity $crate::Integrity); };
    (@one $f:ident now) => { $crate::passes_on!(@read $f now $crate::Time); };
    (@one $f:ident waker) => { $crate::passes_on!(@read $f waker $crate::Waker); };
    (@one $f:ident held_bytes) => { $crate::passes_on!(@read $f held_bytes u64); };
    (@one $f:ident bytes_sent) => { $crate::passes_on!(@read $f bytes_sent u64); };
    (@one $f:ident adopt) => {
        $crate::passes_on!(@change $f adopt(link: $crate::Link)
            -> ::core::result::Result<$crate::PeerId, $crate::AdoptError>);
    };
    (@one $f:ident poll) => {
        $crate::passes_on!(@change $f poll(events: &mut ::std::vec::Vec<$crate::Event>));
    };
    (@one $f:ident acquire) => {
        $crate::passes_on!(@change $f acquire(peer: $crate::PeerId, bytes: usize)
            -> ::core::result::Result<$crate::SendSlot, $crate::SendRefusal>);
    };
    (@one $f:ident post) => { $crate::passes_on!(@change $f post(slot: $crate::SendSlot)); };
    (@one $f:ident cancel) => { $crate::passes_on!(@change $f cancel(slot: $crate::SendSlot)); };
    (@one $f:ident flush) => { $crate::passes_on!(@change $f flush()); };
    (@one $f:ident release) => { $crate::passes_on!(@change $f release(slot: $crate::RecvSlot)); };
    (@one $f:ident park) => { $crate::passes_on!(@change $f park(deadline: $crate::Time)); };
    (@one $f:ident close) => { $crate::passes_on!(@change $f close(peer: $crate::PeerId)); };
    (@one $f:ident set_standing) => {
        $crate::passes_on!(@change $f
            set_standing(peer: $crate::PeerId, standing: $crate::Standing));
    };
    ($field:ident: $($method:ident),* $(,)?) => {
        $($crate::passes_on!(@one $field $method);)*
    };
}
