//! Slimmable search spaces: codes, counts, costs and uniform draws.
