//! What kind of store a place is.
//!
//! Owns the words: a path or `file:///path` is a directory, `memory:` the memory of this process,
//! `s3://`, `gs://` and `az://` are object stores, if this gradwire was built with them.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;

use super::disk::OsDisk;
use super::{Backend, Local, Objects, Options};
use crate::error::StoreError;

const MEMORY: &str = "memory:";
const FILE: &str = "file://";

/// Opens the store at `place`. No call is made yet.
///
/// - Errors: it is none, or needs a feature that this build lacks.
pub(crate) fn open(place: &str, options: &Options) -> Result<Arc<dyn Backend>, StoreError> {
    let wrong = |why: &str| StoreError::Place { place: place.to_owned(), why: why.to_owned() };
    if place == MEMORY {
        let store = Arc::new(InMemory::new());
        return Ok(Arc::new(Objects::new(store, Path::default(), MEMORY, options)?));
    }
    let directory = match (place.strip_prefix(FILE), place.split_once("://")) {
        (Some(path), _) if path.starts_with('/') => path,
        (Some(_), _) => return Err(wrong("a file URL has an absolute path: file:///path")),
        (None, Some((scheme, _))) => return open_remote(place, scheme, options),
        (None, None) if place.is_empty() => return Err(wrong("it is empty")),
        (None, None) => place,
    };
    Ok(Arc::new(Local::new(Arc::new(OsDisk), PathBuf::from(directory))))
}

fn open_remote(
    place: &str,
    scheme: &str,
    options: &Options,
) -> Result<Arc<dyn Backend>, StoreError> {
    let (feature, built) = match scheme {
        "s3" => ("s3", cfg!(feature = "s3")),
        "gs" => ("gs", cfg!(feature = "gs")),
        "az" => ("az", cfg!(feature = "az")),
        _ => {
            let why = "a path, file:///path, s3://, gs:// or az:// is one".to_owned();
            return Err(StoreError::Place { place: place.to_owned(), why });
        }
    };
    if !built {
        return Err(StoreError::NotBuilt { place: place.to_owned(), feature });
    }
    #[cfg(feature = "cloud")]
    return super::cloud::open(place, options);
    #[cfg(not(feature = "cloud"))]
    unreachable!("{feature} brings the feature `cloud`, {options:?}")
}
