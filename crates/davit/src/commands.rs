//! One file per verb: arguments, a call of the engine, output.
//!
//! The structs of arguments have plain comments: a doc comment would replace the verb's own
//! description in its help.

pub(crate) mod boot;
pub(crate) mod build;
pub(crate) mod builder;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod container;
pub(crate) mod copy;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod image_inspect;
pub(crate) mod images;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod login;
pub(crate) mod network;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod rmi;
pub(crate) mod save;
pub(crate) mod search;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod version;
pub(crate) mod volume;
