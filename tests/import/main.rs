//! `osdd import`: a folder in diffusers' layout becomes a model that gives what diffusers gives, and every folder that is
//! something else is told what it is.

#[cfg(feature = "cli")]
mod command;
mod files;
mod folder;
mod parity;
mod refusals;
