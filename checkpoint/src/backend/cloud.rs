//! Object stores that are reached over a network.
//!
//! Owns how a URL and settings become one. Settings are arguments: no variable of the environment
//! names a bucket or a secret.

use std::sync::{Arc, Once};

use super::{Backend, Objects, Options};
use crate::error::StoreError;

/// The client takes the process's cryptography, which is set once.
static CRYPTOGRAPHY: Once = Once::new();

/// Opens the store at this URL. No call is made yet.
///
/// - Errors: the URL or a setting is wrong.
pub(super) fn open(place: &str, options: &Options) -> Result<Arc<dyn Backend>, StoreError> {
    // Another part of the process may have chosen before: that one is as good.
    CRYPTOGRAPHY.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let wrong = |why: String| StoreError::Place { place: place.to_owned(), why };
    let url = url::Url::parse(place).map_err(|error| wrong(error.to_string()))?;
    let settings = options.store.iter().map(|option| (&option.name, &option.value));
    let opened = object_store::parse_url_opts(&url, settings);
    let (store, prefix) = opened.map_err(|error| wrong(error.to_string()))?;
    Ok(Arc::new(Objects::new(store.into(), prefix, place, options)?))
}
