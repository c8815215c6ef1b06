//! The sandbox with real guests in it: what they may, what they may not, and what happens when they try.

mod capability;
mod egress;
mod hostile;
mod package;
mod stream;
mod world;
