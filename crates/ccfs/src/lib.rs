//! Subnet samplers: uniform, CCFS-M, CCFS-F and the authors' width sum.
