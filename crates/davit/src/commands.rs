//! One file per verb: arguments, a call of the engine, output.
//!
//! The structs of arguments have plain comments: a doc comment would replace the verb's own
//! description in its help.

pub(crate) mod bake;
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
pub(crate) mod registry;
pub(crate) mod rmi;
pub(crate) mod save;
pub(crate) mod search;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod version;
pub(crate) mod volume;

// What Docker's notary asked for: digests are always verified.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ContentTrust {
    /// Accepted for Docker's sake; digests are always verified
    #[arg(
        long,
        hide = true,
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    disable_content_trust: Option<bool>,
}
