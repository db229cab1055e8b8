//! placeholder while the table is being written
mod program;
