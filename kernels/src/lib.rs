//! Arithmetic on slices: optimizers, reductions, probing, checksums.
