//! Training steps with labels: K subnets and one teacher, and stand-alone networks.
